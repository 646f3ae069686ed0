"""How good a control policy is: whole episodes on seeds of their own, nothing learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from logratio.policies.control import ControlPolicy
from logratio.rollouts.environments import Environments
from logratio.rollouts.normalisation import ObservationScale

EVALUATION_SEED = 1_000_003
"""Added to a run's seed: no episode of training has the seed of one that is judged by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeReport:
    """What a policy earned."""

    returns: tuple[float, ...]
    """The sum of the rewards of each episode."""
    lengths: tuple[int, ...]
    """Its steps."""

    def to_json(self) -> dict[str, Any]:
        """Mean and deviation of the returns with how many there are, and all of them."""
        return {
            "mean_return": float(np.mean(self.returns)),
            "std_return": float(np.std(self.returns)),
            "episodes": len(self.returns),
            "mean_length": float(np.mean(self.lengths)),
            "returns": list(self.returns),
        }


@torch.no_grad()
def play_episodes(
    policy: ControlPolicy,
    environments: Environments,
    scale: ObservationScale,
    *,
    episodes: int,
    deterministic: bool,
    seed: int,
) -> EpisodeReport:
    """Play whole episodes.

    Every environment plays as many as any other, and what more it finishes does not count: taking the first
    that come to an end would favour short ones.

    Args:
        policy: who plays.
        environments: not yet begun.
        scale: how it sees; not changed.
        episodes: at least so many; as many more as make it the same for each environment.
        deterministic: take the most probable action instead of drawing one.
        seed: of the draws.

    Raises:
        EnvironmentFault: an environment raised, or gave what is not a number.
    """
    generator = None if deterministic else torch.Generator().manual_seed(seed)
    remembered = policy.blank(environments.num_envs)
    wanted = -(-episodes // environments.num_envs)
    played: list[list[tuple[float, int]]] = [[] for _ in range(environments.num_envs)]
    while min(map(len, played)) < wanted:
        view = environments.view
        actions, _, remembered = policy.act(
            torch.from_numpy(scale(view.observations)),
            remembered,
            torch.from_numpy(view.begins),
            generator=generator,
            allowed=None if view.allowed is None else torch.from_numpy(view.allowed),
        )
        step = environments.step(actions.numpy())
        over = np.flatnonzero(step.terminated | step.truncated)
        for number, found in zip(over, environments.finished, strict=True):
            played[number].append(found)
        environments.finished.clear()
    kept = [found for own in played for found in own[:wanted]]
    return EpisodeReport(
        returns=tuple(total for total, _ in kept), lengths=tuple(length for _, length in kept)
    )


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: of n sorted values, n/4 are left out at either end, fractions too.

    Agarwal et al., 2021, arXiv:2108.13264.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("there is nothing to take a mean of")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    # Value i stands for the stretch from i to i + 1 of n; it counts as far as that lies in the middle half.
    edges = np.arange(n + 1)
    inside = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0.0, None)
    return float((ordered * inside).sum() / inside.sum())


def interquartile_interval(
    values: Sequence[float], *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of the interquartile mean over runs."""
    generator = np.random.default_rng(seed)
    drawn = np.asarray(values)[generator.integers(len(values), size=(resamples, len(values)))]
    means = [interquartile_mean(row) for row in drawn.tolist()]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)
