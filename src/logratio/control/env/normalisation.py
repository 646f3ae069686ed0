"""Running means and deviations of what an environment gives: part of the policy, saved and frozen with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

EPSILON = 1e-8
FARTHEST = 10.0
"""Normalised numbers are cut to ± this."""


class RunningMoments:
    """Mean and variance of all rows seen so far, by Chan's formula for joining two samples (1979).

    Args:
        size: numbers in a row.
    """

    def __init__(self, size: int) -> None:
        self.count = 0.0
        self.mean = np.zeros(size)
        self.squares = np.zeros(size)
        """Sum of squared deviations from the mean."""

    def add(self, rows: np.ndarray) -> None:
        """Take in `[rows, size]`."""
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        mean, count = rows.mean(axis=0), float(len(rows))
        difference, total = mean - self.mean, self.count + count
        self.squares += (
            np.square(rows - mean).sum(axis=0) + np.square(difference) * self.count * count / total
        )
        self.mean = self.mean + difference * count / total
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """`[size]` the standard deviation; 1 before anything was seen."""
        if self.count < 2:
            return np.ones_like(self.mean)
        return np.sqrt(self.squares / self.count + EPSILON)

    def save(self) -> dict[str, Any]:
        """The state, as JSON takes it without loss."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self.count = float(saved["count"])
        self.mean, self.squares = np.array(saved["mean"]), np.array(saved["squares"])


class ObservationNormaliser:
    """Observations less their mean, in units of their deviation; as they are where this is not wanted.

    The moments stand still while a policy collects and while it is trained on what it collected: it is one
    policy, and its first ratios are 1.

    Args:
        size: features of an observation.
        wanted: whether anything is done.
    """

    def __init__(self, size: int, *, wanted: bool) -> None:
        self.wanted = wanted
        self.moments = RunningMoments(size)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """`[..., size]` as the policy sees it."""
        if not self.wanted:
            return observations
        scaled = (observations - self.moments.mean) / self.moments.std
        return np.clip(scaled, -FARTHEST, FARTHEST).astype(np.float32)

    def learn(self, observations: np.ndarray) -> None:
        """Take in `[rows, size]` of what was seen."""
        if self.wanted:
            self.moments.add(observations)

    def save(self) -> dict[str, Any]:
        """The state, as JSON takes it."""
        return {"wanted": self.wanted, "moments": self.moments.save()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self.wanted = bool(saved["wanted"])
        self.moments.load(saved["moments"])


class RewardNormaliser:
    """Rewards in units of the deviation of the discounted return, their sign and zero kept.

    Args:
        num_envs: environments side by side.
        discount: γ of the return.
        wanted: whether anything is done.
    """

    def __init__(self, num_envs: int, *, discount: float, wanted: bool) -> None:
        self.discount, self.wanted = discount, wanted
        self.moments = RunningMoments(1)
        self._returns = np.zeros(num_envs)

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """`[...]` as the trainer sees them."""
        if not self.wanted:
            return rewards
        return np.clip(rewards / self.moments.std[0], -FARTHEST, FARTHEST)

    def learn(self, rewards: np.ndarray, over: np.ndarray, valid: np.ndarray) -> None:
        """Take in `[n, time]` rewards; a return begins anew behind an episode's end."""
        if not self.wanted:
            return
        for time in range(rewards.shape[1]):
            now = valid[:, time]
            self._returns = np.where(now, self.discount * self._returns + rewards[:, time], self._returns)
            self.moments.add(self._returns[now][:, None])
            self._returns[over[:, time]] = 0.0

    def save(self) -> dict[str, Any]:
        """The state, as JSON takes it."""
        return {"moments": self.moments.save(), "returns": self._returns.tolist()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self.moments.load(saved["moments"])
        self._returns = np.array(saved["returns"])
