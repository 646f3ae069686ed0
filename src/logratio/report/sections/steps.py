"""What each step did, reward against KL, and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.bars import cell_bar, cell_interval
from logratio.report.charts import Point, histogram, scatter_chart
from logratio.report.digits import ABSENT, fixed, interval, is_number, number, percent, percent_interval
from logratio.report.markup import Html, element, join
from logratio.report.sections.section import Section, figure, table
from logratio.report.stages import stage_label, stage_style

Row = Mapping[str, Any]
FEWEST_FOR_HISTOGRAM = 16
CONTEST = ("win_rate", "length_controlled_win_rate", "reward_difference", "longer_share_of_wins", "identical")


def steps_section(report: Mapping[str, Any]) -> Section | None:
    """The table of stages: reference, middle stages, policy."""
    rows = [row for row in report.get("stages") or [] if isinstance(row, Mapping)]
    if not rows:
        return None
    columns = [column for column in COLUMNS if any(_has(row, column[0]) for row in rows)]
    headings = ["Stage", *(title for _, title, _ in columns)]
    body = [
        [
            join([element("i", class_=f"key {stage_style(row['name'])}"), stage_label(row["name"])]),
            *(cell(row, rows) for _, _, cell in columns),
        ]
        for row in rows
    ]
    return Section(
        anchor="steps",
        title="What each step did",
        lede="Every stage answered the same held-out prompts with the same seeds. KL is how far "
        "a stage has moved "
        "from the reference, in nats for a whole answer; intervals are 95 %.",
        body=table(headings, body, caption="Each stage's numbers", class_="stages"),
    )


def _has(row: Row, key: str) -> bool:
    return is_number(row.get(key)) or isinstance(row.get(key), Mapping)


def _cell(main: str, below: str, bar: Html | None) -> Html:
    small = element("small", below) if below else None
    return join([element("span", main, class_="value"), small, bar])


def _interval_cell(key: str, decimals: int) -> Any:
    def cell(row: Row, rows: Sequence[Row]) -> Html:
        value = row.get(key)
        if not is_number(value):
            return _cell(ABSENT, "", None)
        bounds = row.get(f"{key}_interval")
        spans = [
            v for one in rows for v in (one.get(key), *(one.get(f"{key}_interval") or ())) if is_number(v)
        ]
        bar = cell_interval(value, bounds, (min(spans), max(spans)), style=stage_style(row["name"]))
        return _cell(fixed(value, decimals), interval(bounds, decimals), bar)

    return cell


def _share_cell(key: str) -> Any:
    def cell(row: Row, rows: Sequence[Row]) -> Html:
        value = row.get(key)
        if not is_number(value):
            return _cell(ABSENT, "", None)
        bounds = row.get(f"{key}_interval")
        below = percent_interval(*bounds) if bounds else ""
        return _cell(percent(value, 0), below, cell_bar(value, 1.0, style=stage_style(row["name"])))

    return cell


def _length_cell(row: Row, rows: Sequence[Row]) -> Html:
    value = row.get("length")
    if not is_number(value):
        return _cell(ABSENT, "", None)
    largest = max(one["length"] for one in rows if is_number(one.get("length")))
    bounds = interval(row.get("length_interval"), 1)
    return _cell(fixed(value, 1), bounds, cell_bar(value, largest, style=stage_style(row["name"])))


def _win_cell(row: Row, rows: Sequence[Row]) -> Html:
    cell = _rate(row.get("win_rate"), style=stage_style(row["name"]))
    return cell if isinstance(cell, Html) else _cell(ABSENT, "", None)


COLUMNS = (
    ("reward", "Mean reward", _interval_cell("reward", 3)),
    ("win_rate", "Wins against the reference", _win_cell),
    ("kl", "KL to the reference", _interval_cell("kl", 2)),
    ("length", "Tokens an answer", _length_cell),
    ("eos_rate", "End by themselves", _share_cell("eos_rate")),
    ("distinct_2", "Distinct-2", _share_cell("distinct_2")),
    ("repetition", "Repetition", _share_cell("repetition")),
)
"""Key, heading and cell of each column; a column that no stage has is left out."""


def frontier_section(report: Mapping[str, Any]) -> Section | None:
    """Reward against KL, with the length-controlled win rate and the change prompt by prompt beside it."""
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
    figures = []
    if len(points) > 1:
        name = "Mean reward against KL to the reference: " + "; ".join(
            f"{point.label} reward {number(point.y)} at KL {number(point.x)}" for point in points
        )
        chart = scatter_chart(
            points, name=name, x_label="KL to the reference, nats an answer", y_label="mean reward"
        )
        figures.append(
            figure(
                chart, title="Reward against KL", note="Up is better, right is further from where it began."
            )
        )
    changes = [change for change in report.get("reward_differences") or [] if is_number(change)]
    if len(changes) >= FEWEST_FOR_HISTOGRAM:
        up = sum(change > 0 for change in changes)
        chart = histogram(
            changes,
            name=f"Reward of the policy minus the reference over {len(changes)} prompts, {up} above zero",
            x_label="reward of policy − reference",
            split=0.0,
        )
        figures.append(
            figure(
                chart,
                title="Change prompt by prompt",
                note=f"{len(changes)} prompts, how many fall in each bin.",
                legend=[("lower", "bad"), ("higher or equal", "good")],
            )
        )
    if not figures:
        return None
    return Section(
        anchor="frontier",
        title="Reward and distance",
        lede="A reward that rises while KL stays small was learned; one that is bought with a "
        "large KL may be "
        "a weakness of the judge.",
        body=element("div", *figures, class_="charts two"),
    )


def head_to_head_section(report: Mapping[str, Any]) -> Section | None:
    """Every pair of stages against each other: as it stands, and with length held equal."""
    contests = report.get("comparisons") or [
        {"name": "policy", "against": "reference", **{key: report.get(key) for key in CONTEST}}
    ]
    contests = [one for one in contests if isinstance(one.get("win_rate"), Mapping)]
    if not contests:
        return None
    headings = [
        "",
        "Win rate",
        "With length held equal",
        "Reward gained",
        "Wins with the longer answer",
        "Same answer",
    ]
    rows = [_contest(one) for one in contests]
    filled = [column for column in range(6) if column == 0 or any(row[column] != ABSENT for row in rows)]
    kept = [[row[column] for column in filled] for row in rows]
    lede = (
        "Prompt by prompt, ties as half a win. Judges often like longer answers: the second "
        "column is the win rate "
        "that a logistic fit expects were both equally long. Where the two differ much, length "
        "explains part of it."
    )
    content = table([headings[column] for column in filled], kept, caption="Head to head", class_="stages")
    return Section(anchor="head-to-head", title="Head to head, and length", lede=lede, body=content)


def _contest(contest: Mapping[str, Any]) -> list[object]:
    gained, longer, same = (contest.get(key) for key in CONTEST[2:])
    return [
        f"{stage_label(str(contest.get('name')))} against {stage_label(str(contest.get('against')))}",
        _rate(contest["win_rate"]),
        _rate(contest.get("length_controlled_win_rate")),
        _cell(fixed(gained.get("value"), 3), interval([gained["low"], gained["high"]], 3), None)
        if isinstance(gained, Mapping)
        else ABSENT,
        percent(longer, 0),
        number(same),
    ]


def _rate(rate: Any, *, style: str = "policy") -> Html | str:
    if not isinstance(rate, Mapping) or not is_number(rate.get("value")):
        return ABSENT
    bounds = (
        (rate["low"], rate["high"]) if is_number(rate.get("low")) and is_number(rate.get("high")) else None
    )
    bar = cell_interval(rate["value"], bounds, (0.0, 1.0), style=style, mark=0.5)
    return _cell(percent(rate["value"]), percent_interval(*bounds) if bounds else "", bar)
