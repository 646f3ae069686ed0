"""Attention in a packed row: every answer sees its own prompt and itself, computed group by group.

What all groups begin with may stand in the first alone (`prefixes`); the others attend to it there.

PyTorch's kernel goes through keys by blocks, forward and backward, holds no weights of the softmax, and
repeats no keys for the heads that share them. A group of usual length is one call with a mask. In a long one
the prompt attends to itself, where half of the blocks need not be computed, and each answer to prompt and
answer, so that no mask grows with the square of the group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from logratio.batches import Span
from logratio.models.precision import multiplies_bf16

LONG = 768
"""Tokens of a group above which no mask `[T, T]` is formed."""


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
        narrow = query.dtype
        if narrow == torch.bfloat16 and not multiplies_bf16(query.device.type):
            query, key, value = query.float(), key.float(), value.float()
        first, *parts = zip(
            *(states.split([self.prefix, *self.lengths]) for states in (query, key, value)), strict=True
        )
        found = []
        for number, (part, mask, span) in enumerate(zip(parts, self.masks, self.spans, strict=True)):
            asked, met, given = map(_behind, first, part)
            # The prefix's own queries are answered in the first group.
            left_out = self.prefix if number else 0
            if span.num_tokens == left_out:
                continue
            if mask is None:
                found.append(self._long(span, asked, met, given)[left_out:])
            else:
                asking = part[0] if left_out else asked
                found.append(self._attend(asking, met, given, mask[left_out:].to(query.dtype)))
        return torch.cat(found).flatten(1).to(narrow)

    def _long(self, span: Span, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        sizes = [end - start for start, end in span.segments()]
        queries, keys, values = (states.split(sizes) for states in (query, key, value))
        found = [self._attend(queries[0], keys[0], values[0], None)]
        for one, own_keys, own_values in zip(queries[1:], keys[1:], values[1:], strict=True):
            if not (length := len(one)):
                continue
            sees = torch.ones(length, sizes[0] + length, dtype=torch.bool, device=one.device).tril(sizes[0])
            met, given = torch.cat((keys[0], own_keys)), torch.cat((values[0], own_values))
            found.append(self._attend(one, met, given, sees))
        return torch.cat(found)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """`softmax(s·Q Kᵀ + M) V`: `[t, heads, D]`, twice `[s, key heads, D]`, to `[t, heads, D]`.

        Without a mask each token sees those before it and itself.
        """
        queries, keys, values = (states.transpose(0, 1)[None] for states in (query, key, value))
        found = torch.nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scale,
            enable_gqa=True,
        )
        return found[0].transpose(0, 1)


def _behind(prefix: Tensor, own: Tensor) -> Tensor:
    return torch.cat((prefix, own)) if len(prefix) else own


def seen(span: Span) -> Tensor:
    """`[t, t]` of a group: true where a token sees another: its prompt's, its answer's before it, itself."""
    mask = torch.zeros(span.num_tokens, span.num_tokens, dtype=torch.bool)
    for first, end in ((first - span.start, end - span.start) for first, end in span.segments()):
        mask[first:end, : span.split - span.start] = True
        mask[first:end, first:end] = True
    return mask.tril_()
