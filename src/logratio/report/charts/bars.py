"""Bars that stand beside a number: a share with its interval, wins and losses, a value in a table."""

from __future__ import annotations

from collections.abc import Sequence

from logratio.report.formatting import percent, percent_interval
from logratio.report.html import Html, element

CELL_WIDTH, CELL_HEIGHT = 96, 12


def interval_bar(value: float, low: float, high: float, *, name: str, baseline: float = 0.5) -> Html:
    """A share on a track from 0 to 1, its interval as a band, against a baseline."""
    note = f"{name}: {percent(value)}, interval {percent_interval(low, high)}"
    parts = [
        element("span", class_="band", style=f"left:{_at(low)};width:{_at(high - low)}"),
        element("span", class_="baseline", style=f"left:{_at(baseline)}"),
        element("span", class_="dot", style=f"left:{_at(value)}"),
    ]
    return element("div", *parts, class_="interval-bar", role="img", aria_label=note, title=note)


def share_bar(parts: Sequence[tuple[str, float, str]], *, name: str) -> Html:
    """Parts of a whole side by side: label, count and colour class of each."""
    total = sum(count for _, count, _ in parts) or 1.0
    pieces = [
        element(
            "span",
            class_=f"piece {style}",
            style=f"width:{100 * count / total:.2f}%",
            title=f"{label} {count:g}",
        )
        for label, count, style in parts
        if count
    ]
    text = ", ".join(f"{label} {count:g}" for label, count, _ in parts)
    return element("div", *pieces, class_="shares", role="img", aria_label=f"{name}: {text}")


def cell_bar(value: float, largest: float, *, style: str) -> Html:
    """A thin bar under a table's number: its length says how the rows compare."""
    share = min(1.0, max(0.0, value / largest)) if largest > 0 else 0.0
    filled = element("rect", x=0, y=4, width=f"{share * CELL_WIDTH:.1f}", height=4, rx=2, class_="fill")
    return _cell(
        element("rect", x=0, y=4, width=CELL_WIDTH, height=4, rx=2, class_="track"), filled, style=style
    )


def cell_interval(
    value: float,
    bounds: Sequence[float] | None,
    span: tuple[float, float],
    *,
    style: str,
    mark: float | None = None,
) -> Html:
    """A dot with its interval on the axis that all rows of the column share; `mark` is a line on it."""
    low, high = span
    width = (high - low) or 1.0

    def place(at: float) -> str:
        return f"{5 + min(1.0, max(0.0, (at - low) / width)) * (CELL_WIDTH - 10):.1f}"

    parts = [element("line", x1=0, x2=CELL_WIDTH, y1=6, y2=6, class_="rail")]
    if mark is not None:
        parts.append(element("line", x1=place(mark), x2=place(mark), y1=0, y2=CELL_HEIGHT, class_="mark"))
    if bounds:
        parts.append(element("line", x1=place(bounds[0]), x2=place(bounds[1]), y1=6, y2=6, class_="error"))
    parts.append(element("circle", cx=place(value), cy=6, r=4, class_="dot"))
    return _cell(*parts, style=style)


def _cell(*parts: Html, style: str) -> Html:
    box = f"0 0 {CELL_WIDTH} {CELL_HEIGHT}"
    return element("svg", *parts, viewBox=box, class_=f"cell {style}", aria_hidden="true")


def _at(share: float) -> str:
    return f"{100 * share:.2f}%"
