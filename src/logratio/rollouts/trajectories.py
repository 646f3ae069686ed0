"""Answers as trajectories: which token earns what, and what follows it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from logratio.objectives.kl import k1
from logratio.packed_rows import AnswerGroup
from logratio.trajectories import Trajectories


def token_mask(groups: Sequence[AnswerGroup]) -> Tensor:
    """`[sequences, time]` true where an answer has a token; the answers of a group side by side."""
    lengths = torch.tensor([len(answer) for group in groups for answer in group.answers])
    return torch.arange(int(lengths.max()))[None] < lengths[:, None]


def token_rewards(
    mask: Tensor, logprobs: Tensor, reference_logprobs: Tensor, scores: Tensor, *, kl_coefficient: float
) -> Tensor:
    """`[S, T]` rewards of tokens: each is charged its KL to the reference, the last one earns the score.

    `r_t = −β·(log π − log π_ref)(y_t) + [t last]·score`. With no discount and with reward-to-go the gradient
    of the charge is that of the sequence's KL divergence, exactly.

    Args:
        mask: `[S, T]` where there is a token.
        logprobs: `[S, T]` under the policy that sampled.
        reference_logprobs: `[S, T]` under the reference.
        scores: `[S]` reward of each answer.
        kl_coefficient: β.
    """
    zero = torch.zeros_like(logprobs)
    last = mask & ~_followed(mask)
    kl_penalty = torch.where(mask, k1(logprobs - reference_logprobs), zero)
    return torch.where(last, scores[:, None].to(logprobs), zero) - kl_coefficient * kl_penalty


def answer_trajectories(
    *,
    mask: Tensor,
    logprobs: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstraps: Tensor,
    discount: float,
    lam: float,
) -> Trajectories:
    """Answers as rows of tokens, with what follows each token.

    Args:
        mask: `[S, T]` where there is a token.
        logprobs: `[S, T]` under the policy that sampled.
        rewards: `[S, T]` of each token.
        values: `[S, T + 1]` the critic before each token, and behind the last one where it was asked.
        bootstraps: `[S]` true for a truncated answer whose future counts: the value behind its last
            token is what would have followed.
        discount: γ.
        lam: λ.
    """
    zero = torch.zeros_like(logprobs)
    followed = _followed(mask)
    last = mask & ~followed
    continues = followed | (last & bootstraps[:, None])
    return Trajectories(
        mask=mask,
        logprobs=logprobs,
        rewards=rewards,
        values=torch.where(mask, values[:, :-1], zero),
        next_values=torch.where(continues, values[:, 1:], zero),
        discounts=discount * continues.to(logprobs),
        traces=lam * followed.to(logprobs),
    )


def _followed(mask: Tensor) -> Tensor:
    """`[S, T]` true where another token of the answer comes next."""
    return torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
