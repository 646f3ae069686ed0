"""Answers side by side, in sets: fixed before training, the worst, the most changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from logratio.report.digits import is_number

SETS = {
    "random": ("Fixed before training", "Drawn at random before anything was trained: not picked by anyone."),
    "worst": ("Worst", "Where the policy's answer has the lowest reward."),
    "most_changed": ("Most changed", "Where policy and reference are furthest apart."),
}
"""Title and meaning of each set, in the order of the page."""
NUM_SHOWN = 8
NOT_NAMES = frozenset({"prompt", "set", "sets", "index", "key", "prompt_key", "columns", "seed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One stage's answer to a prompt."""

    name: str
    """The stage."""
    text: str
    """What it said."""
    reward: float | None
    """The judge's reward."""
    kl: float | None
    """KL to the reference over this answer, nats."""
    length: int | None
    """Tokens."""
    finish_reason: str | None
    """`stop` or `length`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt with every stage's answer."""

    prompt: str
    """The prompt as text."""
    answers: tuple[Answer, ...]
    """The answers, the reference's first."""

    def reward(self, name: str) -> float | None:
        """The reward of a stage's answer."""
        return next((answer.reward for answer in self.answers if answer.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSet:
    """Rows that were chosen for one reason."""

    name: str
    """Key of the set."""
    title: str
    """Heading."""
    meaning: str
    """How the rows were chosen."""
    rows: tuple[Row, ...]
    """The rows."""
    num_all: int
    """How many rows the set has, of which the page shows the first few."""


def answer_sets(report: Mapping[str, Any], order: Sequence[str]) -> list[AnswerSet]:
    """The sets of `report["samples"]`: a list of rows with a `set` (or `sets`) each, or lists by the set's name.

    Rows without a set are shown in their order, and the worst and most changed are chosen among them here.
    """
    by_name: dict[str, list[Row]] = {}
    for name, raw in _named_rows(report.get("samples") or []):
        by_name.setdefault(name, []).append(read_row(raw, order))
    if set(by_name) == {""}:
        by_name = {"": by_name[""], **_choose(by_name[""])}
    ordered = sorted(by_name, key=lambda name: (*SETS, name).index(name))
    return [_answer_set(name, by_name[name]) for name in ordered]


def read_row(raw: Mapping[str, Any], order: Sequence[str]) -> Row:
    """A row `{"prompt", "answers": {stage: …}}`, or with the stages' names beside the prompt."""
    answers = raw.get("answers")
    if not isinstance(answers, Mapping):
        answers = {
            name: value
            for name, value in raw.items()
            if name not in NOT_NAMES and (isinstance(value, str) or (isinstance(value, Mapping) and "text" in value))
        }
    names = sorted(answers, key=lambda name: order.index(name) if name in order else len(order))
    return Row(
        prompt=prompt_text(raw.get("prompt", "")),
        answers=tuple(_read_answer(name, answers[name]) for name in names),
    )


def prompt_text(prompt: Any) -> str:
    """A prompt of messages as text, each turn under its role; a single user turn as it stands."""
    if not isinstance(prompt, list):
        return str(prompt)
    turns = [(turn.get("role", ""), turn.get("content", "")) for turn in prompt if isinstance(turn, Mapping)]
    if len(turns) == 1:
        return str(turns[0][1])
    return "\n\n".join(f"{role}: {content}" for role, content in turns)


def _read_answer(name: str, value: Any) -> Answer:
    if not isinstance(value, Mapping):
        return Answer(name=name, text=str(value), reward=None, kl=None, length=None, finish_reason=None)
    numbers = {key: value[key] if is_number(value.get(key)) else None for key in ("reward", "kl", "length")}
    return Answer(
        name=name, text=str(value.get("text", "")), finish_reason=value.get("finish_reason"), **numbers
    )


def _named_rows(samples: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(samples, Mapping):
        return [(name, row) for name, rows in samples.items() for row in rows]
    return [(name, row) for row in samples for name in row.get("sets") or [row.get("set", "")]]


def _choose(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The worst by the policy's reward, and the most changed by the difference of rewards."""
    judged = [(row.reward("policy"), row.reward("reference"), row) for row in rows]
    worst = [(reward, row) for reward, _, row in judged if reward is not None]
    changed = [(abs(ours - theirs), row) for ours, theirs, row in judged if ours is not None and theirs is not None]
    sets = {
        "worst": [row for _, row in sorted(worst, key=lambda item: item[0])[:NUM_SHOWN]],
        "most_changed": [row for _, row in sorted(changed, key=lambda item: -item[0])[:NUM_SHOWN]],
    }
    return {name: chosen for name, chosen in sets.items() if chosen}


def _answer_set(name: str, rows: Sequence[Row]) -> AnswerSet:
    title, meaning = SETS.get(name, (name or "Answers", "In the order of the file." if not name else ""))
    return AnswerSet(
        name=name or "all", title=title, meaning=meaning, rows=tuple(rows[:NUM_SHOWN]), num_all=len(rows)
    )
