"""Attention in a packed row: every answer sees its own prompt and itself, computed group by group.

What all groups begin with may stand in the first alone (`prefixes`); the others attend to it there.

A group of usual length is computed as dense products with a mask, key heads shared by their query heads
without being repeated. In a long one the prompt attends to itself by PyTorch's own causal kernel and each
answer to prompt and answer, so that nothing grows with the square of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from logratio.batches import Span
from logratio.models.precision import multiply
from logratio.models.products import applied

LONG = 768
"""Tokens of a group above which no dense `[T, T]` is formed."""


class SegmentAttention:
    """Attention over the groups of one row.

    Args:
        spans: the groups, one behind the other, as they stand where each has its own prefix.
        scale: what a query's product with a key is multiplied by.
        like: a tensor of the dtype and on the device in which scores are computed.
        prefix: tokens that all groups begin with, and that the row holds in the first group alone.
    """

    def __init__(self, spans: Sequence[Span], *, scale: float, like: Tensor, prefix: int = 0) -> None:
        self.scale, self.prefix = scale, prefix
        self.spans = spans
        self.lengths = [span.num_tokens - prefix for span in spans]
        self.masks = [
            None if span.num_tokens > LONG else like.new_zeros(()).masked_fill(~seen(span), -torch.inf)
            for span in spans
        ]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`[T, heads, D]`, twice `[T, key heads, D]`, to `[T, heads · D]`."""
        first, *parts = zip(
            *(states.split([self.prefix, *self.lengths]) for states in (query, key, value)), strict=True
        )
        found = []
        for number, (part, mask, span) in enumerate(zip(parts, self.masks, self.spans, strict=True)):
            joined = tuple(map(_behind, first, part))
            # The prefix's own queries are answered in the first group.
            left_out = self.prefix if number else 0
            if span.num_tokens == left_out:
                continue
            if mask is None:
                found.append(self._long(span, *joined)[left_out:])
            else:
                asking = part[0] if left_out else joined[0]
                found.append(applied(DenseAttention, asking, *joined[1:], mask[left_out:], self.scale))
        return torch.cat(found).flatten(1)

    def _long(self, span: Span, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        sizes = [end - start for start, end in span.segments()]
        queries, keys, values = (
            states.transpose(0, 1)[None].split(sizes, dim=2) for states in (query, key, value)
        )
        attend = torch.nn.functional.scaled_dot_product_attention
        found = [attend(queries[0], keys[0], values[0], is_causal=True, scale=self.scale, enable_gqa=True)]
        answers = zip(queries[1:], keys[1:], values[1:], strict=True)
        for one, own_keys, own_values in answers:
            if not (length := one.shape[2]):
                continue
            sees = torch.ones(length, sizes[0] + length, dtype=torch.bool, device=one.device).tril(sizes[0])
            found.append(
                attend(
                    one,
                    torch.cat((keys[0], own_keys), dim=2),
                    torch.cat((values[0], own_values), dim=2),
                    attn_mask=sees,
                    scale=self.scale,
                    enable_gqa=True,
                )
            )
        return torch.cat(found, dim=2)[0].transpose(0, 1)


def _behind(prefix: Tensor, own: Tensor) -> Tensor:
    return torch.cat((prefix, own)) if len(prefix) else own


def seen(span: Span) -> Tensor:
    """`[t, t]` of a group: true where a token sees another: its prompt's, its answer's before it, itself."""
    mask = torch.zeros(span.num_tokens, span.num_tokens, dtype=torch.bool)
    for first, end in ((first - span.start, end - span.start) for first, end in span.segments()):
        mask[first:end, : span.split - span.start] = True
        mask[first:end, first:end] = True
    return mask.tril_()


class DenseAttention(torch.autograd.Function):
    """`softmax(s·Q Kᵀ + M) V` of one group; nothing is repeated for heads that share keys.

    The weights of the softmax, which grow with the square of the group, are computed again for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        """`[t, heads, D]`, twice `[s, key heads, D]`, `[t, s]` to `[t, heads, D]`."""
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        weights = dense_weights(query, key, mask, scale)
        return unfold(multiply(weights, value.transpose(0, 1)), query.shape[1] // key.shape[1])

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        """`∂V = Pᵀ∂O`, `∂S = P (∂P − Σ P ∂P)` with `∂P = ∂O Vᵀ`, `∂Q = s ∂S K`, `∂K = s ∂Sᵀ Q`."""
        query, key, value, mask = ctx.saved_tensors
        shared = query.shape[1] // key.shape[1]
        weights, gradient = dense_weights(query, key, mask, ctx.scale), fold(outer, shared)
        to_value = multiply(weights.transpose(1, 2), gradient)
        to_weights = multiply(gradient, value.transpose(0, 1).transpose(1, 2))
        slope = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        to_query = unfold(multiply(slope, key.transpose(0, 1)), shared)
        to_key = multiply(slope.transpose(1, 2), fold(query, shared))
        return to_query, to_key.transpose(0, 1), to_value.transpose(0, 1), None, None


def dense_weights(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`[key heads, shared · t, s]`: what each query takes of each value."""
    shared = query.shape[1] // key.shape[1]
    scores = multiply(fold(query, shared), key.permute(1, 2, 0)).to(mask.dtype).mul_(scale)
    scores.view(key.shape[1], shared, len(query), -1).add_(mask)
    return scores.softmax(-1).to(query.dtype)


def fold(states: Tensor, shared: int) -> Tensor:
    """`[t, heads, D]` to `[key heads, shared · t, D]`: what meets the same keys, one behind the other."""
    length, heads, width = states.shape
    by_key = states.view(length, heads // shared, shared, width).permute(1, 2, 0, 3)
    return by_key.reshape(heads // shared, shared * length, width)


def unfold(states: Tensor, shared: int) -> Tensor:
    """The way back."""
    heads, rows, width = states.shape
    by_key = states.view(heads, shared, rows // shared, width).permute(2, 0, 1, 3)
    return by_key.reshape(rows // shared, heads * shared, width)
