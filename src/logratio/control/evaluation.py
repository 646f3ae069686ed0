"""How good a control policy is: whole episodes on seeds of their own, nothing learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logratio.control.env.adapter import VectorEnvAdapter, View
from logratio.control.env.normalisation import ObservationNormaliser
from logratio.control.policy import ControlPolicy
from logratio.errors import EnvironmentFault
from logratio.stats.bootstrap import percentile_interval

EVALUATION_SEED = 1_000_003
"""Added to a run's seed: no episode of training has the seed of one that is judged by."""
LONGEST = 10_000
"""Steps after which an episode that has not ended is left, and counted as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeReport:
    """What a policy earned."""

    returns: tuple[float, ...]
    """The sum of the rewards of each episode."""
    lengths: tuple[int, ...]
    """Its steps."""
    num_unended: int = 0
    """Episodes that were left before their end, since they had gone on for too long."""

    def to_json(self) -> dict[str, Any]:
        """Mean and deviation of the returns with how many there are, and all of them."""
        return {
            "mean_return": float(np.mean(self.returns)),
            "std_return": float(np.std(self.returns)),
            "episodes": len(self.returns),
            "mean_length": float(np.mean(self.lengths)),
            "unended": self.num_unended,
            "returns": list(self.returns),
        }


@torch.no_grad()
def play_episodes(
    policy: ControlPolicy,
    environments: VectorEnvAdapter,
    scale: ObservationNormaliser,
    *,
    episodes: int,
    deterministic: bool,
    seed: int,
    longest: int = LONGEST,
) -> EpisodeReport:
    """Play whole episodes.

    How many each environment plays is settled beforehand, and what more it finishes does not count: taking
    the first that come to an end would favour short ones.

    Args:
        policy: who plays.
        environments: not yet begun.
        scale: how it sees; not changed.
        episodes: so many, each environment as many as any other or one more.
        deterministic: take the most probable action instead of drawing one.
        seed: of the draws.
        longest: steps after which an episode is left; a policy may go in circles for ever.

    Raises:
        EnvironmentFault: an environment raised, or gave what is not a number; or it does not end, and begins
            episodes anew only by itself.
    """
    generator = None if deterministic else torch.Generator().manual_seed(seed)
    hidden_state = policy.initial_state(environments.num_envs)
    shares = [len(range(number, episodes, environments.num_envs)) for number in range(environments.num_envs)]
    played: list[list[tuple[float, int]]] = [[] for _ in shares]
    left: list[tuple[int, int]] = []
    begun = np.zeros(environments.num_envs, dtype=bool)
    while any(len(own) < share for own, share in zip(played, shares, strict=True)):
        seen = environments.view
        view = replace(seen, observations=scale(seen.observations), episode_start=seen.episode_start | begun)
        actions, hidden_state = _act(policy, view, hidden_state, generator)
        step = environments.step(actions.numpy())
        over = step.terminated | step.truncated
        for ended, found in zip(np.flatnonzero(over), environments.finished, strict=True):
            played[ended].append(found)
        environments.finished.clear()
        late = np.array(environments.under_way["lengths"]) >= longest
        for number, found in abandon_episodes(environments, late):
            left.append((number, len(played[number])))
            played[number].append(found)
        # Where one is left, the view tells of its beginning alone, not of those that ended in this step.
        begun = over & late.any()
    kept = [found for own, share in zip(played, shares, strict=True) for found in own[:share]]
    return EpisodeReport(
        returns=tuple(total for total, _ in kept),
        lengths=tuple(length for _, length in kept),
        num_unended=sum(place < shares[number] for number, place in left),
    )


def _act(
    policy: ControlPolicy, view: View, hidden_state: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Drawn actions, or without a generator the most probable ones, and what is remembered now."""
    num_envs = len(view.episode_start)
    actions, _, hidden_state = policy.act(
        torch.from_numpy(view.observations),
        hidden_state,
        torch.from_numpy(view.episode_start),
        noise=None if generator is None else policy.head.noise(num_envs, generator=generator),
        action_mask=None if view.action_mask is None else torch.from_numpy(view.action_mask),
    )
    return actions, hidden_state


def abandon_episodes(
    environments: VectorEnvAdapter, where: np.ndarray
) -> list[tuple[int, tuple[float, int]]]:
    """Begin the next episodes where this is true; returns number, return and length of those that are left.

    Raises:
        EnvironmentFault: the environments cannot be told to.
    """
    if not where.any():
        return []
    under_way = environments.under_way
    found = [(float(under_way["returns"][one]), int(under_way["lengths"][one])) for one in range(len(where))]
    numbers = [int(number) for number in np.flatnonzero(where)]
    if not environments.seeds_each_episode:
        raise EnvironmentFault(
            f"{environments.name} has not ended an episode after {found[numbers[0]][1]:,} steps",
            where=f"environment {numbers[0]}, while the policy is judged",
            action="put a limit on its steps (gymnasium.wrappers.TimeLimit)",
        )
    environments.reset_where(where, environments.history.episodes + 1)
    return [(number, found[number]) for number in numbers]


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: of n sorted values, n/4 are left out at either end, fractions too.

    Agarwal et al., 2021, arXiv:2108.13264.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("there is nothing to take a mean of")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    inside = middle_half(len(ordered))
    return float((ordered * inside).sum() / inside.sum())


def middle_half(n: int) -> np.ndarray:
    """`[n]` how much of each of n sorted values counts."""
    # Value i stands for the stretch from i to i + 1 of n; it counts as far as that lies in the middle half.
    edges = np.arange(n + 1)
    return np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0.0, None)


def interquartile_interval(
    values: Sequence[float], *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of the interquartile mean over runs."""
    generator = np.random.default_rng(seed)
    drawn = np.asarray(values)[generator.integers(len(values), size=(resamples, len(values)))]
    inside = middle_half(len(values))
    return percentile_interval(np.sort(drawn, axis=1) @ inside / inside.sum(), confidence=confidence)
