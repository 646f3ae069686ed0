"""Run checks one after the other and gather what they found.

A check that raises has shown nothing. Its error is kept word for word beside the other checks' results, so
that one broken check does not hide what the rest have to say. A check that needs an optional package which is
not installed is skipped: it has not passed, but neither has it found anything wrong.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from logratio.errors import Interrupted, MissingExtra
from logratio.progress import format_seconds
from logratio.run_directory import describe_machine
from logratio.verify.checks.rows import Check, Row, skipped
from logratio.verify.report.wording import count
from logratio.version import __version__

LIBRARIES = ("torch", "transformers", "numpy", "gymnasium")
"""Whose versions are recorded: what the checks compute with."""
HOLDS, FAILED, CAUGHT, MISSED, SKIPPED = "holds", "FAILED", "caught", "NOT CAUGHT", "skipped"
"""Verdicts of a row; the third and fourth are those of a form that is known to be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a check."""

    check: Check
    """The check."""
    rows: tuple[Row, ...]
    """Its comparisons; none where it raised."""
    seconds: float
    """Wall time."""
    fault: str = ""
    """The traceback of the error that stopped it."""

    @property
    def passed(self) -> bool:
        """Whether every comparison came out as it must; a check that compares nothing shows nothing."""
        return not self.fault and bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def skipped(self) -> bool:
        """Whether it was not run, for want of an optional package; its one row says which."""
        return any(row.skipped for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Name, title and verdict, and every row with its own."""
        return {
            "name": self.check.name,
            "title": heading(self.check),
            "passed": self.passed,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 2),
            "fault": self.fault,
            "rows": [row.to_json() | {"verdict": verdict(row)} for row in self.rows],
        }


def run_check(check: Check, *, quick: bool) -> Outcome:
    """Run one check; an error in it becomes its fault, and an optional package that is missing its row.

    Raises:
        KeyboardInterrupt: a trainer was told to stop.
    """
    started = time.perf_counter()
    try:
        rows, fault = tuple(check.run(quick)), ""
    except MissingExtra as missing:
        rows, fault = (skipped(f"{missing.what}; {missing.action}"),), ""
    except Interrupted as stop:
        # A trainer stops in an orderly way when it is told to; what is told to stop is all of this.
        raise KeyboardInterrupt from stop
    except Exception:
        rows, fault = (), traceback.format_exc()
    return Outcome(check=check, rows=rows, seconds=time.perf_counter() - started, fault=fault)


def run_checks(
    checks: Sequence[Check], *, quick: bool, show: Callable[[str], None] = print
) -> Iterator[Outcome]:
    """Run checks in their order, and say of each what came out and how long it took.

    Args:
        checks: what to run.
        quick: whether statistical checks take fewer samples.
        show: takes a line.
    """
    width = max((len(check.name) for check in checks), default=0)
    for position, check in enumerate(checks, 1):
        outcome = run_check(check, quick=quick)
        progress = f"[{position:>{len(str(len(checks)))}}/{len(checks)}]"
        show(f"{progress} {check.name:<{width}}  {heading(check)}: {summary(outcome)}")
        yield outcome


def heading(check: Check) -> str:
    """A check's title, as a sentence begins."""
    return check.title[:1].upper() + check.title[1:]


def summary(outcome: Outcome) -> str:
    """`12 comparisons hold  [3 s]`, or what does not."""
    failed = sum(not row.passed for row in outcome.rows)
    if outcome.skipped:
        result = outcome.rows[0].what
    elif outcome.fault:
        result = f"stopped by {outcome.fault.rstrip().splitlines()[-1]}"
    elif failed or not outcome.rows:
        result = f"{failed} of {len(outcome.rows)} comparisons FAILED" if failed else "compared nothing"
    else:
        result = f"{count(len(outcome.rows), 'comparison')} hold"
    return f"{result}  [{format_seconds(outcome.seconds)}]"


def verdict(row: Row) -> str:
    """The verdict on a row, in words."""
    if row.skipped:
        return SKIPPED
    if row.control:
        return CAUGHT if row.passed else MISSED
    return HOLDS if row.passed else FAILED


def gather(
    outcomes: Sequence[Outcome],
    *,
    quick: bool,
    finished: str,
    pictures: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that `verify.json` holds and the page shows.

    Args:
        outcomes: of the checks that were run.
        quick: whether statistical checks took fewer samples.
        finished: when, as it is to be shown.
        pictures: the numbers that the page draws; none where only some checks were asked for.
    """
    ran = [outcome for outcome in outcomes if not outcome.skipped]
    rows = [row for outcome in ran for row in outcome.rows]
    return {
        # Where all were skipped, nothing was shown.
        "passed": bool(ran) and all(outcome.passed for outcome in ran),
        "num_checks": len(ran),
        "num_rows": len(rows),
        "num_controls": sum(row.control for row in rows),
        "failed": [outcome.check.name for outcome in ran if not outcome.passed],
        "skipped": {outcome.check.name: outcome.rows[0].what for outcome in outcomes if outcome.skipped},
        "quick": quick,
        "finished": finished,
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "machine": describe_machine(),
        "versions": {"logratio": __version__, **versions()},
        "checks": [outcome.to_json() for outcome in outcomes],
        "pictures": None if pictures is None else dict(pictures),
    }


def versions() -> dict[str, str]:
    """The versions of the libraries that are installed."""
    installed = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
