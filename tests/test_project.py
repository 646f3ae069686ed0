"""What the project promises about itself: its pages, its commands, its sizes and what starts at once."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import tyro

from logratio.cli.main import COMMANDS, main
from logratio.version import __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "logratio"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])

# Written in parts, so that this file does not hold what it looks for.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"(?<![\w.~$}])/(?:" + "work|root|home" + r")/\w",
            "/opt/" + "pypi",
            "bash_" + "jobs",
            "pypi" + r"\.org",
            "python" + "hosted",
            "npm" + r"js\.org",
            "deb\\." + "debian",
        ]
    )
)


def tracked_files() -> list[Path]:
    """The files that a clone has, and those about to be added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: there is no list of tracked files")
    listed = subprocess.run(
        [
            "git",
            "-c",
            f"safe.directory={ROOT}",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def code_blocks(text: str, language: str = "") -> list[str]:
    """The fenced blocks of a page in one language; none by default, which is what shell lines have."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in fences if name == language]


def shell_lines(text: str) -> list[str]:
    """The commands in a text: whole lines that begin with `logratio`, continuation lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [
        line.split("#")[0].strip() for line in joined.splitlines() if re.match(r"\s*logratio [a-z]", line)
    ]


def page_commands() -> list[tuple[str, str]]:
    lines = []
    for page in PAGES:
        for block in code_blocks(page.read_text(encoding="utf-8")):
            lines += [(page.name, line) for line in shell_lines(block)]
    return lines


def parse(line: str) -> object:
    """Parse a command line as the door would, without running it."""
    words = shlex.split(line)[1:]
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
    module = importlib.import_module(COMMANDS[name][0])
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            return tyro.cli(module.Arguments, args=words[len(name.split()) :])
    except SystemExit:
        pytest.fail(f"{line!r} does not parse:\n{errors.getvalue()}")


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert first is not None
    assert first.group(1) == __version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name, capsys):
    module = importlib.import_module(COMMANDS[name][0])
    assert callable(module.run)
    examples = shell_lines(module.__doc__)
    assert any(f"{line} ".startswith(f"logratio {name} ") for line in examples), "no example in the docstring"
    for line in examples:
        parse(line)
    assert main([*name.split(), "--help"]) == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert " ".join(module.__doc__.strip().splitlines()[0].split()) in shown


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"logratio {name}" in shown for name in COMMANDS)


def test_the_readme_has_exactly_two_commands_to_set_up():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [block.strip() for block in code_blocks(readme) if re.match(r"(make|pip|python|apt)", block)]
    assert commands == ["make quickstart", "make test"]


def test_every_make_target_in_the_pages_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"`make ([a-z]+)`", text))
        for block in code_blocks(text):
            named |= set(re.findall(r"^make ([a-z]+)", block, flags=re.MULTILINE))
        assert named <= targets, page.name


def test_the_pages_have_commands_to_parse():
    assert len(page_commands()) >= 7


@pytest.mark.parametrize(("page", "line"), page_commands())
def test_every_command_in_the_pages_parses(page, line):
    parse(line)


def test_the_readme_s_reward_function_is_one():
    blocks = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    (block,) = [block for block in blocks if "short_and_polite" in block]
    names: dict[str, object] = {}
    exec(block, names)
    rewards = names["short_and_polite"](prompts=["Ask me.", "Ask me."], completions=["Please do.", "No."])
    assert rewards[0] > rewards[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_law_in_the_readme_is_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    invariants = "".join(
        (ROOT / "src/logratio/training" / name).read_text(encoding="utf-8")
        for name in ("invariants.py", "end_tokens.py")
    )
    named = re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE)
    assert len(named) >= 6
    assert [name for name in named if f'"{name}"' not in invariants] == []


def test_continuous_integration_runs_the_two_commands_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "set -euo pipefail"
    assert [line for line in lines if "make" in line] == ["make quickstart", "make test"]
    assert lines[-1] == "make test"


def test_no_tracked_file_names_a_machine_or_a_registry():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN.finditer(text)]
    assert found == []


def test_the_words_that_are_looked_for_would_be_found():
    assert FORBIDDEN.search("see /" + "home/someone/x")
    assert FORBIDDEN.search("from files.python" + "hosted")
    assert not FORBIDDEN.search("https://example.com/home/page")


TORCH_FREE = (
    "records",
    "data",
    "run_directory",
    "annotate",
    "report",
    "errors",
    "progress",
    "models.tokenisation",
    "cli.main",
)


def test_data_and_report_start_without_torch():
    program = f"""
import importlib, pkgutil, sys
for name in {TORCH_FREE!r}:
    module = importlib.import_module("logratio." + name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
    heavy = sorted({{"torch", "transformers"}} & set(sys.modules))
    if heavy:
        sys.exit(f"{{name}} imports {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def limits_broken(text: str) -> list[str]:
    """Functions that are too long, docstring included, or take too much; a trainer may be twice as long."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > (120 if node.name.startswith("train_") else 60):
                found.append(f"{node.name} has {lines} lines")
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            taken += [one for one in (node.args.vararg, node.args.kwarg) if one is not None]
            num = sum(one.arg not in ("self", "cls") for one in taken)
            if num > 8:
                found.append(f"{node.name} has {num} parameters")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_keep_their_size(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert limits_broken(text) == []


def test_a_function_beyond_its_limits_would_be_found():
    body = "    pass\n"
    assert limits_broken("def f(self, a, b, c, d, e, g, h, i):\n" + body * 59) == []
    assert limits_broken("async def f():\n" + body * 60) == ["f has 61 lines"]
    assert limits_broken("def train_f():\n" + body * 119) == []
    assert limits_broken("def train_f():\n" + body * 120) == ["train_f has 121 lines"]
    assert limits_broken("def f(a, b, /, c, d, *e, g, h, i, **j):\n" + body) == ["f has 9 parameters"]


def test_what_is_no_command_imports_none():
    """The command line is flags: recipes, benchmarks and examples do without it."""
    others = [*(PACKAGE / "recipes").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    others += (ROOT / "examples").glob("*.py")
    assert len(others) > 40
    importing = re.compile(r"^\s*(?:from|import) logratio\.cli\b", flags=re.MULTILINE)
    assert [path for path in others if importing.search(path.read_text(encoding="utf-8"))] == []


def test_a_command_is_short():
    """What it does is in its recipe."""
    commands = [*(PACKAGE / "cli" / "train").glob("*.py"), PACKAGE / "cli" / "evaluate.py"]
    commands += [PACKAGE / "cli" / name for name in ("label.py", "sample.py", "quickstart.py")]
    assert [path.name for path in commands if len(path.read_text().splitlines()) > 60] == []


def test_the_rules_fit_their_page():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 150


def imports_of(path: Path, modules: Collection[str]) -> set[str]:
    """The modules of ours that a file imports, within functions and for type checkers alike."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("logratio."):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
    return found


def test_no_file_imports_another_that_imports_it():
    names = {".".join(path.relative_to(ROOT / "src").with_suffix("").parts): path for path in SOURCES}
    graph = {name: imports_of(path, names) - {name} for name, path in names.items()}
    assert sum(map(len, graph.values())) > 1000
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
