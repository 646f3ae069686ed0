"""What each step did: a table of all stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from logratio.report.charts.bars import cell_bar, cell_interval
from logratio.report.formatting import ABSENT, fixed, interval, is_number, percent
from logratio.report.html import Html, element, join
from logratio.report.sections.cells import cell, rate_cell
from logratio.report.sections.section import Section, table
from logratio.report.stages import stage_label, stage_names, stage_style

StageRow = Mapping[str, Any]
MakeCell = Callable[[StageRow, Sequence[StageRow]], Html]
LEDE = (
    "Every stage answered the same held-out prompts with the same seeds. KL is how far a stage has moved "
    "from the reference, in nats for a whole answer; intervals are 95 %."
)


def steps_section(report: Mapping[str, Any]) -> Section | None:
    """The table of stages: reference, middle stages, policy."""
    rows: list[StageRow] = report.get("stages") or []
    if not rows:
        return None
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    headings = ["Stage", *(title for _, title, _ in columns)]
    names = stage_names(report)
    body = [[_name(row, names), *(make(row, rows) for _, _, make in columns)] for row in rows]
    content = table(headings, body, caption="Each stage's numbers", class_="stages")
    return Section(anchor="steps", title="What each step did", lede=LEDE, body=content)


def _name(row: StageRow, stages: Sequence[str]) -> Html:
    return join([element("i", class_=f"key {stage_style(row['name'])}"), stage_label(row["name"], stages)])


def _interval_cell(key: str, least_decimals: int) -> MakeCell:
    """A cell with a dot and its interval, on the axis that the column's rows share."""

    def make(row: StageRow, rows: Sequence[StageRow]) -> Html:
        value, bounds = row.get(key), row.get(f"{key}_interval")
        if not is_number(value):
            return cell(ABSENT)
        known = [values for values in (_values(key, other) for other in rows) if values]
        span = min(map(min, known)), max(map(max, known))
        decimals = enough_decimals(max(map(abs, span)), least=least_decimals)
        bar = cell_interval(value, bounds, span, style=stage_style(row["name"]))
        return cell(fixed(value, decimals), interval(bounds, decimals), bar)

    return make


def _values(key: str, row: StageRow) -> list[float]:
    values = [row.get(key), *(row.get(f"{key}_interval") or ())]
    return [value for value in values if is_number(value)]


def enough_decimals(largest: float, *, least: int) -> int:
    """Decimals with which the column's largest number has three digits at least."""
    return least if largest == 0 else max(least, min(7, 2 - math.floor(math.log10(largest))))


def _share_cell(key: str) -> MakeCell:
    def make(row: StageRow, rows: Sequence[StageRow]) -> Html:
        value = row.get(key)
        if not is_number(value):
            return cell(ABSENT)
        return cell(percent(value, 0), bar=cell_bar(value, 1.0, style=stage_style(row["name"])))

    return make


def _length_cell(row: StageRow, rows: Sequence[StageRow]) -> Html:
    value = row.get("length")
    if not is_number(value):
        return cell(ABSENT)
    largest = max(other["length"] for other in rows if is_number(other.get("length")))
    return cell(fixed(value, 1), bar=cell_bar(value, largest, style=stage_style(row["name"])))


def _win_cell(row: StageRow, rows: Sequence[StageRow]) -> Html:
    return rate_cell(row.get("win_rate"), style=stage_style(row["name"]))


COLUMNS: tuple[tuple[str, str, MakeCell], ...] = (
    ("reward", "Mean reward", _interval_cell("reward", 3)),
    ("win_rate", "Wins against the reference", _win_cell),
    ("kl", "KL to the reference", _interval_cell("kl", 2)),
    ("length", "Tokens an answer", _length_cell),
    ("eos_rate", "End by themselves", _share_cell("eos_rate")),
    ("distinct_2", "Distinct-2", _share_cell("distinct_2")),
    ("repetition", "Repetition", _share_cell("repetition")),
)
"""Key, heading and cell of each column; a column that no stage has is left out."""
