"""What became of every row: totals with the parts that must add up to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logratio.report.formatting import is_number

SUMS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("num_rows",), ("unusable", "num_usable")),
    (("pairs_considered",), ("labelled", "identical", "ties", "empty")),
    (("num_pairs", "num_usable", "labelled"), ("train", "held_out")),
    (("num_prompts",), ("train_prompts", "held_out_prompts")),
    (("prompts_in_file",), ("duplicates", "not_chosen", "evaluated")),
)
"""Totals by their names, the first that is there counts, and their parts. A part may be a mapping of reasons
to counts, whose values are parts themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A count and the counts that it must be the sum of."""

    name: str
    """The total's name."""
    value: float
    """The total as it was counted."""
    parts: tuple[tuple[str, float], ...]
    """Name and count of each part."""

    @property
    def adds_up(self) -> bool:
        """Whether the parts give the total."""
        return sum(count for _, count in self.parts) == self.value


def totals(data: Mapping[str, Any]) -> list[tuple[str, Total]]:
    """Every total that the counts hold with all its parts, each with the group that it stands in."""
    result = []
    for group, counts in groups(data):
        for names, parts in SUMS:
            name = next((name for name in names if is_number(counts.get(name))), None)
            if name is not None and all(part in counts for part in parts):
                values = tuple(item for part in parts for item in _part(part, counts[part]))
                result.append((group, Total(name=name, value=counts[name], parts=values)))
    return result


def groups(data: Mapping[str, Any], path: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """The counts themselves and, by name, the groups of counts inside them, such as those of a stage."""
    result: list[tuple[str, Mapping[str, Any]]] = [(path, data)]
    for name, value in data.items():
        if isinstance(value, Mapping) and name not in ("unusable", "columns_not_used"):
            result += groups(value, f"{path} {name}".strip())
    return result


def single_counts(counts: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The plain numbers of a group, by name."""
    return [(name, value) for name, value in counts.items() if is_number(value)]


def _part(name: str, value: Any) -> list[tuple[str, float]]:
    return list(value.items()) if isinstance(value, Mapping) else [(name, value)]
