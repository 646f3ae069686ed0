"""Micro-batches: the parts of a minibatch whose gradients are accumulated one after another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from logratio.trajectories import ActionEvaluation


@dataclass(frozen=True, slots=True)
class RowLosses:
    """What a trainer says of `R` rows, `[R]` each."""

    loss: Tensor
    """What is made small, differentiable."""
    log_ratio: Tensor
    """`log π − log μ`, μ the policy that collected."""
    log_weights: Tensor
    """Logarithm of what a row counts for having been drawn from μ."""
    parts: dict[str, Tensor]
    """What else is written down, by name."""

    @torch.no_grad()
    def sums(self) -> Tensor:
        """Sums over the rows, as `MetricSums.add` takes them: one tensor, as each look at a number costs."""
        weights = self.log_weights.exp()
        # Not every device has float64.
        columns = torch.stack([weights, weights.square(), *self.parts.values()]).cpu()
        farthest = self.log_ratio.expm1().abs().max().cpu()
        return torch.cat([columns.sum(dim=1, dtype=torch.float64), farthest[None]])


RowLossFunction = partial[RowLosses]
"""A trainer's loss of the rows of an `ActionEvaluation`, with all else that it takes bound by name."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What was computed of a part of a minibatch, its gradients added to those that stand."""

    rows: Tensor
    """`[R]` which rows it holds."""
    loss: Tensor
    """Their share of the minibatch's loss, `[]`."""
    sums: Tensor
    """What `RowLosses.sums` gave."""
    names: tuple[str, ...]
    """The names of the losses' parts."""


def backpropagate_rows(now: ActionEvaluation, losses: RowLossFunction, weights: Tensor) -> MicroBatch:
    """Add the gradients of `Σ weights · loss` of some rows to those that stand; its graph ends in here.

    Args:
        now: what the policy says of the rows.
        losses: the trainer's loss of rows.
        weights: `[sequences · time]` what each row of the minibatch counts.
    """
    result = losses(now)
    loss = (result.loss * weights[now.rows].to(now.logprobs)).sum()
    loss.backward()
    return MicroBatch(now.rows, loss.detach(), result.sums(), tuple(result.parts))
