"""A place for each prompt that is being answered, and in it one for each of its answers.

A prompt's keys and values are kept once for all its answers, and each answer's own beside them, in memory
that is taken once. Answers are in different positions: one that has ended leaves, and a prompt whose answers
have all ended leaves its place to the next. Matrix products are computed for the answers that go on, and for
no padding; attention for whole places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.batches import Span
from logratio.models.decoder import Decoder, JointLayer
from logratio.models.precision import times_few
from logratio.models.prefixes import Compacted
from logratio.models.segments import SegmentAttention

PREFILL_TOKENS = 2048
"""Tokens of prompts that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceSize:
    """What a place has room for."""

    siblings: int
    """Answers to a prompt at a time."""
    prompt_room: int
    """Tokens of the longest prompt."""
    room: int
    """Tokens of the longest answer."""

    def num_bytes(self, decoder: Decoder) -> int:
        """Of its keys and values, in what they are computed in."""
        weight = decoder.copies.widened(decoder.layers[0].self_attn.k_proj.weight)
        a_token = 2 * len(decoder.layers) * len(weight) * weight.element_size()
        return a_token * (self.prompt_room + self.siblings * self.room)


class Grid:
    """What a decoder remembers of prompts and answers.

    Args:
        decoder: the body.
        head: `[V, H]` the output embeddings.
        places: prompts at a time.
        size: of each place.
    """

    def __init__(self, decoder: Decoder, head: Tensor, *, places: int, size: PlaceSize) -> None:
        siblings, prompt_room, room = size.siblings, size.prompt_room, size.room
        self._decoder, self._head = decoder, decoder.copies.widened(head)
        self._layers = [JointLayer.of(layer, decoder.copies) for layer in decoder.layers]
        first = self._layers[0]
        heads, width, like = first.key_heads, first.head_width, self._head
        shape = (len(self._layers), 2, places, heads, prompt_room, width)
        self._prompt = like.new_zeros(shape)
        self._own = like.new_zeros(len(self._layers), 2, places, siblings, heads, room, width)
        self._prompt_lengths = torch.zeros(places, dtype=torch.long, device=like.device)
        self._lengths = torch.zeros(places, siblings, dtype=torch.long, device=like.device)
        self.place = self.column = torch.zeros(0, dtype=torch.long, device=like.device)
        """Where in the grid each row stands: `[rows]` each."""
        self.logits = like.new_zeros(0, len(head))
        """Logits of each row's next token: `[rows, V]`."""

    @property
    def num_places(self) -> int:
        """Prompts at a time."""
        return len(self._prompt_lengths)

    @property
    def free_places(self) -> list[int]:
        """Places that no row stands in, into which prompts can be admitted."""
        taken = set(self.place.tolist())
        return [place for place in range(self.num_places) if place not in taken]

    @torch.no_grad()
    def admit(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        """Read prompts into free places; each has so many new rows, behind those that are there."""
        places = self.free_places[: len(prompts)]
        logits = []
        for start, end in _parts([len(prompt) for prompt in prompts], PREFILL_TOKENS):
            logits.append(self._read(prompts[start:end], places[start:end]))
        device = self.place.device
        repeats = torch.tensor(counts, device=device)
        new = torch.tensor(places, device=device)
        self._lengths[new] = 0
        self.place = torch.cat((self.place, new.repeat_interleave(repeats)))
        self.column = torch.cat((self.column, torch.cat([torch.arange(n, device=device) for n in counts])))
        self.logits = torch.cat((self.logits, torch.cat(logits).repeat_interleave(repeats, dim=0)))

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` alone, from their next token on."""
        rows = rows.to(self.place.device)
        self.place, self.column = self.place[rows], self.column[rows]
        # Of the others the next token's logits are computed before anybody asks for them.
        self.logits = self.logits[:0]

    def shrink(self) -> None:
        """Give up the places that no row stands in; no prompt can be admitted to them any more."""
        used, self.place = self.place.unique(return_inverse=True)
        self._prompt, self._own = self._prompt[:, :, used], self._own[:, :, used]
        self._prompt_lengths, self._lengths = self._prompt_lengths[used], self._lengths[used]

    def _read(self, prompts: Sequence[Sequence[int]], places: Sequence[int]) -> Tensor:
        """Read prompts in one row without padding, what they all begin with once; logits behind each."""
        device, spans, edge = self.place.device, [], 0
        for prompt in prompts:
            spans.append(Span(edge, edge + len(prompt), ()))
            edge += len(prompt)
        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions = torch.cat([torch.arange(len(prompt), device=device) for prompt in prompts])
        compact = Compacted.of(tokens, positions, spans)
        where = [compact.found(torch.arange(span.start, span.split, device=device)) for span in spans]
        hidden, angles = self._decoder.begin(compact.tokens, compact.positions)
        scale = self._layers[0].scaling
        attend = SegmentAttention(spans, scale=scale, like=hidden, prefix=compact.prefix)
        for layer, memory in zip(self._layers, self._prompt, strict=True):
            query, key, value = layer.attended(hidden, *angles)
            for place, own in zip(places, where, strict=True):
                memory[0, place, :, : len(own)] = key[own].transpose(0, 1)
                memory[1, place, :, : len(own)] = value[own].transpose(0, 1)
            hidden = layer.finished(hidden, attend(query, key, value))
        self._prompt_lengths[torch.tensor(places, device=device)] = torch.tensor(
            [len(prompt) for prompt in prompts], device=device
        )
        return self._logits(hidden[torch.stack([own[-1] for own in where])])

    @torch.no_grad()
    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row: `[rows]`."""
        place, column = self.place, self.column
        before = self._lengths[place, column]
        self._lengths[place, column] = before + 1
        positions = self._prompt_lengths[place] + before
        hidden, angles = self._decoder.begin(tokens.to(place.device), positions)
        longest, length = int(self._prompt_lengths[place].max()), int(before.max()) + 1
        masks = self._masks(longest, length, like=hidden)
        for layer, prompt, own in zip(self._layers, self._prompt, self._own, strict=True):
            query, key, value = layer.attended(hidden, *angles)
            own[0, place, column, :, before] = key
            own[1, place, column, :, before] = value
            seen = self._attend(query, prompt[:, :, :, :longest], own[..., :length, :], masks, layer.scaling)
            hidden = layer.finished(hidden, seen)
        self.logits = self._logits(hidden)

    def _masks(self, longest: int, length: int, *, like: Tensor) -> Tensor:
        """`[places, 1, siblings, 1, longest + length]`: 0 for what a row has read, −∞ elsewhere."""
        device, siblings = self.place.device, self._lengths.shape[1]
        prompt = torch.arange(longest, device=device) < self._prompt_lengths[:, None]
        own = torch.arange(length, device=device) < self._lengths[:, :, None]
        seen = torch.cat((prompt[:, None].expand(-1, siblings, -1), own), dim=2)
        # A place that nobody stands in sees nothing; its sums mean nothing and must not be NaN.
        seen[..., 0] = True
        return like.new_zeros(()).masked_fill(~seen, -torch.inf)[:, None, :, None]

    def _attend(self, query: Tensor, prompt: Tensor, own: Tensor, masks: Tensor, scaling: float) -> Tensor:
        """`[rows, heads, D]` to `[rows, heads · D]`, from keys and values of prompts and of answers."""
        _, places, heads, longest, width = prompt.shape
        siblings = own.shape[2]
        whole = query.new_zeros(places, siblings, heads, query.shape[1] // heads, width)
        whole.view(places, siblings, -1, width)[self.place, self.column] = query
        by_head = whole.transpose(1, 2)
        of_prompt = by_head.reshape(places, heads, -1, width) @ prompt[0].transpose(2, 3)
        of_own = (whole @ own[0].transpose(3, 4)).transpose(1, 2)
        scores = torch.cat((of_prompt.view(*by_head.shape[:4], longest), of_own), dim=-1)
        weights = scores.to(masks.dtype).mul_(scaling).add_(masks).softmax(-1).to(query.dtype)
        to_prompt, to_own = weights.split([longest, own.shape[4]], dim=-1)
        found = (
            (to_prompt.reshape(places, heads, -1, longest) @ prompt[1]).view(by_head.shape).transpose(1, 2)
        )
        found = found + to_own.transpose(1, 2) @ own[1]
        return found.reshape(places, siblings, -1)[self.place, self.column]

    def _logits(self, hidden: Tensor) -> Tensor:
        return times_few(self._head, self._decoder.body.norm(hidden).to(self._head.dtype)).contiguous()


def _parts(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs of items of at most `most` tokens together, or of one item."""
    edges, total = [0], 0
    for number, length in enumerate(lengths):
        if total and total + length > most:
            edges.append(number)
            total = 0
        total += length
    return list(zip(edges, [*edges[1:], len(lengths)], strict=True))
