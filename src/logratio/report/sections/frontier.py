"""Reward against distance, and how reward changed from prompt to prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.charts import Point, histogram, scatter_chart
from logratio.report.digits import is_number, number
from logratio.report.markup import Html, element
from logratio.report.sections.section import Section, figure
from logratio.report.stages import stage_label, stage_style

FEWEST_FOR_HISTOGRAM = 16
LEDE = (
    "A reward that rises while KL stays small was learned; one that is bought with a large KL may be a "
    "weakness of the judge."
)


def frontier_section(report: Mapping[str, Any]) -> Section | None:
    """Reward against KL, a point a stage, and the changes of reward as a histogram."""
    figures = [one for one in (_frontier(report), _changes(report)) if one is not None]
    if not figures:
        return None
    body = element("div", *figures, class_="charts two")
    return Section(anchor="frontier", title="Reward and distance", lede=LEDE, body=body)


def _frontier(report: Mapping[str, Any]) -> Html | None:
    points = [
        Point(
            label=stage_label(row["name"]),
            x=row["kl"],
            y=row["reward"],
            x_interval=row.get("kl_interval"),
            y_interval=row.get("reward_interval"),
            style=stage_style(row["name"]),
        )
        for row in report.get("stages") or []
        if is_number(row.get("kl")) and is_number(row.get("reward"))
    ]
    if len(points) < 2:
        return None
    values = [f"{one.label} reward {number(one.y)} at KL {number(one.x)}" for one in points]
    chart = scatter_chart(
        points,
        name=f"Mean reward against KL to the reference: {'; '.join(values)}",
        x_label="KL to the reference, nats an answer",
        y_label="mean reward",
    )
    return figure(chart, title="Reward against KL", note="Up is better, right is further from the reference.")


def _changes(report: Mapping[str, Any]) -> Html | None:
    changes = [change for change in report.get("reward_differences") or [] if is_number(change)]
    if len(changes) < FEWEST_FOR_HISTOGRAM:
        return None
    up = sum(change > 0 for change in changes)
    chart = histogram(
        changes,
        name=f"Reward of the policy minus the reference on {len(changes)} prompts, {up} of them above zero",
        x_label="reward of policy − reference",
        split=0.0,
    )
    return figure(
        chart,
        title="Change prompt by prompt",
        note=f"{len(changes)} prompts, how many fall in each bin.",
        legend=[("lower", "bad"), ("equal or higher", "good")],
    )
