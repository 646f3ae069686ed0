"""How a language model's answers are collected for a policy gradient, and what they are charged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from logratio.errors import BadConfig
from logratio.generation.config import DecodingConfig

HORIZON_SHARE = 20
"""β may change by e^4 over a run whose KL is always a fifth or more off its target: to a fiftieth, or fifty
times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig(DecodingConfig):
    """How answers are collected and what is charged."""

    num_samples: int = 4
    """Answers to each prompt."""
    discount: float = 1.0
    """γ; below 1 early tokens count less for the reward at the end."""
    lam: float = 0.95
    """λ of the generalised advantages."""
    kl_coefficient: float = 0.05
    """β: what a nat of KL divergence to the reference costs, in units of the reward; 0 charges nothing. A
    token is charged β times log π − log π_ref."""
    target_kl: float | None = None
    """KL divergence to the reference wanted, in nats per answer: β is steered to it. Without it β stays."""
    kl_horizon: float | None = None
    """Answers over which a lasting error of the KL changes β by its share, at most a fifth. Without it: a
    twentieth of the run's answers, and an update's at least."""
    truncation: Literal["terminal", "bootstrap"] = "terminal"
    """What follows an answer that was cut off: nothing, or what the critic expects there."""
    truncated_reward: Literal["own", "worst"] = "own"
    """What an answer that was cut off earns: its own reward, or that of the worst answer of the update that
    ended. A reward model that has seen ended answers alone says nothing of others."""
    truncation_penalty: float = 0.0
    """Taken off the reward of an answer that was cut off, whatever it is."""
    reward_baseline: Literal["none", "group"] = "none"
    """What is taken off an answer's reward before a critic is asked: nothing, or the mean reward of the other
    answers to its prompt. A reward model is trained on differences within a prompt alone, so that what its
    scores differ by from prompt to prompt is noise, often most of it."""
    sampling_seed: int = 0
    """Seed of the answers."""

    def __post_init__(self) -> None:
        DecodingConfig.__post_init__(self)
        self._require("num_samples", self.num_samples >= 1, "at least 1")
        for name in ("kl_coefficient", "truncation_penalty", "sampling_seed"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("discount", "lam"):
            self._require(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        if self.reward_baseline == "group":
            self._require("num_samples", self.num_samples >= 2, "at least 2 where the group is the baseline")
        self._require("kl_horizon", self.kl_horizon is None or 0 < self.kl_horizon < math.inf, "above 0")
        self._check_kl_penalty()

    def _check_kl_penalty(self) -> None:
        if self.target_kl is None:
            return
        only = "above 0: only the reference itself is at 0; leave it out for a coefficient that stays"
        self._require("target_kl", 0 < self.target_kl < math.inf, only)
        self._require("kl_coefficient", self.kl_coefficient > 0, "above 0 where --target-kl steers it")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            what = f"{name} is {getattr(self, name)}, it must be {wanted}"
            raise BadConfig(what, where=flag, action=f"change {flag}")


def kl_horizon_of_run(config: CollectorConfig, *, num_answers: float, answers_per_update: int) -> float:
    """The horizon of β's controller for a run of so many answers, where none is given.

    Ziegler et al. took 10,000 for runs of some hundred thousand answers; a run of two thousand would end
    before such a controller had moved.
    """
    if config.kl_horizon is not None:
        return config.kl_horizon
    return max(num_answers / HORIZON_SHARE, float(answers_per_update))
