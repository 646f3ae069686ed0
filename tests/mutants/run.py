"""`make mutants`: every mutant against the tests that must notice it, as a table.

    PYTHONPATH=tests python -m mutants.run --workers 2 --write docs/mutants.md

First the tests that the mutants name run on the package as it is: one that fails there would kill any mutant.
Then pytest tries the mutants, as `make test` does too, and what it found is put together here. Exits with 1
where a mutant survives.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from mutants.harness import TESTS, Mutant

BEGIN, END = "<!-- written by make mutants -->", "<!-- to here -->"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What pytest says of one test."""

    file: str
    """The file's stem."""
    name: str
    """The test's name with its parameter."""
    problem: str
    """Why it failed; empty where it passed."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    survived: tuple[str, ...] = ()
    """The tests it names that noticed nothing."""
    fault: str = ""
    """Why it could not be tried: its text is not in its symbol any more, or a test does not run."""

    @property
    def killed(self) -> bool:
        """Whether every test that it names failed."""
        return not self.survived and not self.fault

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Pitfall, symbol, verdict, and the tests that noticed it or should have, or the fault."""
        word = "killed" if self.killed else "not tried" if self.fault else "survived"
        tests = ", ".join(self.survived or self.mutant.checks)
        return self.mutant.name, self.mutant.symbol.removeprefix("logratio."), word, self.fault or tests


def gather() -> dict[str, tuple[Mutant, ...]]:
    """The mutants of each file here, by the file's stem."""
    names = sorted(path.stem for path in (TESTS / "mutants").glob("test_*_mutants.py"))
    return {name: importlib.import_module(f"mutants.{name}").MUTANTS for name in names}


def run_pytest(tests: Iterable[str], *, workers: int) -> list[Case]:
    """Run tests in a pytest of their own."""
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory) / "record.xml"
        options = ["-q", "-n", str(workers), "--dist", "worksteal", f"--junitxml={record}", "--tb=line"]
        # Otherwise pytest shortens the list of the tests that noticed nothing.
        options += ["-o", "verbosity_assertions=2"]
        paths = [str(TESTS / test) for test in tests]
        subprocess.run([sys.executable, "-m", "pytest", *options, *paths], cwd=TESTS.parent, check=False)
        return read_record(record.read_text(encoding="utf-8"))


def read_record(text: str) -> list[Case]:
    """The cases of a record in JUnit's form."""
    cases = []
    for case in ElementTree.fromstring(text).iter("testcase"):
        problems = [
            problem.get("message", "") for problem in case if problem.tag in ("failure", "error", "skipped")
        ]
        file = case.get("classname", "").rpartition(".")[2]
        cases.append(Case(file=file, name=case.get("name", ""), problem=" ".join(problems)))
    return cases


def judge(file: str, mutant: Mutant, cases: Iterable[Case]) -> Verdict:
    """What the cases say of a mutant of this file: its test passes if the tests it names fail."""
    # pytest writes what is not ASCII in a test's name as Python would escape it.
    ending = f"[{mutant.name.encode('unicode_escape').decode('ascii')}]"
    found = [case for case in cases if case.file == file and case.name.endswith(ending)]
    if len(found) != 1:
        return Verdict(mutant=mutant, fault=f"{len(found)} tests try it")
    problem = found[0].problem
    survived = tuple(check for check in mutant.checks if f"'{check}'" in problem)
    return Verdict(mutant=mutant, survived=survived, fault="" if survived else problem.partition("\n")[0])


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """The table for the page, with a line that counts."""
    killed = sum(verdict.killed for verdict in verdicts)
    lines = [
        f"{killed} of {len(verdicts)} mutants are killed.",
        "",
        "| pitfall | symbol | verdict | by the tests |",
        "|---|---|---|---|",
    ]
    for name, module, word, tests in (verdict.cells for verdict in verdicts):
        cells = (name, f"`{module}`", word, ", ".join(f"`{test}`" for test in tests.split(", ")))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def write_table(page: Path, table: str) -> None:
    """Put the table between the page's two marks."""
    head, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    if not found or END not in rest:
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}, between which the table goes")
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", encoding="utf-8")


def show(verdicts: Iterable[Verdict]) -> None:
    """The table on the terminal."""
    table = Table("pitfall", "symbol", "verdict", "tests")
    for verdict in verdicts:
        table.add_row(*verdict.cells, style=None if verdict.killed else "bold red")
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all mutants; 0 where every one is killed by tests that pass without it."""
    parser = argparse.ArgumentParser(description="every mutant against the tests that must notice it")
    parser.add_argument("--workers", type=int, default=1, help="mutants tried at a time")
    parser.add_argument("--write", type=Path, help="the page that gets the table")
    settings = parser.parse_args(arguments)
    mutants = gather()
    checks = dict.fromkeys(check for own in mutants.values() for mutant in own for check in mutant.checks)
    print(f"the {len(checks)} tests on the package as it is", flush=True)
    unsound = [case for case in run_pytest(checks, workers=settings.workers) if case.problem]
    print(f"{sum(map(len, mutants.values()))} mutants", flush=True)
    cases = run_pytest((f"mutants/{file}.py" for file in mutants), workers=settings.workers)
    verdicts = [judge(file, mutant, cases) for file, own in mutants.items() for mutant in own]
    show(verdicts)
    lost = sum(not verdict.killed for verdict in verdicts)
    print(f"{len(verdicts) - lost} of {len(verdicts)} killed")
    for case in unsound:
        print(f"fails without any mutant, so that what it kills proves nothing: {case.file}::{case.name}")
    if settings.write:
        write_table(settings.write, as_markdown(verdicts))
    return int(bool(lost or unsound))


if __name__ == "__main__":
    sys.exit(main())
