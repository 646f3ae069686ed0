"""What a reader must know before believing a report, as far as only the evaluation can tell.

What can be read off the report's own numbers (lengths, variety, distance) is checked by the report itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from logratio.evaluation.policy_divergence import Divergence
from logratio.evaluation.text_statistics import TextStatistics
from logratio.evaluation.verdict import VerdictOutcome
from logratio.stats.bootstrap import Estimate
from logratio.stats.wilson import percent

MAX_DISAGREEMENT = 5.0
"""Standard errors between two estimates of one KL; chance exceeds it about once in a million."""
ENOUGH_ANSWERS = 30
"""Fewer answers say too little about the spread of log-ratios."""
OPENING_RISE = 0.25
"""How much the share of the commonest opening may rise over the reference's: a starting point of ours."""
REPEATED_SHARE = 0.1
"""Share of the answers that may be one and the same text: a starting point of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationWarning:
    """A warning of the report."""

    name: str
    """Its name."""
    severity: Literal["serious", "warning", "note"]
    """How much it matters."""
    what: str
    """What was found."""
    meaning: str
    """What that means."""
    action: str
    """What to do."""

    def to_json(self) -> dict[str, str]:
        """The fields by name."""
        return asdict(self)


def optimised_proxy(judge: str, trained_on_judge: bool) -> list[EvaluationWarning]:
    """The judge is what training optimised."""
    if not trained_on_judge:
        return []
    return [
        EvaluationWarning(
            name="OptimisedProxy",
            severity="warning",
            what=f"The judge {judge} is the reward that the policy was trained towards (an optimised proxy).",
            meaning="A high win rate shows that training reached its aim, not that people would agree.",
            action="Judge with a reward that played no part in training as well, or let people compare.",
        )
    ]


def without_reward(judge: str, missing: int, num_prompts: int) -> list[EvaluationWarning]:
    """The judge had no reward for an answer to some prompts."""
    if not missing:
        return []
    return [
        EvaluationWarning(
            name="PromptsWithoutReward",
            severity="warning",
            what=f"{judge} has no reward for answers to {missing} of {num_prompts} prompts: left out.",
            meaning="Every number is of the other prompts.",
            action="Give prompts that the judge is made for, or a judge for all of them.",
        )
    ]


def judge_saw_prompts(judge: str, seen: int, num_prompts: int) -> list[EvaluationWarning]:
    """The judge is a model that was trained on prompts which the policies are judged on."""
    if not seen:
        return []
    return [
        EvaluationWarning(
            name="JudgeSawPrompts",
            severity="warning",
            what=f"The judge {judge} was trained on {seen} of the {num_prompts} prompts that it judges.",
            meaning="It remembers the answers that were compared there, so its rewards on them are surer than"
            " they are right, and say less of other prompts.",
            action="Evaluate on prompts that neither policy nor judge has seen, or take another judge.",
        )
    ]


def above_bound(name: str, reward: Estimate, kl: Estimate, most: Estimate) -> list[EvaluationWarning]:
    """A model has more reward than any policy can have at its distance from the reference."""
    return [
        EvaluationWarning(
            name="AboveTheBound",
            severity="serious",
            what=f"{name}: reward {reward.value:.3g} ({reward.low:.3g} to {reward.high:.3g}) at a KL of"
            f" {kl.value:.3g} nats, where no policy can have more than {most.value:.3g}"
            f" ({most.low:.3g} to {most.high:.3g}).",
            meaning="This cannot be: the KL or the split is wrong.",
            action="Measure KL on fresh answers at temperature 1, and judge all models on the same held-out"
            " prompts with answers cut at the same length.",
        )
    ]


def off_distribution(*, temperature: float, top_k: int, top_p: float) -> list[EvaluationWarning]:
    """The answers were not drawn from the models themselves, so the KL along them is of another kind."""
    if temperature == 1 and top_k == 0 and top_p == 1:
        return []
    return [
        EvaluationWarning(
            name="KLOffDistribution",
            severity="warning",
            what=f"Answers were drawn at temperature {temperature:g}, top-k {top_k}, top-p {top_p:g}.",
            meaning="KL is a mean over the policy's own answers; along other answers it is another number.",
            action="Quote KL from an evaluation at temperature 1 without top-k and top-p.",
        )
    ]


def estimates_disagree(divergences: Mapping[str, Divergence]) -> list[EvaluationWarning]:
    """Exact KL and log-ratios, two estimates of one number, are too far apart for chance."""
    return [
        EvaluationWarning(
            name="KLEstimatesDisagree",
            severity="serious",
            what=f"{name}: exact KL is {divergence.mean:.3g} nats, the mean log-ratio"
            f" {divergence.mean_log_ratio:.3g}, {divergence.disagreement:.1f} standard errors apart.",
            meaning="The answers were not drawn from this model as it is now, so its KL is not measured.",
            action="Sample anew from the model itself at temperature 1, in the same precision.",
        )
        for name, divergence in divergences.items()
        if len(divergence.exact) >= ENOUGH_ANSWERS and divergence.disagreement > MAX_DISAGREEMENT
    ]


def constant_judge(judge: str, rewards: Sequence[float]) -> list[EvaluationWarning]:
    """The judge gave every answer of every model the same reward."""
    if len(set(rewards)) > 1:
        return []
    return [
        EvaluationWarning(
            name="JudgeConstant",
            severity="serious",
            what=f"{judge} gave all {len(rewards)} answers the reward {rewards[0]:g}.",
            meaning="It tells no answer from another, so this evaluation shows nothing.",
            action="Look at the reward function with a few answers of different quality.",
        )
    ]


def means_contradict(outcome: VerdictOutcome, difference: Estimate) -> list[EvaluationWarning]:
    """Most prompts are won and the mean reward falls, or the other way round."""
    contradiction = (outcome == "better" and difference.high < 0) or (
        outcome == "worse" and difference.low > 0
    )
    if not contradiction:
        return []
    return [
        EvaluationWarning(
            name="MeanContradictsWinRate",
            severity="serious",
            what=f"By win rate the policy is {outcome}; its mean reward differs by {difference.value:+.3g}"
            f" ({difference.low:+.3g} to {difference.high:+.3g}).",
            meaning="Many small gains stand against few large losses, or the other way round.",
            action="Read the worst answers and decide which of the two matters.",
        )
    ]


def same_opening(policy: TextStatistics, reference: TextStatistics) -> list[EvaluationWarning]:
    """The policy begins its answers alike, and the reference does not."""
    if policy.same_opening - reference.same_opening <= OPENING_RISE:
        return []
    return [
        EvaluationWarning(
            name="SameOpening",
            severity="warning",
            what=f"{percent(policy.same_opening, 0)} of the policy's answers begin with “{policy.opening}”;"
            f" the reference's commonest opening has {percent(reference.same_opening, 0)}.",
            meaning="A fixed phrase may be what the judge likes.",
            action="Read the answers, and judge them without their first sentence.",
        )
    ]


def repeated_answer(policy: TextStatistics, num_prompts: int) -> list[EvaluationWarning]:
    """The policy gives one and the same answer to many prompts."""
    text, count = policy.most_frequent[0] if policy.most_frequent else ("", 0)
    if count <= max(1, REPEATED_SHARE * num_prompts):
        return []
    return [
        EvaluationWarning(
            name="RepeatedAnswer",
            severity="serious",
            what=f"{count} of {num_prompts} prompts get the same answer: “{shortened(text)}”.",
            meaning="The policy answers the judge instead of the prompt.",
            action="Raise --beta, train for less, and look for what the judge overrates.",
        )
    ]


def shortened(text: str, *, limit: int = 80) -> str:
    """A text on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
