"""What `logratio rate` finds: strengths, differences, what the bootstrap drew, what a reader must know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from logratio.evaluation.ratings.pairwise_counts import PairwiseCounts, short
from logratio.stats.strengths import Ties
from logratio.stats.wilson import percent

ELO = 400 / math.log(10)
"""Points of the Elo scale to one nat: a difference of 400 is odds of 10 to 1."""
MANY = 0.05
"""From this share of resamples drawn again on, the intervals of the others are said to be too narrow."""
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A model's strength."""

    model: str
    """Its name."""
    strength: float
    """In nats, about the mean of all models."""
    standard_error: float
    """From the covariance."""
    interval: Interval
    """95 %, from the covariance."""
    bootstrap: Interval | None
    """95 %, of the resamples; none where there are none."""
    wins: int
    """How often it won."""
    losses: int
    """How often it lost."""
    ties: int
    """How often nobody won."""

    def to_json(self) -> dict[str, Any]:
        """The fields, with the strength on the Elo scale and intervals as `{"low", "high"}`."""
        return {
            "model": self.model,
            "strength": self.strength,
            "standard_error": self.standard_error,
            "interval": _bounds(self.interval),
            "bootstrap": _bounds(self.bootstrap),
            "elo": ELO * self.strength,
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """How much stronger one model is than another."""

    first: str
    """A model."""
    second: str
    """What it is held against."""
    difference: float
    """Strength of the first minus that of the second, in nats."""
    standard_error: float
    """From the covariance, with what the two have in common."""
    interval: Interval
    """95 %, from the covariance."""
    bootstrap: Interval | None
    """95 %, of the resamples."""
    win_chance: float
    """How often the first wins among comparisons that one of them wins."""

    @property
    def is_clear(self) -> bool:
        """Whether no interval holds 0."""
        return all(low > 0 or high < 0 for low, high in (self.interval, self.bootstrap or self.interval))

    def to_json(self) -> dict[str, Any]:
        """The fields, and whether the difference is clear."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "standard_error": self.standard_error,
            "interval": _bounds(self.interval),
            "bootstrap": _bounds(self.bootstrap),
            "elo": ELO * self.difference,
            "win_chance": self.win_chance,
            "clear": self.is_clear,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """What became of the resamples that intervals are taken from."""

    requested: int
    """How many were wanted."""
    fitted: int
    """How many were fitted: those that the intervals are of."""
    drawn_again: dict[str, int]
    """Resamples without a finite maximum, by reason; each was replaced by another."""
    unit: str
    """What was drawn: comparisons, or pairs with all their verdicts."""
    seed: int
    """Of the draws."""

    @property
    def is_enough(self) -> bool:
        """Whether there are as many as were wanted, and any were."""
        return 0 < self.requested == self.fitted

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return {
            "asked": self.requested,
            "fitted": self.fitted,
            "drawn_again": self.drawn_again,
            "unit": self.unit,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """Everything that comparisons say of strengths; models stand strongest first."""

    ratings: tuple[Rating, ...]
    """Every model."""
    to_next: tuple[Contrast, ...]
    """Each model against the next weaker."""
    to_baseline: tuple[Contrast, ...]
    """Every other model against the baseline; empty without one."""
    baseline: str
    """The model that others are held against; empty for none."""
    tie_model: Ties
    """What ties were taken for."""
    tie_parameter: float | None
    """Davidson's ν or Rao and Kupper's θ; none where there is no tie or ties are halves."""
    tie_bootstrap: Interval | None
    """Its interval."""
    log_likelihood: float
    """At the maximum, in nats."""
    wins: tuple[tuple[int, ...], ...]
    """How often the row beat the column."""
    ties: tuple[tuple[int, ...], ...]
    """How often row and column tied."""
    resamples: Resamples
    """What the bootstrap drew."""
    tally: PairwiseCounts
    """The comparisons."""

    def to_json(self) -> dict[str, Any]:
        """What `ratings.json` holds."""
        num_ties = sum(map(sum, self.ties)) // 2
        return {
            "models": [rating.to_json() for rating in self.ratings],
            "to_next": [contrast.to_json() for contrast in self.to_next],
            "to_baseline": [contrast.to_json() for contrast in self.to_baseline],
            "baseline": self.baseline or None,
            "tie_model": self.tie_model,
            "tie_parameter": self.tie_parameter,
            "tie_parameter_bootstrap": _bounds(self.tie_bootstrap),
            "log_likelihood": self.log_likelihood,
            "matrix": {
                "models": [rating.model for rating in self.ratings],
                "wins": [list(row) for row in self.wins],
                "ties": [list(row) for row in self.ties],
            },
            "counts": {
                "comparisons": self.tally.num_comparisons,
                "decided": self.tally.num_comparisons - num_ties,
                "ties": num_ties,
                "both_bad": self.tally.both_bad,
                "left_out": dict(self.tally.left_out),
            },
            "resamples": self.resamples.to_json(),
            "notes": notes(self),
        }


def notes(ratings: Ratings) -> list[str]:
    """What a reader must know of how the numbers came about, in sentences."""
    tally, resamples = ratings.tally, ratings.resamples
    sentences = list(tally.remarks)
    if tally.both_bad:
        sentences.append(f"{tally.both_bad:,} times both answers were called bad; that counts as a tie.")
    for reason, count in tally.left_out.items():
        at = tally.first_left_out.get(reason)
        sentences.append(f"{count:,} left out: {reason}" + (f" (the first at {at})." if at else "."))
    if tally.only_itself:
        names = ", ".join(map(short, tally.only_itself))
        sentences.append(f"Without a strength, having been compared with nothing but themselves: {names}.")
    if tally.has_shared_units:
        sentences.append(
            "Some pairs have several verdicts. The bootstrap draws a pair with all of them; the covariance "
            "takes every verdict for independent, and its intervals are too narrow where people agree."
        )
    again = sum(resamples.drawn_again.values())
    if again:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in resamples.drawn_again.items())
        share = again / (again + resamples.fitted)
        text = (
            f"{again:,} resamples ({percent(share)}) have no finite maximum and were drawn again: {reasons}."
        )
        if share > MANY and resamples.is_enough:
            text += " So many make the bootstrap's intervals too narrow: more comparisons are needed."
        sentences.append(text)
    if resamples.requested and not resamples.is_enough:
        sentences.append(
            f"Of {again + resamples.fitted:,} resamples only {resamples.fitted:,} could be fitted, so there "
            "is no interval by bootstrap. The comparisons are barely linked: trust the other interval little."
        )
    return sentences


def _bounds(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"low": interval[0], "high": interval[1]}
