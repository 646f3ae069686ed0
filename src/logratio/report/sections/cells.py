"""Cells of tables: a number, its interval, a bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.charts.bars import cell_interval
from logratio.report.formatting import ABSENT, is_number, percent, percent_interval
from logratio.report.html import Html, element, join


def cell(main: str, below: str = "", bar: Html | None = None) -> Html:
    """A number, in small what belongs to it, and a bar."""
    small = element("small", below) if below else None
    return join([element("span", main, class_="value"), small, bar])


def rate_cell(rate: Any, *, style: str = "policy") -> Html:
    """A win rate with its interval, on an axis from 0 to 1 on which one half is marked."""
    if not isinstance(rate, Mapping) or not is_number(rate.get("value")):
        return cell(ABSENT)
    low, high = rate.get("low"), rate.get("high")
    bounds = (low, high) if is_number(low) and is_number(high) else None
    bar = cell_interval(rate["value"], bounds, (0.0, 1.0), style=style, mark=0.5)
    return cell(percent(rate["value"]), percent_interval(*bounds) if bounds else "", bar)
