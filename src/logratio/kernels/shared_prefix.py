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

from logratio.packed_rows import AnswerGroup, Span

MIN_SHARED_TOKENS = 4
"""Tokens below which what is saved is not worth the copying of keys."""


def common_prefix(groups: Sequence[AnswerGroup]) -> int:
    """How many tokens all prompts begin with alike; 0 where they are too few to be shared."""
    columns = zip(*(group.prompt for group in groups), strict=False)
    prefix = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return prefix if prefix >= MIN_SHARED_TOKENS else 0


@dataclass(frozen=True, slots=True)
class PrefixSharedRow:
    """A row without the copies of its prefix: `t` tokens in the place of `T`."""

    prefix: int
    """Tokens that every group begins with; 0: nothing is left out."""
    tokens: Tensor
    """`[t]` token ids."""
    positions: Tensor
    """`[t]` their positions."""
    index_map: Tensor | None
    """`[T]` where each token of the row stands now; `None`: where it stood."""

    @classmethod
    def of(cls, tokens: Tensor, positions: Tensor, spans: Sequence[Span]) -> PrefixSharedRow:
        """Leave out what all groups of a row begin with, but for the first.

        Args:
            tokens: `[T]` token ids.
            positions: `[T]` their positions.
            spans: the groups, which fill the row one behind the other.
        """
        prefix = _shared_prefix_length(tokens, positions, spans)
        if prefix < MIN_SHARED_TOKENS:
            return cls(0, tokens, positions, None)
        repeated = torch.cat([torch.arange(span.start, span.start + prefix) for span in spans[1:]])
        kept = torch.ones(len(tokens), dtype=torch.bool)
        kept[repeated] = False
        index_map = kept.cumsum(0) - 1
        index_map[repeated] = torch.arange(prefix).repeat(len(spans) - 1)
        kept, index_map = kept.to(tokens.device), index_map.to(tokens.device)
        return cls(prefix, tokens[kept], positions[kept], index_map)

    def map_indices(self, indices: Tensor) -> Tensor:
        """Where tokens of the row at `indices` stand now."""
        return indices if self.index_map is None else self.index_map[indices]


def _shared_prefix_length(tokens: Tensor, positions: Tensor, spans: Sequence[Span]) -> int:
    """How many tokens every group's prompt begins with, the same tokens in the same positions."""
    if len(spans) < 2:
        return 0
    shortest = min(span.prompt_end - span.start for span in spans)
    starts = torch.tensor([span.start for span in spans], device=tokens.device)
    indices = starts[:, None] + torch.arange(shortest, device=tokens.device)
    alike = [(rows == rows[:1]).all(0) for rows in (tokens[indices], positions[indices])]
    return int((alike[0] & alike[1]).long().cumprod(0).sum())
