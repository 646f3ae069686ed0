"""Warnings with what they mean and what to do, and every check with its threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.formatting import number
from logratio.report.html import Html, element, join, prose
from logratio.report.sections.section import Section, details, table


def warnings_section(report: Mapping[str, Any]) -> Section:
    """Warnings with what they mean and what to do, then every check with its threshold."""
    raised = [_warning(warning) for warning in report.get("warnings") or []]
    none = element("p", "None of the checks below raised a warning.", class_="calm")
    checks = report.get("checks") or []
    rows = [
        [check["name"], number(check["value"]), check["threshold"], "raised" if check["raised"] else "quiet"]
        for check in checks
    ]
    listing = (
        details(
            f"All {len(rows)} checks and their thresholds",
            table(["Check", "Measured", "Raised when", ""], rows, caption="Checks", class_="small"),
        )
        if rows
        else None
    )
    title = f"Warnings ({len(raised)})" if raised else "Warnings"
    return Section(anchor="warnings", title=title, body=join([*(raised or [none]), listing]))


def _warning(warning: Mapping[str, Any]) -> Html:
    severity = str(warning.get("severity", "warning"))
    lines = [
        element("p", element("b", label), " ", prose(str(warning[key])))
        for key, label in (("meaning", "What it means."), ("action", "What to do."))
        if warning.get(key)
    ]
    return element(
        "div",
        element("h3", warning.get("name", "Warning"), " ", element("small", severity)),
        element("p", prose(str(warning.get("what", ""))), class_="what"),
        *lines,
        class_=f"warning {severity}",
    )
