"""A reward model at work: one number for a prompt with its answer, read behind the answer's last token.

The prompt is read once for all its answers, and several prompts share a row, as for log-probabilities.
A score is what the same sequence alone would have, up to rounding, whatever stands beside it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from logratio.errors import DataFault, EmptyAnswer
from logratio.kernels.block_diagonal_sdpa import packed_inputs
from logratio.kernels.packing import Layout, include_last_token, last_token_positions
from logratio.kernels.precision import ComputeWeights
from logratio.models import tokenisation
from logratio.models.config_limits import limits_of_model
from logratio.models.forward_errors import refuses_input
from logratio.models.plain_text import escape_control_tokens
from logratio.packed_rows import AnswerGroup, PackedRow, TokenIds
from logratio.policies.language import PackedModel
from logratio.progress import say
from logratio.records import Completion, Prompt

SCORE_TOLERANCE = 1e-3
"""Different orders of the same float32 sums differ by less; a wrong mask, position or place by far more."""


class AnswerScorer(ABC):
    """Gives an answer behind its prompt a number."""

    @abstractmethod
    def encode(self, prompt: Prompt, completion: Completion, *, where: str) -> tuple[TokenIds, TokenIds]:
        """Tokens of a prompt and of an answer.

        Raises:
            DataFault: they cannot be read; at `where`.
        """

    @abstractmethod
    def score_token_ids(
        self, sequences: Sequence[tuple[TokenIds, TokenIds]], *, max_tokens: int = 2048
    ) -> list[float]:
        """Score of every answer behind its prompt, both as tokens."""

    def score(self, texts: Sequence[tuple[Prompt, Completion]], *, max_tokens: int = 2048) -> list[float]:
        """Score of every answer behind its prompt; equal answers to one prompt are computed once.

        Args:
            texts: prompts with an answer each.
            max_tokens: tokens computed at a time.

        Raises:
            DataFault: a prompt or an answer that the tokenizer or its chat template refuses.
        """
        return self.score_token_ids(
            [self.encode(*text, where=f"text {n} to be scored") for n, text in enumerate(texts, start=1)],
            max_tokens=max_tokens,
        )


@contextmanager
def locate_faults(prompt: Prompt, *, where: str) -> Iterator[None]:
    """Say of a `DataFault` that names no place that it is at `where`, in the text of this prompt."""
    try:
        yield
    except DataFault as fault:
        fault.where = fault.where or f"{where} (“{str(prompt).strip()[:60]}”)"
        raise


class RewardModel(PackedModel, AnswerScorer):
    """A model with a scalar head and the layout in which it computes scores.

    Args:
        model: a transformers model for sequence classification with one label, as `models.reward_model`
            opens it.
        tokenizer: its tokenizer.
        layout: as for `LanguagePolicy`: `unpacked` computes each answer as a plain sequence.
    """

    def __init__(self, model: Any, tokenizer: Any, *, layout: Layout = "packed") -> None:
        super().__init__(model, tokenizer, layout=layout)
        self._checked_length = 0

    def num_tokens_read(self, group: AnswerGroup) -> int:
        """Tokens that the model reads of a group for its scores."""
        return num_tokens_read(group)

    def pack(self, groups: Sequence[AnswerGroup]) -> list[PackedRow]:
        """The rows of `groups` in this scorer's layout."""
        return self.rows_of(include_last_token(groups))

    def evaluate(self, row: PackedRow) -> Tensor:
        """Score of every answer of a row: `[answers]`, in float32 at least, differentiable."""
        if row.spans and (decoder := self.decoder) is not None:
            return self._scored(decoder.hidden_states(row, last_token_positions(row)))
        with self.autocast():
            body = self.model.base_model
            hidden = body(input_ids=row.input_ids, use_cache=False, **packed_inputs(row)).last_hidden_state[0]
        return self._scored(hidden[last_token_positions(row)])

    def _scored(self, states: Tensor) -> Tensor:
        scores = self.model.score(states.to(self.model.score.weight.dtype))[:, 0]
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def scores(self, rows: Sequence[PackedRow]) -> Tensor:
        """Score of every answer of several rows: `[answers]`, differentiable."""
        return torch.cat([self.evaluate(row) for row in rows])

    def score_groups(self, groups: Sequence[AnswerGroup], *, max_tokens: int) -> list[list[float]]:
        """Scores of the answers of every group, in their order."""
        return self.values_by_group(groups, self.scores, max_tokens=max_tokens)

    def score_token_ids(
        self, sequences: Sequence[tuple[TokenIds, TokenIds]], *, max_tokens: int = 2048
    ) -> list[float]:
        """Score of every answer behind its prompt, both as tokens; what stands twice is computed once."""
        groups, positions = group_answers(sequences)
        if not groups:
            return []
        longest = max(map(num_tokens_read, groups))
        # What holds for a group of texts holds for shorter ones; to compare again at every call would cost
        # as much as the scores of a small one.
        if longest > self._checked_length:
            self.select_layout(groups)
            self._checked_length = longest
        scores = self.score_groups(groups, max_tokens=max_tokens)
        return [scores[group][answer] for group, answer in positions]

    def encode(self, prompt: Prompt, completion: Completion, *, where: str) -> tuple[TokenIds, TokenIds]:
        """Tokens of a prompt and of an answer, whose text is text: it holds no control token.

        Raises:
            DataFault: this tokenizer or its chat template refuses them, or they are too long; at `where`.
        """
        with locate_faults(prompt, where=where):
            prompt_ids, answer_ids = encode_as_text(self.tokenizer, prompt, completion)
            if not answer_ids:
                raise EmptyAnswer("an answer that was cut off has no token", action="take the row out")
            limits = limits_of_model(self.model)
            limits.ensure_embedded(self.tokenizer, (*prompt_ids, *answer_ids))
            limits.ensure_room(len(prompt_ids) + len(answer_ids))
            return prompt_ids, answer_ids

    def ensure_prompt(self, prompt: Prompt, *, max_new_tokens: int) -> None:
        """Raise a `DataFault` where the prompt cannot be read, or leaves no room for an answer that long."""
        ids = tokenisation.encode_prompt(self.tokenizer, prompt)
        limits_of_model(self.model).ensure_prompt(self.tokenizer, ids, answer=max_new_tokens)

    @torch.no_grad()
    def select_layout(self, groups: Sequence[AnswerGroup]) -> float:
        """Compare packed scores with those of plain sequences; compute apart where they differ.

        As `training.layout_check.select_layout` for log-probabilities: an architecture that mixes tokens
        otherwise than by masked attention is told by its numbers, on the longest group behind one other.

        Returns:
            The largest difference, relative to scores above 1; 0 where everything is computed apart.
        """
        if self.layout == "unpacked":
            return 0.0
        probe = self.probe(groups, lengths=[num_tokens_read(group) for group in groups])
        # What is asked is whether two ways are one, which float32 tells best; the precision comes after.
        plain = copy.copy(self)
        plain.compute_weights = ComputeWeights("fp32")
        unpacked = copy.copy(plain)
        unpacked.layout = "unpacked"
        unpacked_scores = unpacked.scores(unpacked.pack(probe))
        try:
            packed_scores = plain.scores(plain.pack(probe))
            difference = float(
                ((packed_scores - unpacked_scores).abs() / unpacked_scores.abs().clamp(min=1.0)).max()
            )
            reason = f"scores differ by {difference:.2e}" if not difference <= SCORE_TOLERANCE else ""
        except Exception as error:
            if not refuses_input(error):
                raise
            reason = f"{type(error).__name__}: {error}"
        if not reason:
            return difference
        say(
            f"this architecture cannot share a prompt between answers ({reason}); they are computed apart, "
            "which is slower and as exact"
        )
        self.layout = "unpacked"
        return 0.0


def num_tokens_read(group: AnswerGroup) -> int:
    """Tokens that the model reads of a group for its scores: every answer to its last token."""
    return len(group.prompt) + group.num_answer_tokens


def group_answers(
    sequences: Iterable[tuple[TokenIds, TokenIds]],
) -> tuple[list[AnswerGroup], list[tuple[int, int]]]:
    """Sequences as prompts with their different answers, so that each is computed once.

    Args:
        sequences: tokens of a prompt and of an answer.

    Returns:
        The groups in order of their first appearance, and for each sequence the numbers of its group and of
        its answer within the group.
    """
    prompts: dict[TokenIds, int] = {}
    answers: list[dict[TokenIds, int]] = []
    positions = []
    for prompt, answer in sequences:
        group = prompts.setdefault(prompt, len(prompts))
        if group == len(answers):
            answers.append({})
        positions.append((group, answers[group].setdefault(answer, len(answers[group]))))
    groups = [AnswerGroup(prompt, tuple(answers[index])) for prompt, index in prompts.items()]
    return groups, positions


def encode_as_text(tokenizer: Any, prompt: Prompt, completion: Completion) -> tuple[TokenIds, TokenIds]:
    """Tokens of a prompt and of an answer to be judged; control tokens in the answer's text are spelled out.

    Raises:
        DataFault: the tokenizer or its chat template refuses them.
    """
    prompt_ids = tokenisation.encode_prompt(tokenizer, prompt)
    reader, answer = escape_control_tokens(
        tokenizer, drop_foreign_tokens(tokenizer, completion), sampled=completion.token_ids is not None
    )
    if reader is not tokenizer:
        prompt_ids = tokenisation.encode_prompt(reader, prompt)
    return prompt_ids, tokenisation.encode_completion(reader, prompt, answer)


def drop_foreign_tokens(tokenizer: Any, completion: Completion) -> Completion:
    """The answer with its sampled tokens where they say its text to this tokenizer, else the text alone.

    A reward model judges texts; those who wrote them may have other tokens.
    """
    ids = completion.token_ids
    if ids is None:
        return completion
    known = max(ids) < len(tokenizer)
    if known and tokenisation.decode(tokenizer, ids) == completion.text:
        return completion
    return replace(completion, token_ids=None, logprobs=None, model_logprobs=None)
