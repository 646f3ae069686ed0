"""JSON values into records: prompts, turns and answers, each of the right type or a named fault."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from logratio.data.transcripts import looks_like_transcript_prompt, parse_transcript_prompt
from logratio.errors import BadRoles, MissingColumn, WrongType
from logratio.records import Completion, Message, Prompt

ROLES = ("system", "user", "assistant")
TIE = "tie"
"""The column of comparisons that says that neither answer is preferred."""
ALIASES = {"human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}


def kind_of(value: Any) -> str:
    """A JSON value's type in words."""
    if isinstance(value, list):
        kinds = sorted({kind_of(part) for part in value})
        return f"a list of {' and '.join(kinds)}" if kinds else "an empty list"
    names = {str: "text", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def require_column(row: Mapping[str, Any], column: str, *, where: str) -> None:
    """Raise `MissingColumn` with the columns found and the nearest name, unless the column holds a value."""
    if row.get(column) is not None:
        return
    if column in row:
        raise MissingColumn(f"{column} is null", where=where, action="give it a value or take the row out")
    near = difflib.get_close_matches(column, [*row], n=1, cutoff=0.5)
    raise MissingColumn(
        f"there is no column {column!r}; found: {', '.join(row) or 'none'}",
        where=where,
        action=f"rename {near[0]!r} to {column!r}" if near else f"add the column {column!r}",
    )


def parse_prompt(value: Any, *, where: str) -> Prompt:
    """A prompt from text or messages; a text in the form of HH transcripts becomes its turns.

    Raises:
        WrongType: it is neither.
        BadRoles: the messages are empty, of unknown role, or do not end with the user's turn.
    """
    if isinstance(value, str):
        return parse_transcript_prompt(value) if looks_like_transcript_prompt(value) else Prompt(value)
    turns = parse_turns(value, column="prompt", where=where)
    ensure_prompt_turns(turns, column="prompt", where=where)
    return Prompt(turns)


def parse_tie(row: Mapping[str, Any], *, where: str) -> bool:
    """Whether a comparison is a tie; a row without the column, or with null in it, is none.

    Raises:
        WrongType: the column is neither true nor false.
    """
    tie = row.get(TIE)
    if tie is not None and not isinstance(tie, bool):
        raise WrongType(
            f"{TIE} is {kind_of(tie)}", where=where, action="write true or false, or take the column out"
        )
    return bool(tie)


def parse_turns(value: Any, *, column: str, where: str) -> tuple[Message, ...]:
    """Messages from a list of `{"role", "content"}`.

    Raises:
        WrongType: it is something else.
        BadRoles: it is empty or has an unknown role.
    """
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise WrongType(
            f"{column} is {kind_of(value)}; it must be text or a list of messages",
            where=where,
            action='write it as text, or as [{"role": "user", "content": "…"}, …]',
        )
    if not value:
        raise BadRoles(f"{column} is an empty list of messages", where=where, action="add the messages")
    return tuple(
        _parse_turn(turn, column=f"{column}[{index}]", where=where) for index, turn in enumerate(value)
    )


def _parse_turn(turn: Mapping[str, Any], *, column: str, where: str) -> Message:
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise WrongType(
            f"{column} needs role and content as text; found: {', '.join(turn) or 'nothing'}",
            where=where,
            action='write each message as {"role": "user", "content": "…"}',
        )
    if role not in ROLES:
        near = ALIASES.get(role.lower()) or next(iter(difflib.get_close_matches(role.lower(), ROLES)), None)
        raise BadRoles(
            f"{column} has the unknown role {role!r}",
            where=where,
            action=f"write {near!r} instead" if near else f"the roles are {', '.join(ROLES)}",
        )
    return Message(role=role, content=content)  # type: ignore[arg-type]


def ensure_prompt_turns(turns: Sequence[Message], *, column: str, where: str) -> None:
    """Raise `BadRoles` unless a system turn stands only first and the user has the last word."""
    late = next((index for index, turn in enumerate(turns) if index and turn.role == "system"), None)
    if late is not None:
        raise BadRoles(f"{column}[{late}] is a system turn, which must come first", where=where)
    if not turns or turns[-1].role != "user":
        found = turns[-1].role if turns else "no"
        raise BadRoles(
            f"the turn before the answer is {found!r}, not the user's"
            if turns
            else "no turn precedes the answer",
            where=where,
            action="end the prompt with the user's turn",
        )


def parse_completion(value: Any, *, column: str, where: str) -> Completion:
    """An answer as `logratio sample` writes it: `{"text", "token_ids", "logprobs", …}`.

    Raises:
        WrongType: a field is of the wrong type, or tokens and log-probabilities differ in number.
    """
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise WrongType(f"{column} is not an object with a text", where=where)
    if value.get("finish_reason", "stop") not in ("stop", "length"):
        raise WrongType(
            f"{column}: finish_reason is {value['finish_reason']!r}, not stop or length", where=where
        )
    tokens = value.get("token_ids")
    if tokens is not None and not (_is_list_of(tokens, int) and tokens and min(tokens) >= 0):
        raise WrongType(f"{column}: token_ids is not a list of token ids", where=where)
    for name in ("logprobs", "model_logprobs"):
        numbers = value.get(name)
        if numbers is None:
            continue
        if not _is_list_of(numbers, int, float) or len(numbers) != len(tokens or ()):
            raise WrongType(f"{column}: {name} is not one number for each token", where=where)
    return Completion.from_json(value)


def _is_list_of(value: Any, *kinds: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, kinds) and not isinstance(part, bool) for part in value
    )
