"""Attention in a packed row: every answer sees its own prompt and itself, computed piece by piece.

What all groups begin with may stand in the first alone (`prefixes`); the others attend to it there.

PyTorch's kernel goes through keys by blocks, forward and backward, holds no weights of the softmax, and
repeats no keys for the heads that share them. A group of usual length is one piece with a mask. In a long one
the prompt is a piece, of which half of the blocks need not be computed, and each answer is one, so that no
mask grows with the square of the group. For the backward pass queries, keys, values and what was attended to
are kept once, as they stand in the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logratio.batches import Span
from logratio.models.precision import multiplies_bf16
from logratio.models.products import Scratch, applied

LONG = 768
"""Tokens of a group above which no mask `[T, T]` is formed."""
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a row that attend at once."""

    asking: slice
    """Where they stand."""
    seen: tuple[slice, ...]
    """Where what they may see stands; they are the last of it themselves."""
    mask: Tensor | None = None
    """`[asking, seen]`, added to scores; without it each sees those before it and itself."""

    def gathered(self, states: Tensor) -> Tensor:
        """`[s, heads, D]` of what is seen, from the row's `[T, heads, D]`."""
        parts = [states[part] for part in self.seen]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def scatter(self, gradients: Tensor, total: Tensor) -> None:
        """Add `[s, heads, D]` of what is seen to the row's `[T, heads, D]`."""
        sizes = [part.stop - part.start for part in self.seen]
        for part, one in zip(self.seen, gradients.split(sizes), strict=True):
            total[part] += one

    def scores(self, like: Tensor) -> dict[str, Any]:
        """What the kernel is told of who sees whom."""
        if self.mask is not None:
            return {"attn_mask": self.mask.to(like.dtype), "is_causal": False}
        asking, seen = self.asking.stop - self.asking.start, sum(part.stop - part.start for part in self.seen)
        if asking == seen:
            return {"attn_mask": None, "is_causal": True}
        sees = torch.ones(asking, seen, dtype=torch.bool, device=like.device).tril_(seen - asking)
        return {"attn_mask": added(sees, like), "is_causal": False}


class SegmentAttention:
    """Attention over the groups of one row.

    Args:
        spans: the groups, one behind the other, as they stand where each has its own prefix.
        scale: what a query's product with a key is multiplied by.
        like: a tensor of the dtype and on the device in which scores are computed.
        prefix: tokens that all groups begin with, and that the row holds in the first group alone.
        scratch: memory of the row's layers.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        *,
        scale: float,
        like: Tensor,
        prefix: int = 0,
        scratch: Scratch | None = None,
    ) -> None:
        self.scale, self.scratch = scale, scratch or Scratch()
        self.pieces = list(pieces_of(spans, prefix, like))

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`softmax(s·Q Kᵀ + M) V`: `[T, heads, D]`, twice `[T, key heads, D]`, to `[T, heads · D]`."""
        if query.device.type == "cpu":
            return applied(Attended, query, key, value, self.pieces, self.scale, self.scratch).flatten(1)
        return self.by_graph(query, key, value).flatten(1)

    def by_graph(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same for devices with kernels of their own, by way of PyTorch's choice among them."""
        attend = torch.nn.functional.scaled_dot_product_attention
        found = []
        for piece in self.pieces:
            one, met, given = (
                _heads_first(states)
                for states in (query[piece.asking], piece.gathered(key), piece.gathered(value))
            )
            found.append(attend(one, met, given, scale=self.scale, enable_gqa=True, **piece.scores(query)))
        return torch.cat([_tokens_first(one) for one in found])


class Attended(torch.autograd.Function):
    """Attention piece by piece on a CPU, with gradients by the kernel's own backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pieces: Sequence[Piece],
        scale: float,
        scratch: Scratch,
    ) -> Tensor:
        """`[T, heads, D]`, twice `[T, key heads, D]`, to `[T, heads, D]`."""
        found = torch.empty_like(query, memory_format=torch.contiguous_format)
        asked, met, given = map(_readable, (query, key, value))
        # As the kernel lays them, `[T, heads]`: left where it puts them, they would stand between holes.
        wide = asked.new_empty(0, dtype=torch.promote_types(asked.dtype, torch.float32))
        totals = scratch.small(found.shape[:2], wide)
        for piece in pieces:
            states = (asked[piece.asking], piece.gathered(met), piece.gathered(given))
            one, total = flash(*map(_heads_first, states), scale=scale, **piece.scores(asked))
            found[piece.asking], totals[piece.asking] = _tokens_first(one), total[0].T
        ctx.save_for_backward(query, key, value, found, totals)
        ctx.pieces, ctx.scale = pieces, scale
        return found

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values; tokens seen by several pieces have the sum."""
        # Read once: recomputed layers allow no second time.
        saved = ctx.saved_tensors
        slope, asked, met, given, found = map(_readable, (*outer, *saved[:4]))
        to_query, to_key, to_value = torch.empty_like(asked), torch.zeros_like(met), torch.zeros_like(given)
        for piece in ctx.pieces:
            own = piece.asking
            states = (slope[own], asked[own], piece.gathered(met), piece.gathered(given), found[own])
            told, total = piece.scores(asked), saved[4][own].T[None]
            gradients = flash_backward(*map(_heads_first, states), total, 0.0, scale=ctx.scale, **told)
            to_query[own], *of_seen = map(_tokens_first, gradients)
            piece.scatter(of_seen[0], to_key)
            piece.scatter(of_seen[1], to_value)
        narrow = saved[0].dtype
        return to_query.to(narrow), to_key.to(narrow), to_value.to(narrow), None, None, None


def pieces_of(spans: Sequence[Span], prefix: int, like: Tensor) -> Iterator[Piece]:
    """The pieces of a row, which between them hold each of its tokens once."""
    common, edge = slice(0, prefix), prefix
    for span in spans:
        # How far the group has moved up, for the prefixes that are not held.
        shift = edge - prefix - span.start
        # The prefix's own queries are answered in the first group.
        first = edge if span.start else 0
        edge += span.num_tokens - prefix
        if first == edge:
            continue
        if span.num_tokens <= LONG:
            mask = added(seen(span), like)[first - edge :]
            own = slice(edge - span.num_tokens + prefix, edge)
            yield Piece(slice(first, edge), joined(common, own), mask)
            continue
        prompt = slice(prefix + span.start + shift, span.split + shift)
        if first < prompt.stop:
            yield Piece(slice(first, prompt.stop), joined(common, prompt))
        for start, end in span.segments()[1:]:
            if start < end:
                own = slice(start + shift, end + shift)
                yield Piece(own, joined(common, prompt, own))


def joined(*parts: slice) -> tuple[slice, ...]:
    """The same places in as few slices as hold them, without empty ones."""
    found: list[slice] = []
    for part in parts:
        if found and found[-1].stop == part.start:
            found[-1] = slice(found[-1].start, part.stop)
        elif part.start < part.stop:
            found.append(part)
    return tuple(found)


def seen(span: Span) -> Tensor:
    """`[t, t]` of a group: true where a token sees another: its prompt's, its answer's before it, itself."""
    mask = torch.zeros(span.num_tokens, span.num_tokens, dtype=torch.bool)
    for first, end in ((first - span.start, end - span.start) for first, end in span.segments()):
        mask[first:end, : span.split - span.start] = True
        mask[first:end, first:end] = True
    return mask.tril_()


def added(sees: Tensor, like: Tensor) -> Tensor:
    """What is added to scores: 0 where one is seen, −∞ where not."""
    return like.new_zeros(()).masked_fill(~sees.to(like.device), -torch.inf)


def _readable(states: Tensor) -> Tensor:
    """A head's numbers side by side, without which the kernel reads others, in a precision that it has."""
    if states.dtype == torch.bfloat16 and not multiplies_bf16(states.device.type):
        states = states.float()
    return states if states.stride(-1) == 1 else states.contiguous()


def _heads_first(states: Tensor) -> Tensor:
    return states.transpose(0, 1)[None]


def _tokens_first(states: Tensor) -> Tensor:
    return states[0].transpose(0, 1)
