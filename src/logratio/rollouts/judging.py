"""What answers earn: the weighted sum of rewards, each by its name, and what is only watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.records import Completion, Sample

Rewarder = Callable[[Sequence[Sample]], list[list[float]]]
REPEATED = 3
"""Tokens of a run that counts as repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedReward:
    """One of the rewards whose weighted sum is learned from."""

    name: str
    """What the metrics call it."""
    reward: Rewarder
    """Gives a number for every answer of every sample."""
    weight: float = 1.0
    """What it counts in the sum."""


def weighted_sum(
    samples: Sequence[Sample], rewards: Sequence[WeightedReward]
) -> tuple[Tensor, dict[str, float]]:
    """`[answers]` the sum that is learned from, in float64, and the mean of each reward by name.

    Raises:
        BadReward: a reward raised, or did not give a finite number for each answer.
    """
    total = torch.zeros(sum(len(own.completions) for own in samples), dtype=torch.float64)
    means = {}
    for part in rewards:
        values = flat_rewards(samples, part)
        total = total + part.weight * values
        means[f"reward/{part.name}"] = float(values.mean())
    return total, means


def charge_cut_off(earned: Tensor, cut_off: Tensor, *, worst: bool, penalty: float) -> Tensor:
    """`[answers]` what answers earn once those that were cut off are charged for it.

    Args:
        earned: `[answers]` their rewards.
        cut_off: `[answers]` whether each was cut off.
        worst: those earn what the worst answer that ended does, if any ended, and not their own.
        penalty: taken off in any case.
    """
    if worst and not cut_off.all():
        earned = torch.where(cut_off, earned[~cut_off].min(), earned)
    return earned - penalty * cut_off.to(earned)


def watch(samples: Sequence[Sample], rewards: Sequence[WeightedReward]) -> dict[str, float]:
    """The mean of each reward that is looked at and not learned from."""
    return {f"watched/{part.name}": float(flat_rewards(samples, part).mean()) for part in rewards}


def flat_rewards(samples: Sequence[Sample], part: WeightedReward) -> Tensor:
    """`[answers]` one reward, in float64."""
    return torch.tensor([value for own in part.reward(samples) for value in own], dtype=torch.float64)


def describe_answers(answers: Sequence[Completion]) -> dict[str, float]:
    """How the answers look: their tokens, how many ended by themselves, how far they repeat themselves."""
    tokens = [answer.token_ids or () for answer in answers]
    return {
        "answer_tokens": sum(map(len, tokens)) / len(tokens),
        "ended": sum(answer.finish_reason == "stop" for answer in answers) / len(answers),
        "repetition": sum(map(repeated_share, tokens)) / len(tokens),
    }


def repeated_share(tokens: Sequence[int]) -> float:
    """The share of an answer's triples of tokens that stood in it before; 0 for a shorter answer."""
    runs = [tuple(tokens[start : start + REPEATED]) for start in range(len(tokens) - REPEATED + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
