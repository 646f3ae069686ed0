"""Log-probabilities of given tokens without ever holding `[tokens, vocabulary]`.

`log p(y) = h·w_y − logsumexp_v h·w_v`. The vocabulary is walked through in chunks, forward and backward, so
that one `[tokens, chunk]` tile stands at a time; the gradient is formed in that tile's own memory:
`∂ log p / ∂ logits = onehot(y) − softmax`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 8192
"""Words of the vocabulary at a time: a tile of some hundred tokens stays in a processor's cache."""


class TokenLogprobs(torch.autograd.Function):
    """`log_softmax(hidden @ weightᵀ)[targets]`, with the tile recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        """`[N, H]`, `[V, H]`, `[N]` to `[N]`, in float32 at least."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        rows = torch.arange(len(targets), device=targets.device)
        chosen = torch.empty(len(targets), dtype=dtype, device=hidden.device)
        total = torch.full_like(chosen, -torch.inf)
        for start in range(0, len(weight), chunk):
            tile = (hidden @ weight[start : start + chunk].T).to(dtype)
            total = torch.logaddexp(total, tile.logsumexp(dim=1))
            inside = (targets >= start) & (targets < start + tile.shape[1])
            chosen[inside] = tile[rows[inside], targets[inside] - start]
        ctx.save_for_backward(hidden, weight, targets, total)
        ctx.chunk = chunk
        return chosen - total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients for `hidden` and `weight`; what is not asked for is not computed."""
        (gradient,) = outer
        hidden, weight, targets, total = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        hidden_gradient = torch.zeros_like(hidden) if to_hidden else None
        weight_gradient = torch.empty_like(weight) if to_weight else None
        rows = torch.arange(len(targets), device=targets.device)
        for start in range(0, len(weight), ctx.chunk):
            words = weight[start : start + ctx.chunk]
            tile = (hidden @ words.T).to(total.dtype)
            tile.sub_(total[:, None]).exp_().mul_(-gradient[:, None])
            inside = (targets >= start) & (targets < start + len(words))
            tile[rows[inside], targets[inside] - start] += gradient[inside]
            tile = tile.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient.addmm_(tile, words)
            if weight_gradient is not None:
                torch.mm(tile.T, hidden, out=weight_gradient[start : start + ctx.chunk])
        return hidden_gradient, weight_gradient, None, None


class TokenLogprobsAndEntropy(torch.autograd.Function):
    """Both from one walk through the vocabulary: `H = logsumexp − Σ_v p_v x_v` of the logits x."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """`[N, H]`, `[V, H]`, `[N]` to two of `[N]`, in float32 at least."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        rows = torch.arange(len(targets), device=targets.device)
        chosen = torch.empty(len(targets), dtype=dtype, device=hidden.device)
        total, mean = torch.full_like(chosen, -torch.inf), torch.zeros_like(chosen)
        for start in range(0, len(weight), chunk):
            tile = (hidden @ weight[start : start + chunk].T).to(dtype)
            inside = (targets >= start) & (targets < start + tile.shape[1])
            chosen[inside] = tile[rows[inside], targets[inside] - start]
            part = tile.logsumexp(dim=1)
            part_mean = ((tile - part[:, None]).exp() * tile).sum(dim=1)
            larger = torch.logaddexp(total, part)
            # The mean logit so far, weighed by the shares of what was walked through and of this tile.
            mean = mean * (total - larger).exp() + part_mean * (part - larger).exp()
            total = larger
        ctx.save_for_backward(hidden, weight, targets, total, mean)
        ctx.chunk = chunk
        return chosen - total, total - mean

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """`∂ log p/∂x = onehot − p` and `∂H/∂x = −p (x − Σ p x)`."""
        of_logprob, of_entropy = outer
        hidden, weight, targets, total, mean = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        hidden_gradient = torch.zeros_like(hidden) if to_hidden else None
        weight_gradient = torch.empty_like(weight) if to_weight else None
        rows = torch.arange(len(targets), device=targets.device)
        for start in range(0, len(weight), ctx.chunk):
            words = weight[start : start + ctx.chunk]
            logits = (hidden @ words.T).to(total.dtype)
            p = (logits - total[:, None]).exp()
            tile = -p * (of_logprob[:, None] + of_entropy[:, None] * (logits - mean[:, None]))
            inside = (targets >= start) & (targets < start + len(words))
            tile[rows[inside], targets[inside] - start] += of_logprob[inside]
            tile = tile.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient.addmm_(tile, words)
            if weight_gradient is not None:
                torch.mm(tile.T, hidden, out=weight_gradient[start : start + ctx.chunk])
        return hidden_gradient, weight_gradient, None, None


def token_logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` with the entropy of each distribution, `[N]` nats each, both differentiable."""
    return TokenLogprobsAndEntropy.apply(hidden, weight, targets, chunk)  # type: ignore[no-untyped-call]


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Log-probability of each target under a linear head.

    Args:
        hidden: `[N, H]` states that predict the targets.
        weight: `[V, H]` the head.
        targets: `[N]` token ids below `V`.
        chunk: words of the vocabulary at a time.

    Returns:
        `[N]` nats, in float32 or wider, differentiable with respect to `hidden` and `weight`.
    """
    return TokenLogprobs.apply(hidden, weight, targets, chunk)  # type: ignore[no-untyped-call]
