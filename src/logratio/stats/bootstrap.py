"""Percentile bootstrap of means: an interval that asks nothing of the shape of the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Resamples: the ends of a 95 % interval then move by about 2 % of its width from seed to seed."""
BLOCK_NUMBERS = 2_000_000
"""Numbers drawn at a time, so that memory does not grow with the number of prompts."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval."""

    value: float
    """The estimate."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""

    def to_json(self) -> dict[str, float]:
        """`{"value", "low", "high"}`."""
        return asdict(self)


def resampled_means(
    columns: Sequence[Sequence[float]] | Array, *, resamples: int = RESAMPLES, seed: int = 0
) -> Array:
    """Means of columns over rows drawn with replacement, the same rows for every column.

    Args:
        columns: `[k, n]`: k quantities of n prompts.
        resamples: how often n rows are drawn.
        seed: of the draws.

    Returns:
        `[resamples, k]`. Differences of its columns are paired: they come from the same prompts.

    Raises:
        ValueError: there is no row.
    """
    values = np.asarray(columns, dtype=np.float64).T
    num_rows = len(values)
    if num_rows == 0:
        raise ValueError("there is nothing to resample")
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_NUMBERS // values.size)
    return np.concatenate(
        [
            values[generator.integers(num_rows, size=(min(block, resamples - start), num_rows))].mean(axis=1)
            for start in range(0, resamples, block)
        ]
    )


def percentile_interval(draws: Array, *, confidence: float = 0.95) -> tuple[float, float]:
    """The middle `confidence` of the draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(
    values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> Estimate:
    """The mean of `values` with its percentile bootstrap interval.

    Raises:
        ValueError: there is no value.
    """
    draws = resampled_means([values], resamples=resamples, seed=seed)[:, 0]
    low, high = percentile_interval(draws, confidence=confidence)
    return Estimate(value=float(np.mean(values)), low=low, high=high)


def difference_interval(
    first: Sequence[float],
    second: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """The mean of `first − second` with its paired bootstrap interval: prompts are drawn, not answers.

    Pairing takes out of the interval what a prompt does to both answers alike.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return mean_interval(differences, resamples=resamples, seed=seed, confidence=confidence)
