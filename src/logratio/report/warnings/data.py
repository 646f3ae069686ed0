"""Checks of the data counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.row_accounting import totals
from logratio.report.warnings.warning import ReportWarning


def counts_differ(report: Mapping[str, Any]) -> ReportWarning | None:
    """Data counts do not add up."""
    sums = totals(report.get("data") or {})
    wrong = [f"{group} {total.name}".strip() for group, total in sums if not total.adds_up]
    if not sums:
        return None
    return ReportWarning(
        name="CountsDoNotAddUp",
        severity="serious",
        raised=bool(wrong),
        value=len(wrong),
        threshold="a total is not the sum of its parts",
        what=f"{', '.join(wrong)}: the parts do not give the total." if wrong else "All counts add up.",
        meaning="Rows were lost or counted twice somewhere.",
        action="Run `logratio check` on the data, and report this.",
    )
