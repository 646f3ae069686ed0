"""Rewards as recipes take them: by name, by directory, or as plain functions, each with its weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logratio.errors import BadConfig, BadReward
from logratio.rollouts.rewards import ModelReward, Reward, load_reward

if TYPE_CHECKING:
    from logratio.rollouts.reward_shaping import WeightedReward


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """What answers are judged by."""

    learned: list[WeightedReward]
    """What is learned from."""
    monitored: list[WeightedReward]
    """What is only written down."""

    @property
    def all(self) -> list[WeightedReward]:
        """Both."""
        return [*self.learned, *self.monitored]


RewardSpec = str | Path | Reward | Callable[..., Any]
"""A reward by its name or directory, as a plain function with TRL's signature, or as a `Reward`."""


def named_rewards(
    specs: Sequence[RewardSpec | tuple[float, RewardSpec]], *, flag: str, device: str = "cpu"
) -> list[WeightedReward]:
    """Rewards with their weights, each once.

    Args:
        specs: names such as `0.5*module:function`, functions, or pairs of a weight and either.
        flag: stands in faults.
        device: where reward models compute.

    Raises:
        BadReward: one cannot be found.
        BadConfig: none is given, a weight is not a number, or a name is given twice.
    """
    # Only now: it imports torch, which labelling by a function does without.
    from logratio.rollouts.reward_shaping import WeightedReward

    if not specs and flag == "--reward":
        raise BadConfig("there is no reward", where=flag, action="give module:function or a directory")
    rewards = []
    for spec in specs:
        weight, named = spec if isinstance(spec, tuple) else (1.0, spec)
        if isinstance(named, str):
            factor, name = split_weight(named)
            weight, named = weight * factor, name
        reward = as_reward(named, device=device)
        name = str(named) if isinstance(named, str | Path) else reward.name
        rewards.append(WeightedReward(name=name, reward=reward, weight=weight))
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
        what = f"{max(names, key=names.count)} is given twice"
        raise BadConfig(what, where=flag, action="give each reward once, with its weight before it")
    return rewards


def as_reward(spec: RewardSpec, *, device: str = "cpu") -> Reward:
    """A reward by its name or directory, or a plain function as one.

    Raises:
        BadReward: it cannot be found, or is no function.
    """
    if isinstance(spec, Reward):
        return spec
    if isinstance(spec, str | Path):
        return load_reward(str(spec), device=device)
    if not callable(spec):
        raise BadReward(
            f"a reward is a {type(spec).__name__}",
            where="rewards",
            action="give a function, or module:function",
        )
    name = getattr(spec, "__qualname__", type(spec).__qualname__)
    return Reward(f"{getattr(spec, '__module__', type(spec).__module__)}:{name}", spec)


def split_weight(spec: str) -> tuple[float, str]:
    """`0.5*module:function` is a weight and a name; without a weight it is 1.

    Raises:
        BadConfig: what stands before the star is not a number.
    """
    before, star, name = spec.partition("*")
    if not star:
        return 1.0, spec
    try:
        return float(before), name
    except ValueError as error:
        raise BadConfig(
            f"{before!r} is not a weight", where=f"--reward {spec}", action="write 0.5*module:function"
        ) from error


def named_spec(reward: WeightedReward) -> str:
    """What finds a reward again: its name, with its weight before it where that is not 1."""
    return reward.name if reward.weight == 1 else f"{reward.weight!r}*{reward.name}"


def bytes_of_models(rewards: Sequence[WeightedReward]) -> int:
    """What the weights of those rewards take that are models."""
    models = [one.reward.scorer.model for one in rewards if isinstance(one.reward, ModelReward)]
    return sum(weight.numel() * weight.element_size() for model in models for weight in model.parameters())
