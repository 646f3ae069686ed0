"""KV cache with a slot for each prompt that is being answered, and in it one for each of its answers.

A prompt's keys and values are kept once for all its answers, and each answer's own beside them, in memory
that is taken once. Answers are in different positions: one that has ended leaves, and a prompt whose answers
have all ended leaves its slot to the next. Matrix products are computed for the answers that go on, and for
no padding; attention for whole slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.generation.engines.merged_layer import MergedQKVLayer
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.packed_attention import SegmentAttention
from logratio.kernels.packing import PrefixSharedRow
from logratio.kernels.precision import small_batch_matmul
from logratio.packed_rows import Span

PREFILL_TOKENS = 2048
"""Tokens of prompts that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSize:
    """What a slot has room for."""

    group_size: int
    """Answers to a prompt at a time."""
    max_prompt_tokens: int
    """Tokens of the longest prompt."""
    room: int
    """Tokens of the longest answer."""

    def num_bytes(self, decoder: Decoder) -> int:
        """Of its keys and values, in what they are computed in."""
        weight = decoder.compute_weights.widened(decoder.layers[0].self_attn.k_proj.weight)
        a_token = 2 * len(decoder.layers) * len(weight) * weight.element_size()
        return a_token * (self.max_prompt_tokens + self.group_size * self.room)


class SharedPromptCache:
    """What a decoder remembers of prompts and answers.

    Args:
        decoder: the body.
        head: `[V, H]` the output embeddings.
        slots: prompts at a time.
        size: of each slot.
    """

    def __init__(self, decoder: Decoder, head: Tensor, *, slots: int, size: SlotSize) -> None:
        group_size, max_prompt_tokens, room = size.group_size, size.max_prompt_tokens, size.room
        self._decoder, self._head = decoder, decoder.compute_weights.widened(head)
        self._layers = [MergedQKVLayer.of(layer, decoder.compute_weights) for layer in decoder.layers]
        first = self._layers[0]
        heads, width, like = first.key_heads, first.head_width, self._head
        shape = (len(self._layers), 2, slots, heads, max_prompt_tokens, width)
        self._prompt_kv = like.new_zeros(shape)
        self._answer_kv = like.new_zeros(len(self._layers), 2, slots, group_size, heads, room, width)
        self._prompt_lengths = torch.zeros(slots, dtype=torch.long, device=like.device)
        self._lengths = torch.zeros(slots, group_size, dtype=torch.long, device=like.device)
        self.slot = self.column = torch.zeros(0, dtype=torch.long, device=like.device)
        """Where in the cache each row stands: `[rows]` each."""
        self.logits = like.new_zeros(0, len(head))
        """Logits of each row's next token: `[rows, V]`."""

    @property
    def num_slots(self) -> int:
        """Prompts at a time."""
        return len(self._prompt_lengths)

    @property
    def free_slots(self) -> list[int]:
        """Places that no row stands in, into which prompts can be admitted."""
        taken = set(self.slot.tolist())
        return [slot for slot in range(self.num_slots) if slot not in taken]

    @torch.no_grad()
    def admit(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        """Prefill prompts into free slots; each has so many new rows, behind those that are there."""
        slots = self.free_slots[: len(prompts)]
        logits = []
        for start, end in _chunks([len(prompt) for prompt in prompts], PREFILL_TOKENS):
            logits.append(self._read(prompts[start:end], slots[start:end]))
        device = self.slot.device
        repeats = torch.tensor(counts, device=device)
        new = torch.tensor(slots, device=device)
        self._lengths[new] = 0
        self.slot = torch.cat((self.slot, new.repeat_interleave(repeats)))
        self.column = torch.cat((self.column, torch.cat([torch.arange(n, device=device) for n in counts])))
        self.logits = torch.cat((self.logits, torch.cat(logits).repeat_interleave(repeats, dim=0)))

    def select_rows(self, rows: Tensor) -> None:
        """Go on with `rows` alone, from their next token on."""
        rows = rows.to(self.slot.device)
        self.slot, self.column = self.slot[rows], self.column[rows]
        # Of the others the next token's logits are computed before anybody asks for them.
        self.logits = self.logits[:0]

    def shrink(self) -> None:
        """Give up the slots that no row stands in; no prompt can be admitted to them any more."""
        used, self.slot = self.slot.unique(return_inverse=True)
        self._prompt_kv, self._answer_kv = self._prompt_kv[:, :, used], self._answer_kv[:, :, used]
        self._prompt_lengths, self._lengths = self._prompt_lengths[used], self._lengths[used]

    def _read(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """Prefill prompts in one row without padding, what they all begin with once; logits behind each."""
        device, spans, edge = self.slot.device, [], 0
        for prompt in prompts:
            spans.append(Span(edge, edge + len(prompt), ()))
            edge += len(prompt)
        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions = torch.cat([torch.arange(len(prompt), device=device) for prompt in prompts])
        compact = PrefixSharedRow.of(tokens, positions, spans)
        token_rows = [
            compact.map_indices(torch.arange(span.start, span.prompt_end, device=device)) for span in spans
        ]
        hidden, angles = self._decoder.begin(compact.tokens, compact.positions)
        scale = self._layers[0].scaling
        attend = SegmentAttention(spans, scale=scale, like=hidden, prefix=compact.prefix)
        for layer, cache in zip(self._layers, self._prompt_kv, strict=True):
            query, key, value = layer.project_qkv(hidden, *angles)
            for slot, own in zip(slots, token_rows, strict=True):
                cache[0, slot, :, : len(own)] = key[own].transpose(0, 1)
                cache[1, slot, :, : len(own)] = value[own].transpose(0, 1)
            hidden = layer.after_attention(hidden, attend(query, key, value))
        self._prompt_lengths[torch.tensor(slots, device=device)] = torch.tensor(
            [len(prompt) for prompt in prompts], device=device
        )
        return self._logits(hidden[torch.stack([own[-1] for own in token_rows])])

    @torch.no_grad()
    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row: `[rows]`."""
        slot, column = self.slot, self.column
        before = self._lengths[slot, column]
        self._lengths[slot, column] = before + 1
        positions = self._prompt_lengths[slot] + before
        hidden, angles = self._decoder.begin(tokens.to(slot.device), positions)
        max_prompt_length, length = int(self._prompt_lengths[slot].max()), int(before.max()) + 1
        masks = self._masks(max_prompt_length, length, like=hidden)
        for layer, prompt, own in zip(self._layers, self._prompt_kv, self._answer_kv, strict=True):
            query, key, value = layer.project_qkv(hidden, *angles)
            own[0, slot, column, :, before] = key
            own[1, slot, column, :, before] = value
            seen = self._attend(
                query, prompt[:, :, :, :max_prompt_length], own[..., :length, :], masks, layer.scaling
            )
            hidden = layer.after_attention(hidden, seen)
        self.logits = self._logits(hidden)

    def _masks(self, max_prompt_length: int, length: int, *, like: Tensor) -> Tensor:
        """`[slots, 1, siblings, 1, longest + length]`: 0 for what a row has read, −∞ elsewhere."""
        device, group_size = self.slot.device, self._lengths.shape[1]
        prompt = torch.arange(max_prompt_length, device=device) < self._prompt_lengths[:, None]
        own = torch.arange(length, device=device) < self._lengths[:, :, None]
        seen = torch.cat((prompt[:, None].expand(-1, group_size, -1), own), dim=2)
        # A slot that nobody stands in sees nothing; its sums mean nothing and must not be NaN.
        seen[..., 0] = True
        return like.new_zeros(()).masked_fill(~seen, -torch.inf)[:, None, :, None]

    def _attend(self, query: Tensor, prompt: Tensor, own: Tensor, masks: Tensor, scaling: float) -> Tensor:
        """`[rows, heads, D]` to `[rows, heads · D]`, from keys and values of prompts and of answers."""
        _, slots, heads, max_prompt_length, width = prompt.shape
        group_size = own.shape[2]
        padded_query = query.new_zeros(slots, group_size, heads, query.shape[1] // heads, width)
        padded_query.view(slots, group_size, -1, width)[self.slot, self.column] = query
        by_head = padded_query.transpose(1, 2)
        of_prompt = by_head.reshape(slots, heads, -1, width) @ prompt[0].transpose(2, 3)
        of_own = (padded_query @ own[0].transpose(3, 4)).transpose(1, 2)
        scores = torch.cat((of_prompt.view(*by_head.shape[:4], max_prompt_length), of_own), dim=-1)
        weights = scores.to(masks.dtype).mul_(scaling).add_(masks).softmax(-1).to(query.dtype)
        to_prompt, to_own = weights.split([max_prompt_length, own.shape[4]], dim=-1)
        attention_output = (
            (to_prompt.reshape(slots, heads, -1, max_prompt_length) @ prompt[1])
            .view(by_head.shape)
            .transpose(1, 2)
        )
        attention_output = attention_output + to_own.transpose(1, 2) @ own[1]
        return attention_output.reshape(slots, group_size, -1)[self.slot, self.column]

    def _logits(self, hidden: Tensor) -> Tensor:
        return small_batch_matmul(
            self._head, self._decoder.body.norm(hidden).to(self._head.dtype)
        ).contiguous()


def _chunks(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs of items of at most `most` tokens together, or of one item."""
    edges, total = [0], 0
    for number, length in enumerate(lengths):
        if total and total + length > most:
            edges.append(number)
            total = 0
        total += length
    return list(zip(edges, [*edges[1:], len(lengths)], strict=True))
