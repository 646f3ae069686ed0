"""What the policy-gradient trainers share: steps of an update, what a row counts, what is written down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from logratio.batches import Rollout
from logratio.objectives.masked import masked_mean
from logratio.training import laws
from logratio.training.session import Session

Reduction = Literal["tokens", "sequences", "sums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What an update learns from, each `[sequences · time]`; it stands still while the policy moves."""

    logprobs: Tensor
    """log-probabilities under the policy that collected."""
    advantages: Tensor
    """How much better than expected each action was."""
    returns: Tensor
    """What the critic should have said."""
    values: Tensor
    """What it said."""

    @classmethod
    def of(cls, rollout: Rollout, advantages: Tensor, returns: Tensor) -> Targets:
        """Flatten `[sequences, time]` columns, without their graphs."""
        rows = rollout.trajectories
        columns = (rows.logprobs, advantages, returns, rows.values)
        logprobs, advantages, returns, values = (column.detach().flatten() for column in columns)
        return cls(logprobs=logprobs, advantages=advantages, returns=returns, values=values)


@dataclass(slots=True)
class Tally:
    """Sums over rows, of which the metrics of an update are means."""

    rows: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    ratio_deviation: float = 0.0
    """The largest |r − 1|."""

    def add(self, values: dict[str, Tensor], log_ratio: Tensor) -> None:
        """Count the rows of a part, `[R]` each."""
        self.rows += len(log_ratio)
        deviation = float((log_ratio.detach().exp() - 1.0).abs().max())
        # NaN must not be lost to a comparison.
        self.ratio_deviation = deviation if deviation != deviation else max(self.ratio_deviation, deviation)
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value.detach().double().sum())

    def merge(self, other: Tally) -> None:
        """Count the rows of another tally as well."""
        self.rows += other.rows
        self.ratio_deviation = max(self.ratio_deviation, other.ratio_deviation)
        for name, total in other.totals.items():
            self.totals[name] = self.totals.get(name, 0.0) + total

    def means(self) -> dict[str, float]:
        """The mean over rows of everything that was counted."""
        return {name: total / self.rows for name, total in self.totals.items()}


def minibatches(num_items: int, *, parts: int, epochs: int, seed: int, step: int) -> Iterator[list[int]]:
    """The items of each of the optimiser's steps: every pass a permutation drawn from (seed, step, pass)."""
    for epoch in range(epochs):
        generator = np.random.Generator(np.random.Philox(key=[seed, step * epochs + epoch]))
        for part in np.array_split(generator.permutation(num_items), min(parts, num_items)):
            yield sorted(int(item) for item in part)


def row_weights(rollout: Rollout, numbers: Sequence[int], reduction: Reduction) -> Tensor:
    """`[sequences · time]` what each row counts in the loss of a minibatch; 0 for rows that are not in it.

    `tokens`: all rows alike, 1 in all. `sequences`: all sequences alike, and a sequence's rows alike: long
    sequences count for less a row, which changes the gradient's direction. `sums`: every row 1 over the
    number of sequences, the policy gradient as it is written.
    """
    rows = rollout.trajectories
    chosen = torch.tensor(list(numbers), device=rows.mask.device)
    weights = (rows.mask & torch.isin(rollout.item_of_row, chosen)).to(rows.rewards.dtype)
    if reduction == "tokens":
        return (weights / weights.sum()).flatten()
    lengths = weights.sum(dim=1, keepdim=True)
    if reduction == "sequences":
        weights = weights / lengths.clamp(min=1)
    return (weights / (lengths > 0).sum()).flatten()


def first_minibatch_laws(session: Session, rollout: Rollout, tally: Tally, *, step: int) -> None:
    """Before the first step of an update the policy is the one that collected, as it was recorded."""
    if "sampled_deviation" in rollout.metrics:
        session.held(laws.sampler_and_trainer_agree(rollout.metrics["sampled_deviation"], step=step))
    session.held(laws.ratio_is_one(tally.ratio_deviation, step=step))


def describe(rollout: Rollout, targets: Targets, *, critic: bool) -> dict[str, float]:
    """The mean return, and how much of its variance a critic explained: 1 is all, 0 as a constant would."""
    mask = rollout.trajectories.mask.flatten()
    returns, values = targets.returns.double(), targets.values.double()
    found = {"return": float(masked_mean(returns, mask)), "rows": float(mask.sum())}
    if critic:
        spread = _variance(returns, mask)
        found["explained_variance"] = 1.0 - _variance(returns - values, mask) / spread if spread > 0 else 0.0
    return found


def _variance(values: Tensor, mask: Tensor) -> float:
    return float(masked_mean((values - masked_mean(values, mask)).square(), mask))
