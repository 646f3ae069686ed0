"""Prompts with their answers as tokens, and rows of several of them without padding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """A prompt with all its answers: one for SFT, chosen and rejected for DPO, k for a group.

    The prompt's tokens are computed once for the whole group.
    """

    prompt: TokenIds
    """Tokens up to the answer; never empty, since an answer's first token is predicted from its last."""
    answers: tuple[TokenIds, ...]
    """Tokens of each answer, the end token included where the answer is finished; none is empty."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt has no token to predict the answer from")
        if not self.answers or not all(self.answers):
            raise ValueError("an answer has no token")

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads: the last token of an answer is predicted, never read."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that are predicted."""
        return sum(len(answer) for answer in self.answers)


class Span(NamedTuple):
    """Where a group stands in a row."""

    start: int
    """Its first token."""
    prompt_end: int
    """The first token behind its prompt."""
    answer_ends: tuple[int, ...]
    """The first token behind each of its answers."""

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answers."""
        return (self.prompt_end, *self.answer_ends)[-1] - self.start

    def segments(self) -> list[tuple[int, int]]:
        """First token and end of the prompt, then of each answer."""
        edges = (self.start, self.prompt_end, *self.answer_ends)
        return list(pairwise(edges))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRow:
    """Several answer groups in one row without padding; `T` tokens read, `N` tokens predicted.

    An answer sees its own prompt and itself, never the other answers or the other groups.
    """

    input_ids: Tensor
    """`[1, T]` tokens read."""
    position_ids: Tensor
    """`[1, T]` position in its own sequence, as if it stood alone."""
    spans: tuple[Span, ...]
    """The groups that attention keeps apart, which fill the row; none where it is one plain sequence."""
    source_positions: Tensor
    """`[N]` where in the row the token is read that predicts target n."""
    target_ids: Tensor
    """`[N]` the tokens predicted."""
    answer_index: Tensor
    """`[N]` which answer target n belongs to, counted through the row's groups."""
    num_answers: int
    """How many answers the row holds."""
