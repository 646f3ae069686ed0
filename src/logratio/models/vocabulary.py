"""Log-probabilities of given tokens without ever holding `[tokens, vocabulary]`.

`log p(y) = h·w_y − logsumexp_v h·w_v`. The vocabulary is walked through in chunks, forward and backward, so
that one `[chunk, tokens]` tile stands at a time; the gradient is formed in that tile's own memory:
`∂ log p / ∂ logits = onehot(y) − softmax`. The words lie along a tile's first axis, because processors
multiply the large weight by the few states faster that way round, up to twice for a hundred tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logratio.models.precision import ALIGNMENT, Copies, multiply
from logratio.models.products import RowsGradient, add_product

CHUNK = 8192
"""Words of the vocabulary at a time: a tile of some hundred tokens stays in a processor's cache."""


class TokenLogprobs(torch.autograd.Function):
    """`log_softmax(hidden @ weightᵀ)[targets]`, with the tile recomputed in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, copy: Tensor, targets: Tensor, chunk: int
    ) -> Tensor:
        """`[N, H]`, `[V, H]`, `[N]` to `[N]`, in float32 at least."""
        dtype, narrow = torch.promote_types(hidden.dtype, torch.float32), hidden.to(copy.dtype)
        rows = torch.arange(len(targets), device=targets.device)
        chosen = torch.empty(len(targets), dtype=dtype, device=hidden.device)
        total = torch.full_like(chosen, -torch.inf)
        for start in range(0, len(weight), chunk):
            tile = multiply(copy[start : start + chunk], narrow.T).to(dtype)
            total = torch.logaddexp(total, tile.logsumexp(dim=0))
            inside = (targets >= start) & (targets < start + len(tile))
            chosen[inside] = tile[targets[inside] - start, rows[inside]]
        ctx.save_for_backward(hidden, weight, targets, total)
        ctx.chunk, ctx.copy = chunk, copy
        return chosen - total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for `hidden` and `weight`; what is not asked for is not computed."""
        hidden, weight, targets, total = ctx.saved_tensors
        return (*head_gradients(ctx, hidden, weight, targets, total, of_logprob=outer[0]), None, None, None)


class TokenLogprobsAndEntropy(torch.autograd.Function):
    """Both from one walk through the vocabulary: `H = logsumexp − Σ_v p_v x_v` of the logits x."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, copy: Tensor, targets: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """`[N, H]`, `[V, H]`, `[N]` to two of `[N]`, in float32 at least."""
        dtype, narrow = torch.promote_types(hidden.dtype, torch.float32), hidden.to(copy.dtype)
        rows = torch.arange(len(targets), device=targets.device)
        chosen = torch.empty(len(targets), dtype=dtype, device=hidden.device)
        total, mean = torch.full_like(chosen, -torch.inf), torch.zeros_like(chosen)
        for start in range(0, len(weight), chunk):
            tile = multiply(copy[start : start + chunk], narrow.T).to(dtype)
            inside = (targets >= start) & (targets < start + len(tile))
            chosen[inside] = tile[targets[inside] - start, rows[inside]]
            part = tile.logsumexp(dim=0)
            part_mean = (tile - part).exp_().mul_(tile).sum(dim=0)
            larger = torch.logaddexp(total, part)
            # The mean logit so far, weighed by the shares of what was walked through and of this tile.
            mean = mean * (total - larger).exp() + part_mean * (part - larger).exp()
            total = larger
        ctx.save_for_backward(hidden, weight, targets, total, mean)
        ctx.chunk, ctx.copy = chunk, copy
        # An entropy that is only looked at has no gradient, rather than one of zeros to be computed with.
        ctx.set_materialize_grads(False)
        return chosen - total, total - mean

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor | None, ...]:
        """`∂ log p/∂x = onehot − p` and `∂H/∂x = −p (x − Σ p x)`."""
        hidden, weight, targets, total, mean = ctx.saved_tensors
        of_logprob, of_entropy = outer
        if of_logprob is None:
            of_logprob = torch.zeros_like(total)
        bend = None if of_entropy is None else (of_entropy, mean)
        found = head_gradients(ctx, hidden, weight, targets, total, of_logprob=of_logprob, bend=bend)
        return (*found, None, None, None)


def head_gradients(
    ctx: Any,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    total: Tensor,
    *,
    of_logprob: Tensor,
    bend: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients for `hidden` and `weight`, chunk by chunk of the vocabulary.

    Args:
        ctx: says which are wanted, and the chunk.
        hidden: `[N, H]`.
        weight: `[V, H]`.
        targets: `[N]`.
        total: `[N]` logsumexp of the logits.
        of_logprob: `[N]` gradient of each log-probability.
        bend: `[N]` gradient of each entropy, and the mean logit; `None`: no entropy has a gradient.
    """
    to_hidden, to_weight = ctx.needs_input_grad[:2]
    narrow = hidden.to(ctx.copy.dtype)
    hidden_gradient = hidden.new_zeros(hidden.shape[::-1]) if to_hidden else None
    weight_gradient = RowsGradient(weight) if to_weight else None
    rows = torch.arange(len(targets), device=targets.device)
    for start in range(0, len(weight), ctx.chunk):
        words = ctx.copy[start : start + ctx.chunk]
        tile = multiply(words, narrow.T).to(total.dtype)
        slope = of_logprob if bend is None else of_logprob + bend[0] * (tile - bend[1])
        tile.sub_(total).exp_().mul_(-slope)
        inside = (targets >= start) & (targets < start + len(words))
        tile[targets[inside] - start, rows[inside]] += of_logprob[inside]
        tile = tile.to(words.dtype)
        if hidden_gradient is not None:
            add_product(hidden_gradient, words.T, tile)
        if weight_gradient is not None:
            weight_gradient.add(start, tile, narrow)
    return (
        None if hidden_gradient is None else hidden_gradient.T,
        None if weight_gradient is None else weight_gradient.returned,
    )


def token_logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK, copies: Copies | None = None
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` with the entropy of each distribution, `[N]` nats each, both differentiable."""
    states, words = aligned(hidden, targets)
    logprobs, entropy = TokenLogprobsAndEntropy.apply(  # type: ignore[no-untyped-call]
        states, weight, (copies or Copies()).of(weight), words, chunk
    )
    return logprobs[: len(targets)], entropy[: len(targets)]


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK, copies: Copies | None = None
) -> Tensor:
    """Log-probability of each target under a linear head.

    Args:
        hidden: `[N, H]` states that predict the targets.
        weight: `[V, H]` the head.
        targets: `[N]` token ids below `V`.
        chunk: words of the vocabulary at a time.
        copies: what is multiplied with in the place of the head; without it, the head.

    Returns:
        `[N]` nats, in float32 or wider, differentiable with respect to `hidden` and `weight`.
    """
    states, words = aligned(hidden, targets)
    logprobs: Tensor = TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        states, weight, (copies or Copies()).of(weight), words, chunk
    )
    return logprobs[: len(targets)]


def aligned(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """States and targets with empty tokens behind them, up to a multiple of `ALIGNMENT`."""
    extra = -len(targets) % ALIGNMENT
    pad = torch.nn.functional.pad
    return (pad(hidden, (0, 0, 0, extra)), pad(targets, (0, extra))) if extra else (hidden, targets)
