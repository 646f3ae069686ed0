"""Rows into comparisons, in every form that preference data comes in.

- `prompt`, `chosen`, `rejected` as text, or each as messages, the answer being one assistant turn;
- `chosen` and `rejected` as messages that begin with the prompt's turns, with or without a `prompt` column;
- `chosen` and `rejected` as whole transcripts, as in HH, with no `prompt` column;
- the rows of `logratio label`, which carry the sampled tokens beside the text.

In each of them `"tie": true` says that neither answer is preferred.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from logratio.data.given_rows import RowSource
from logratio.data.jsonl import JUDGE, SourceRow, collect, scan_rows
from logratio.data.record_parsing import (
    TIE,
    dress_prompt,
    ensure_prompt_turns,
    kind_of,
    parse_completion,
    parse_prompt,
    parse_prompt_columns,
    parse_tie,
    parse_turns,
    require_column,
    with_prompt_format,
)
from logratio.data.transcripts import (
    looks_like_transcript,
    looks_like_transcript_prompt,
    parse_transcript_prompt,
    split_transcript,
    strip_space,
)
from logratio.data.unusable_rows import UnusableRow, line_of
from logratio.errors import (
    BadRoles,
    EmptyAnswer,
    IdenticalPair,
    PromptNotShared,
    WrongType,
)
from logratio.records import PROMPT_FORMAT, TOOLS, Comparison, Completion, Message, Prompt, PromptFormat

SIDES = ("chosen", "rejected")
COLUMNS = ("prompt", *SIDES, "chosen_completion", "rejected_completion", JUDGE, TIE, TOOLS, PROMPT_FORMAT)
"""What is read of a row of comparisons, whatever is trained on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """Every row of a file: `num_rows == len(comparisons) + len(unusable)`."""

    comparisons: list[Comparison]
    """The rows that are comparisons, in the file's order."""
    unusable: list[UnusableRow]
    """The others, in the file's order."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """How many of the comparisons have each column."""

    @property
    def num_rows(self) -> int:
        """How many rows were read; blank lines hold none."""
        return len(self.comparisons) + len(self.unusable)

    def without(self, rows: Iterable[UnusableRow]) -> ReadResult:
        """The same with those of `rows` that are comparisons left out for the reason that they bring."""
        reasons = {row.source: row for row in rows}
        left_out = [reasons[row.source] for row in self.comparisons if row.source in reasons]
        kept = [row for row in self.comparisons if row.source not in reasons]
        return replace(self, comparisons=kept, unusable=sorted(self.unusable + left_out, key=line_of))


def read_comparisons(
    path: RowSource, *, limit: int | None = None, prompt_format: PromptFormat = "auto"
) -> ReadResult:
    """Read comparisons; the faults of single rows are collected with their name and place.

    Args:
        path: JSON Lines, also `.gz`, or Parquet; or rows in memory.
        limit: read only so many rows.
        prompt_format: how prompts given as text are rendered, where a row does not say it itself.

    Raises:
        FileNotReadable: there is no such file, or it is empty, cut off or of another kind.
        BadJsonLine, BadEncoding, RowNotObject: not one line is a JSON object, so that this is no JSON Lines.
        BadConfig: `limit` is below 1.
    """

    def parse(row: SourceRow) -> Comparison:
        value = with_prompt_format(row.value, prompt_format, where=row.source)
        return parse_comparison(value, where=row.source)

    read = collect(path, scan_rows(path), parse, limit=limit)
    return ReadResult(comparisons=read.usable, unusable=read.unusable, columns=read.columns)


def parse_comparison(row: Mapping[str, Any], *, where: str) -> Comparison:
    """One row.

    Raises:
        MissingColumn, WrongType, BadRoles: the row is not in one of the forms above.
        PromptNotShared: the two answers are not answers to the same prompt.
        EmptyAnswer, IdenticalPair: there is nothing to prefer.
    """
    for column in SIDES:
        require_column(row, column, where=where)
    values = [row[column] for column in SIDES]
    if all(isinstance(value, str) for value in values):
        prompt, texts = _parse_texts(row, where=where)
        answers = [Completion(text=text) for text in texts]
    elif any(isinstance(value, str) for value in values) and all(
        isinstance(value, str | list) for value in values
    ):
        raise WrongType(
            f"chosen is {kind_of(values[0])} and rejected is {kind_of(values[1])}",
            where=where,
            action="write both in the same form",
        )
    else:
        prompt, turns = _parse_conversations(row, where=where)
        answers = [Completion.of_turn(turn) for turn in turns]
    chosen, rejected = (
        _completion(row, column, answer, where=where) for column, answer in zip(SIDES, answers, strict=True)
    )
    _ensure_two_answers(chosen, rejected, where=where)
    prompt = dress_prompt(prompt, row, where=where)
    return Comparison(
        prompt=prompt, chosen=chosen, rejected=rejected, source=where, tie=parse_tie(row, where=where)
    )


def _parse_texts(row: Mapping[str, Any], *, where: str) -> tuple[Prompt, tuple[str, str]]:
    chosen, rejected = row["chosen"], row["rejected"]
    raw = row.get(PROMPT_FORMAT) == "raw"
    if raw and row.get("prompt") is not None:
        return parse_prompt_columns(row, where=where), (chosen, rejected)
    if row.get("prompt") is None:
        if not (looks_like_transcript(chosen) or looks_like_transcript(rejected)):
            require_column(row, "prompt", where=where)
        return _parse_transcripts(chosen, rejected, raw=raw, where=where)
    prompt = row["prompt"]
    if isinstance(prompt, str) and looks_like_transcript_prompt(prompt):
        # Some copies of HH repeat the prompt before both answers.
        if chosen.startswith(prompt) and rejected.startswith(prompt):
            return _parse_transcripts(chosen, rejected, raw=False, where=where)
        chosen, rejected = strip_space(chosen), strip_space(rejected)
    return parse_prompt(prompt, where=where), (chosen, rejected)


def _parse_transcripts(
    chosen: str, rejected: str, *, raw: bool, where: str
) -> tuple[Prompt, tuple[str, str]]:
    prompt, answer = split_transcript(chosen, column="chosen", where=where)
    other_prompt, other_answer = split_transcript(rejected, column="rejected", where=where)
    if prompt != other_prompt:
        raise PromptNotShared(
            f"the transcripts differ before their last answers: {_difference(prompt, other_prompt)}",
            where=where,
            action="give both answers to the same conversation, or take the row out",
        )
    if raw:
        return Prompt(prompt), (answer, other_answer)
    return parse_transcript_prompt(prompt), (strip_space(answer), strip_space(other_answer))


def _parse_conversations(row: Mapping[str, Any], *, where: str) -> tuple[Prompt, tuple[Message, Message]]:
    chosen, rejected = (parse_turns(row[column], column=column, where=where) for column in SIDES)
    for column, turns in zip(SIDES, (chosen, rejected), strict=True):
        if turns[-1].role != "assistant":
            raise BadRoles(
                f"the last turn of {column} is {turns[-1].role!r}, not the assistant's",
                where=where,
                action="end it with the assistant's answer",
            )
    if chosen[:-1] != rejected[:-1]:
        raise PromptNotShared(
            "the turns before the last answers differ",
            where=where,
            action="give both answers to the same conversation, or take the row out",
        )
    return _settle_prompt(row, chosen[:-1], where=where), (chosen[-1], rejected[-1])


def _settle_prompt(row: Mapping[str, Any], lead: tuple[Message, ...], *, where: str) -> Prompt:
    """The prompt from its column, from the turns `lead` before the answers, or from both if they agree."""
    if not lead:
        return parse_prompt_columns(row, where=where)
    if row.get("prompt") is not None and lead[0].role == "assistant":
        # The assistant called tools before it answered: what led to the answer is what it is answered from.
        lead = (*parse_prompt(row["prompt"], where=where).messages, *lead)
    ensure_prompt_turns(lead, column="chosen", where=where)
    if row.get("prompt") is None:
        return Prompt(lead)
    column = parse_prompt(row["prompt"], where=where)
    if isinstance(column.content, str):
        agrees = any(turn.text.strip() == column.content.strip() for turn in lead if turn.role == "user")
    else:
        agrees = lead[: len(column.content)] == column.content
    if not agrees:
        raise PromptNotShared(
            "the prompt column and the turns before the answers differ",
            where=where,
            action="drop the prompt column, or keep only the answer in chosen and rejected",
        )
    return Prompt(lead)


def _completion(row: Mapping[str, Any], column: str, answer: Completion, *, where: str) -> Completion:
    """The answer, with its sampled tokens where the row carries them."""
    name = f"{column}_completion"
    if row.get(name) is None:
        return answer
    completion = parse_completion(row[name], column=name, where=where)
    if completion.text != answer.text:
        raise WrongType(
            f"{column} and the text of {name} differ, so that its tokens are not those of {column}",
            where=where,
            action=f"take {name} out of rows whose text was edited",
        )
    return replace(completion, message=answer.message or completion.message)


def _ensure_two_answers(chosen: Completion, rejected: Completion, *, where: str) -> None:
    for column, answer in zip(SIDES, (chosen, rejected), strict=True):
        if answer.is_empty:
            raise EmptyAnswer(f"{column} is empty: {answer.text!r}", where=where, action="take the row out")
    if normalise(chosen.identity) == normalise(rejected.identity):
        raise IdenticalPair(
            f"chosen and rejected are the same: {chosen.identity.strip()[:40]!r}",
            where=where,
            action="take the row out",
        )


def normalise(text: str) -> str:
    """A text without the differences that nobody sees: composed characters, white space around it."""
    return unicodedata.normalize("NFC", text).strip()


def _difference(left: str, right: str) -> str:
    start = next(
        (index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    return f"…{left[start : start + 30]!r} against …{right[start : start + 30]!r}"
