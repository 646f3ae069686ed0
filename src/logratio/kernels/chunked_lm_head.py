"""Log-probabilities of given tokens without ever holding `[tokens, vocabulary]`.

`log p(y) = h·w_y − logsumexp_v h·w_v`. The vocabulary is walked through in chunks, forward and backward, so
that logits stand for one chunk, `[words, tokens]`, at a time; the gradient is formed in its own memory:
`∂ log p / ∂ logits = onehot(y) − softmax`. The words lie along a chunk's first axis, because processors
multiply the large weight by the few states faster that way round, up to twice for a hundred tokens.

Chunks are computed a second time for the gradient, but for the first of them, which are kept as far as a
fixed number of bytes goes: what stands does not grow with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from logratio.kernels.fused_layers import ChunkedWeightGradient, Workspace, accumulate_matmul, mmap_zeros
from logratio.kernels.precision import ALIGNMENT, ComputeWeights, multiply

CHUNK = 2048
"""Words of the vocabulary at a time: a chunk of some hundred tokens stays in a processor's cache."""
KEPT_BYTES = 64 << 20
"""Of chunks that are kept for the gradient rather than computed again."""


class LogitChunks:
    """Logits `[words, N]` chunk by chunk of the vocabulary; the first are kept for the second walk.

    Args:
        compute_weight: `[V, H]` what is multiplied with.
        states: `[N, H]` in the same precision.
        dtype: in which the logits are given.
        chunk: words at a time.
        kept_bytes: of chunks that are kept.
    """

    def __init__(
        self, compute_weight: Tensor, states: Tensor, *, dtype: torch.dtype, chunk: int, kept_bytes: int
    ) -> None:
        self.compute_weight, self.states, self.dtype, self.chunk = compute_weight, states, dtype, chunk
        self._room, self._workspace = kept_bytes, Workspace()
        self._kept: dict[int, Tensor] = {}

    def first_pass(self) -> Iterator[tuple[int, Tensor]]:
        """Where each chunk begins, with its logits, which must stay as they are."""
        for start in range(0, len(self.compute_weight), self.chunk):
            if size := self._room_for(start):
                self._room -= size
                self._kept[start] = logits = self._at(start, kept=True)
            else:
                logits = self._at(start)
            yield start, logits

    def second_pass(self) -> Iterator[tuple[int, Tensor]]:
        """The same logits, in chunks that may be written over."""
        for start in range(0, len(self.compute_weight), self.chunk):
            # A chunk that has been written over is computed anew by whoever comes a third time.
            kept = self._kept.pop(start, None)
            yield start, self._at(start) if kept is None else kept
        # The graph, which holds this, lasts until the layers below have their gradients.
        self._workspace = Workspace()

    def subtract(self, logits: Tensor, value: Tensor) -> Tensor:
        """`logits − value`, in memory that the next chunk takes."""
        return torch.sub(logits, value, out=self._workspace.empty_like(logits))

    def logsumexp(self, logits: Tensor) -> Tensor:
        """`[N]` of a chunk's words."""
        largest = logits.amax(dim=0)
        return self.subtract(logits, largest).exp_().sum(dim=0).log_().add_(largest)

    def _room_for(self, start: int) -> int:
        """Bytes of a chunk, or 0 where there is no room to keep it."""
        words = min(self.chunk, len(self.compute_weight) - start)
        size = words * len(self.states) * self.dtype.itemsize
        return size if size <= self._room else 0

    def _at(self, start: int, *, kept: bool = False) -> Tensor:
        words = self.compute_weight[start : start + self.chunk]
        if self.dtype != words.dtype:
            return multiply(words, self.states.T).to(self.dtype)
        shape = (len(words), len(self.states))
        # Kept ones are freed one by one as the gradient of as many words takes their place, not to the heap.
        out = mmap_zeros(words, shape) if kept else self._workspace.empty(shape, words, 1)
        return multiply(words, self.states.T, out=out)


class TokenLogprobs(torch.autograd.Function):
    """`log_softmax(hidden @ weightᵀ)[targets]`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        logit_chunks: LogitChunks,
        target_ids: Tensor,
        accumulate_in_place: bool,
    ) -> Tensor:
        """`[N, H]`, `[V, H]`, `[N]` to `[N]`, in float32 at least."""
        rows = torch.arange(len(target_ids), device=target_ids.device)
        target_logit = torch.empty(len(target_ids), dtype=logit_chunks.dtype, device=hidden.device)
        logsumexp = torch.full_like(target_logit, -torch.inf)
        for start, logits in logit_chunks.first_pass():
            logsumexp = torch.logaddexp(logsumexp, logit_chunks.logsumexp(logits))
            inside = (target_ids >= start) & (target_ids < start + len(logits))
            target_logit[inside] = logits[target_ids[inside] - start, rows[inside]]
        ctx.save_for_backward(weight, target_ids, logsumexp)
        ctx.logit_chunks, ctx.accumulate_in_place = logit_chunks, accumulate_in_place
        return target_logit - logsumexp

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for `hidden` and `weight`; what is not asked for is not computed."""
        gradients = head_gradients(ctx, *ctx.saved_tensors, grad_logprob=grad_output[0])
        return (*gradients, None, None, None)


class TokenLogprobsAndEntropy(torch.autograd.Function):
    """Both from one walk through the vocabulary: `H = logsumexp − Σ_v p_v x_v` of the logits x."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        logit_chunks: LogitChunks,
        target_ids: Tensor,
        accumulate_in_place: bool,
    ) -> tuple[Tensor, Tensor]:
        """`[N, H]`, `[V, H]`, `[N]` to two of `[N]`, in float32 at least."""
        rows = torch.arange(len(target_ids), device=target_ids.device)
        target_logit = torch.empty(len(target_ids), dtype=logit_chunks.dtype, device=hidden.device)
        logsumexp, mean = torch.full_like(target_logit, -torch.inf), torch.zeros_like(target_logit)
        for start, logits in logit_chunks.first_pass():
            inside = (target_ids >= start) & (target_ids < start + len(logits))
            target_logit[inside] = logits[target_ids[inside] - start, rows[inside]]
            chunk_logsumexp = logit_chunks.logsumexp(logits)
            chunk_mean = logit_chunks.subtract(logits, chunk_logsumexp).exp_().mul_(logits).sum(dim=0)
            new_logsumexp = torch.logaddexp(logsumexp, chunk_logsumexp)
            # The mean logit so far, weighed by the shares of what was walked through and of this chunk.
            mean = (
                mean * (logsumexp - new_logsumexp).exp()
                + chunk_mean * (chunk_logsumexp - new_logsumexp).exp()
            )
            logsumexp = new_logsumexp
        ctx.save_for_backward(weight, target_ids, logsumexp, mean)
        ctx.logit_chunks, ctx.accumulate_in_place = logit_chunks, accumulate_in_place
        # An entropy that is only looked at has no gradient, rather than one of zeros to be computed with.
        ctx.set_materialize_grads(False)
        return target_logit - logsumexp, logsumexp - mean

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        """`∂ log p/∂x = onehot − p` and `∂H/∂x = −p (x − Σ p x)`."""
        weight, target_ids, logsumexp, mean = ctx.saved_tensors
        grad_logprob, grad_entropy = grad_output
        if grad_logprob is None:
            grad_logprob = torch.zeros_like(logsumexp)
        entropy_grad = None if grad_entropy is None else (grad_entropy, mean)
        gradients = head_gradients(
            ctx, weight, target_ids, logsumexp, grad_logprob=grad_logprob, entropy_grad=entropy_grad
        )
        return (*gradients, None, None, None)


def head_gradients(
    ctx: Any,
    weight: Tensor,
    target_ids: Tensor,
    logsumexp: Tensor,
    *,
    grad_logprob: Tensor,
    entropy_grad: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients for `hidden` and `weight`, chunk by chunk of the vocabulary.

    Args:
        ctx: says which are wanted and whether they are added in place, and has the logits.
        weight: `[V, H]`.
        target_ids: `[N]`.
        logsumexp: `[N]` logsumexp of the logits.
        grad_logprob: `[N]` gradient of each log-probability.
        entropy_grad: `[N]` gradient of each entropy, and the mean logit; `None`: no entropy has a gradient.
    """
    to_hidden, to_weight = ctx.needs_input_grad[:2]
    compute_weight, narrow = ctx.logit_chunks.compute_weight, ctx.logit_chunks.states
    hidden_gradient = logsumexp.new_zeros(narrow.shape[::-1]) if to_hidden else None
    weight_gradient = (
        ChunkedWeightGradient(weight, accumulate_in_place=ctx.accumulate_in_place) if to_weight else None
    )
    rows = torch.arange(len(target_ids), device=target_ids.device)
    for start, logits in ctx.logit_chunks.second_pass():
        words = compute_weight[start : start + len(logits)]
        logprob_grad = (
            grad_logprob
            if entropy_grad is None
            else ctx.logit_chunks.subtract(logits, entropy_grad[1]).mul_(entropy_grad[0]).add_(grad_logprob)
        )
        logits.sub_(logsumexp).exp_().mul_(-logprob_grad)
        inside = (target_ids >= start) & (target_ids < start + len(words))
        logits[target_ids[inside] - start, rows[inside]] += grad_logprob[inside]
        logits = logits.to(words.dtype)
        if hidden_gradient is not None:
            accumulate_matmul(hidden_gradient, words.T, logits)
        if weight_gradient is not None:
            weight_gradient.add(start, logits, narrow)
    return (
        None if hidden_gradient is None else hidden_gradient.T,
        None if weight_gradient is None else weight_gradient.returned,
    )


def token_logprobs_and_entropy(
    hidden: Tensor,
    weight: Tensor,
    target_ids: Tensor,
    *,
    chunk: int = CHUNK,
    compute_weights: ComputeWeights | None = None,
    accumulate_in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` with the entropy of each distribution, `[N]` nats each, both differentiable."""
    states, padded_ids = pad_to_alignment(hidden, target_ids)
    logprobs, entropy = TokenLogprobsAndEntropy.apply(  # type: ignore[no-untyped-call]
        *(states, weight, logit_chunks_of(states, weight, chunk, compute_weights), padded_ids),
        accumulate_in_place,
    )
    return logprobs[: len(target_ids)], entropy[: len(target_ids)]


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    target_ids: Tensor,
    *,
    chunk: int = CHUNK,
    compute_weights: ComputeWeights | None = None,
    accumulate_in_place: bool = False,
) -> Tensor:
    """Log-probability of each target under a linear head.

    Args:
        hidden: `[N, H]` states that predict the targets.
        weight: `[V, H]` the head.
        target_ids: `[N]` token ids below `V`.
        chunk: words of the vocabulary at a time.
        compute_weights: what is multiplied with in the place of the head; without it, the head.
        accumulate_in_place: whether the backward pass adds to the head's `grad` past the graph.

    Returns:
        `[N]` nats, in float32 or wider, differentiable with respect to `hidden` and `weight`.
    """
    states, padded_ids = pad_to_alignment(hidden, target_ids)
    logprobs: Tensor = TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        *(states, weight, logit_chunks_of(states, weight, chunk, compute_weights), padded_ids),
        accumulate_in_place,
    )
    return logprobs[: len(target_ids)]


def logit_chunks_of(
    hidden: Tensor, weight: Tensor, chunk: int, compute_weights: ComputeWeights | None
) -> LogitChunks:
    """The logits of `[N, H]` states under a head `[V, H]`, kept where a gradient may be asked for."""
    compute_weight = (compute_weights or ComputeWeights()).of(weight)
    return LogitChunks(
        compute_weight,
        hidden.detach().to(compute_weight.dtype),
        dtype=torch.promote_types(hidden.dtype, torch.float32),
        chunk=chunk,
        kept_bytes=KEPT_BYTES if torch.is_grad_enabled() else 0,
    )


def pad_to_alignment(hidden: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
    """States and targets with empty tokens behind them, up to a multiple of `ALIGNMENT`."""
    extra = -len(target_ids) % ALIGNMENT
    pad = torch.nn.functional.pad
    return (pad(hidden, (0, 0, 0, extra)), pad(target_ids, (0, extra))) if extra else (hidden, target_ids)
