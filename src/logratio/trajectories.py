"""What happened and what a policy says of it: a token and an environment step are the same row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

ItemIds = Sequence[int] | np.ndarray
"""Indices of items in a rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """What happened: a token and an environment step are the same row. All `[sequences, time]`."""

    mask: Tensor
    """True where a row is real: not padding, not prompt, not the row that an autoreset adds."""
    logprobs: Tensor
    """log-probability of the action under the policy that sampled it, temperature included."""
    rewards: Tensor
    """Reward received after the action."""
    values: Tensor
    """The critic at this state; 0 where there is none."""
    next_values: Tensor
    """The critic at the true next state: the final observation where the episode was cut off."""
    discounts: Tensor
    """γ, or 0 where the episode terminated."""
    traces: Tensor
    """λ, or 0 where the episode ended for any reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Trajectories with what a policy needs to compute their log-probabilities again."""

    trajectories: Trajectories
    """The rows."""
    items: Sequence[Any]
    """What the policy evaluates, one item at a time or several: prompts with their answers, or states."""
    item_of_row: Tensor
    """`[sequences, time]` which item a row belongs to; any of them where the mask is false."""
    metrics: dict[str, float]
    """What the collector has to say of them: rewards by name, lengths, the KL to the reference."""
    group_size: int = 1
    """How many sequences in a row answer the same prompt."""
    reference_logprobs: Tensor | None = None
    """`[sequences, time]` log-probability of each action under the reference; `None` where there is none."""
    greedy_returns: Tensor | None = None
    """`[sequences]` return of the greedy answer to the same prompt, where the collector was asked for it."""
    sampling_noise: float = 2.0**-14
    """σ of the rounding of a token's log-probability, in nats, in the precision that is sampled in."""
    recomputed_noise: float = 0.0
    """The same between the log-probabilities here and those that the update computes of the same weights; 0
    where they are computed from rows that are packed alike, or by products that do not depend on packing."""
    reduction_weights: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """By reduction, what each row counts in a minibatch of all items, once it was asked for."""

    def items_of(self, item_ids: ItemIds) -> Sequence[Any]:
        """The items at these indices."""
        return [self.items[item] for item in item_ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionEvaluation:
    """What a policy says now of `R` rows, differentiable."""

    rows: Tensor
    """`[R]` which rows, as places in the flattened `[sequences · time]`; on the CPU."""
    logprobs: Tensor
    """`[R]` log-probability of the action that was taken."""
    entropy: Tensor
    """`[R]` entropy of the distribution it was taken from, in nats."""
    values: Tensor | None = None
    """`[R]` the critic at the state; `None` without a critic."""
