"""The text that passes between commands: prompts, completions, comparisons.

Records are frozen and know their JSON form; they hold no tensors, so that reading them starts at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length"]
PromptFormat = Literal["auto", "chat", "raw"]
PROMPT_FORMAT = "prompt_format"
"""The column that says how a prompt given as text was rendered: `chat` or `raw`."""
TOOLS = "tools"
"""The column with the tools that a conversation may call, as JSON schemas."""
MESSAGE_FIELDS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
"""What chat templates read of a message beside role and content; part of what makes two prompts differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation, as a chat template reads it."""

    role: Role
    """Who speaks."""
    content: str | tuple[Mapping[str, Any], ...] | None = None
    """What is said: a text, parts such as `{"type": "text", "text": …}`, or nothing beside tool calls."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Everything else that was given: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, others."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Message:
        """The inverse of `to_json`; fields that are null are as good as missing."""
        content = value.get("content")
        rest = {name: of for name, of in value.items() if name not in ("role", "content") and of is not None}
        return cls(
            role=value["role"], content=tuple(content) if isinstance(content, list) else content, fields=rest
        )

    def to_json(self) -> dict[str, Any]:
        """`{"role": …, "content": …, …}`, as it was given."""
        content = list(self.content) if isinstance(self.content, tuple) else self.content
        return {"role": self.role, "content": content, **self.fields}

    @property
    def text(self) -> str:
        """What is said as one text; the texts of several parts stand on lines of their own."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part.get("text", "")) for part in self.content or ())

    @property
    def readable(self) -> str:
        """Reasoning, text and tool calls as a person reads them."""
        reasoning = [str(self.fields[name]) for name in MESSAGE_FIELDS[3:] if self.fields.get(name)][:1]
        calls = [_as_json(call) for call in self.fields.get("tool_calls") or ()]
        return "\n\n".join(part for part in (*reasoning, self.text, *calls) if part)

    @property
    def known_fields(self) -> dict[str, Any]:
        """The fields that make this message differ from others of the same role and text."""
        return {name: self.fields[name] for name in MESSAGE_FIELDS if self.fields.get(name)}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is answered: a text, or the messages up to the answer.

    A text is one user turn where the model has a chat template, unless it is to be continued as it stands
    (`raw`), and is continued as it stands where the model has none.
    """

    content: str | tuple[Message, ...]
    """The text or the messages."""
    tools: tuple[Any, ...] = field(default=(), hash=False)
    """JSON schemas of the tools that may be called, for the chat template."""
    format: PromptFormat = "auto"
    """How a text is rendered: as one user turn (`chat`), as it stands (`raw`), or as the model has it."""

    @classmethod
    def from_json(cls, value: str | Sequence[Mapping[str, Any]]) -> Prompt:
        """Read a text or a list of messages."""
        if isinstance(value, str):
            return cls(value)
        return cls(tuple(Message.from_json(turn) for turn in value))

    def to_json(self) -> str | list[dict[str, Any]]:
        """The text, or the list of messages."""
        if isinstance(self.content, str):
            return self.content
        return [message.to_json() for message in self.content]

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> Prompt:
        """The inverse of `columns`."""
        prompt = cls.from_json(row["prompt"])
        return replace(
            prompt, tools=tuple(row.get(TOOLS) or ()), format=row.get(PROMPT_FORMAT) or prompt.format
        )

    def columns(self) -> dict[str, Any]:
        """The columns of a row that say all of it: `prompt`, and `tools` and `prompt_format` if any."""
        row: dict[str, Any] = {"prompt": self.to_json()}
        if self.tools:
            row[TOOLS] = list(self.tools)
        if self.format != "auto":
            row[PROMPT_FORMAT] = self.format
        return row

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as messages: a text is one user turn."""
        if isinstance(self.content, str):
            return (Message(role="user", content=self.content),)
        return self.content

    @property
    def key(self) -> str:
        """16 hexadecimal digits that are the same for the same prompt, whatever the file or the form."""
        turns: list[Any] = [_turn_key(message) for message in self.messages]
        if self.tools:
            turns.append({TOOLS: list(self.tools)})
        return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n\n".join(f"{message.role}: {message.readable}" for message in self.content)


def _turn_key(message: Message) -> list[Any]:
    known = message.known_fields
    return [message.role, message.text.strip(), *([known] if known else [])]


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer, with the tokens and log-probabilities it was sampled with where they are known."""

    text: str
    """The answer as read by a person: no end token, no template."""
    token_ids: tuple[int, ...] | None = None
    """The tokens sampled, the end token included where it was sampled."""
    logprobs: tuple[float, ...] | None = None
    """log-probability of each token under the distribution it was drawn from (temperature, top-k, top-p)."""
    model_logprobs: tuple[float, ...] | None = None
    """log-probability of each token under the model itself: temperature 1, full vocabulary."""
    finish_reason: FinishReason = "stop"
    """`stop`: the model ended the answer; `length`: it was cut off, and has no end token."""
    seed: int | None = None
    """The seed of this answer."""
    message: Message | None = None
    """The answer as a turn, where it says more than its text: reasoning, tool calls, parts."""

    @classmethod
    def of_turn(cls, turn: Message) -> Completion:
        """The answer that an assistant's turn is."""
        plain = isinstance(turn.content, str) and not turn.fields
        return cls(text=turn.text, message=None if plain else turn)

    @property
    def turn(self) -> Message:
        """The answer as the assistant's turn."""
        return self.message or Message(role="assistant", content=self.text)

    @property
    def readable(self) -> str:
        """The answer as a person judges it: with its reasoning and its tool calls."""
        return self.text if self.message is None else self.message.readable

    @property
    def identity(self) -> str:
        """What tells this answer from another to the same prompt: its text, and its further fields."""
        known = {} if self.message is None else self.message.known_fields
        return f"{self.text}\n{_as_json(known)}" if known else self.text

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said: no text but white space, and no tool is called."""
        calls = self.message is not None and bool(self.message.fields.get("tool_calls"))
        return not self.text.strip() and not calls

    def to_json(self) -> dict[str, Any]:
        """A JSON object; what is unknown is left out."""
        fields = {
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": self.logprobs,
            "model_logprobs": self.model_logprobs,
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "message": None if self.message is None else self.message.to_json(),
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if value is not None
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Completion:
        """The inverse of `to_json`."""
        tuples = {
            name: tuple(value[name]) if value.get(name) is not None else None
            for name in ("token_ids", "logprobs", "model_logprobs")
        }
        return cls(
            text=value["text"],
            finish_reason=value.get("finish_reason", "stop"),
            seed=value.get("seed"),
            message=None if value.get("message") is None else Message.from_json(value["message"]),
            **tuples,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt with its answers: a row of a completions file."""

    prompt: Prompt
    """What was answered."""
    completions: tuple[Completion, ...]
    """The answers."""
    columns: Mapping[str, Any]
    """Further columns of the prompt's row, given to reward functions by name."""
    source: str = field(default="", compare=False)
    """Where it was read: `file:line`."""

    def to_json(self) -> dict[str, Any]:
        """`{"prompt", "completions", …columns}`."""
        return {
            **self.prompt.columns(),
            "completions": [completion.to_json() for completion in self.completions],
            **self.columns,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two answers to one prompt, the first preferred."""

    prompt: Prompt
    """What was answered."""
    chosen: Completion
    """The preferred answer."""
    rejected: Completion
    """The other answer."""
    source: str = ""
    """Where it was read: `file:line`."""
    tie: bool = False
    """Whether neither is preferred: `chosen` and `rejected` are then only two answers."""

    def swap(self) -> Comparison:
        """The same pair with the label turned round."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    def to_json(self) -> dict[str, Any]:
        """`{"prompt", "chosen", "rejected"}` as text, with the sampled tokens beside it where known.

        Answers that say more than a text are messages.
        The tokens stand under `chosen_completion` and `rejected_completion`, so that any other tool reads
        the three text columns and ours trains on exactly the tokens that were sampled.
        """
        row: dict[str, Any] = self.prompt.columns()
        as_turns = self.chosen.message is not None or self.rejected.message is not None
        for side, answer in (("chosen", self.chosen), ("rejected", self.rejected)):
            row[side] = [answer.turn.to_json()] if as_turns else answer.text
        if self.tie:
            row["tie"] = True
        if self.chosen.token_ids is not None and self.rejected.token_ids is not None:
            row["chosen_completion"] = self.chosen.to_json()
            row["rejected_completion"] = self.rejected.to_json()
        return row
