"""Reward against distance: every stage, best-of-n and the most that is possible; and who gained how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.charts.lines import LARGE, histogram
from logratio.report.charts.scatter import WIDE, Plane, Point, scatter_chart
from logratio.report.formatting import is_number, number
from logratio.report.html import Html, element, join
from logratio.report.sections.methods import methods_table
from logratio.report.sections.section import Section, figure
from logratio.report.stages import stage_label, stage_names, stage_style

FEWEST_FOR_HISTOGRAM = 16
METHOD_STAGES = ("policy", "ppo")
"""Stages that go out from the same one before them."""
LEDE = (
    "A reward that rises while KL stays small was learned; one that is bought with a large KL may be a "
    "weakness of the judge."
)
COMPARE = " Compare methods at equal KL: who goes further has more reward for that alone."
LEGEND = {"bound": "the most reward at that KL", "best": "best of n: KL at most"}


def frontier_section(report: Mapping[str, Any]) -> Section | None:
    """Reward against KL, a point a stage, and the changes of reward as a histogram."""
    plane = _plane(report)
    picture = _picture(plane, report) if len(plane.points) >= 2 else None
    changes, table = _changes(report), methods_table(report)
    if picture is None and changes is None and table is None:
        return None
    if _is_wide(plane):
        beside = element("div", changes, class_="charts two") if changes else None
        body = join([picture, table, beside])
    else:
        figures = element("div", picture, changes, class_="charts two") if picture or changes else None
        body = join([figures, table])
    lede = LEDE + (COMPARE if "ppo" in stage_names(report) else "")
    return Section(anchor="frontier", title="Reward and distance", lede=lede, body=body)


def _is_wide(plane: Plane) -> bool:
    return bool(plane.steps or plane.bound)


def _plane(report: Mapping[str, Any]) -> Plane:
    points = _stages(report)
    frontier = report.get("frontier")
    if not isinstance(frontier, Mapping):
        frontier = {}
    steps, bound = _best_of_n(frontier.get("best_of_n")), _upper_bound(frontier.get("upper_bound"))
    return Plane(
        points=list(points.values()),
        trails=_trails(points),
        steps=steps,
        bound=bound,
        root=bool(steps or bound),
    )


def _stages(report: Mapping[str, Any]) -> dict[str, Point]:
    names = stage_names(report)
    return {
        row["name"]: Point(
            label=stage_label(row["name"], names),
            x=row["kl"],
            y=row["reward"],
            x_interval=row.get("kl_interval"),
            y_interval=row.get("reward_interval"),
            style=stage_style(row["name"]),
        )
        for row in report.get("stages") or []
        if is_number(row.get("kl")) and is_number(row.get("reward"))
    }


def _trails(points: Mapping[str, Point]) -> list[list[Point]]:
    """The way from the reference to each method, through what all of them start from."""
    stem = [point for name, point in points.items() if name not in METHOD_STAGES]
    ends = [points[name] for name in METHOD_STAGES if name in points]
    return [[*stem, end] for end in ends] or [stem]


def _best_of_n(rows: Any) -> list[Point]:
    measured = [row for row in rows or [] if is_number(row.get("kl_bound")) and is_number(row.get("reward"))]
    return [
        Point(
            label=_step_label(row.get("n"), is_last=row is measured[-1]),
            x=row["kl_bound"],
            y=row["reward"],
            y_interval=row.get("reward_interval"),
            style="best",
            note=f"best of {row.get('n')}: reward {number(row['reward'])}, "
            f"KL at most {number(row['kl_bound'])}",
        )
        for row in measured
    ]


def _step_label(n: Any, *, is_last: bool) -> str:
    """The last is named in full; the best of 1 is the reference itself, which has its name."""
    return f"best of {n}" if is_last else "" if n == 1 else str(n)


def _upper_bound(rows: Any) -> list[Point]:
    return [
        Point(
            label="",
            x=row["kl"],
            y=row["reward"],
            y_interval=row.get("reward_interval"),
            style="bound",
            note=f"KL {number(row['kl'])}: reward at most {number(row['reward'])}, "
            f"{number(row.get('effective_samples'))} effective samples",
        )
        for row in rows or []
        if is_number(row.get("kl")) and is_number(row.get("reward"))
    ]


def _picture(plane: Plane, report: Mapping[str, Any]) -> Html:
    values = [f"{point.label} reward {number(point.y)} at KL {number(point.x)}" for point in plane.points]
    values += [step.note for step in plane.steps]
    if plane.bound:
        values.append(f"at most {number(plane.bound[-1].y)} is possible at KL {number(plane.bound[-1].x)}")
    wide = _is_wide(plane)
    chart = scatter_chart(
        plane,
        name=f"Mean reward against KL to the reference: {'; '.join(values)}",
        x_label="KL to the reference, nats per answer",
        y_label="mean reward",
        frame=WIDE if wide else LARGE,
    )
    shown = [(label, style) for style, label in LEGEND.items() if _has(plane, style)]
    note = _note(plane, report.get("frontier") or {})
    if wide:
        pan = {"class_": "pan", "tabindex": "0", "role": "region", "aria_label": "Reward against KL"}
        chart = element("div", chart, **pan)
    drawn = figure(chart, title="Reward against KL", note=note, legend=shown)
    return element("div", drawn, class_="picture") if wide else drawn


def _has(plane: Plane, style: str) -> Sequence[Point]:
    return {"bound": plane.bound, "best": plane.steps}[style]


def _note(plane: Plane, frontier: Mapping[str, Any]) -> str:
    """How to read the picture, of what it shows."""
    stretched = "; the axis is stretched near 0" if plane.root else ""
    parts = [f"Up is better, right is further from the reference{stretched}."]
    if plane.bound:
        answers, prompts = (number(frontier.get(key)) for key in ("samples_a_prompt", "prompts"))
        parts.append(
            f"No policy can lie above the line, found from {answers} answers of the reference to each of "
            f"{prompts} prompts; it ends where these are too few, not where reward does."
        )
    if plane.steps:
        parts.append("Best of n, picked by a proxy, has a KL of at most what is drawn.")
    return " ".join(parts)


def _changes(report: Mapping[str, Any]) -> Html | None:
    changes = [change for change in report.get("reward_differences") or [] if is_number(change)]
    if len(changes) < FEWEST_FOR_HISTOGRAM:
        return None
    up = sum(change > 0 for change in changes)
    label = stage_label("policy", stage_names(report))
    who = label if label == "DPO" else "policy"
    chart = histogram(
        changes,
        name=f"Reward of {who} minus the reference on {len(changes)} prompts, {up} of them above zero",
        x_label=f"reward of {who} − reference",
        split=0.0,
    )
    return figure(
        chart,
        title="Change prompt by prompt",
        note=f"{len(changes)} prompts, how many fall in each bin.",
        legend=[("lower", "bad"), ("equal or higher", "good")],
    )
