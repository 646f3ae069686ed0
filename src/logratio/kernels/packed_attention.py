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

from logratio.kernels.fused_layers import Workspace, apply_function
from logratio.kernels.precision import multiplies_bf16
from logratio.packed_rows import Span

LONG = 768
"""Tokens of a group above which no mask `[T, T]` is formed."""
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class AttentionSegment:
    """Tokens of a row that attend at once."""

    query_slice: slice
    """Where they stand."""
    key_slices: tuple[slice, ...]
    """Where what they may see stands; they are the last of it themselves."""
    mask: Tensor | None = None
    """`[queries, keys]`, added to scores; without it each sees those before it and itself."""

    def gather(self, states: Tensor) -> Tensor:
        """`[s, heads, D]` of what is seen, from the row's `[T, heads, D]`."""
        parts = [states[part] for part in self.key_slices]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def scatter_add(self, gradients: Tensor, total: Tensor) -> None:
        """Add `[s, heads, D]` of what is seen to the row's `[T, heads, D]`."""
        sizes = [part.stop - part.start for part in self.key_slices]
        for part, gradient in zip(self.key_slices, gradients.split(sizes), strict=True):
            total[part] += gradient

    def mask_arguments(self, like: Tensor) -> dict[str, Any]:
        """What the kernel is told of who sees whom."""
        if self.mask is not None:
            return {"attn_mask": self.mask.to(like.dtype), "is_causal": False}
        num_queries, num_keys = (
            self.query_slice.stop - self.query_slice.start,
            sum(part.stop - part.start for part in self.key_slices),
        )
        if num_queries == num_keys:
            return {"attn_mask": None, "is_causal": True}
        visible = torch.ones(num_queries, num_keys, dtype=torch.bool, device=like.device)
        visible.tril_(num_keys - num_queries)
        return {"attn_mask": additive_mask(visible, like), "is_causal": False}


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
        workspace: Workspace | None = None,
    ) -> None:
        self.scale, self.workspace = scale, workspace or Workspace()
        self.segments = list(attention_segments(spans, prefix, like))

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`softmax(s·Q Kᵀ + M) V`: `[T, heads, D]`, twice `[T, key heads, D]`, to `[T, heads · D]`."""
        if query.device.type == "cpu":
            return apply_function(
                PackedFlashAttention, query, key, value, self.segments, self.scale, self.workspace
            ).flatten(1)
        return self.by_sdpa(query, key, value).flatten(1)

    def by_sdpa(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same for devices with kernels of their own, by way of PyTorch's choice among them."""
        attend = torch.nn.functional.scaled_dot_product_attention
        output = []
        for segment in self.segments:
            queries, keys, values = (
                _heads_first(states)
                for states in (query[segment.query_slice], segment.gather(key), segment.gather(value))
            )
            output.append(
                attend(
                    queries, keys, values, scale=self.scale, enable_gqa=True, **segment.mask_arguments(query)
                )
            )
        return torch.cat([_tokens_first(attended) for attended in output])


class PackedFlashAttention(torch.autograd.Function):
    """Attention piece by piece on a CPU, with gradients by the kernel's own backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Sequence[AttentionSegment],
        scale: float,
        workspace: Workspace,
    ) -> Tensor:
        """`[T, heads, D]`, twice `[T, key heads, D]`, to `[T, heads, D]`."""
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        queries, keys, values = map(_readable, (query, key, value))
        # As the kernel lays them, `[T, heads]`: left where it puts them, they would stand between holes.
        wide = queries.new_empty(0, dtype=torch.promote_types(queries.dtype, torch.float32))
        logsumexps = workspace.empty_small(output.shape[:2], wide)
        for segment in segments:
            states = (queries[segment.query_slice], segment.gather(keys), segment.gather(values))
            attended, logsumexp = flash(
                *map(_heads_first, states), scale=scale, **segment.mask_arguments(queries)
            )
            output[segment.query_slice], logsumexps[segment.query_slice] = (
                _tokens_first(attended),
                logsumexp[0].T,
            )
        ctx.save_for_backward(query, key, value, output, logsumexps)
        ctx.segments, ctx.scale = segments, scale
        return output

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values; tokens seen by several pieces have the sum."""
        # Read once: recomputed layers allow no second time.
        saved = ctx.saved_tensors
        grad_output, queries, keys, values, output = map(_readable, (*outer, *saved[:4]))
        to_query, to_key, to_value = (
            torch.empty_like(queries),
            torch.zeros_like(keys),
            torch.zeros_like(values),
        )
        for segment in ctx.segments:
            own_tokens = segment.query_slice
            states = (
                grad_output[own_tokens],
                queries[own_tokens],
                segment.gather(keys),
                segment.gather(values),
                output[own_tokens],
            )
            arguments, logsumexp = segment.mask_arguments(queries), saved[4][own_tokens].T[None]
            gradients = flash_backward(
                *map(_heads_first, states), logsumexp, 0.0, scale=ctx.scale, **arguments
            )
            to_query[own_tokens], *of_keys = map(_tokens_first, gradients)
            segment.scatter_add(of_keys[0], to_key)
            segment.scatter_add(of_keys[1], to_value)
        narrow = saved[0].dtype
        return to_query.to(narrow), to_key.to(narrow), to_value.to(narrow), None, None, None


def attention_segments(spans: Sequence[Span], prefix: int, like: Tensor) -> Iterator[AttentionSegment]:
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
            mask = additive_mask(group_mask(span), like)[first - edge :]
            own_tokens = slice(edge - span.num_tokens + prefix, edge)
            yield AttentionSegment(slice(first, edge), merge_slices(common, own_tokens), mask)
            continue
        prompt = slice(prefix + span.start + shift, span.prompt_end + shift)
        if first < prompt.stop:
            yield AttentionSegment(slice(first, prompt.stop), merge_slices(common, prompt))
        for start, end in span.segments()[1:]:
            if start < end:
                own_tokens = slice(start + shift, end + shift)
                yield AttentionSegment(own_tokens, merge_slices(common, prompt, own_tokens))


def merge_slices(*parts: slice) -> tuple[slice, ...]:
    """The same places in as few slices as hold them, without empty ones."""
    merged: list[slice] = []
    for part in parts:
        if merged and merged[-1].stop == part.start:
            merged[-1] = slice(merged[-1].start, part.stop)
        elif part.start < part.stop:
            merged.append(part)
    return tuple(merged)


def group_mask(span: Span) -> Tensor:
    """`[t, t]` of a group: true where a token sees another: its prompt's, its answer's before it, itself."""
    mask = torch.zeros(span.num_tokens, span.num_tokens, dtype=torch.bool)
    for first, end in ((first - span.start, end - span.start) for first, end in span.segments()):
        mask[first:end, : span.prompt_end - span.start] = True
        mask[first:end, first:end] = True
    return mask.tril_()


def additive_mask(visible: Tensor, like: Tensor) -> Tensor:
    """What is added to scores: 0 where one is seen, −∞ where not."""
    return like.new_zeros(()).masked_fill(~visible.to(like.device), -torch.inf)


def _readable(states: Tensor) -> Tensor:
    """A head's numbers side by side, without which the kernel reads others, in a precision that it has."""
    if states.dtype == torch.bfloat16 and not multiplies_bf16(states.device.type):
        states = states.float()
    return states if states.stride(-1) == 1 else states.contiguous()


def _heads_first(states: Tensor) -> Tensor:
    return states.transpose(0, 1)[None]


def _tokens_first(states: Tensor) -> Tensor:
    return states[0].transpose(0, 1)
