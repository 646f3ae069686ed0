"""Rows without padding in which a prompt is read once for all its answers.

A row lays groups side by side: prompt, answer, answer, …, prompt, answer, …. Positions restart at every
prompt, and each answer's positions go on from its prompt's, so that a token's position is that of the same
sequence alone. The mask keeps answers and groups apart. What the model computes for an answer is therefore
what it computes for prompt and answer alone, up to rounding, for any model whose only path between tokens
is masked attention with positions from `position_ids`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from logratio.batches import AnswerGroup, PackedRow, Span
from logratio.models.attention import with_blocks
from logratio.models.segments import seen

Layout = Literal["shared", "apart"]


def assign_rows(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Put items of `lengths` tokens into rows of at most `capacity`, first fit in order of falling length.

    An item longer than `capacity` has a row to itself. The result depends on the lengths alone.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = next((row for row, free in enumerate(room) if free >= lengths[item]), None)
        if place is None:
            rows.append([item])
            room.append(capacity - lengths[item])
        else:
            rows[place].append(item)
            room[place] -= lengths[item]
    return [sorted(row) for row in rows]


def pack(groups: Sequence[AnswerGroup], *, device: torch.device | str = "cpu") -> PackedRow:
    """Lay `groups` in one row, each prompt once.

    Returns:
        A row whose answers are counted group by group: those of `groups[0]` first.
    """
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    sources: list[int] = []
    targets: list[int] = []
    answer_index: list[int] = []
    num_answers = 0
    for group in groups:
        start, split = len(tokens), len(tokens) + len(group.prompt)
        tokens += group.prompt
        positions += range(len(group.prompt))
        ends: list[int] = []
        for answer in group.answers:
            first = len(tokens)
            tokens += answer[:-1]
            positions += range(len(group.prompt), len(group.prompt) + len(answer) - 1)
            ends.append(len(tokens))
            sources += [split - 1, *range(first, len(tokens))]
            targets += answer
            answer_index += [num_answers] * len(answer)
            num_answers += 1
        spans.append(Span(start, split, tuple(ends)))
    mask = segment_mask(spans, len(tokens))
    return PackedRow(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([positions], device=device),
        attention_mask=with_blocks(mask.to(device), [group.num_tokens for group in groups]),
        spans=tuple(spans),
        sources=torch.tensor(sources, device=device),
        targets=torch.tensor(targets, device=device),
        answer_index=torch.tensor(answer_index, device=device),
        num_answers=num_answers,
    )


def segment_mask(spans: Sequence[Span], num_tokens: int) -> Tensor:
    """`[1, 1, T, T]`: true where a token sees another: prompt and answer before it, and itself."""
    mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for span in spans:
        mask[span.start : span.start + span.num_tokens, span.start : span.start + span.num_tokens] = seen(
            span
        )
    return mask[None, None]


def lay_apart(
    prompt: Sequence[int], answer: Sequence[int], *, device: torch.device | str = "cpu"
) -> PackedRow:
    """One prompt and one answer as a plain sequence, with no mask but the model's own causal one."""
    tokens = [*prompt, *answer[:-1]]
    return PackedRow(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.arange(len(tokens), device=device)[None],
        attention_mask=None,
        spans=(),
        sources=torch.arange(len(prompt) - 1, len(tokens), device=device),
        targets=torch.tensor(answer, device=device),
        answer_index=torch.zeros(len(answer), dtype=torch.long, device=device),
        num_answers=1,
    )


# --- rows that are read to their last token ----------------------------------------------------------


def for_scores(groups: Sequence[AnswerGroup]) -> list[AnswerGroup]:
    """The same groups, laid so that the last token of every answer is read too.

    A log-probability predicts an answer's last token and never reads it; a score is read behind it. One token
    more, which is neither read nor looked at, makes `pack` and `lay_apart` lay exactly that.
    """
    return [
        AnswerGroup(group.prompt, tuple((*answer, answer[-1]) for answer in group.answers))
        for group in groups
    ]


def last_places(row: PackedRow) -> Tensor:
    """Where in a row that was laid `for_scores` the last token of each answer stands: `[answers]`."""
    ends = torch.bincount(row.answer_index, minlength=row.num_answers).cumsum(0) - 1
    return row.sources[ends]
