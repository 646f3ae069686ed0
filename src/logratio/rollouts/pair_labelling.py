"""Answers with rewards become comparisons: a reward plays the person who says which answer is better.

The label is drawn from Bradley and Terry's model, so that its noise is known exactly and can be reported.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Any, Literal, get_args

from logratio.errors import BadConfig
from logratio.records import Comparison, Completion, Prompt, Sample

Pairing = Literal["best-worst", "all", "adjacent", "random"]
Answer = tuple[float, Completion]
Outcome = Literal["labelled", "identical", "ties", "empty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPair:
    """A comparison with the rewards that its label was drawn from."""

    comparison: Comparison
    """The two answers, the preferred one first."""
    chosen_reward: float
    """Reward of the preferred answer; lower than the other's where noise turned the label."""
    rejected_reward: float
    """Reward of the other answer."""

    def to_json(self) -> dict[str, Any]:
        """The comparison's row with `chosen_reward` and `rejected_reward` beside it."""
        rewards = {"chosen_reward": self.chosen_reward, "rejected_reward": self.rejected_reward}
        return self.comparison.to_json() | rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """What became of every pair: `pairs_considered = labelled + identical + ties + empty`."""

    num_prompts: int
    """Prompts read."""
    num_answers: int
    """Answers read."""
    without_reward: int
    """Answers left out because the reward has none for them."""
    unfinished: int
    """Answers left out because they were cut off at the limit of tokens, where that was asked for."""
    prompts_without_pair: int
    """Prompts with fewer than two answers to pair."""
    pairs_considered: int
    """Pairs that the pairing chose."""
    labelled: int
    """Pairs that became comparisons."""
    identical: int
    """Pairs left out: both answers have the same text."""
    ties: int
    """Pairs left out: equal rewards at temperature 0, which decide nothing."""
    empty: int
    """Pairs left out: an answer is empty or white space, and could not be trained on."""
    against_reward: int
    """Labelled pairs whose preferred answer has the lower reward."""
    expected_against_reward: float
    """How many of those Bradley-Terry expects among the labelled pairs."""

    @property
    def label_noise(self) -> float:
        """Share of the labels that go against the reward; 0 where there are none."""
        return self.against_reward / self.labelled if self.labelled else 0.0

    @property
    def expected_label_noise(self) -> float:
        """The share that Bradley-Terry expects: the mean of `σ(-|r_a - r_b| / temperature)`."""
        return self.expected_against_reward / self.labelled if self.labelled else 0.0

    def to_json(self) -> dict[str, Any]:
        """All counts with the two shares of noise."""
        shares = {"label_noise": self.label_noise, "expected_label_noise": self.expected_label_noise}
        return asdict(self) | shares


def label_pairs(
    samples: Sequence[Sample],
    rewards: Sequence[Sequence[float | None]],
    *,
    pairing: Pairing = "best-worst",
    temperature: float = 0.0,
    seed: int = 0,
    pairs_per_prompt: int = 2,
    finished_only: bool = False,
) -> tuple[list[LabelledPair], LabelCounts]:
    """Choose pairs of answers to the same prompt and draw which is preferred.

    `P(a over b) = σ((r_a - r_b) / temperature)` (Bradley and Terry 1952); at temperature 0 the higher reward
    wins. Each label is a function of the seed, the prompt and the two texts alone: neither the order of
    prompts or answers nor the presence of others changes it.

    Args:
        samples: prompts with their answers.
        rewards: a reward for each answer of each sample; None where it has none, and is left out.
        pairing: `best-worst` is one pair a prompt; `adjacent` pairs neighbours in order of reward; `random`
            draws `pairs_per_prompt` of all pairs; `all` takes all.
        temperature: in units of the reward.
        seed: of the draws.
        pairs_per_prompt: for `random`.
        finished_only: leave out answers that were cut off: who prefers them teaches a model not to end.

    Raises:
        BadConfig: an unknown pairing, a negative or non-finite temperature, no pair a prompt, or rewards
            that do not match the answers.
    """
    check_settings(pairing, temperature, pairs_per_prompt)
    if [len(values) for values in rewards] != [len(sample.completions) for sample in samples]:
        raise BadConfig("the rewards do not match the answers", action="give one reward for each answer")
    pairs: list[LabelledPair] = []
    outcomes: list[Outcome] = []
    expected = 0.0
    unfinished = without_pair = without_reward = 0
    for sample, values in zip(samples, rewards, strict=True):
        rewarded = _rewarded_answers(sample, values)
        answers = [answer for answer in rewarded if not finished_only or answer[1].finish_reason == "stop"]
        without_reward += len(values) - len(rewarded)
        unfinished += len(rewarded) - len(answers)
        without_pair += len(answers) < 2
        for first, second in choose_pairs(sample.prompt, answers, pairing, seed, pairs_per_prompt):
            outcomes.append(outcome := _outcome(first, second, temperature))
            if outcome == "labelled":
                pairs.append(_draw(sample.prompt, first, second, temperature, seed))
                expected += _probability_against(first[0], second[0], temperature)
    counts = LabelCounts(
        num_prompts=len(samples),
        num_answers=sum(len(sample.completions) for sample in samples),
        without_reward=without_reward,
        unfinished=unfinished,
        prompts_without_pair=without_pair,
        pairs_considered=len(outcomes),
        **{outcome: outcomes.count(outcome) for outcome in get_args(Outcome)},
        against_reward=sum(pair.chosen_reward < pair.rejected_reward for pair in pairs),
        expected_against_reward=expected,
    )
    return pairs, counts


def label_probability(first: float, second: float, *, temperature: float) -> float:
    """`σ((first - second) / temperature)`: how probably a label prefers the first of two rewards.

    At temperature 0 it is 1, 0, or 1/2 for equal rewards.
    """
    difference = first - second
    if temperature == 0 or difference == 0:
        return 0.5 + 0.5 * ((difference > 0) - (difference < 0))
    scaled = difference / temperature
    # Either form overflows on one side; each is used where it does not.
    if scaled >= 0:
        return 1.0 / (1.0 + math.exp(-scaled))
    return math.exp(scaled) / (1.0 + math.exp(scaled))


def choose_pairs(
    prompt: Prompt, answers: Sequence[Answer], pairing: Pairing, seed: int, pairs_per_prompt: int
) -> list[tuple[Answer, Answer]]:
    """Pairs out of `answers`, which are in order of reward."""
    if pairing == "best-worst":
        # An empty answer would cost the prompt its only pair, so it is paired only if nothing else is there.
        full = [answer for answer in answers if not answer[1].is_empty]
        ends = full if len(full) >= 2 else answers
        return [(ends[0], ends[-1])] if len(ends) >= 2 else []
    if pairing == "adjacent":
        return list(pairwise(answers))
    every = list(combinations(answers, 2))
    if pairing == "all":
        return every
    drawn = sorted(every, key=lambda pair: _uniform("pair", seed, prompt, *_texts(*pair)))
    return drawn[:pairs_per_prompt]


def _rewarded_answers(sample: Sample, rewards: Sequence[float | None]) -> list[Answer]:
    """The answers that have a reward, by it."""
    both = zip(rewards, sample.completions, strict=True)
    return sorted([(value, answer) for value, answer in both if value is not None], key=_rank)


def _rank(answer: Answer) -> tuple[float, str]:
    return answer[0], answer[1].identity


def _outcome(first: Answer, second: Answer, temperature: float) -> Outcome:
    # The same letter may be written as one character or as two: nobody would see a difference to label.
    texts = [unicodedata.normalize("NFC", answer[1].identity).strip() for answer in (first, second)]
    if first[1].is_empty or second[1].is_empty:
        return "empty"
    if texts[0] == texts[1]:
        return "identical"
    if temperature == 0 and first[0] == second[0]:
        return "ties"
    return "labelled"


def _draw(prompt: Prompt, first: Answer, second: Answer, temperature: float, seed: int) -> LabelledPair:
    # The pair is put in the order of its texts, so that the draw does not depend on how it was come by.
    (a, b) = sorted((first, second), key=lambda answer: answer[1].identity)
    wins = _uniform("label", seed, prompt, *_texts(a, b)) < label_probability(
        a[0], b[0], temperature=temperature
    )
    chosen, rejected = (a, b) if wins else (b, a)
    comparison = Comparison(prompt=prompt, chosen=chosen[1], rejected=rejected[1])
    return LabelledPair(comparison=comparison, chosen_reward=chosen[0], rejected_reward=rejected[0])


def _probability_against(first: float, second: float, temperature: float) -> float:
    if first == second:
        return 0.0
    return label_probability(min(first, second), max(first, second), temperature=temperature)


def _texts(first: Answer, second: Answer) -> tuple[str, ...]:
    return tuple(sorted((first[1].identity, second[1].identity)))


def _uniform(purpose: str, seed: int, prompt: Prompt, *texts: str) -> float:
    """A number in [0, 1) that is a function of the arguments alone."""
    identity = json.dumps([purpose, seed, prompt.key, *texts])
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64


def check_settings(pairing: str, temperature: float, pairs_per_prompt: int) -> None:
    """Refuse settings that mean nothing, before anything is computed.

    Raises:
        BadConfig: an unknown pairing, a negative or non-finite temperature, or no pair a prompt.
    """
    if pairing not in get_args(Pairing):
        raise BadConfig(
            f"unknown pairing {pairing!r}", action=f"choose one of {', '.join(get_args(Pairing))}"
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise BadConfig(
            f"the temperature of the labels is {temperature}",
            where="--temperature",
            action="give 0 (the higher reward wins) or a positive number",
        )
    if pairs_per_prompt < 1:
        raise BadConfig(
            f"{pairs_per_prompt} pairs per prompt", where="--pairs-per-prompt", action="give 1 or more"
        )
