"""The return as pictures: over the steps of training, and of the episodes that judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from logratio.report.charts.distributions import SampleValues, distribution_chart
from logratio.report.charts.lines import BROAD, Band, Series, line_chart
from logratio.report.control_runs import run_label, runs_of
from logratio.report.formatting import is_number, number
from logratio.report.html import Html, element
from logratio.report.sections.section import figure

WAYS = (("deterministic", "Most probable actions", "policy"), ("stochastic", "Drawn actions", "ppo"))
"""Ways of acting: name in `evaluation`, what the page calls it, colour class."""
STEPS = "environment steps, of all environments together"
RECENT = "Mean of the last 100 episodes that had ended by then, with drawn actions."
CurveRow = Mapping[str, float]


def learning_curve(report: Mapping[str, Any]) -> Html | None:
    """The return over steps: the run's own, or the mean of the runs with its interval over each of them."""
    runs = [line for name, run in runs_of(report).items() if (line := run_line(name, run)) is not None]
    joined = [row for row in report.get("curve") or [] if is_number(row.get("low"))]
    # Runs that have not all come far enough stand side by side without a mean.
    lines, bands, note = runs, [], RECENT
    if len(runs) == 1:
        lines = [replace(runs[0], label="return")]
    elif len(joined) > 1 and runs:
        lines = [*(replace(run, thin=True) for run in runs), _mean(joined)]
        bands = [_interval(joined)]
        note = (
            f"Thick is the mean of the {len(runs)} runs, the band its 95 % interval (bootstrap over runs), "
            f"thin each run. {RECENT}"
        )
    if not lines:
        return None
    ends = f"from {number(lines[-1].ys[0])} to {number(lines[-1].ys[-1])}"
    title = "Return while training"
    chart = line_chart(lines, name=f"{title}, {ends}", x_label=STEPS, bands=bands, frame=BROAD)
    pan = {"class_": "pan curve", "tabindex": "0", "role": "region", "aria_label": title}
    return element("div", figure(element("div", chart, **pan), title=title, note=note), class_="picture")


def run_line(name: str, run: Mapping[str, Any]) -> Series | None:
    """A run's return as it was logged; `None` where no two updates have one."""
    curves = run["curves"]
    pairs = zip(curves.get("env_steps") or [], curves.get("episode_return") or [], strict=False)
    points = [(at, value) for at, value in pairs if is_number(at) and is_number(value)]
    if len(points) < 2:
        return None
    xs, ys = zip(*points, strict=True)
    return Series(label=run_label(name), xs=xs, ys=ys)


def _mean(rows: Sequence[CurveRow]) -> Series:
    return Series(
        label="mean of the runs", xs=[row["steps"] for row in rows], ys=[row["return"] for row in rows]
    )


def _interval(rows: Sequence[CurveRow]) -> Band:
    lows, highs = ([row[name] for row in rows] for name in ("low", "high"))
    return Band(xs=[row["steps"] for row in rows], lows=lows, highs=highs)


def distribution(judged: Mapping[str, Any]) -> Html | None:
    """How the returns of the episodes are spread, for both ways of acting."""
    # The most probable actions, which count, are drawn over the others.
    samples = [
        SampleValues(label=label, values=values, style=style)
        for name, label, style in reversed(WAYS)
        if (values := returns_of(judged, name))
    ]
    if not samples:
        return None
    title = "Returns of the episodes"
    everything = [value for sample in samples for value in sample.values]
    if min(everything) == max(everything):
        same = f"Every one of the {len(everything)} episodes earned {number(everything[0], digits=4)}."
        return figure(element("p", same), title=title)
    ends = [
        f"{sample.label} {number(min(sample.values))} to {number(max(sample.values))}" for sample in samples
    ]
    chart = distribution_chart(samples, name=f"{title}: {'; '.join(ends)}", x_label="return of an episode")
    num_runs = len(judged.get("seeds") or [])
    whose = f"Of all {num_runs} runs together. " if num_runs > 1 else ""
    note = f"{whose}A second hill, or a long tail, is what a mean does not tell."
    return figure(
        chart, title=title, note=note, legend=[(sample.label, sample.style) for sample in samples[::-1]]
    )


def returns_of(judged: Mapping[str, Any], way: str) -> list[float]:
    """The returns of all episodes that were judged in one way of acting, of all runs."""
    results = [seed.get(way) for seed in judged.get("seeds") or [judged]]
    values = [
        value for result in results if isinstance(result, Mapping) for value in result.get("returns") or []
    ]
    return [float(value) for value in values if is_number(value)]
