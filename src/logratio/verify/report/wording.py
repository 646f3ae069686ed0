"""What the terminal, the page and the docs say of the results, in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.formatting import ABSENT, number


def sentence(report: Mapping[str, Any]) -> str:
    """The verdict: how many comparisons were made, which checks do not hold, and which were skipped."""
    return " ".join([_held(report), *_left_out(report)])


def _left_out(report: Mapping[str, Any]) -> list[str]:
    """A sentence for each reason why checks were skipped."""
    reasons: dict[str, list[str]] = {}
    for name, reason in report["skipped"].items():
        reasons.setdefault(reason, []).append(name)
    return [f"{', '.join(names)} {reason}." for reason, names in reasons.items()]


def _held(report: Mapping[str, Any]) -> str:
    failed = report["failed"]
    compared = f"{count(report['num_rows'], 'comparison')} in {count(report['num_checks'], 'check')}"
    if failed:
        return f"Of {compared} some do not hold: {', '.join(failed)}."
    if not report["num_rows"]:
        return "Nothing was compared."
    wrong = count(report["num_controls"], "form")
    caught = f" {wrong} known to be wrong were tried too, and found wrong." if report["num_controls"] else ""
    return f"All {compared} hold.{caught}"


def count(number_of: int, name: str) -> str:
    """`1 check`, `2 checks`."""
    return f"{number_of} {name}{'' if number_of == 1 else 's'}"


def table_row(row: Mapping[str, Any]) -> list[str]:
    """What is compared, exact value, ours, how far apart, how far apart they may be, verdict."""
    return [
        str(row["what"]),
        number(row["exact"], digits=5),
        number(row["ours"], digits=5),
        number(row["error"]),
        limit(row),
        str(row["verdict"]),
    ]


def limit(row: Mapping[str, Any]) -> str:
    """`≤ 1e-9`; of a form that is known to be wrong `≥ 0.1`."""
    if row["tolerance"] is None:
        return ABSENT
    return f"{'≥' if row['control'] else '≤'} {number(row['tolerance'])}"


def nearest(check: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparison of a check that used up the largest part of its tolerance; controls do not count."""
    rows = [row for row in check["rows"] if not row["control"]]
    return max(rows, key=share_of_tolerance, default=None)


def share_of_tolerance(row: Mapping[str, Any]) -> float:
    """The error over the tolerance; where one of them is no number, the verdict alone counts."""
    error, tolerance = row["error"], row["tolerance"]
    if error is None or not tolerance:
        return 0.0 if row["passed"] else float("inf")
    return float(error / tolerance)
