"""Lengths of prompts and answers, and how far length alone explains the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from logratio.stats.wilson import wilson_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBias:
    """How often the longer answer is the preferred one."""

    wins: int
    """Pairs in which the longer answer was chosen."""
    num_pairs: int
    """Pairs of answers of unequal length."""
    ties: int
    """Pairs of equal length, which say nothing."""
    low: float
    """Lower end of the 95 % Wilson interval."""
    high: float
    """Upper end."""
    unit: Literal["tokens", "characters"]
    """What length is counted in."""

    @property
    def accuracy(self) -> float:
        """Share of the labels that "the longer wins" predicts; one half where there are none."""
        return self.wins / self.num_pairs if self.num_pairs else 0.5

    def to_json(self) -> dict[str, Any]:
        """All fields and the accuracy."""
        return asdict(self) | {"accuracy": self.accuracy}


def length_bias(lengths: Sequence[tuple[int, int]], *, unit: Literal["tokens", "characters"]) -> LengthBias:
    """Accuracy of "the longer wins" with its 95 % interval.

    Args:
        lengths: of each pair, those of the chosen and the rejected answer.
        unit: what they count.
    """
    wins = sum(chosen > rejected for chosen, rejected in lengths)
    ties = sum(chosen == rejected for chosen, rejected in lengths)
    num_pairs = len(lengths) - ties
    low, high = wilson_interval(wins, num_pairs) if num_pairs else (0.0, 1.0)
    return LengthBias(wins=wins, num_pairs=num_pairs, ties=ties, low=low, high=high, unit=unit)


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Smallest, quarter, middle, three quarters, 95 % and largest, each a length that occurs."""
    ordered = sorted(lengths)
    shares = {"min": 0.0, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
    return (
        {name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()}
        if ordered
        else {}
    )
