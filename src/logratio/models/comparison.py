"""What two language models say of the same tokens, from one walk through the vocabulary.

The logits of both heads stand side by side a chunk of the vocabulary at a time, so that log-probabilities,
entropy and the KL divergence over the whole vocabulary cost two matrix products and hold no
`[tokens, vocabulary]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from logratio.models.vocabulary import CHUNK, aligned, tiles_of


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

    def add(self, start: int, logits: Tensor, part: Tensor, *values: Tensor) -> None:
        """Take in `[chunk, N]` logits of the words from `start` on, their logsumexp, values to average."""
        place = self.targets - start
        inside = (place >= 0) & (place < len(logits))
        chosen = logits.gather(0, place.clamp(0, len(logits) - 1)[None])[0].masked_fill(~inside, 0.0)
        weights = (logits - part).exp()
        self.chunks.append(torch.stack([part, chosen, *((weights * value).sum(dim=0) for value in values)]))

    @property
    def logprobs(self) -> Tensor:
        """`[N]` of the targets, rounded as training rounds them: chunk after chunk."""
        total = torch.full_like(self.chunks[0][0], -torch.inf)
        for chunk in self.chunks:
            total = torch.logaddexp(total, chunk[0])
        return (torch.stack(self.chunks)[:, 1].sum(dim=0) - total).cpu()

    def ended(self) -> tuple[Tensor, Tensor]:
        """Normaliser `[N]` and means `[values, N]`: in float64, on the CPU.

        A device may have no float64, and each look at one of its numbers costs.
        """
        columns = torch.stack(self.chunks).cpu().double()
        total = columns[:, 0].logsumexp(dim=0)
        shares = (columns[:, 0] - total).exp()
        return total, (shares[:, None] * columns[:, 2:]).sum(dim=0)


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

    The log-probabilities are those of `vocabulary.token_logprobs` to the last bit: from the same tiles, by
    products of the same shapes, summed in the same order.

    Args:
        states: `[N, H]` the policy's states that predict the targets.
        weight: `[V, H]` its head, in the precision of products.
        reference_states: `[N, H']` the reference's.
        reference_weight: `[V, H']` its head.
        targets: `[N]` token ids below `V`.
        chunk: words of the vocabulary at a time.
    """
    narrow, words = aligned(states, targets)
    other, _ = aligned(reference_states, targets)
    ours, theirs = (tiles_of(*head, chunk, None) for head in ((narrow, weight), (other, reference_weight)))
    pairs = zip(ours.first(), theirs.first(), strict=True)
    tiles = ((start, tile, others) for (start, tile), (_, others) in pairs)
    found = _walk(tiles, words, ours.logsumexp, theirs.logsumexp)
    return TokenComparison(*(values[: len(targets)] for values in found))


@torch.no_grad()
def compare_logits(logits: Tensor, reference_logits: Tensor, targets: Tensor) -> TokenComparison:
    """The same from `[N, V]` logits, for heads that are more than a matrix."""
    found = _walk([(0, logits.T, reference_logits.T)], targets, *[lambda tile: tile.logsumexp(dim=0)] * 2)
    exact = (one.log_softmax(-1).gather(-1, targets[:, None])[:, 0] for one in (logits, reference_logits))
    logprobs, reference_logprobs = exact
    return found._replace(logprobs=logprobs.cpu(), reference_logprobs=reference_logprobs.cpu())


def _walk(
    tiles: Iterable[tuple[int, Tensor, Tensor]],
    targets: Tensor,
    logsumexp: Callable[[Tensor], Tensor],
    reference_logsumexp: Callable[[Tensor], Tensor],
) -> TokenComparison:
    """From the first word of each chunk of the vocabulary and `[chunk, N]` logits of both."""
    policy, reference = _Softmax(targets), _Softmax(targets)
    for start, logits, others in tiles:
        policy.add(start, logits, logsumexp(logits), logits, logits - others)
        reference.add(start, others, reference_logsumexp(others))
    total, (mean_logit, mean_difference) = policy.ended()
    reference_total, _ = reference.ended()
    logprobs = policy.logprobs
    found = (reference.logprobs, total - mean_logit, mean_difference - total + reference_total)
    return TokenComparison(logprobs, *(values.to(logprobs.dtype) for values in found))
