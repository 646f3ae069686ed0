"""Rows without padding in which a prompt is read once for all its answers.

A row lays groups side by side: prompt, answer, answer, …, prompt, answer, …. Positions restart at every
prompt, and each answer's positions go on from its prompt's, so that a token's position is that of the same
sequence alone. The mask keeps answers and groups apart. What the model computes for an answer is therefore
what it computes for prompt and answer alone, up to rounding, for any model whose only path between tokens
is masked attention with positions from `position_ids`.

What all prompts of a row begin with, such as a system prompt, is read once too: a token's states depend on
what it sees and on its position alone, so that what is asked of a copy is answered from the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor

from logratio.packed_rows import AnswerGroup, PackedRow, Span

Layout = Literal["packed", "unpacked"]
MIN_SHARED_TOKENS = 4
"""Tokens below which what is saved is not worth the copying of keys."""


def assign_rows(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Put items of `lengths` tokens into rows of at most `capacity`, first fit in order of falling length.

    An item longer than `capacity` has a row to itself. The result depends on the lengths alone.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        fitting = next((row for row, free in enumerate(room) if free >= lengths[item]), None)
        if fitting is None:
            rows.append([item])
            room.append(capacity - lengths[item])
        else:
            rows[fitting].append(item)
            room[fitting] -= lengths[item]
    return [sorted(row) for row in rows]


def pack(groups: Sequence[AnswerGroup], *, device: torch.device | str = "cpu") -> PackedRow:
    """Lay `groups` in one row, each prompt once.

    Returns:
        A row whose answers are counted group by group: those of `groups[0]` first.
    """
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    source_positions: list[int] = []
    target_ids: list[int] = []
    answer_index: list[int] = []
    num_answers = 0
    for group in groups:
        start, prompt_end = len(tokens), len(tokens) + len(group.prompt)
        tokens += group.prompt
        positions += range(len(group.prompt))
        ends: list[int] = []
        for answer in group.answers:
            first = len(tokens)
            tokens += answer[:-1]
            positions += range(len(group.prompt), len(group.prompt) + len(answer) - 1)
            ends.append(len(tokens))
            source_positions += [prompt_end - 1, *range(first, len(tokens))]
            target_ids += answer
            answer_index += [num_answers] * len(answer)
            num_answers += 1
        spans.append(Span(start, prompt_end, tuple(ends)))
    return PackedRow(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([positions], device=device),
        spans=tuple(spans),
        source_positions=torch.tensor(source_positions, device=device),
        target_ids=torch.tensor(target_ids, device=device),
        answer_index=torch.tensor(answer_index, device=device),
        num_answers=num_answers,
    )


def pack_single(
    prompt: Sequence[int], answer: Sequence[int], *, device: torch.device | str = "cpu"
) -> PackedRow:
    """One prompt and one answer as a plain sequence, with no mask but the model's own causal one."""
    tokens = [*prompt, *answer[:-1]]
    return PackedRow(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.arange(len(tokens), device=device)[None],
        spans=(),
        source_positions=torch.arange(len(prompt) - 1, len(tokens), device=device),
        target_ids=torch.tensor(answer, device=device),
        answer_index=torch.zeros(len(answer), dtype=torch.long, device=device),
        num_answers=1,
    )


# --- what all prompts of a row begin with ------------------------------------------------------------


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


# --- rows that are read to their last token ----------------------------------------------------------


def include_last_token(groups: Sequence[AnswerGroup]) -> list[AnswerGroup]:
    """The same groups, laid so that the last token of every answer is read too.

    A log-probability predicts an answer's last token and never reads it; a score is read behind it. One token
    more, which is neither read nor looked at, makes `pack` and `pack_single` lay exactly that.
    """
    return [
        AnswerGroup(group.prompt, tuple((*answer, answer[-1]) for answer in group.answers))
        for group in groups
    ]


def last_token_positions(row: PackedRow) -> Tensor:
    """Where in a row that was laid `include_last_token` the last token of each answer stands: `[answers]`."""
    ends = torch.bincount(row.answer_index, minlength=row.num_answers).cumsum(0) - 1
    return row.source_positions[ends]
