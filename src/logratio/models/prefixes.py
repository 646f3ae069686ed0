"""What all prompts of a row begin with, such as a system prompt, is read once for all of them.

A token's states depend on what it sees and on its position alone. Tokens that every group of a row begins
with, in the same positions, therefore have the same states in every group: the row is computed without their
copies, and what is asked of a copy is answered from the one that was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from logratio.batches import AnswerGroup, Span

LEAST = 4
"""Tokens below which what is saved is not worth the copying of keys."""


def common_prefix(groups: Sequence[AnswerGroup]) -> int:
    """How many tokens all prompts begin with alike; 0 where they are too few to be shared."""
    columns = zip(*(group.prompt for group in groups), strict=False)
    prefix = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return prefix if prefix >= LEAST else 0


@dataclass(frozen=True, slots=True)
class Compacted:
    """A row without the copies of its prefix: `t` tokens in the place of `T`."""

    prefix: int
    """Tokens that every group begins with; 0: nothing is left out."""
    tokens: Tensor
    """`[t]` token ids."""
    positions: Tensor
    """`[t]` their positions."""
    place: Tensor | None
    """`[T]` where each token of the row stands now; `None`: where it stood."""

    @classmethod
    def of(cls, tokens: Tensor, positions: Tensor, spans: Sequence[Span]) -> Compacted:
        """Leave out what all groups of a row begin with, but for the first.

        Args:
            tokens: `[T]` token ids.
            positions: `[T]` their positions.
            spans: the groups, which fill the row one behind the other.
        """
        prefix = _length(tokens, positions, spans)
        if prefix < LEAST:
            return cls(0, tokens, positions, None)
        repeated = torch.cat([torch.arange(span.start, span.start + prefix) for span in spans[1:]])
        kept = torch.ones(len(tokens), dtype=torch.bool)
        kept[repeated] = False
        place = kept.cumsum(0) - 1
        place[repeated] = torch.arange(prefix).repeat(len(spans) - 1)
        kept, place = kept.to(tokens.device), place.to(tokens.device)
        return cls(prefix, tokens[kept], positions[kept], place)

    def found(self, places: Tensor) -> Tensor:
        """Where tokens of the row at `places` stand now."""
        return places if self.place is None else self.place[places]


def _length(tokens: Tensor, positions: Tensor, spans: Sequence[Span]) -> int:
    """How many tokens every group's prompt begins with, the same tokens in the same positions."""
    if len(spans) < 2:
        return 0
    shortest = min(span.split - span.start for span in spans)
    starts = torch.tensor([span.start for span in spans], device=tokens.device)
    places = starts[:, None] + torch.arange(shortest, device=tokens.device)
    alike = [(found == found[:1]).all(0) for found in (tokens[places], positions[places])]
    return int((alike[0] & alike[1]).long().cumprod(0).sum())
