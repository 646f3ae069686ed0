"""How often the policy's answer is preferred to the reference's, with an interval.

Ties are half a win. The default interval is Wilson's on the effective wins `wins + ties / 2`. A tie varies
less than a win or a loss does, so with ties that interval is too wide: safe, but blunt. With more than
`FEW_TIES` of ties, prompts are resampled instead, provided that `ENOUGH_DECIDED` prompts were decided: on
fewer the bootstrap claims too much (3 wins and 2 ties would already exclude one half). Both cover what they
say, by simulation (`tests/evaluation/test_win_rate.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from logratio.stats.bootstrap import RESAMPLES, percentile_interval
from logratio.stats.wilson import wilson_interval

Method = Literal["wilson", "bootstrap"]

FEW_TIES = 0.1
"""Up to this share of ties Wilson's interval is at most about 5 % too wide."""
ENOUGH_DECIDED = 30
"""From this many wins and losses on the bootstrap may be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """Share of prompts won, ties half."""

    value: float
    """`(wins + ties / 2) / n`."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    n: int
    """Prompts compared."""
    wins: int
    """Prompts on which the policy's reward is higher."""
    ties: int
    """Prompts with equal rewards."""
    losses: int
    """Prompts on which it is lower."""
    method: Method
    """How the interval was computed."""
    confidence: float
    """Coverage of the interval."""

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def paired_outcomes(policy_rewards: Sequence[float], reference_rewards: Sequence[float]) -> list[float]:
    """1 where the policy's reward is higher, 0 where it is lower, 1/2 where they are equal.

    Raises:
        ValueError: the two differ in length.
    """
    pairs = zip(policy_rewards, reference_rewards, strict=True)
    return [0.5 + 0.5 * ((policy > reference) - (policy < reference)) for policy, reference in pairs]


def choose_method(outcomes: Sequence[float]) -> Method:
    """Wilson's interval, unless there are many ties and enough prompts that are none."""
    ties = list(outcomes).count(0.5)
    many_ties = ties > FEW_TIES * len(outcomes)
    return "bootstrap" if many_ties and len(outcomes) - ties >= ENOUGH_DECIDED else "wilson"


def win_rate(
    policy_rewards: Sequence[float],
    reference_rewards: Sequence[float],
    *,
    confidence: float = 0.95,
    method: Method | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> WinRate:
    """The policy's win rate over the reference on the same prompts.

    Args:
        policy_rewards: `n` rewards, one a prompt.
        reference_rewards: `n` rewards of the same prompts, in the same order.
        confidence: coverage of the interval.
        method: of the interval; None chooses as the module's text says.
        resamples: draws of the bootstrap.
        seed: of those draws.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    outcomes = paired_outcomes(policy_rewards, reference_rewards)
    counts = (outcomes.count(1.0), outcomes.count(0.5), outcomes.count(0.0))
    chosen = method or choose_method(outcomes)
    wins = counts[0] + counts[1] / 2
    if chosen == "wilson":
        low, high = wilson_interval(wins, len(outcomes), confidence=confidence)
    else:
        low, high = _bootstrap_interval(counts, confidence=confidence, resamples=resamples, seed=seed)
    return WinRate(
        value=wins / len(outcomes),
        low=low,
        high=high,
        n=len(outcomes),
        wins=counts[0],
        ties=counts[1],
        losses=counts[2],
        method=chosen,
        confidence=confidence,
    )


def _bootstrap_interval(
    counts: tuple[int, int, int], *, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    # Drawing n prompts with replacement is drawing how many wins, ties and losses are among them.
    n = sum(counts)
    drawn = np.random.default_rng(seed).multinomial(n, np.array(counts) / n, size=resamples)
    return percentile_interval(drawn @ np.array([1.0, 0.5, 0.0]) / n, confidence=confidence)
