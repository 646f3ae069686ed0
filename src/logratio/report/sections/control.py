"""What a policy that drives an environment earns: episodes on seeds of their own, and the way there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.charts import Series, histogram, line_chart
from logratio.report.digits import fixed, is_number, number
from logratio.report.markup import Html, element, join, prose
from logratio.report.sections.section import Section, figure, table

LEDE = (
    "Whole episodes after training, on seeds that training never had. The most probable actions are what one "
    "would use; drawn actions are what was trained."
)
WAYS = (("deterministic", "Most probable actions"), ("stochastic", "Drawn actions"))


def is_control(report: Mapping[str, Any]) -> bool:
    """Whether a report is of a policy that drives an environment."""
    return isinstance(report.get("environment"), str)


def control_section(report: Mapping[str, Any]) -> Section | None:
    """The return that was earned, run by run or way by way, and the learning curve."""
    judged = report.get("evaluation")
    if not is_control(report):
        return None
    if not isinstance(judged, Mapping) or not is_number(judged.get("mean_return")):
        body = element(
            "p", "Nothing has been judged yet: training has not come to its end.", class_="sentence"
        )
        return Section(anchor="returns", title=str(report["environment"]), body=body)
    charts = [*_curve(report), *_returns(judged)]
    body = join(
        [
            element("p", prose(_sentence(report, judged)), class_="sentence"),
            _runs(judged) if judged.get("seeds") else _ways(judged),
            element("div", *charts, class_="charts two") if charts else None,
        ]
    )
    return Section(anchor="returns", title=str(report["environment"]), lede=LEDE, body=body)


def _sentence(report: Mapping[str, Any], judged: Mapping[str, Any]) -> str:
    middle = judged.get("interquartile_mean")
    if isinstance(middle, Mapping):
        return (
            f"{len(judged['seeds'])} runs with different seeds: interquartile mean of the return "
            f"{fixed(middle.get('value'), 1)} ({fixed(middle.get('low'), 1)} to "
            f"{fixed(middle.get('high'), 1)}, 95 % bootstrap over runs)."
        )
    return (
        f"Return {fixed(judged['mean_return'], 1)} ± {fixed(judged.get('std_return'), 1)} "
        f"over {number(judged.get('episodes'))} episodes, seed {number(report.get('seed'))}."
    )


def _ways(judged: Mapping[str, Any]) -> Html:
    rows = [
        [
            label,
            fixed(found["mean_return"], 1),
            fixed(found["std_return"], 1),
            number(found["episodes"]),
            fixed(found["mean_length"], 0),
        ]
        for name, label in WAYS
        if isinstance(found := judged.get(name), Mapping)
    ]
    return table(["", "Return", "Deviation", "Episodes", "Steps"], rows, caption="Returns", class_="stages")


def _runs(judged: Mapping[str, Any]) -> Html:
    rows = [[f"Seed {one['seed']}", fixed(one["mean_return"], 1)] for one in judged["seeds"]]
    return table(["Run", "Return"], rows, caption="Returns of the runs", class_="stages")


def _curve(report: Mapping[str, Any]) -> list[Html]:
    curve = [row for row in report.get("curve") or [] if is_number(row.get("return"))]
    if len(curve) < 2:
        return []
    steps = [row["steps"] for row in curve]
    lines = [("return", "return", "a")]
    if "lowest" in curve[0]:
        lines = [
            ("return", "mean of the runs", "a"),
            ("lowest", "worst", "bad"),
            ("highest", "best", "between"),
        ]
    series = [
        Series(label=label, xs=steps, ys=[row[name] for row in curve], style=style)
        for name, label, style in lines
    ]
    ends = f"from {number(curve[0]['return'])} to {number(curve[-1]['return'])}"
    chart = line_chart(series, name=f"Return while training, {ends}", x_label="environment steps")
    legend = [(label, style) for _, label, style in lines] if len(lines) > 1 else []
    note = "Mean of the last 100 episodes, with drawn actions."
    return [figure(chart, title="Return while training", note=note, legend=legend)]


def _returns(judged: Mapping[str, Any]) -> list[Html]:
    found = judged.get("deterministic")
    values = found.get("returns") if isinstance(found, Mapping) else None
    if not values or min(values) == max(values):
        return []
    chart = histogram(values, name="Returns of the episodes", x_label="return of an episode")
    return [figure(chart, title="Returns of the episodes", note="With the most probable actions.")]
