"""What answers earn: the weighted sum of rewards, each by its name, and what is only monitored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.errors import BadReward
from logratio.records import Completion, Sample
from logratio.rollouts.reward_values import answer_location
from logratio.stats.ngrams import repeated_ngram_share

RewardCallable = Callable[[Sequence[Sample]], Sequence[Sequence[float | None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedReward:
    """One of the rewards whose weighted sum is learned from."""

    name: str
    """What the metrics call it."""
    reward: RewardCallable
    """Gives a number for every answer of every sample, or None where it has nothing to say of it."""
    weight: float = 1.0
    """What it counts in the sum."""


def weighted_sum(
    samples: Sequence[Sample], rewards: Sequence[WeightedReward]
) -> tuple[Tensor, dict[str, float]]:
    """`[answers]` the sum that is learned from, in float64, and the mean of each reward by name.

    A reward that is None for an answer is left out of that answer's sum, and the answer out of that reward's
    mean, as in TRL. An answer for which all are None has no reward: its sum is NaN.

    Raises:
        BadReward: a reward raised, or did not give a finite number or None for each answer.
    """
    parts = {part.name: flat_rewards(samples, part) for part in rewards}
    weighted = torch.stack([part.weight * parts[part.name] for part in rewards])
    total = torch.where(weighted.isnan().all(dim=0), torch.nan, weighted.nansum(dim=0))
    return total, means_of("reward", parts)


def means_of(kind: str, parts: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each reward over the answers that have it; one that no answer has is left out."""
    return {
        f"{kind}/{name}": float(values.nanmean())
        for name, values in parts.items()
        if not values.isnan().all()
    }


def rewarded_prompts(samples: Sequence[Sample], *earned: Tensor) -> list[int]:
    """Numbers of the prompts of which every answer has a reward: an answer without one says nothing.

    Args:
        samples: prompts with as many answers each.
        earned: `[answers]` their rewards, NaN where there is none; and those of further answers to the same
            prompts.

    Raises:
        BadReward: no prompt is left.
    """
    known = [
        values.reshape(len(samples), -1).isnan().any(dim=1).logical_not() for values in earned if len(values)
    ]
    rewarded = [int(number) for number in torch.stack(known).all(dim=0).nonzero()]
    if not rewarded:
        raise BadReward(
            f"none of the {len(samples)} prompts of this update has a reward for all of its answers",
            where=f"the first is {answer_location(samples, 0, 0)}",
            action="give a reward that judges them, or take such prompts out of the file",
        )
    return rewarded


def penalise_truncated(
    earned: Tensor, truncated: Tensor, *, worst: bool, truncation_penalty: float
) -> Tensor:
    """`[answers]` what answers earn once those that were cut off are charged for it.

    Args:
        earned: `[answers]` their rewards.
        truncated: `[answers]` whether each was cut off.
        worst: those earn what the worst answer that ended does, if any ended, and not their own.
        truncation_penalty: taken off in any case.
    """
    if worst and not truncated.all():
        earned = torch.where(truncated, earned[~truncated].min(), earned)
    return earned - truncation_penalty * truncated.to(earned)


def monitor(samples: Sequence[Sample], rewards: Sequence[WeightedReward]) -> dict[str, float]:
    """The mean of each reward that is looked at and not learned from."""
    return means_of("monitored", {part.name: flat_rewards(samples, part) for part in rewards})


def flat_rewards(samples: Sequence[Sample], part: WeightedReward) -> Tensor:
    """`[answers]` one reward, in float64; NaN where it is None."""
    values = [value for own in part.reward(samples) for value in own]
    return torch.tensor([torch.nan if value is None else value for value in values], dtype=torch.float64)


def describe_answers(answers: Sequence[Completion]) -> dict[str, float]:
    """How the answers look: their tokens, how many ended by themselves, how far they repeat themselves."""
    tokens = [answer.token_ids or () for answer in answers]
    return {
        "answer_tokens": sum(map(len, tokens)) / len(tokens),
        "ended": sum(answer.finish_reason == "stop" for answer in answers) / len(answers),
        "repetition": sum(map(repeated_ngram_share, tokens)) / len(tokens),
    }
