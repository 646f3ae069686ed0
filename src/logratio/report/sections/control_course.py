"""How training in an environment went: its numbers at both ends, then its curves over environment steps.

Of several runs each is a thin line; the thick one is their mean, and the band reaches from the lowest to the
highest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from logratio.report.charts.lines import Band, Series, line_chart, moving_mean
from logratio.report.control_runs import alone, is_control, run_label, runs_of, stage_of
from logratio.report.formatting import is_number, number, percent
from logratio.report.html import Html, element, join
from logratio.report.sections.control_panels import panel_groups
from logratio.report.sections.curves import Panel, smoothing
from logratio.report.sections.section import Section, figure, table
from logratio.report.warnings.metric_series import STAGES
from logratio.report.warnings.warning import tail_mean

Write = Callable[[float | None], str]
STEPS = "environment steps"
ONE = "Thin is each update, thick the mean over its neighbours."
SEVERAL = (
    "Thin is each run, the mean over neighbouring updates; thick is the mean of the runs, and the band "
    "reaches from the lowest to the highest."
)
ROWS: tuple[tuple[str, str, Write, str], ...] = (
    ("episode_return", "Return", number, "rising"),
    ("episode_length", "Length of an episode", number, ""),
    ("entropy", "Entropy, nats per action", number, "falling slowly"),
    ("explained_variance", "Explained variance", percent, "above 30 %"),
    ("update_kl", "KL of an update, nats per action", number, "below 0.03"),
    ("clip_fraction", "Clip fraction", percent, "below 20 %"),
    ("effective_share", "Effective share", percent, "above 50 %"),
)
"""Metric, what it is, how it is written, what is healthy."""


def control_course_section(report: Mapping[str, Any]) -> Section | None:
    """Training of all runs in one table and one set of charts."""
    runs = runs_of(report)
    if not is_control(report) or not runs:
        return None
    first = next(iter(runs))
    stage = stage_of(runs[first])
    curves = [(run_label(name), run["curves"]) for name, run in runs.items()]
    rows = [row for metric_row in ROWS if (row := _row(curves, *metric_row)) is not None]
    counts = sorted({len(run_curves.get("step") or []) for _, run_curves in curves})
    updates = " to ".join(number(count) for count in (counts[0], counts[-1])[: len(counts)])
    whole = f"{len(curves)} runs, {updates} updates each" if len(curves) > 1 else f"{updates} updates"
    body = [
        element("h3", STAGES.get(stage, stage), " ", element("small", whole)),
        table(["", "First update", "At the end", "Healthy"], rows, caption="Training", class_="course"),
    ]
    for name, panels in panel_groups(alone(report, first), stage).items():
        charts = [chart for panel in panels if (chart := draw(panel, curves)) is not None]
        body += [element("h3", name), element("div", *charts, class_="charts")] if charts else []
    lede = SEVERAL if len(curves) > 1 else ONE
    return Section(anchor="training", title="How training went", lede=lede, body=join(body))


Runs = Sequence[tuple[str, Mapping[str, Any]]]
"""The curves of each run with its name."""


def _row(runs: Runs, metric: str, label: str, write: Write, healthy: str) -> list[object] | None:
    """A metric at the beginning and the end of training; `None` where it says nothing."""
    columns = [[value for value in curves.get(metric) or [] if is_number(value)] for _, curves in runs]
    columns = [column for column in columns if column]
    if not columns or (metric == "effective_share" and min(map(min, columns)) > 1 - 1e-6):
        return None
    ends = [tail_mean(column) for column in columns]
    last = [column[-1] if end is None else end for column, end in zip(columns, ends, strict=True)]
    return [
        label,
        write(fmean(column[0] for column in columns)),
        _mean_and_range(last, write),
        element("span", healthy, class_="count"),
    ]


def _mean_and_range(values: Sequence[float], write: Write) -> Html:
    """The mean of the runs, in small their lowest and highest."""
    spread = f"{write(min(values))} to {write(max(values))}" if len(values) > 1 else None
    return join([write(fmean(values)), element("small", spread) if spread else None])


def draw(panel: Panel, runs: Runs) -> Html | None:
    """A panel's metric over environment steps; `None` where no run has logged it, or it never changed."""
    metric, label, style = panel.metrics[0]
    lines = [line for name, curves in runs if (line := _line(name, curves, metric, style)) is not None]
    if not lines or not _says_something(metric, lines):
        return None
    smooth = smoothing(len(lines[0].xs)) if panel.smooth else 1
    if len(lines) == 1:
        series, bands = [Series(label=label, xs=lines[0].xs, ys=lines[0].ys, style=style)], []
    else:
        series, bands, smooth = *_together(lines, label, style, smooth), 1
    ends = f"{label} from {number(series[-1].ys[0])} to {number(series[-1].ys[-1])}"
    chart = line_chart(
        series, name=f"{panel.title}: {ends}", x_label=STEPS, levels=panel.levels, bands=bands, smooth=smooth
    )
    return figure(chart, title=panel.title, note=panel.note)


def _line(name: str, curves: Mapping[str, Any], metric: str, style: str) -> Series | None:
    pairs = zip(curves.get("env_steps") or [], curves.get(metric) or [], strict=False)
    points = [(at, value) for at, value in pairs if is_number(at) and is_number(value)]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return Series(label=name, xs=xs, ys=ys, style=style, thin=True)


def _says_something(metric: str, lines: Sequence[Series]) -> bool:
    """Nothing is drawn of what stayed as it was from the first update to the last in every run."""
    if metric not in ("optimiser_steps", "ratio_deviation", "effective_share"):
        return True
    values = [value for line in lines for value in line.ys]
    return max(values) - min(values) > 1e-4


def _together(
    lines: Sequence[Series], label: str, style: str, smooth: int
) -> tuple[list[Series], list[Band]]:
    """The runs, smoothed, behind their mean, and what lies between the lowest and the highest of them."""
    smoothed = [
        Series(label=line.label, xs=line.xs, ys=moving_mean(line.ys, smooth), style=style, thin=True)
        for line in lines
    ]
    # Update by update: the runs make as many steps in each, but for episodes that begin anew by themselves.
    rows = list(zip(*(zip(line.xs, line.ys, strict=True) for line in smoothed), strict=False))
    xs = [fmean(at for at, _ in row) for row in rows]
    ys = [[value for _, value in row] for row in rows]
    mean = Series(label=f"{label}, mean of the runs", xs=xs, ys=[fmean(values) for values in ys], style=style)
    band = Band(xs=xs, lows=[min(values) for values in ys], highs=[max(values) for values in ys], style=style)
    return [*smoothed, mean], [band]
