"""Every model's answers to a prompt in one row, and which rows a report shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from logratio.evaluation.text_statistics import token_count
from logratio.records import Completion, Prompt

NUM_RANDOM, NUM_WORST, NUM_CHANGED = 8, 6, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    """One model's answer with what was measured on it."""

    completion: Completion
    """The answer."""
    reward: float
    """What the judge gave it."""
    kl: float | None
    """Exact KL to the reference along it, in nats; None for the reference's own."""

    def to_json(self) -> dict[str, Any]:
        """`{"text", "reward", "kl", "length", "finish_reason", "seed"}`; what is unknown is left out."""
        fields = {
            "text": self.completion.text,
            "reward": self.reward,
            "kl": self.kl,
            "length": token_count(self.completion),
            "finish_reason": self.completion.finish_reason,
            "seed": self.completion.seed,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A prompt with each model's answer, the reference's first."""

    prompt: Prompt
    """What was answered."""
    answers: Mapping[str, JudgedAnswer]
    """Model to answer."""

    @property
    def reward_difference(self) -> float:
        """Reward of the policy's answer minus that of the reference's."""
        return self.answers["policy"].reward - self.answers["reference"].reward

    def to_json(self) -> dict[str, Any]:
        """`{"prompt", "key", "answers": {name: …}}`."""
        answers = {name: answer.to_json() for name, answer in self.answers.items()}
        return {"prompt": self.prompt.to_json(), "key": self.prompt.key, "answers": answers}


def choose_rows(rows: Sequence[SampleRow], *, seed: int) -> dict[str, list[SampleRow]]:
    """The rows of a report: `random`, `worst` and `most_changed`.

    `random` is a function of seed and prompts alone, so that it was fixed before anything was trained.
    `worst` lost most reward against the reference; `most_changed` is furthest from it in KL.
    """
    changed = [row for row in rows if row.answers["policy"].kl is not None]
    return {
        "random": sorted(rows, key=lambda row: prompt_hash(row.prompt, seed))[:NUM_RANDOM],
        "worst": sorted(rows, key=lambda row: row.reward_difference)[:NUM_WORST],
        "most_changed": sorted(changed, key=lambda row: -(row.answers["policy"].kl or 0.0))[:NUM_CHANGED],
    }


def prompt_hash(prompt: Prompt, seed: int) -> str:
    """What the prompt draws when prompts draw lots: a hash of seed and prompt, whatever else there is."""
    return hashlib.sha256(f"{seed}:{prompt.key}".encode()).hexdigest()
