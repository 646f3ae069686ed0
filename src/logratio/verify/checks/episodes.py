"""Episodes as lists, with their advantages by definition, and the padded tensors that the product takes.

The exact side is written with lists and plain sums, one episode at a time and without a recursion where the
product has one: an estimator is compared with what the paper says it is, not with a second copy of itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.objectives.advantages import gae

GAMMA = 0.99


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode of K rows."""

    rewards: list[float]
    """K of them."""
    values: list[float]
    """The critic at the K states and at the one after them."""
    terminated: bool
    """Whether it ended; otherwise it was cut off and the last value counts."""

    @property
    def after(self) -> float:
        """What the state after the last row is worth."""
        return 0.0 if self.terminated else self.values[-1]

    def k_step_returns(self, start: int, gamma: float) -> list[float]:
        """The returns from row `start` on with 1, 2, … rewards and a value behind them."""
        returns, received = [], 0.0
        for k, reward in enumerate(self.rewards[start:], start=1):
            received += gamma ** (k - 1) * reward
            last = start + k == len(self.rewards)
            returns.append(received + gamma**k * (self.after if last else self.values[start + k]))
        return returns

    def advantages(self, gamma: float, lam: float) -> list[float]:
        """The definition, looking ahead: the mean of the k-step returns with weights (1 − λ) λ^(k−1)."""
        result = []
        for t in range(len(self.rewards)):
            returns = self.k_step_returns(t, gamma)
            weights = [(1 - lam) * lam**k for k in range(len(returns) - 1)] + [lam ** (len(returns) - 1)]
            weighted = math.fsum(w * g for w, g in zip(weights, returns, strict=True))
            result.append(weighted - self.values[t])
        return result


@dataclass(frozen=True, slots=True)
class PaddedEpisodes:
    """Episodes side by side in padded rows, `[rows, time]`, as the product takes them."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    discounts: Tensor
    traces: Tensor
    mask: Tensor

    def advantages(self, **instead: Tensor) -> Tensor:
        """The product's advantages of the real rows, with some of the columns replaced."""
        names = ("rewards", "values", "next_values", "discounts", "traces")
        return gae(*(instead.get(name, getattr(self, name)) for name in names))[self.mask]


def random_episodes(*, seed: int, rows: int = 6, longest: int = 64) -> list[list[Episode]]:
    """Rows of episodes of 1 to 30 steps, about half of them cut off, none longer than `longest` together."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> list[float]:
        return torch.randn(size, generator=generator, dtype=torch.float64).tolist()

    laid = []
    for _ in range(rows):
        row, left = [], longest - int(torch.randint(10, (), generator=generator))
        while left > 0:
            size = min(left, 1 + int(torch.randint(30, (), generator=generator)))
            terminated = bool(torch.rand((), generator=generator) < 0.5)
            row.append(Episode(draw(size), draw(size + 1), terminated))
            left -= size
        laid.append(row)
    return laid


def pad_episodes(
    rows: list[list[Episode]], *, lam: float, gamma: float = GAMMA, longest: int = 64
) -> PaddedEpisodes:
    """Write episodes into padded tensors, with NaN wherever nothing may be read."""
    columns = {
        name: torch.full((len(rows), longest), math.nan, dtype=torch.float64)
        for name in PaddedEpisodes.__slots__
    }
    columns["discounts"].fill_(0.7)
    columns["traces"].fill_(0.7)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, episodes in enumerate(rows):
        start = 0
        for episode in episodes:
            size = len(episode.rewards)
            here = (row, slice(start, start + size))
            nothing = math.nan if episode.terminated else episode.values[-1]
            columns["rewards"][here] = torch.tensor(episode.rewards, dtype=torch.float64)
            columns["values"][here] = torch.tensor(episode.values[:-1], dtype=torch.float64)
            columns["next_values"][here] = torch.tensor([*episode.values[1:-1], nothing], dtype=torch.float64)
            columns["discounts"][here], columns["traces"][here] = gamma, lam
            columns["discounts"][row, start + size - 1] *= not episode.terminated
            columns["traces"][row, start + size - 1] = 0
            mask[here] = True
            start += size
    return PaddedEpisodes(**{**columns, "mask": mask})
