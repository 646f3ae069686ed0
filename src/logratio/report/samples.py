"""Answers side by side, in sets: fixed before training, the worst, the most changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from logratio.report.formatting import is_number

SETS = {
    "random": ("Fixed before training", "Drawn by lot before anything was trained: nobody picked them."),
    "worst": ("Worst", "Where the policy lost most reward against the reference."),
    "most_changed": ("Most changed", "Where the policy is furthest from the reference in KL."),
    "": ("Answers", "In the order of the file."),
}
"""Title and meaning of each set, in the order of the page; rows without a set come last."""
NUM_SHOWN = 8


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
    """KL to the reference along this answer, nats."""
    length: int | None
    """Tokens."""
    finish_reason: str | None
    """`stop` or `length`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """A prompt with every stage's answer."""

    prompt: str
    """The prompt as text."""
    answers: tuple[Answer, ...]
    """The answers, the reference's first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSet:
    """Rows that were chosen for one reason."""

    title: str
    """Heading."""
    meaning: str
    """How the rows were chosen."""
    rows: tuple[AnswerRow, ...]
    """The first few rows."""
    num_all: int
    """How many rows the set has."""


def answer_sets(report: Mapping[str, Any], order: Sequence[str]) -> list[AnswerSet]:
    """The rows of `report["samples"]` by their `set`, with the first few rows of each.

    Args:
        report: what `collect` gives.
        order: the stages' names in the order in which their answers are shown.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for raw in report.get("samples") or []:
        by_name.setdefault(str(raw.get("set", "")), []).append(raw)
    sets = []
    for name in sorted(by_name, key=lambda name: [*SETS, name].index(name)):
        title, meaning = SETS.get(name, (name, ""))
        rows = tuple(read_row(raw, order) for raw in by_name[name][:NUM_SHOWN])
        sets.append(AnswerSet(title=title, meaning=meaning, rows=rows, num_all=len(by_name[name])))
    return sets


def read_row(raw: Mapping[str, Any], order: Sequence[str]) -> AnswerRow:
    """A row `{"prompt", "answers": {stage: {"text", "reward", "kl", "length", "finish_reason"}}}`."""
    answers = raw.get("answers") or {}
    names = sorted(answers, key=lambda name: order.index(name) if name in order else len(order))
    return AnswerRow(
        prompt=prompt_text(raw.get("prompt", "")),
        answers=tuple(_read_answer(name, answers[name]) for name in names),
    )


def prompt_text(prompt: Any) -> str:
    """A prompt of messages as text, each turn under its role; a single turn as it stands."""
    if not isinstance(prompt, list):
        return str(prompt)
    turns = [(turn.get("role", ""), turn.get("content", "")) for turn in prompt]
    if len(turns) == 1:
        return str(turns[0][1])
    return "\n\n".join(f"{role}: {content}" for role, content in turns)


def reward_differences(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """Reward of the policy's answer minus that of the reference's, for each row that has both."""
    pairs = [
        [(row.get("answers") or {}).get(name, {}).get("reward") for name in ("policy", "reference")]
        for row in samples
    ]
    return [ours - theirs for ours, theirs in pairs if is_number(ours) and is_number(theirs)]


def _read_answer(name: str, value: Mapping[str, Any]) -> Answer:
    reward, kl, length = (
        value[key] if is_number(value.get(key)) else None for key in ("reward", "kl", "length")
    )
    return Answer(
        name=name,
        text=str(value.get("text", "")),
        reward=reward,
        kl=kl,
        length=length,
        finish_reason=value.get("finish_reason"),
    )
