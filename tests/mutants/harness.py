"""Mutants: a pitfall written as a change of one place in the package, and the tests that must notice it.

The whole package is copied to a temporary directory, the copy is changed, and the named tests run in a
pytest of their own, in this process, with the copy first on the path. Every module of the package and of
the tests is imported afresh there, so a mutant may sit in any module, tests may use fixtures and parameters,
and whatever imports the changed module sees the change. Torch and other libraries stay as they are loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import Phase, settings

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

    module: str
    """The module that is changed, as `logratio.objectives.dpo`."""

    old: str
    """Text that stands exactly once in the module."""

    new: str
    """What stands there instead."""

    checks: tuple[str, ...]
    """Tests that must each fail, as `objectives/test_dpo.py::test_golden_values`, parameters or none."""


@dataclass(eq=False)
class Outcomes:
    """What became of the tests: a pytest plugin that remembers."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sort a test by how it ended; one that fails outside its own body is broken, not failed."""
        crash = getattr(report.longrepr, "reprcrash", None)
        message = str(crash.message if crash else report.longrepr)
        name = report.nodeid.removeprefix("tests/")
        if report.failed and (report.when != "call" or message.startswith(NOT_A_MUTANT)):
            self.broken[name] = message
        elif report.failed:
            self.failed[name] = message
        elif report.when == "call":
            self.passed.append(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A test file that cannot be imported is broken."""
        if report.failed:
            self.broken[report.nodeid] = str(report.longrepr)


def belonging(check: str, names: Sequence[str] | dict[str, str]) -> list[str]:
    """The tests among `names` that are the check, or the check with parameters."""
    return [name for name in names if name == check or name.startswith(check + "[")]


def plant(mutant: Mutant | None, directory: Path) -> Path:
    """Copy the package below `directory`, with the mutant's change in it; returns what goes on the path."""
    copy = directory / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        relative = mutant.module.replace(".", "/")
        path = next(
            p for p in (directory / f"{relative}.py", directory / relative / "__init__.py") if p.exists()
        )
        source = path.read_text(encoding="utf-8")
        count = source.count(mutant.old)
        if count != 1:
            raise LookupError(f"{mutant.name}: the text to change stands {count} times in {mutant.module}")
        path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
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
    options = os.environ.pop("PYTEST_ADDOPTS", None)
    forget_ours(TESTS)
    sys.path.insert(0, str(path))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        forget_ours(TESTS, path)
        sys.modules.update(modules)
        sys.path[:], sys.meta_path[:] = places, finders
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
    outcomes, output = Outcomes(), io.StringIO()
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
