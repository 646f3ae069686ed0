"""The text that passes between commands: prompts, completions, comparisons.

Records are frozen and know their JSON form; they hold no tensors, so that reading them starts at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """What is said."""

    def to_json(self) -> dict[str, str]:
        """`{"role": …, "content": …}`."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is answered: a text, or the messages up to the answer.

    A text is one user turn where the model has a chat template, and is continued as it stands where it
    has none.
    """

    content: str | tuple[Message, ...]
    """The text or the messages."""

    @classmethod
    def from_json(cls, value: str | Sequence[Mapping[str, Any]]) -> Prompt:
        """Read a text or a list of `{"role", "content"}`."""
        if isinstance(value, str):
            return cls(value)
        return cls(tuple(Message(role=turn["role"], content=turn["content"]) for turn in value))

    def to_json(self) -> str | list[dict[str, str]]:
        """The text, or the list of messages."""
        if isinstance(self.content, str):
            return self.content
        return [message.to_json() for message in self.content]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as messages: a text is one user turn."""
        if isinstance(self.content, str):
            return (Message(role="user", content=self.content),)
        return self.content

    @property
    def key(self) -> str:
        """16 hexadecimal digits that are the same for the same prompt, whatever the file or the form."""
        turns = [[message.role, message.content.strip()] for message in self.messages]
        return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.content)


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

    def to_json(self) -> dict[str, Any]:
        """A JSON object; what is unknown is left out."""
        fields = {
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": self.logprobs,
            "model_logprobs": self.model_logprobs,
            "finish_reason": self.finish_reason,
            "seed": self.seed,
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

    def to_json(self) -> dict[str, Any]:
        """`{"prompt", "completions", …columns}`."""
        return {
            "prompt": self.prompt.to_json(),
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

        The tokens stand under `chosen_completion` and `rejected_completion`, so that any other tool reads
        the three text columns and ours trains on exactly the tokens that were sampled.
        """
        row: dict[str, Any] = {
            "prompt": self.prompt.to_json(),
            "chosen": self.chosen.text,
            "rejected": self.rejected.text,
        }
        if self.tie:
            row["tie"] = True
        if self.chosen.token_ids is not None and self.rejected.token_ids is not None:
            row["chosen_completion"] = self.chosen.to_json()
            row["rejected_completion"] = self.rejected.to_json()
        return row
