"""Mutants: a pitfall written as a change of one place in the package, and the tests that must notice it.

The whole package is laid in a temporary directory, one module of it is changed, and the named tests run in a
pytest of their own, in this process, with the copy first on the path. Every module of the package and of
the tests is imported afresh there, so a mutant may sit in any module, tests may use fixtures and parameters,
and whatever imports the changed module sees the change. Torch and other libraries stay as they are loaded.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib
import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from mutants.symbols import module_path, replace_within

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "src" / "logratio"
# With these the changed code does not run at all, so the test has noticed nothing about what it computes.
NOT_A_MUTANT = (
    "NameError",
    "AttributeError",
    "SyntaxError",
    "IndentationError",
    "ImportError",
    "UnboundLocal",
)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One pitfall."""

    name: str
    """What is wrong, in words for a test's name."""

    symbol: str
    """The function or class that is changed, as `logratio.objectives.dpo:dpo_loss`, or the module alone."""

    old: str
    """Text that stands exactly once in what the symbol defines."""

    new: str
    """What stands there instead."""

    checks: tuple[str, ...]
    """Tests that must each fail, as `objectives/test_dpo.py::test_golden_values`, parameters or none."""

    @property
    def module(self) -> str:
        """The module that is changed."""
        return self.symbol.partition(":")[0]

    def change(self, source: str) -> str:
        """The module's source with the pitfall in it.

        Raises:
            LookupError: the text to change does not stand exactly once in what the symbol defines.
        """
        try:
            return replace_within(source, self.symbol.partition(":")[2], self.old, self.new)
        except LookupError as error:
            raise LookupError(f"{self.name}: {error}, in {self.module}") from error


@dataclass(eq=False)
class Outcomes:
    """What became of the tests: a pytest plugin that remembers."""

    checks: Sequence[str]
    noticed: set[str] = field(default_factory=set)
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip the other parameters of a check that has failed: one is enough to say that it notices."""
        name = item.nodeid.removeprefix("tests/")
        if any(belonging(check, [name]) for check in self.noticed):
            pytest.skip("its check has noticed already")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sort a test by how it ended; one that fails outside its own body is broken, not failed."""
        crash = getattr(report.longrepr, "reprcrash", None)
        message = str(crash.message if crash else report.longrepr)
        name = report.nodeid.removeprefix("tests/")
        if report.failed and (report.when != "call" or message.startswith(NOT_A_MUTANT)):
            self.broken[name] = message
        elif report.failed:
            self.failed[name] = message
            self.noticed.update(check for check in self.checks if belonging(check, [name]))
        elif report.when == "call":
            self.passed.append(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A test file that cannot be imported is broken."""
        if report.failed:
            self.broken[report.nodeid] = str(report.longrepr)


def belonging(check: str, names: Sequence[str] | dict[str, str]) -> list[str]:
    """The tests among `names` that are the check, or the check with parameters."""
    return [name for name in names if name == check or name.startswith(check + "[")]


@cache
def compiled_package(directory: Path) -> Path:
    """A copy of the package below `directory`, with the bytecode of every module beside it."""
    copy = directory / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(copy, quiet=2)
    return copy


def plant(mutant: Mutant | None, directory: Path) -> Path:
    """Lay the package below `directory`, with the mutant's change in it; returns what goes on the path.

    Files and bytecode are links to one copy in `directory`'s parent: only what is changed is compiled again.
    """
    package = compiled_package(directory.parent / "compiled")
    shutil.copytree(package, directory / PACKAGE.name, copy_function=os.link)
    if mutant is not None:
        path = module_path(directory, mutant.module)
        changed = mutant.change(path.read_text(encoding="utf-8"))
        # Both are links to files that other mutants have too.
        path.unlink()
        Path(cache_from_source(path)).unlink()
        path.write_text(changed, encoding="utf-8")
    return directory


def is_ours(name: str, module: object, *places: Path) -> bool:
    """Whether a module is of the package or of the tests; a directory of tests is a module without a file."""
    # A directory without a file of its own keeps the modules in it as attributes.
    spec = getattr(module, "__spec__", None)
    found = [getattr(module, "__file__", None), *(getattr(spec, "submodule_search_locations", None) or ())]
    paths = [str(path) for path in found if path]
    within = tuple(f"{place}{os.sep}" for place in places)
    return name.split(".")[0] in ("logratio", "tests") or any(path.startswith(within) for path in paths)


@contextlib.contextmanager
def imported_afresh(path: Path) -> Iterator[None]:
    """Import everything of ours anew, the package from `path`; on leaving, all is as it was.

    A library that is first imported in here stays imported: it is not ours to load twice.
    """
    modules, places, finders = dict(sys.modules), list(sys.path), list(sys.meta_path)
    keeps_no_bytecode = sys.dont_write_bytecode
    options = os.environ.pop("PYTEST_ADDOPTS", None)
    forget_ours(TESTS)
    sys.path.insert(0, str(path))
    importlib.invalidate_caches()
    # Tests are imported for every mutant: compiling them once instead halves what a quick one takes.
    sys.dont_write_bytecode = False
    try:
        yield
    finally:
        forget_ours(TESTS, path)
        sys.modules.update(modules)
        sys.path[:], sys.meta_path[:] = places, finders
        sys.dont_write_bytecode = keeps_no_bytecode
        if options is not None:
            os.environ["PYTEST_ADDOPTS"] = options


def forget_ours(*places: Path) -> None:
    """Take our modules out of the interpreter's table, so that they are imported again when asked for."""
    # All are found before one is taken out: a directory looks up the one that it is in.
    for name in [name for name, module in list(sys.modules.items()) if is_ours(name, module, *places)]:
        del sys.modules[name]


@contextlib.contextmanager
def no_shrinking() -> Iterator[None]:
    """Let hypothesis stop at the first example that fails: here it need not be the smallest."""
    before = settings.get_current_profile_name()
    settings.register_profile("mutants", settings(), phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutants")
    try:
        yield
    finally:
        settings.load_profile(before)


def run_checks(checks: Sequence[str], path: Path) -> Outcomes:
    """Run tests on the package below `path`.

    Raises:
        LookupError: a check names no test, or cannot be run.
    """
    outcomes, output = Outcomes(checks), io.StringIO()
    plugins = [
        flag
        for name in ("xdist", "cacheprovider", "faulthandler", "unraisableexception")
        for flag in ("-p", f"no:{name}")
    ]
    arguments = [f"--rootdir={TESTS.parent}", "-c", str(TESTS.parent / "pyproject.toml"), "--tb=short"]
    with imported_afresh(path), no_shrinking(), contextlib.redirect_stdout(output):
        pytest.main([*plugins, *arguments, *(str(TESTS / check) for check in checks)], plugins=[outcomes])
    for check in checks:
        if not belonging(check, [*outcomes.passed, *outcomes.failed]):
            raise LookupError(f"{check} did not run: {outcomes.broken}\n{output.getvalue()}")
    return outcomes


def survivors(mutant: Mutant, directory: Path) -> list[str]:
    """The mutant's checks that do not notice it: empty where the mutant is killed as it must be."""
    outcomes = run_checks(mutant.checks, plant(mutant, directory))
    return [check for check in mutant.checks if not belonging(check, outcomes.failed)]


def unsound(mutants: Iterable[Mutant], directory: Path) -> list[str]:
    """The checks of some mutants that fail on an unchanged copy: what they notice would be no mutant."""
    checks = tuple(dict.fromkeys(check for mutant in mutants for check in mutant.checks))
    outcomes = run_checks(checks, plant(None, directory))
    wrong = [*outcomes.failed, *outcomes.broken]
    return [check for check in checks if belonging(check, wrong) or not belonging(check, outcomes.passed)]
