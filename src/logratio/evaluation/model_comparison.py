"""From the answers of several models to the same prompts to everything that a report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from logratio.errors import BadConfig, TooFewLabels
from logratio.evaluation import evaluation_warnings
from logratio.evaluation.evaluation_warnings import EvaluationWarning
from logratio.evaluation.length_control import length_controlled_win_rate, longer_share_of_wins
from logratio.evaluation.policy_divergence import Divergence
from logratio.evaluation.sample_rows import JudgedAnswer, SampleRow, choose_rows
from logratio.evaluation.text_statistics import TextStatistics, text_statistics, token_count
from logratio.evaluation.verdict import Verdict, give_verdict
from logratio.evaluation.win_rate import WinRate, win_rate
from logratio.records import Completion, Sample
from logratio.stats.bootstrap import RESAMPLES, Estimate, difference_interval, mean_interval

POLICY, REFERENCE = "policy", "reference"
BY_MODEL = (
    "length",
    "eos_rate",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "repetition",
    "empty_rate",
    "same_opening",
)


class Judge(Protocol):
    """What gives answers their rewards, such as `rollouts.rewards.Reward`."""

    name: str

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Sequence[float | None]]:
        """A number for every answer of every sample, or None where the judge has nothing to say of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What was measured on one model."""

    name: str
    """`reference`, `policy`, or what a model between them is called."""
    rewards: tuple[float, ...]
    """Reward of its answer to each prompt."""
    reward: Estimate
    """Their mean."""
    divergence: Divergence | None
    """Its distance to the reference; None for the reference."""
    kl: Estimate | None
    """Mean exact KL to the reference, in nats per sequence."""
    text: TextStatistics
    """Counts over its answers."""

    def to_json(self) -> dict[str, Any]:
        """One flat object, as a table's row."""
        row: dict[str, Any] = {
            "name": self.name,
            "reward": self.reward.value,
            "reward_interval": [self.reward.low, self.reward.high],
        }
        if self.kl is not None and self.divergence is not None:
            row["kl"] = self.kl.value
            row["kl_interval"] = [self.kl.low, self.kl.high]
            row["kl_log_ratio"] = self.divergence.mean_log_ratio
        return row | self.text.to_json()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadToHead:
    """One model against another on the same prompts."""

    name: str
    """The model whose wins are counted."""
    against: str
    """The other."""
    win_rate: WinRate
    """Ties half."""
    length_controlled: Estimate
    """The win rate at equal length."""
    longer_share_of_wins: float | None
    """Share of the wins with the longer answer; None without a win."""
    reward_difference: Estimate
    """Mean difference of rewards, paired by prompt."""
    identical: int
    """Prompts with the same answer from both."""

    def to_json(self) -> dict[str, Any]:
        """All fields, numbers with their intervals."""
        return {
            "name": self.name,
            "against": self.against,
            "win_rate": self.win_rate.to_json(),
            "length_controlled_win_rate": self.length_controlled.to_json(),
            "longer_share_of_wins": self.longer_share_of_wins,
            "reward_difference": self.reward_difference.to_json(),
            "identical": self.identical,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Everything measured; `to_json` is a report's `report.json`."""

    verdict: Verdict
    """What the comparison of policy and reference shows."""
    stages: tuple[StageResult, ...]
    """The reference, the models between, the policy."""
    contests: tuple[HeadToHead, ...]
    """Policy against reference first; then every other model against the reference, and the policy against
    each."""
    rows: tuple[SampleRow, ...]
    """Every prompt with every answer."""
    warnings: tuple[EvaluationWarning, ...]
    """What to know before believing it."""
    seed: int
    """Seed of the intervals and of the random rows."""

    @property
    def main(self) -> HeadToHead:
        """Policy against reference."""
        return self.contests[0]

    def to_json(self) -> dict[str, Any]:
        """The numbers of `report.json`; whoever ran the evaluation adds data, training and provenance."""
        stages = [stage.to_json() for stage in self.stages]
        against_reference = {
            contest.name: contest.win_rate.to_json()
            for contest in self.contests
            if contest.against == REFERENCE
        }
        measured = {
            name: {stage["name"]: stage[name] for stage in stages if name in stage}
            for name in ("reward", "reward_interval", "kl", "kl_interval", "kl_log_ratio", *BY_MODEL)
        }
        chosen = choose_rows(self.rows, seed=self.seed)
        return {
            "verdict": self.verdict.to_json(),
            "win_rate": self.main.win_rate.to_json(),
            "length_controlled_win_rate": self.main.length_controlled.to_json(),
            "longer_share_of_wins": self.main.longer_share_of_wins,
            "reward_difference": self.main.reward_difference.to_json(),
            "comparisons": [contest.to_json() for contest in self.contests],
            **measured,
            "samples": [{"set": name, **row.to_json()} for name, rows in chosen.items() for row in rows],
            "stages": [
                stage | ({"win_rate": against_reference[stage["name"]]} if stage["name"] != REFERENCE else {})
                for stage in stages
            ],
            "warnings": [warning.to_json() for warning in self.warnings],
        }


def compare(
    samples: Mapping[str, Sequence[Sample]],
    judge: Judge,
    divergences: Mapping[str, Divergence],
    *,
    seed: int = 0,
    trained_on_judge: bool = False,
    warnings: Sequence[EvaluationWarning] = (),
    resamples: int = RESAMPLES,
) -> EvaluationResult:
    """Judge answers of several models to the same prompts and compare the models.

    Prompts to which an answer has no reward are left out, with every model's answer; a warning counts them.

    Args:
        samples: model to its samples; `policy` and `reference` must be there. All hold the same prompts in
            the same order, with one answer each, drawn with the same seeds.
        judge: gives the rewards.
        divergences: every model but the reference to its distance from the reference.
        seed: of the intervals and of the random rows.
        trained_on_judge: the policy was trained towards this very judge.
        warnings: those that are known already.
        resamples: draws of the bootstrap.

    Raises:
        BadConfig: a model is missing, or the models did not answer the same prompts once each.
        TooFewLabels: fewer than two prompts.
    """
    order = ordered_names(samples)
    ensure_comparable({name: samples[name] for name in order})
    kept, rewards = rewards_of_all({name: samples[name] for name in order}, judge)
    ensure_enough(len(kept))
    num_asked = len(samples[REFERENCE])
    unjudged = evaluation_warnings.without_reward(judge.name, num_asked - len(kept), num_asked)
    samples = {name: [samples[name][index] for index in kept] for name in order}
    divergences = {name: value.of(kept) for name, value in divergences.items()}
    answers = {name: [sample.completions[0] for sample in samples[name]] for name in order}
    intervals = {"seed": seed, "resamples": resamples}
    stages = [
        measure_stage(name, answers[name], rewards[name], divergences.get(name), **intervals)
        for name in order
    ]
    contests = [
        compete(name, against, answers, rewards, **intervals) for name, against in pairs_to_compare(order)
    ]
    verdict = give_verdict(
        contests[0].win_rate,
        judge=judge.name,
        length_controlled=contests[0].length_controlled,
        trained_on_judge=trained_on_judge,
    )
    new_warnings = find_warnings(stages, contests[0], verdict, trained_on_judge=trained_on_judge)
    return EvaluationResult(
        verdict=verdict,
        stages=tuple(stages),
        contests=tuple(contests),
        rows=tuple(make_sample_rows(samples, stages)),
        warnings=(*warnings, *unjudged, *new_warnings),
        seed=seed,
    )


def rewards_of_all(
    samples: Mapping[str, Sequence[Sample]], judge: Judge
) -> tuple[list[int], dict[str, list[float]]]:
    """Numbers of the prompts to which every model's answer has a reward, and each model's rewards there.

    The others are left out: prompts are compared in pairs.
    """
    judged = {name: [values[0] for values in judge(own)] for name, own in samples.items()}
    kept = [
        index
        for index, values in enumerate(zip(*judged.values(), strict=True))
        if all(value is not None for value in values)
    ]
    rewards = {
        name: [value for index in kept if (value := values[index]) is not None]
        for name, values in judged.items()
    }
    return kept, rewards


def ordered_names(names: Mapping[str, Any]) -> list[str]:
    """The reference first, the policy last, what is between as it came.

    Raises:
        BadConfig: one of the two is not there.
    """
    missing = [name for name in (POLICY, REFERENCE) if name not in names]
    if missing:
        raise BadConfig(f"there is no {missing[0]} to compare", action="give a policy and a reference")
    return [REFERENCE, *(name for name in names if name not in (POLICY, REFERENCE)), POLICY]


def ensure_comparable(samples: Mapping[str, Sequence[Sample]]) -> None:
    """Same prompts, same order, one answer with its tokens each, at least two of them.

    Raises:
        BadConfig: it is not so.
        TooFewLabels: fewer than two prompts.
    """
    ensure_enough(len(samples[REFERENCE]))
    keys = [sample.prompt.key for sample in samples[REFERENCE]]
    for name, answered in samples.items():
        if [sample.prompt.key for sample in answered] != keys:
            raise BadConfig(
                f"{name} and reference answered different prompts",
                action="let every model answer the same prompts in the same order",
            )
        if any(len(sample.completions) != 1 for sample in answered):
            raise BadConfig(
                f"{name} does not have one answer to each prompt",
                action="sample one answer a prompt: prompts are what is compared and resampled",
            )


def ensure_enough(num_prompts: int) -> None:
    """Raise `TooFewLabels` where no interval can be computed."""
    if num_prompts < 2:
        raise TooFewLabels(
            f"{num_prompts} prompts: an interval needs 2 at least, and a clear result more than 100",
            action="give more held-out prompts",
        )


def pairs_to_compare(order: Sequence[str]) -> list[tuple[str, str]]:
    """Policy against reference, then each step against the reference and the policy against each step."""
    between = order[1:-1]
    steps = [pair for name in between for pair in ((name, REFERENCE), (POLICY, name))]
    return [(POLICY, REFERENCE), *steps]


def measure_stage(
    name: str,
    answers: Sequence[Completion],
    rewards: Sequence[float],
    divergence: Divergence | None,
    *,
    seed: int,
    resamples: int,
) -> StageResult:
    """Mean reward, KL and counts of one model, with intervals by prompt."""
    kl = mean_interval(divergence.exact, seed=seed, resamples=resamples) if divergence else None
    return StageResult(
        name=name,
        rewards=tuple(rewards),
        reward=mean_interval(rewards, seed=seed, resamples=resamples),
        divergence=divergence,
        kl=kl,
        text=text_statistics(answers),
    )


def compete(
    name: str,
    against: str,
    answers: Mapping[str, Sequence[Completion]],
    rewards: Mapping[str, Sequence[float]],
    *,
    seed: int,
    resamples: int,
) -> HeadToHead:
    """One model against another, prompt by prompt."""
    lengths = [[float(token_count(answer)) for answer in answers[side]] for side in (name, against)]
    both = (rewards[name], rewards[against])
    texts = zip(answers[name], answers[against], strict=True)
    return HeadToHead(
        name=name,
        against=against,
        win_rate=win_rate(*both, seed=seed, resamples=resamples),
        length_controlled=length_controlled_win_rate(*both, *lengths),
        longer_share_of_wins=longer_share_of_wins(*both, *lengths),
        reward_difference=difference_interval(*both, seed=seed, resamples=resamples),
        identical=sum(ours.text == theirs.text for ours, theirs in texts),
    )


def find_warnings(
    stages: Sequence[StageResult], main: HeadToHead, verdict: Verdict, *, trained_on_judge: bool
) -> list[EvaluationWarning]:
    """Every warning of `evaluation_warnings` that the comparison can tell."""
    reference, policy = stages[0], stages[-1]
    divergences = {stage.name: stage.divergence for stage in stages if stage.divergence is not None}
    rewards = [reward for stage in stages for reward in stage.rewards]
    return [
        *evaluation_warnings.optimised_proxy(verdict.judge, trained_on_judge),
        *evaluation_warnings.constant_judge(verdict.judge, rewards),
        *evaluation_warnings.means_contradict(verdict.outcome, main.reward_difference),
        *evaluation_warnings.estimates_disagree(divergences),
        *evaluation_warnings.same_opening(policy.text, reference.text),
        *evaluation_warnings.repeated_answer(policy.text, len(policy.rewards)),
    ]


def make_sample_rows(
    samples: Mapping[str, Sequence[Sample]], stages: Sequence[StageResult]
) -> list[SampleRow]:
    """Every prompt with every model's answer, reward and KL."""
    return [
        SampleRow(
            prompt=sample.prompt,
            answers={
                stage.name: JudgedAnswer(
                    completion=samples[stage.name][index].completions[0],
                    reward=stage.rewards[index],
                    kl=stage.divergence.exact[index] if stage.divergence is not None else None,
                )
                for stage in stages
            },
        )
        for index, sample in enumerate(samples[REFERENCE])
    ]
