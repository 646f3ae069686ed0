"""What a row of comparisons says beside who won: a tie, by how much, and what the judge gave.

`preference_formats` reads `prompt`, `chosen` and `rejected`; these further columns matter to reward models
alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from logratio.data.given_rows import RowSource
from logratio.data.jsonl import scan_rows
from logratio.data.record_parsing import TIE, kind_of, require_column
from logratio.data.unusable_rows import UnusableRow
from logratio.errors import BadConfig, DataFault, WrongType

REWARDS = ("chosen_reward", "rejected_reward")
"""The columns in which `logratio label` writes what its reward gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What a row says beside the preference."""

    tie: bool = False
    """Whether nobody won: `chosen` and `rejected` are then only two answers."""
    margin: float = 0.0
    """By how much the score of the preferred answer must be larger."""
    rewards: tuple[float, float] | None = None
    """What the judge gave the preferred answer and the other, where the row says so."""

    def to_json(self, margin: str) -> dict[str, Any]:
        """The columns as they were read; `margin` is the name of its column, or a number."""
        columns: dict[str, Any] = {TIE: True} if self.tie else {}
        if parse_margin(margin) is None:
            columns[margin] = self.margin
        return columns | dict(zip(REWARDS, self.rewards or (), strict=False))


NO_GRADE = Grade()


def read_grades(
    path: RowSource, *, margin: str, limit: int | None = None
) -> tuple[dict[str, Grade], list[UnusableRow]]:
    """The further columns of every row, by the row's place (`file:line`), and the rows that have none.

    A row is without a grade where it has no column `margin`, or a margin or a reward that is not a number.
    Lines that are no rows are in neither.

    Args:
        path: comparisons, as for `read_comparisons`.
        margin: one number for all rows, or the column that holds each row's.
        limit: read only so many rows.

    Raises:
        BadConfig: the margin is a number below 0.
    """
    default_margin = parse_margin(margin)
    if default_margin is not None and default_margin < 0:
        raise BadConfig(f"margin is {margin}, it must be 0 or more", where="--margin", action="change it")
    grades: dict[str, Grade] = {}
    unusable: list[UnusableRow] = []
    for row in islice(scan_rows(path), limit):
        if isinstance(row, DataFault):
            continue
        try:
            grades[row.source] = parse_grade(
                row.value, margin=margin if default_margin is None else default_margin, where=row.source
            )
        except DataFault as fault:
            unusable.append(UnusableRow.of(fault, source=row.source))
    return grades, unusable


def parse_margin(margin: str) -> float | None:
    """The margin as a number, or `None` where it names a column."""
    try:
        value = float(margin)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_grade(row: Mapping[str, Any], *, margin: str | float, where: str) -> Grade:
    """One row; `margin` is the name of a column or one number."""
    rewards = [_number(row, name, where=where) for name in REWARDS if row.get(name) is not None]
    if isinstance(margin, str):
        require_column(row, margin, where=where)
        margin = _number(row, margin, where=where)
        if margin < 0:
            raise WrongType(f"the margin is {margin:g}, below 0", where=where, action="turn the pair round")
    return Grade(
        # What is neither true nor false keeps the row out of the comparisons, by name.
        tie=row.get(TIE) is True,
        margin=margin,
        rewards=(rewards[0], rewards[1]) if len(rewards) == len(REWARDS) else None,
    )


def _number(row: Mapping[str, Any], column: str, *, where: str) -> float:
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WrongType(f"{column} is {kind_of(value)}, not a number", where=where, action="write a number")
    return float(value)
