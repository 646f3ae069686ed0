"""The learning curves of `control_returns.json` as one page, for the picture in docs/control.md.

python benchmarks/control_curves.py OUT.html
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from logratio.report.charts.lines import LARGE, Band, Level, Series, line_chart
from logratio.report.frame import style_sheet
from logratio.report.html import Html, element
from logratio.report.sections.section import figure

RESULTS = Path(__file__).parent / "control_returns.json"
POINTS = 60
Curve = list[list[float]]


def main(out: Path) -> None:
    """Write the page."""
    results = json.loads(RESULTS.read_text())
    charts = [chart(task, found) for task, found in results.items()]
    head = element("head", element("meta", charset="utf-8"), element("style", style_sheet()))
    body = element("body", element("main", element("div", *charts, class_="charts")))
    out.write_text("<!doctype html>\n" + str(element("html", head, body)))


def chart(task: str, found: dict[str, Any]) -> Html:
    """All runs of a task: thin each, thick their mean, and the band from the lowest to the highest."""
    own = [run["curve"] for run in found["runs"]]
    series, bands = drawn(own, label="mean of the seeds", style="a")
    levels = []
    if found.get("sb3"):
        other, other_bands = drawn(
            [run["curve"] for run in found["sb3"]], label="Stable-Baselines3 2.9.2", style="b"
        )
        series, bands = [*series, *other], [*bands, *other_bands]
    else:
        levels = [Level(value=found["least"], label=f"asked for: {found['least']:g}")]
    picture = line_chart(
        series,
        name=f"Return of {task} over environment steps",
        x_label="environment steps",
        levels=levels,
        bands=bands,
        frame=LARGE,
    )
    note = f"{len(own)} seeds; return of the last 100 training episodes."
    if found.get("sb3"):
        note = f"{len(own)} seeds each: green is here, brown is Stable-Baselines3 2.9.2."
    return figure(picture, title=task, note=note)


def drawn(curves: Sequence[Curve], *, label: str, style: str) -> tuple[list[Series], list[Band]]:
    """The mean of curves on common steps, with their lowest and highest values."""
    last = min(curve[-1][0] for curve in curves)
    first = max(curve[0][0] for curve in curves)
    steps = [first + (last - first) * number / (POINTS - 1) for number in range(POINTS)]
    values = [[value_at(curve, step) for curve in curves] for step in steps]
    mean = Series(label=label, xs=steps, ys=[fmean(row) for row in values], style=style)
    band = Band(xs=steps, lows=[min(row) for row in values], highs=[max(row) for row in values], style=style)
    return [mean], [band]


def value_at(curve: Curve, step: float) -> float:
    """A curve's last value at or before a step."""
    place = bisect_right([point[0] for point in curve], step)
    return curve[max(0, place - 1)][1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
