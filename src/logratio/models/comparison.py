"""What two language models say of the same tokens, from one walk through the vocabulary.

The logits of both heads stand side by side a chunk of the vocabulary at a time, so that log-probabilities,
entropy and the KL divergence over the whole vocabulary cost two matrix products and hold no
`[tokens, vocabulary]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from logratio.models.precision import multiply
from logratio.models.vocabulary import CHUNK


class TokenComparison(NamedTuple):
    """Two policies at `N` tokens, each `[N]` nats on the CPU, without gradient."""

    logprobs: Tensor
    """log-probability of each token under the policy."""
    reference_logprobs: Tensor
    """The same under the reference."""
    entropy: Tensor
    """Of the policy's distribution."""
    kl: Tensor
    """KL[policy, reference] of the two distributions, over the whole vocabulary."""


class _Softmax:
    """A softmax that is met a chunk at a time: its normaliser, its targets' logits, and means under it.

    Args:
        targets: `[N]` the words whose logits are wanted.
    """

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets
        self.chunks: list[Tensor] = []

    def add(self, start: int, logits: Tensor, *values: Tensor) -> None:
        """Take in `[N, chunk]` logits of the words from `start` on, and values there to be averaged."""
        width = logits.shape[1]
        place = self.targets - start
        inside = (place >= 0) & (place < width)
        chosen = logits.gather(1, place.clamp(0, width - 1)[:, None])[:, 0].masked_fill(~inside, 0.0)
        part = logits.logsumexp(dim=1)
        weights = (logits - part[:, None]).exp()
        self.chunks.append(torch.stack([part, chosen, *((weights * value).sum(dim=1) for value in values)]))

    def ended(self) -> tuple[Tensor, Tensor, Tensor]:
        """Normaliser and targets' logits `[N]`, and means `[values, N]`: in float64, on the CPU.

        A device may have no float64, and each look at one of its numbers costs.
        """
        columns = torch.stack(self.chunks).cpu().double()
        parts, chosen = columns[:, 0], columns[:, 1].sum(dim=0)
        total = parts.logsumexp(dim=0)
        shares = (parts - total).exp()
        return total, chosen, (shares[:, None] * columns[:, 2:]).sum(dim=0)


@torch.no_grad()
def compare_tokens(
    states: Tensor,
    weight: Tensor,
    reference_states: Tensor,
    reference_weight: Tensor,
    targets: Tensor,
    *,
    chunk: int = CHUNK,
) -> TokenComparison:
    """Log-probabilities, entropy and KL divergence of two linear heads at given tokens.

    `KL[p, q] = Σ_v p_v (x_v − z_v) − logsumexp x + logsumexp z` with the logits x of p and z of q: exactly 0
    where the two are equal, and summed over the tokens of an answer from p the Rao-Blackwell estimate of the
    sequence's KL (Amini, Vieira and Cotterell, 2025, arXiv:2504.10637).

    Args:
        states: `[N, H]` the policy's states that predict the targets.
        weight: `[V, H]` its head, in the precision of products.
        reference_states: `[N, H']` the reference's.
        reference_weight: `[V, H']` its head.
        targets: `[N]` token ids below `V`.
        chunk: words of the vocabulary at a time.
    """
    narrow, reference_narrow = states.to(weight.dtype), reference_states.to(reference_weight.dtype)
    tiles = (
        (
            multiply(narrow, weight[start : start + chunk].T),
            multiply(reference_narrow, reference_weight[start : start + chunk].T),
        )
        for start in range(0, len(weight), chunk)
    )
    return _walk(tiles, targets)


@torch.no_grad()
def compare_logits(logits: Tensor, reference_logits: Tensor, targets: Tensor) -> TokenComparison:
    """The same from `[N, V]` logits, for heads that are more than a matrix."""
    return _walk([(logits, reference_logits)], targets)


def _walk(tiles: Iterable[tuple[Tensor, Tensor]], targets: Tensor) -> TokenComparison:
    """From `[N, chunk]` logits of both, chunk by chunk of the vocabulary."""
    policy, reference = _Softmax(targets), _Softmax(targets)
    start = 0
    for logits, others in tiles:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logits, others = logits.to(dtype), others.to(dtype)
        policy.add(start, logits, logits, logits - others)
        reference.add(start, others)
        start += logits.shape[1]
    total, chosen, (mean_logit, mean_difference) = policy.ended()
    reference_total, reference_chosen, _ = reference.ended()
    found = (
        chosen - total,
        reference_chosen - reference_total,
        total - mean_logit,
        mean_difference - total + reference_total,
    )
    return TokenComparison(*(values.to(dtype) for values in found))
