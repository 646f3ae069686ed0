"""Strengths as dots with their intervals, one below the other.

Places across are shares of the width and places down are pixels, so that text keeps its size on a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.charts.lines import Scale, linear_scale
from logratio.report.formatting import fixed, interval
from logratio.report.html import Html, element

ROW, TOP, BOTTOM = 46, 4, 46
EDGE = 3.0
"""Per cent of the width that are left free on both sides of the scale."""
MAX_ROWS = 60
MAX_NAME = 34
"""Characters of a name that have room beside its number on a phone."""
STYLE = Html(
    ".chart .point .spread { stroke: var(--tone); stroke-width: 9; opacity: 0.28; }"
    " .chart .point .whisker { stroke: var(--tone); stroke-width: 1.5; }"
    " .chart .point-value { fill: var(--ink); }"
    " i.key.bar { width: 22px; height: 9px; border-radius: 0; opacity: 0.35; }"
    " i.key.thin { width: 22px; height: 2px; border-radius: 0; vertical-align: middle; }"
    " .forest { max-width: 760px; } .forest .legend { display: flex; }"
)


def strengths_chart(models: Sequence[Mapping[str, Any]]) -> Html:
    """A row for each of the first models: name and strength, and below them a dot with both intervals.

    Args:
        models: `models` of ratings.json, strongest first.
    """
    shown = models[:MAX_ROWS]
    x = linear_scale([v for model in shown for v in _values(model)] + [0.0], EDGE, 100 - EDGE, padding=0.0)
    height = TOP + ROW * len(shown) + BOTTOM
    body = [_axis(x, height), *(_row(model, index, x) for index, model in enumerate(shown))]
    name = (
        f"Strengths of {len(shown)} models with intervals, strongest first; the table below has the numbers"
    )
    attributes = {"role": "img", "aria_label": name, "style": f"height:{height}px"}
    return element("svg", *body, class_="chart", **attributes)


def _values(model: Mapping[str, Any]) -> list[float]:
    known = [bounds for bounds in (model["interval"], model["bootstrap"]) if bounds]
    return [model["strength"], *(bounds[end] for bounds in known for end in ("low", "high"))]


def _axis(x: Scale, height: int) -> Html:
    base = height - BOTTOM
    parts = []
    for tick in x.ticks:
        across = _at(x(tick))
        style = "level" if abs(tick) < 1e-9 else "grid"
        parts.append(element("line", x1=across, x2=across, y1=TOP, y2=base, class_=style))
        parts.append(element("text", x.name(tick), x=across, y=base + 17, class_="tick middle"))
    parts.append(element("line", x1="0%", x2="100%", y1=base, y2=base, class_="axis"))
    label = "strength in nats; 0 is the mean of all models"
    parts.append(element("text", label, x="50%", y=base + 37, class_="label middle"))
    return element("g", *parts)


def _row(model: Mapping[str, Any], index: int, x: Scale) -> Html:
    top = TOP + ROW * index
    middle = top + 29
    parts = [
        element("text", _cut(model["model"]), x="0", y=top + 15, class_="point-label"),
        element("text", fixed(model["strength"]), x="100%", y=top + 15, class_="point-value end"),
        _line(model["interval"], middle, x, "spread"),
    ]
    if model["bootstrap"]:
        parts.append(_line(model["bootstrap"], middle, x, "whisker"))
        parts += [_cap(model["bootstrap"][end], middle, x) for end in ("low", "high")]
    note = element("title", _note(model))
    parts.append(element("circle", note, cx=_at(x(model["strength"])), cy=middle, r=5, class_="dot"))
    return element("g", *parts, class_="point a")


def _line(bounds: Mapping[str, float], middle: int, x: Scale, style: str) -> Html:
    ends = {"x1": _at(x(bounds["low"])), "x2": _at(x(bounds["high"]))}
    return element("line", **ends, y1=middle, y2=middle, class_=style)


def _cap(value: float, middle: int, x: Scale) -> Html:
    across = _at(x(value))
    return element("line", x1=across, x2=across, y1=middle - 4, y2=middle + 4, class_="whisker")


def _note(model: Mapping[str, Any]) -> str:
    text = (
        f"{model['model']}: {fixed(model['strength'])}, covariance {interval([*model['interval'].values()])}"
    )
    return text + (f", bootstrap {interval([*model['bootstrap'].values()])}" if model["bootstrap"] else "")


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def _at(share: float) -> str:
    return f"{share:.3f}%"
