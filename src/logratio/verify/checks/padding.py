"""What padding, and the order of a batch, may do to advantages, losses and gradients: nothing. G4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.objectives.advantages import gae
from logratio.objectives.importance import log_weights
from logratio.objectives.masked import masked_mean, masked_whiten
from logratio.objectives.ppo import clip_loss, value_loss
from logratio.verify.checks.rows import Row, control, equal

COLUMNS = ("logprobs", "behaviour", "rewards", "values", "next_values", "discounts", "traces")


@dataclass(frozen=True, slots=True)
class Learned:
    """What a PPO loss makes of a batch, sequence by sequence in the batch's original order."""

    advantages: list[Tensor]
    whitened: list[Tensor]
    policy_gradient: list[Tensor]
    critic_gradient: list[Tensor]
    loss: Tensor
    padding_gradient: Tensor
    """The gradients that reach padding, `[...]`."""


def random_rows(*, seed: int, lengths: Sequence[int]) -> list[dict[str, Tensor]]:
    """Sequences of so many tokens, each a column of every name; every other one is cut off."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index, length in enumerate(lengths):
        row = {name: torch.randn(length, generator=generator, dtype=torch.float64) for name in COLUMNS}
        row["behaviour"] = row["logprobs"] + 0.3 * row["behaviour"]
        row["discounts"] = torch.full((length,), 0.99, dtype=torch.float64)
        row["traces"] = torch.full((length,), 0.95, dtype=torch.float64)
        row["discounts"][-1] *= index % 2
        row["traces"][-1] = 0
        rows.append(row)
    return rows


def learn(
    rows: list[dict[str, Tensor]],
    *,
    order: Sequence[int],
    left: int = 0,
    right: int = 0,
    garbage: float = 0.0,
    masked: bool = True,
) -> Learned:
    """The clipped loss and the critic's on the rows in an order, padded to the longest and beyond."""
    longest = max(len(row["rewards"]) for row in rows) + left + right
    padded = {name: torch.full((len(rows), longest), garbage, dtype=torch.float64) for name in COLUMNS}
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    cells = {}
    for line, which in enumerate(order):
        cells[which] = (line, slice(left, left + len(rows[which]["rewards"])))
        mask[cells[which]] = True
        for name, values in rows[which].items():
            padded[name][cells[which]] = values
    counted = mask if masked else torch.ones_like(mask)
    logprobs, values = padded["logprobs"].requires_grad_(), padded["values"].requires_grad_()
    raw = gae(
        padded["rewards"], values.detach(), padded["next_values"], padded["discounts"], padded["traces"]
    )
    white = masked_whiten(raw, counted)
    log_ratio = log_weights(logprobs, padded["behaviour"], counted, level="token")
    policy = masked_mean(clip_loss(log_ratio, white, clip_range=0.2), counted)
    # What the critic says of padding is set to 0 before the loss: 0 times the slope of a NaN would be NaN.
    values_counted, target = (torch.where(counted, x, 0.0) for x in (values, raw + values.detach()))
    critic = masked_mean(value_loss(values_counted, target), counted)
    gradients = torch.autograd.grad(policy + 0.5 * critic, (logprobs, values))
    indices = range(len(rows))
    return Learned(
        advantages=[raw[cells[i]] for i in indices],
        whitened=[white[cells[i]] for i in indices],
        policy_gradient=[gradients[0][cells[i]] for i in indices],
        critic_gradient=[gradients[1][cells[i]] for i in indices],
        loss=(policy + 0.5 * critic).detach(),
        padding_gradient=torch.cat([gradient[~mask] for gradient in gradients]),
    )


def check_padding_invariance(quick: bool) -> list[Row]:
    """Padding of any length and content, on either side and in any order, changes nothing."""
    rows = random_rows(seed=6, lengths=(7, 1, 12, 4, 9, 12))
    tight = learn(rows, order=range(6))
    alone = [learn([row], order=[0]).advantages[0] for row in rows]
    result = [
        equal(
            "advantages: a batch against each sequence alone",
            torch.cat(tight.advantages),
            torch.cat(alone),
            tolerance=0.0,
        )
    ]
    layouts = {
        "five slots of NaN behind": learn(rows, order=range(6), right=5, garbage=math.nan),
        "three slots of NaN before": learn(rows, order=range(6), left=3, garbage=math.nan),
        "another order, 1e30 as padding": learn(rows, order=(4, 2, 0, 5, 1, 3), right=2, garbage=1e30),
    }
    for what, other in layouts.items():
        result += _same(what, tight, other)
    unmasked = learn(rows, order=range(6), right=5, garbage=0.5, masked=False)
    error = float((torch.cat(unmasked.policy_gradient) - torch.cat(tight.policy_gradient)).norm())
    scale = float(torch.cat(tight.policy_gradient).norm())
    return [*result, control("padding counted as tokens: the policy's gradient", error / scale, at_least=0.1)]


def _same(what: str, ours: Learned, other: Learned) -> list[Row]:
    """What is computed row by row is the same bit for bit; what passes through a sum, to rounding.

    A sum over a batch adds its entries in another order when they stand in other places, so its last digit
    may differ, and with it the whitened advantages, the loss and the gradients.
    """
    return [
        equal(f"{what}: advantages", torch.cat(other.advantages), torch.cat(ours.advantages), tolerance=0.0),
        equal(f"{what}: whitened", torch.cat(other.whitened), torch.cat(ours.whitened), tolerance=1e-14),
        equal(f"{what}: the loss", other.loss, ours.loss, tolerance=1e-14),
        equal(
            f"{what}: the policy's gradient",
            torch.cat(other.policy_gradient),
            torch.cat(ours.policy_gradient),
            tolerance=1e-15,
        ),
        equal(
            f"{what}: the critic's gradient",
            torch.cat(other.critic_gradient),
            torch.cat(ours.critic_gradient),
            tolerance=1e-15,
        ),
        equal(
            f"{what}: the gradient of padding",
            other.padding_gradient,
            torch.zeros_like(other.padding_gradient),
            tolerance=0.0,
        ),
    ]
