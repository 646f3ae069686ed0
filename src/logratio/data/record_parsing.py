"""JSON values into records: prompts, turns and answers, each of the right type or a named fault."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from logratio.data.transcripts import looks_like_transcript_prompt, parse_transcript_prompt
from logratio.errors import BadRoles, MissingColumn, PromptFormatMismatch, UnsupportedContent, WrongType
from logratio.records import PROMPT_FORMAT, TOOLS, Completion, Message, Prompt, PromptFormat

ROLES = ("system", "developer", "user", "assistant", "tool")
LARGEST_TOKEN = 2**31 - 1
"""No tokenizer has a larger number."""
TIE = "tie"
"""The column of comparisons that says that neither answer is preferred."""
ALIASES = (
    dict.fromkeys(("human", "prompter"), "user")
    | dict.fromkeys(("gpt", "model", "bot"), "assistant")
    | dict.fromkeys(("function", "ipython"), "tool")
)
FORMATS = ("chat", "raw")
PARQUET = ".parquet:"
"""In the place of a row of a Parquet file."""


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


def parse_prompt_columns(row: Mapping[str, Any], *, where: str) -> Prompt:
    """The prompt of a row, with its tools and the format that its text is rendered in.

    Raises:
        MissingColumn: there is no prompt.
        WrongType, BadRoles, UnsupportedContent: as `parse_prompt` and `dress_prompt`.
    """
    require_column(row, "prompt", where=where)
    value = row["prompt"]
    if row.get(PROMPT_FORMAT) == "raw" and isinstance(value, str):
        return dress_prompt(Prompt(value), row, where=where)
    return dress_prompt(parse_prompt(value, where=where), row, where=where)


def dress_prompt(prompt: Prompt, row: Mapping[str, Any], *, where: str) -> Prompt:
    """The prompt with what further columns say of it: `tools`, and for a text `prompt_format`.

    Raises:
        WrongType: the tools are not a list of JSON objects, or the format is neither `chat` nor `raw`.
    """
    form: PromptFormat = "auto"
    if row.get(PROMPT_FORMAT) is not None:
        form = row[PROMPT_FORMAT]
        if form not in FORMATS:
            raise WrongType(
                f"{PROMPT_FORMAT} is {form!r}", where=where, action=f"write one of {', '.join(FORMATS)}"
            )
    return replace(
        prompt,
        tools=_parse_tools(row.get(TOOLS), where=where),
        format=form if isinstance(prompt.content, str) else "auto",
    )


def _parse_tools(value: Any, *, where: str) -> tuple[Any, ...]:
    """Tools from a list of JSON schemas, or the text of one."""
    tools = value
    if isinstance(value, str) and value.strip():
        try:
            tools = json.loads(value)
        except ValueError:
            tools = value
    if not tools:
        return ()
    if PARQUET in where:
        tools = _without_nulls(tools)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise WrongType(
            f"{TOOLS} is {kind_of(value)}; it must be a list of JSON schemas",
            where=where,
            action='write it as [{"type": "function", "function": {"name": …}}, …], or rename the column',
        )
    return tuple(tools)


def with_prompt_format(row: dict[str, Any], form: PromptFormat, *, where: str) -> dict[str, Any]:
    """The row as `--prompt-format` wants it read.

    Raises:
        PromptFormatMismatch: its answers were sampled with the prompt in the other format.
    """
    if form == "auto" or not isinstance(row.get("prompt"), str | None):
        return row
    known = row.get(PROMPT_FORMAT)
    if known is not None and known != form:
        raise PromptFormatMismatch(
            f"the row says {PROMPT_FORMAT} {known!r}, and {form!r} was asked for",
            where=where,
            action=f"give --prompt-format {known}, or take the column {PROMPT_FORMAT} out of the rows",
        )
    return row | {PROMPT_FORMAT: form}


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
    role = turn.get("role")
    if not isinstance(role, str) or not _says_something(turn):
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
    _ensure_text_parts(turn.get("content"), column=column, where=where)
    _ensure_tool_calls(turn.get("tool_calls"), column=column, where=where)
    return Message.from_json(_without_nulls(turn) if PARQUET in where else turn)


def _without_nulls(value: Any) -> Any:
    """A value without its nulls: Parquet gives every object of a column the fields of all others."""
    if isinstance(value, dict):
        return {name: _without_nulls(of) for name, of in value.items() if of is not None}
    return [_without_nulls(of) for of in value] if isinstance(value, list) else value


def _says_something(turn: Mapping[str, Any]) -> bool:
    """Whether there is content as text or parts, or what may stand without: tool calls, reasoning."""
    content = turn.get("content")
    if content is None:
        return bool(turn.get("tool_calls")) or any(
            isinstance(turn.get(name), str) for name in ("reasoning_content", "reasoning", "thinking")
        )
    return isinstance(content, str | list)


def _ensure_text_parts(content: Any, *, column: str, where: str) -> None:
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            raise WrongType(
                f"{column}.content[{index}] is {kind_of(part)}, not a part",
                where=where,
                action='write each part as {"type": "text", "text": "…"}',
            )
        if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise UnsupportedContent(
                f"{column}.content[{index}] is of type {part.get('type')!r}, and only text is read",
                where=where,
                action="take the row out, or describe in text what it shows",
            )


def _ensure_tool_calls(calls: Any, *, column: str, where: str) -> None:
    if calls is None or (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        return
    raise WrongType(
        f"{column}.tool_calls is {kind_of(calls)}; it must be a list of calls",
        where=where,
        action='write it as [{"type": "function", "function": {"name": …, "arguments": …}}, …]',
    )


def ensure_prompt_turns(turns: Sequence[Message], *, column: str, where: str) -> None:
    """Raise `BadRoles` unless a system turn stands only first and the user has the last word."""
    late = next((index for index, turn in enumerate(turns) if index and turn.role == "system"), None)
    if late is not None:
        raise BadRoles(f"{column}[{late}] is a system turn, which must come first", where=where)
    if not turns or turns[-1].role not in ("user", "tool"):
        last_role = turns[-1].role if turns else "no"
        raise BadRoles(
            f"the turn before the answer is {last_role!r}, not the user's or a tool's"
            if turns
            else "no turn precedes the answer",
            where=where,
            action="end the prompt with the user's turn, or with what a tool answered",
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
    is_ids = _is_list_of(tokens, int) and tokens and 0 <= min(tokens) <= max(tokens) <= LARGEST_TOKEN
    if tokens is not None and not is_ids:
        raise WrongType(f"{column}: token_ids is not a list of token ids", where=where)
    for name in ("logprobs", "model_logprobs"):
        logprobs = value.get(name)
        if logprobs is None:
            continue
        if not _is_list_of(logprobs, int, float) or len(logprobs) != len(tokens or ()):
            raise WrongType(f"{column}: {name} is not one number for each token", where=where)
    if value.get("message") is not None:
        (turn,) = parse_turns([value["message"]], column=f"{column}.message", where=where)
        if turn.text != value["text"]:
            raise WrongType(f"{column}: its text and that of its message differ", where=where)
    return Completion.from_json(value)


def _is_list_of(value: Any, *kinds: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, kinds) and not isinstance(part, bool) for part in value
    )
