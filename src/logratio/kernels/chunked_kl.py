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

from logratio.kernels.chunked_lm_head import CHUNK, logit_chunks_of, pad_to_alignment


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
        target_ids: `[N]` the words whose logits are wanted.
    """

    def __init__(self, target_ids: Tensor) -> None:
        self.target_ids = target_ids
        self.chunks: list[Tensor] = []

    def add(self, start: int, logits: Tensor, chunk_logsumexp: Tensor, *values: Tensor) -> None:
        """Take in `[chunk, N]` logits of the words from `start` on, their logsumexp, values to average."""
        index = self.target_ids - start
        inside = (index >= 0) & (index < len(logits))
        target_logit = logits.gather(0, index.clamp(0, len(logits) - 1)[None])[0].masked_fill(~inside, 0.0)
        weights = (logits - chunk_logsumexp).exp()
        self.chunks.append(
            torch.stack([chunk_logsumexp, target_logit, *((weights * value).sum(dim=0) for value in values)])
        )

    @property
    def logprobs(self) -> Tensor:
        """`[N]` of the targets, rounded as training rounds them: chunk after chunk."""
        log_normaliser = torch.full_like(self.chunks[0][0], -torch.inf)
        for chunk in self.chunks:
            log_normaliser = torch.logaddexp(log_normaliser, chunk[0])
        return (torch.stack(self.chunks)[:, 1].sum(dim=0) - log_normaliser).cpu()

    def ended(self) -> tuple[Tensor, Tensor]:
        """Normaliser `[N]` and means `[values, N]`: in float64, on the CPU.

        A device may have no float64, and each look at one of its numbers costs.
        """
        columns = torch.stack(self.chunks).cpu().double()
        log_normaliser = columns[:, 0].logsumexp(dim=0)
        shares = (columns[:, 0] - log_normaliser).exp()
        return log_normaliser, (shares[:, None] * columns[:, 2:]).sum(dim=0)


@torch.no_grad()
def compare_tokens(
    states: Tensor,
    weight: Tensor,
    reference_states: Tensor,
    reference_weight: Tensor,
    target_ids: Tensor,
    *,
    chunk: int = CHUNK,
) -> TokenComparison:
    """Log-probabilities, entropy and KL divergence of two linear heads at given tokens.

    `KL[p, q] = Σ_v p_v (x_v − z_v) − logsumexp x + logsumexp z` with the logits x of p and z of q: exactly 0
    where the two are equal, and summed over the tokens of an answer from p the Rao-Blackwell estimate of the
    sequence's KL (Amini, Vieira and Cotterell, 2025, arXiv:2504.10637).

    The log-probabilities are those of `chunked_lm_head.token_logprobs` to the last bit: from the same chunks,
    by products of the same shapes, summed in the same order.

    Args:
        states: `[N, H]` the policy's states that predict the targets.
        weight: `[V, H]` its head, in the precision of products.
        reference_states: `[N, H']` the reference's.
        reference_weight: `[V, H']` its head.
        target_ids: `[N]` token ids below `V`.
        chunk: words of the vocabulary at a time.
    """
    narrow, padded_ids = pad_to_alignment(states, target_ids)
    other, _ = pad_to_alignment(reference_states, target_ids)
    ours, theirs = (
        logit_chunks_of(*head, chunk, None) for head in ((narrow, weight), (other, reference_weight))
    )
    pairs = zip(ours.first_pass(), theirs.first_pass(), strict=True)
    logit_chunks = ((start, logits, others) for (start, logits), (_, others) in pairs)
    result = _walk(logit_chunks, padded_ids, ours.logsumexp, theirs.logsumexp)
    return TokenComparison(*(values[: len(target_ids)] for values in result))


@torch.no_grad()
def compare_logits(logits: Tensor, reference_logits: Tensor, target_ids: Tensor) -> TokenComparison:
    """The same from `[N, V]` logits, for heads that are more than a matrix."""
    result = _walk(
        [(0, logits.T, reference_logits.T)], target_ids, *[lambda logits: logits.logsumexp(dim=0)] * 2
    )
    exact = (one.log_softmax(-1).gather(-1, target_ids[:, None])[:, 0] for one in (logits, reference_logits))
    logprobs, reference_logprobs = exact
    return result._replace(logprobs=logprobs.cpu(), reference_logprobs=reference_logprobs.cpu())


def _walk(
    logit_chunks: Iterable[tuple[int, Tensor, Tensor]],
    target_ids: Tensor,
    logsumexp: Callable[[Tensor], Tensor],
    reference_logsumexp: Callable[[Tensor], Tensor],
) -> TokenComparison:
    """From the first word of each chunk of the vocabulary and `[chunk, N]` logits of both."""
    policy, reference = _Softmax(target_ids), _Softmax(target_ids)
    for start, logits, others in logit_chunks:
        policy.add(start, logits, logsumexp(logits), logits, logits - others)
        reference.add(start, others, reference_logsumexp(others))
    log_normaliser, (mean_logit, mean_difference) = policy.ended()
    reference_log_normaliser, _ = reference.ended()
    logprobs = policy.logprobs
    result = (
        reference.logprobs,
        log_normaliser - mean_logit,
        mean_difference - log_normaliser + reference_log_normaliser,
    )
    return TokenComparison(logprobs, *(values.to(logprobs.dtype) for values in result))
