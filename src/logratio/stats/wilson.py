"""Intervals of proportions, for whatever counts, and how many digits a share is shown with."""

from __future__ import annotations

from collections.abc import Collection
from statistics import NormalDist


def wilson_interval(wins: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion that keeps its coverage at small n and near 0 and 1.

    `(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)` with `p = wins / n` (Wilson 1927).

    Args:
        wins: successes; ties may be counted as halves.
        n: trials.
        confidence: coverage.

    Raises:
        ValueError: n is not positive, or wins is not between 0 and n.
    """
    if n <= 0 or not 0 <= wins <= n:
        raise ValueError(f"{wins} wins of {n}")
    z = normal_quantile(confidence)
    share = wins / n
    centre = share + z**2 / (2 * n)
    spread = z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    scale = 1 + z**2 / n
    # Where all is lost or won the end is exactly 0 or 1, which rounding would miss.
    low = 0.0 if wins == 0 else (centre - spread) / scale
    high = 1.0 if wins == n else (centre + spread) / scale
    return low, high


def normal_quantile(confidence: float) -> float:
    """Half the width of the middle `confidence` of the standard normal distribution: 1.96 at 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


ENDS = (0.0, 1.0)
SMALLEST_SHARE = 1e-12
"""Nearer to 0 or 1 than this a share is taken for the number itself: what is left of it is rounding."""


def percent_decimals(share: float, decimals: int = 1, *, exact: Collection[float] = ENDS) -> int:
    """Enough decimals that a share is shown as one of `exact` only where it is that; `decimals` at least."""
    while any(
        round(100 * share, decimals) == 100 * landmark and abs(share - landmark) > SMALLEST_SHARE
        for landmark in exact
    ):
        decimals += 1
    return decimals


def percent(share: float, decimals: int = 1, *, exact: Collection[float] = ENDS, space: str = "") -> str:
    """`61.3%`, with `space` before its sign; shown as one of `exact`, 0 or 1, only where it is that."""
    return f"{100 * share:.{percent_decimals(share, decimals, exact=exact)}f}{space}%"
