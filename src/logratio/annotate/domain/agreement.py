"""How far people agree: raw agreement, Cohen's kappa and Krippendorff's alpha, with intervals.

Ratings are `pair → annotator → category`; the categories are of content (`a`, `b`, `tie`), never of a side
of the screen, and a missing verdict is simply not there. Both coefficients are functions of how often each
kind of pair occurs, so the estimate and its resamples come out of the same few lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logratio.errors import TooFewLabels
from logratio.stats.wilson import percent, wilson_interval

MIN_OVERLAP = 20
"""Pairs judged by two people below which no agreement is stated: its interval would be half the scale."""
RESAMPLES = 2_000
MAX_UNDEFINED = 0.05
"""Share of resamples that may be of one category only before no interval is given."""
CONFIDENCE = 0.95
SIDES = frozenset({"a", "b"})
ONE_CATEGORY = "undefined: every verdict is the same, so that chance alone would agree always"
NO_DISAGREEMENT = "no interval: nobody disagreed, and resampling pairs cannot show what did not occur"

Array = NDArray[np.float64]
Ratings = Mapping[str, Mapping[str, str]]
"""Pair → annotator → category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A proportion with its Wilson interval."""

    count: float
    """Successes; a pair of which some raters agree counts in part."""
    total: int
    """Trials, never 0."""
    value: float
    """`count / total`."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""

    @classmethod
    def of(cls, count: float, total: int) -> Proportion | None:
        """The share, or none where nothing was tried."""
        if total == 0:
            return None
        low, high = wilson_interval(count, total, confidence=CONFIDENCE)
        return cls(count=count, total=total, value=count / total, low=low, high=high)

    def to_json(self) -> dict[str, float]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """Kappa or alpha: 1 is full agreement, 0 what chance would give, below 0 less than that."""

    value: float | None
    """The estimate; none where it is undefined or refused."""
    low: float | None = None
    """Lower end of the 95 % bootstrap interval by pair."""
    high: float | None = None
    """Upper end."""
    reason: str = ""
    """Why there is no value, or no interval."""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Two annotators, on the pairs that both judged."""

    first: str
    """One of them, the earlier in the alphabet."""
    second: str
    """The other."""
    num_common: int
    """Pairs that both judged."""
    num_same: int
    """Of these, with the same verdict."""
    num_opposite: int
    """Of these, where each prefers another answer; the rest are a tie against a side."""
    raw: Proportion | None
    """Share of the same verdict; none below 20 pairs in common."""
    kappa: Coefficient
    """Cohen's kappa."""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """All annotators together, and each two of them."""

    num_overlapping: int
    """Pairs with verdicts of two people or more; all numbers here are of these."""
    num_ratings: int
    """Verdicts on them."""
    raw: Proportion
    """Chance that two people give the same verdict, averaged over pairs."""
    alpha: Coefficient
    """Krippendorff's alpha, nominal."""
    opposite: Proportion | None
    """Chance that two people who both prefer an answer prefer different ones, averaged over pairs."""
    between: tuple[Between, ...]
    """Each two annotators with a pair in common."""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def measure_agreement(ratings: Ratings, *, resamples: int = RESAMPLES, seed: int = 0) -> Agreement:
    """Every number on agreement.

    Args:
        ratings: verdicts of content; pairs with one verdict are left out.
        resamples: how often the pairs are drawn with replacement, for the intervals.
        seed: of the draws.

    Raises:
        TooFewLabels: fewer than 20 pairs were judged by two people.
    """
    shared = {pair: verdicts for pair, verdicts in ratings.items() if len(verdicts) > 1}
    if len(shared) < MIN_OVERLAP:
        raise TooFewLabels(
            f"agreement needs {MIN_OVERLAP} pairs that two people judged, and there are {len(shared)}",
            action="let more than one person judge each pair: "
            "`logratio annotate serve --annotators anna,ben --votes-per-pair 2`",
        )
    raw = agreement_rate(shared)
    assert raw is not None
    return Agreement(
        num_overlapping=len(shared),
        num_ratings=sum(len(verdicts) for verdicts in shared.values()),
        raw=raw,
        alpha=_coefficient(_alpha_tables(shared), resamples=resamples, seed=seed),
        opposite=opposite_rate(shared),
        between=tuple(_between(shared, resamples=resamples, seed=seed)),
    )


def agreement_rate(ratings: Ratings) -> Proportion | None:
    """How often two people who judged the same pair agree; each pair weighs the same.

    The interval takes a pair as one trial, which is right for two people and too wide for more.
    """
    shares = [_same_share(verdicts.values()) for verdicts in ratings.values() if len(verdicts) > 1]
    return Proportion.of(float(sum(shares)), len(shares))


def opposite_rate(ratings: Ratings) -> Proportion | None:
    """How often two people who both prefer an answer of a pair prefer different ones."""
    decided = [
        [category for category in verdicts.values() if category in SIDES] for verdicts in ratings.values()
    ]
    shares = [1 - _same_share(sides) for sides in decided if len(sides) > 1]
    return Proportion.of(float(sum(shares)), len(shares))


def _same_share(categories: Collection[str]) -> Fraction:
    """Share of the pairs of raters that agree."""
    counts = Counter(categories)
    num = sum(counts.values())
    return Fraction(sum(count * (count - 1) for count in counts.values()), num * (num - 1))


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960); none where it is undefined.

    `κ = (p_o − p_e) / (1 − p_e)`: `p_o` is the share of equal verdicts and `p_e = Σ_c p_1c · p_2c` what two
    raters with these habits would have by chance. Where both give one and the same category to all, `p_e`
    is 1 and κ is 0/0.

    Args:
        first: categories by one rater.
        second: categories of the same things by the other.

    Raises:
        ValueError: there is nothing, or the two differ in length.
    """
    if not first:
        raise ValueError("there is nothing to compare")
    return _value(_kappa_tables(Counter(zip(first, second, strict=True))))


def krippendorff_alpha(ratings: Ratings) -> float | None:
    """Agreement of any number of raters beyond chance, nominal (Krippendorff 2011); none where undefined.

    `α = 1 − D_o / D_e = 1 − (n − 1) · Σ_u (m_u² − Σ_c n_uc²) / (m_u − 1) / (n² − Σ_c n_c²)`: of the pairs `u`
    with `m_u ≥ 2` verdicts, `n_uc` are of category c; `n` and `n_c` are their sums. Where all n are of one
    category α is 0/0; where nothing was judged twice there is none.
    """
    shared = {pair: verdicts for pair, verdicts in ratings.items() if len(verdicts) > 1}
    return _value(_alpha_tables(shared)) if shared else None


# --- both coefficients as functions of how often each kind of pair occurs -----------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """Kinds of pairs: how many there are, and what each adds to `1 − (n − spare) · apart / (n² − chance)`."""

    counts: NDArray[np.int64]
    """`[kinds]`: pairs of each kind."""
    sizes: Array
    """`[kinds]`: what a pair adds to n."""
    apart: Array
    """`[kinds]`: what it adds to the disagreement."""
    left: Array
    """`[kinds, categories]`: what it adds to one factor of chance's agreement."""
    right: Array
    """`[kinds, categories]`: and to the other."""
    spare: int
    """1 for alpha, which draws two verdicts without putting the first back; 0 for kappa."""

    def coefficient(self, counts: NDArray[np.int64]) -> Array:
        """The coefficient for rows `[…, kinds]` of counts; NaN where it is undefined."""
        n = counts @ self.sizes
        by_chance = n**2 - ((counts @ self.left) * (counts @ self.right)).sum(axis=-1)
        disagreement = (n - self.spare) * (counts @ self.apart)
        undefined = by_chance == 0
        return np.where(undefined, np.nan, 1 - disagreement / np.where(undefined, 1, by_chance))


def _alpha_tables(ratings: Ratings) -> _Tables:
    """A kind of pair is how many verdicts of each category it has."""
    categories = sorted({category for verdicts in ratings.values() for category in verdicts.values()})
    kinds: Counter[tuple[int, ...]] = Counter()
    for verdicts in ratings.values():
        category_counts = Counter(verdicts.values())
        kinds[tuple(category_counts[category] for category in categories)] += 1
    table = np.array(list(kinds), dtype=np.float64)
    sizes = table.sum(axis=1)
    return _Tables(
        counts=np.array(list(kinds.values())),
        sizes=sizes,
        apart=(sizes**2 - (table**2).sum(axis=1)) / (sizes - 1),
        left=table,
        right=table,
        spare=1,
    )


def _kappa_tables(kinds: Mapping[tuple[str, str], int]) -> _Tables:
    """A kind of pair is the two verdicts on it."""
    categories = sorted({category for kind in kinds for category in kind})
    left, right = (
        np.array([[float(kind[side] == category) for category in categories] for kind in kinds])
        for side in (0, 1)
    )
    return _Tables(
        counts=np.array(list(kinds.values())),
        sizes=np.ones(len(kinds)),
        apart=np.array([float(first != second) for first, second in kinds]),
        left=left,
        right=right,
        spare=0,
    )


def _value(tables: _Tables) -> float | None:
    value = float(tables.coefficient(tables.counts))
    return None if np.isnan(value) else value


def _coefficient(tables: _Tables, *, resamples: int, seed: int) -> Coefficient:
    """The estimate with the middle 95 % of its values over resampled pairs."""
    value = _value(tables)
    if value is None:
        return Coefficient(value=None, reason=ONE_CATEGORY)
    if not np.any(tables.apart):
        return Coefficient(value=value, reason=NO_DISAGREEMENT)
    num = tables.counts.sum()
    # Drawing n pairs with replacement is drawing how many of each kind there are.
    drawn = np.random.default_rng(seed).multinomial(num, tables.counts / num, size=resamples)
    values = tables.coefficient(drawn)
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - MAX_UNDEFINED) * resamples:
        undefined = 1 - len(defined) / resamples
        reason = f"no interval: of the resampled sets of pairs, {percent(undefined, 0)} are of one category"
        return Coefficient(value=value, reason=reason)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Coefficient(value=value, low=float(low), high=float(high))


def _between(ratings: Ratings, *, resamples: int, seed: int) -> list[Between]:
    annotators = sorted({name for verdicts in ratings.values() for name in verdicts})
    rows = []
    for first, second in combinations(annotators, 2):
        both = [
            (verdicts[first], verdicts[second])
            for verdicts in ratings.values()
            if first in verdicts and second in verdicts
        ]
        if both:
            rows.append(_compare_two(first, second, both, resamples=resamples, seed=seed))
    return rows


def _compare_two(
    first: str, second: str, both: Sequence[tuple[str, str]], *, resamples: int, seed: int
) -> Between:
    num_same = sum(category == other_category for category, other_category in both)
    enough = len(both) >= MIN_OVERLAP
    few = Coefficient(value=None, reason=f"{len(both)} pairs in common, {MIN_OVERLAP} are needed")
    tables = _kappa_tables(Counter(both))
    return Between(
        first=first,
        second=second,
        num_common=len(both),
        num_same=num_same,
        num_opposite=sum(
            category != other_category and {category, other_category} <= SIDES
            for category, other_category in both
        ),
        raw=Proportion.of(num_same, len(both)) if enough else None,
        kappa=_coefficient(tables, resamples=resamples, seed=seed) if enough else few,
    )
