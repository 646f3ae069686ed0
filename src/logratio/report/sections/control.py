"""What a policy that drives an environment earns: episodes on seeds of their own, and the way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from logratio.report.charts.bars import cell_interval
from logratio.report.control_runs import is_control
from logratio.report.formatting import fixed, interval, is_number, number
from logratio.report.html import Html, element, join, prose
from logratio.report.sections.cells import cell
from logratio.report.sections.returns import WAYS, distribution, learning_curve
from logratio.report.sections.section import Section, table
from logratio.report.sections.video import film_figure

LEDE = (
    "Whole episodes after training, on seeds that training never had. The most probable actions are what one "
    "would use; drawn actions are what was trained. ± is the standard deviation over episodes."
)


def control_section(report: Mapping[str, Any]) -> Section | None:
    """The return that was earned, run by run or way by way, the learning curve, and an episode to look at."""
    if not is_control(report):
        return None
    judged = _judged(report)
    value, what = headline(report)
    beside = [part for part in (distribution(judged), film_figure(report)) if part is not None]
    parts = [
        element("p", element("strong", value), " ", element("span", prose(what)), class_="headline"),
        _runs(judged) if judged.get("seeds") else _ways(judged),
        learning_curve(report),
        element("div", *beside, class_="charts two") if beside else None,
    ]
    return Section(
        anchor="returns", title=str(report["environment"]), lede=LEDE if judged else "", body=join(parts)
    )


def headline(report: Mapping[str, Any]) -> tuple[str, str]:
    """The number of the run, or of all runs, and what it is; no number where nothing has been judged."""
    judged = _judged(report)
    if not judged:
        return "", "Nothing has been judged yet: training has not come to its end."
    middle, seeds = judged.get("interquartile_mean"), judged.get("seeds") or []
    if isinstance(middle, Mapping) and len(seeds) > 1:
        return fixed(middle.get("value"), 1), (
            f"interquartile mean of the return over {len(seeds)} runs with different seeds, "
            f"95 % interval {interval((middle.get('low'), middle.get('high')), 1)} (bootstrap over runs)"
        )
    # Of several runs the first may be done, and the others not.
    run = seeds[0] if seeds else {**judged, "seed": report.get("seed")}
    return (
        f"{fixed(run['mean_return'], 1)} ± {fixed(run.get('std_return'), 1)}",
        f"mean return of {number(run.get('episodes'))} episodes, seed {number(run.get('seed'))}",
    )


def _judged(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the policies were judged; empty where they were not yet."""
    judged = report.get("evaluation")
    return judged if isinstance(judged, Mapping) and is_number(judged.get("mean_return")) else {}


def _ways(judged: Mapping[str, Any]) -> Html | None:
    """Both ways of acting, a row each."""
    rows = [
        [
            _keyed(label, style),
            fixed(result["mean_return"], 1),
            fixed(result["std_return"], 1),
            number(result["episodes"]),
            fixed(result["mean_length"], 0),
        ]
        for name, label, style in WAYS
        if isinstance(result := judged.get(name), Mapping)
    ]
    headings = ["", "Mean return", "Standard deviation", "Episodes", "Steps of an episode"]
    return table(headings, rows, caption="Returns", class_="stages") if rows else None


def _runs(judged: Mapping[str, Any]) -> Html:
    """A row for each run, then one for all of them."""
    seeds: Sequence[Mapping[str, Any]] = judged["seeds"]
    rows: list[list[object]] = [
        [
            _run_link(run),
            *(_run_cell(run, way, style, _span(seeds, way)) for way, _, style in WAYS),
            number(run.get("episodes")),
        ]
        for run in seeds
    ]
    if len(seeds) > 1:
        means = [_means(seeds, way) for way, *_ in WAYS]
        rows.append(
            ["Mean of the runs", *(fixed(fmean(column) if column else None, 1) for column in means), ""]
        )
    headings = ["Run", *(_keyed(label, style) for _, label, style in WAYS), "Episodes"]
    return table(headings, rows, caption="Returns of the runs", class_="stages")


def _run_link(run: Mapping[str, Any]) -> Html:
    """The run's name, which leads to its own page."""
    name = str(run.get("directory", ""))
    return element("a", f"Seed {number(run.get('seed'))}", href=f"{name}/report.html")


def _run_cell(run: Mapping[str, Any], way: str, style: str, span: tuple[float, float]) -> Html:
    """Mean and deviation of a run's episodes, and where they lie among those of the others."""
    result = run.get(way)
    if not isinstance(result, Mapping) or not is_number(result.get("mean_return")):
        return cell(fixed(run.get("mean_return") if way == "deterministic" else None, 1))
    mean, deviation = float(result["mean_return"]), float(result.get("std_return") or 0.0)
    bar = cell_interval(mean, (mean - deviation, mean + deviation), span, style=style)
    return cell(fixed(mean, 1), f"± {fixed(deviation, 1)}", bar)


def _means(seeds: Sequence[Mapping[str, Any]], way: str) -> list[float]:
    """What the runs earned in one way of acting."""
    result = [run.get(way) for run in seeds]
    return [float(run["mean_return"]) for run in result if isinstance(run, Mapping)]


def _span(seeds: Sequence[Mapping[str, Any]], way: str) -> tuple[float, float]:
    """The axis that a column's rows share."""
    result = [run[way] for run in seeds if isinstance(run.get(way), Mapping)]
    ends = [run["mean_return"] + side * run["std_return"] for run in result for side in (-1, 1)]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _keyed(label: str, style: str) -> Html:
    return join([element("i", class_=f"key {style}"), label])
