"""What the numbers of a run warn of: each check is a function of the report, with its threshold in words.

A check says nothing (`None`) where its number was not measured. Thresholds marked † are starting points of
ours; the others are published or follow from arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from logratio.report.counts import totals
from logratio.report.digits import is_number, number, percent

Severity = Literal["serious", "warning", "note"]

FEW_PROMPTS = 100
MANY_TIES = 0.3  # †
LENGTH_RATIO = (0.7, 1.3)  # †
EOS_WARNING, EOS_SERIOUS = 0.8, 0.5
KL_WARNING, KL_SERIOUS, KL_UNMOVED = 30.0, 50.0, 0.1
DISTINCT_DROP = 0.8  # †
REPETITION_RISE = 0.1  # †
CHOSEN_FLOOR, CHOSEN_FALLS, REJECTED_GAP = -5.0, -0.5, 1.0  # †
SATURATED = 0.05  # †
MEMORISED = 0.98  # †
TAIL, MIN_TAIL = 0.1, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    name: str
    """The check's name."""
    severity: Severity
    """How much it matters where it is raised."""
    raised: bool
    """Whether the threshold was crossed."""
    value: float
    """What was measured."""
    threshold: str
    """When it is raised."""
    what: str
    """What was found."""
    meaning: str
    """What that means."""
    action: str
    """What to do."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


Check = Callable[[Mapping[str, Any]], Finding | None]


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """The results of all checks whose numbers are there, serious ones first."""
    made = [finding for check in CHECKS if (finding := check(report)) is not None]
    order = {"serious": 0, "warning": 1, "note": 2}
    return sorted(made, key=lambda finding: order[finding.severity])


# --- reading the report -----------------------------------------------------------------------------


def measured(report: Mapping[str, Any], *keys: str) -> float | None:
    """The number under `keys`, one inside the other; `None` where there is none."""
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if is_number(value) else None


def curve(report: Mapping[str, Any], stage: str, name: str) -> list[float]:
    """The numbers of a training curve, in order."""
    value: Any = report
    for key in ("training", stage, "curves", name):
        value = value.get(key) if isinstance(value, Mapping) else None
    return [one for one in value if is_number(one)] if isinstance(value, list) else []


def tail_mean(values: Sequence[float]) -> float | None:
    """The mean over the last tenth of a curve, over at least 5 values; `None` for a shorter curve."""
    if len(values) < MIN_TAIL:
        return None
    tail = values[-max(MIN_TAIL, math.ceil(len(values) * TAIL)) :]
    return sum(tail) / len(tail)


# --- the verdict ------------------------------------------------------------------------------------


def verdict_beyond_interval(report: Mapping[str, Any]) -> Finding | None:
    """The verdict claims more than the win rate's interval allows."""
    verdict = report.get("verdict")
    low, high = measured(report, "win_rate", "low"), measured(report, "win_rate", "high")
    if not isinstance(verdict, Mapping) or low is None or high is None:
        return None
    outcome = verdict.get("outcome")
    beyond = (outcome == "better" and low <= 0.5) or (outcome == "worse" and high >= 0.5)
    return Finding(
        name="VerdictBeyondInterval",
        severity="serious",
        raised=beyond,
        value=low if outcome == "better" else high,
        threshold="better needs an interval above 50 %, worse one below",
        what=f"The verdict is “{outcome}”, and the interval is {percent(low)} to {percent(high)}.",
        meaning="The interval holds 50 %, so this data does not show a difference.",
        action="Read it as not shown; evaluate on more prompts.",
    )


def interval_holds_half(report: Mapping[str, Any]) -> Finding | None:
    """The win rate's interval holds one half."""
    low, high = measured(report, "win_rate", "low"), measured(report, "win_rate", "high")
    if low is None or high is None:
        return None
    return Finding(
        name="NotShown",
        severity="note",
        raised=low <= 0.5 <= high,
        value=low,
        threshold="the interval holds 50 %",
        what=f"The win rate's interval is {percent(low)} to {percent(high)}.",
        meaning="Neither better nor worse is shown: chance alone gives such a result often.",
        action="Evaluate on more prompts, or train for longer, with more pairs or a larger step.",
    )


def few_prompts(report: Mapping[str, Any]) -> Finding | None:
    """Too few prompts for a narrow interval."""
    count = measured(report, "win_rate", "n")
    if count is None:
        return None
    half_width = 0.98 / math.sqrt(max(count, 1))
    return Finding(
        name="FewPrompts",
        severity="warning",
        raised=count < FEW_PROMPTS,
        value=count,
        threshold=f"fewer than {FEW_PROMPTS} prompts",
        what=f"The win rate is measured on {number(count)} prompts.",
        meaning=f"Near 50 % the interval reaches about {percent(half_width, 0)} to each side.",
        action="Evaluate on more held-out prompts.",
    )


def many_ties(report: Mapping[str, Any]) -> Finding | None:
    """The judge often cannot tell the answers apart."""
    ties, count = measured(report, "win_rate", "ties"), measured(report, "win_rate", "n")
    if ties is None or not count:
        return None
    return Finding(
        name="ManyTies",
        severity="note",
        raised=ties / count > MANY_TIES,
        value=ties / count,
        threshold=f"more than {percent(MANY_TIES, 0)} ties",
        what=f"{percent(ties / count)} of the comparisons are ties.",
        meaning="The judge gives both answers the same reward, so the win rate says little about those prompts.",
        action="Use a finer judge, or look at the mean reward beside the win rate.",
    )


def length_control_differs(report: Mapping[str, Any]) -> Finding | None:
    """The win rate changes when length is held equal."""
    raw = [measured(report, "win_rate", key) for key in ("value", "low", "high")]
    controlled = [measured(report, "length_controlled_win_rate", key) for key in ("value", "low", "high")]
    value, low, high = raw
    fair = controlled[0]
    if value is None or low is None or high is None or fair is None:
        return None
    lost = controlled[1] is not None and low > 0.5 >= controlled[1]
    return Finding(
        name="LengthExplainsWins",
        severity="warning",
        raised=lost or not low <= fair <= high,
        value=fair - value,
        threshold="the length-controlled win rate leaves the interval of the raw one, or no longer excludes 50 %",
        what=f"The win rate is {percent(value)}; with length held equal it is {percent(fair)}.",
        meaning="Part of the difference is answers that are longer or shorter, not better.",
        action="Quote the length-controlled number; try the length-normalised loss or SimPO.",
    )


def reward_intervals_touch(report: Mapping[str, Any]) -> Finding | None:
    """The rewards' intervals overlap."""
    intervals = report.get("reward_interval")
    policy, reference = (
        (intervals.get(name) for name in ("policy", "reference")) if isinstance(intervals, Mapping) else (None, None)
    )
    if not policy or not reference:
        return None
    gap = max(policy[0] - reference[1], reference[0] - policy[1])
    return Finding(
        name="RewardIntervalsTouch",
        severity="note",
        raised=gap <= 0,
        value=gap,
        threshold="the intervals of the two mean rewards overlap",
        what=f"The intervals of the mean rewards are {number(-gap)} deep in each other."
        if gap <= 0
        else f"The intervals of the mean rewards are {number(gap)} apart.",
        meaning="Taken alone the means do not show a difference. The win rate compares prompt by prompt and can.",
        action="Judge by the win rate; evaluate on more prompts for narrower means.",
    )


# --- what the policy writes -------------------------------------------------------------------------


def length_drift(report: Mapping[str, Any]) -> Finding | None:
    """Answers became much longer or shorter."""
    policy = measured(report, "length", "policy")
    before = next(
        (name for name in ("sft", "reference") if measured(report, "length", name)), None
    )
    base = measured(report, "length", before) if before else None
    if policy is None or not base:
        return None
    ratio, (low, high) = policy / base, LENGTH_RATIO
    return Finding(
        name="LengthDrift",
        severity="warning",
        raised=not low <= ratio <= high,
        value=ratio,
        threshold=f"below {low} or above {high} times the length of {before}",
        what=f"The policy's answers are {number(ratio)} times as long as those of {before}.",
        meaning="Preference losses reward length where chosen answers are longer, whether or not length helps.",
        action="Look at the length-controlled win rate; try the length-normalised loss or SimPO.",
    )


def answers_unfinished(report: Mapping[str, Any]) -> Finding | None:
    """Many answers are cut off."""
    rate, before = measured(report, "eos_rate", "policy"), measured(report, "eos_rate", "reference")
    if rate is None:
        return None
    alike = before is not None and abs(rate - before) < 0.1
    return Finding(
        name="AnswersUnfinished",
        severity="serious" if rate < EOS_SERIOUS and not alike else "warning",
        raised=rate < EOS_WARNING,
        value=rate,
        threshold=f"fewer than {percent(EOS_WARNING, 0)} end by themselves "
        f"(serious below {percent(EOS_SERIOUS, 0)}, unless the reference is alike)",
        what=f"{percent(rate)} of the policy's answers end by themselves"
        + (f", {percent(before)} of the reference's." if before is not None else "."),
        meaning="The rest are cut at the token limit, so they are judged half said."
        + (" The reference does the same: the limit is too short for these prompts." if alike else ""),
        action="Raise --max-new-tokens or ask for shorter answers; where only the policy runs on, check that "
        "end tokens carry loss.",
    )


def kl_far(report: Mapping[str, Any]) -> Finding | None:
    """The policy is far from its reference."""
    kl = measured(report, "kl", "policy")
    if kl is None:
        return None
    return Finding(
        name="FarFromReference",
        severity="serious" if kl > KL_SERIOUS else "warning",
        raised=kl > KL_WARNING,
        value=kl,
        threshold=f"above {KL_WARNING:g} nats a sequence (serious above {KL_SERIOUS:g})",
        what=f"KL to the reference is {number(kl)} nats a sequence.",
        meaning="This far from its reference a policy usually exploits its judge rather than improving.",
        action="Raise --beta, lower the learning rate, or stop earlier; read the answers below.",
    )


def kl_unmoved(report: Mapping[str, Any]) -> Finding | None:
    """The policy hardly differs from its reference."""
    kl = measured(report, "kl", "policy")
    if kl is None:
        return None
    return Finding(
        name="HardlyMoved",
        severity="note",
        raised=kl < KL_UNMOVED,
        value=kl,
        threshold=f"below {KL_UNMOVED:g} nats a sequence",
        what=f"KL to the reference is {number(kl)} nats a sequence.",
        meaning="The policy says nearly what the reference says: training changed little.",
        action="Train for longer, with more pairs, a larger learning rate or a smaller --beta.",
    )


def variety_lost(report: Mapping[str, Any]) -> Finding | None:
    """Fewer different word pairs than before."""
    policy, reference = measured(report, "distinct_2", "policy"), measured(report, "distinct_2", "reference")
    if policy is None or not reference:
        return None
    return Finding(
        name="VarietyLost",
        severity="warning",
        raised=policy / reference < DISTINCT_DROP,
        value=policy / reference,
        threshold=f"distinct-2 below {DISTINCT_DROP:g} times the reference's",
        what=f"Distinct-2 went from {number(reference)} to {number(policy)}.",
        meaning="Answers repeat the same words: the policy collapses onto phrases that the judge likes.",
        action="Raise --beta, train for less, or look for a phrase that the judge overrates.",
    )


def repetition_rises(report: Mapping[str, Any]) -> Finding | None:
    """Answers repeat themselves."""
    policy, reference = measured(report, "repetition", "policy"), measured(report, "repetition", "reference")
    if policy is None or reference is None:
        return None
    return Finding(
        name="RepetitionRises",
        severity="warning",
        raised=policy - reference > REPETITION_RISE,
        value=policy - reference,
        threshold=f"more than {percent(REPETITION_RISE, 0)} above the reference's",
        what=f"Repetition inside an answer went from {percent(reference)} to {percent(policy)}.",
        meaning="The policy loops, which judges that count words do not see.",
        action="Raise --beta, train for less, and read the answers.",
    )


# --- training ---------------------------------------------------------------------------------------


def displacement(report: Mapping[str, Any]) -> Finding | None:
    """Chosen answers became much less likely together with rejected ones."""
    chosen, rejected = (tail_mean(curve(report, "dpo", f"{side}_reward")) for side in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        return None
    displaced = chosen < CHOSEN_FLOOR and rejected < chosen - REJECTED_GAP
    return Finding(
        name="LikelihoodDisplacement",
        severity="serious",
        raised=displaced,
        value=chosen,
        threshold=f"chosen reward below {number(CHOSEN_FLOOR)} with the rejected at least {REJECTED_GAP:g} lower",
        what=f"At the end the implicit reward of chosen answers is {number(chosen)}, of rejected ones "
        f"{number(rejected)}.",
        meaning="The margin grows though both answers lose probability, which goes to answers nobody has seen.",
        action="Lower the learning rate, try the losses dpop or dpo-nll, leave out pairs that are nearly the same.",
    )


def chosen_falls(report: Mapping[str, Any]) -> Finding | None:
    """Chosen answers became less likely than under the reference."""
    chosen = tail_mean(curve(report, "dpo", "chosen_reward"))
    if chosen is None:
        return None
    return Finding(
        name="ChosenRewardFalls",
        severity="note",
        raised=CHOSEN_FLOOR <= chosen < CHOSEN_FALLS,
        value=chosen,
        threshold=f"chosen reward from {number(CHOSEN_FLOOR)} to {number(CHOSEN_FALLS)}",
        what=f"At the end the implicit reward of chosen answers is {number(chosen)}.",
        meaning="Chosen answers are less likely than under the reference. After SFT on them that is expected.",
        action="Nothing, unless reward or win rate fall too.",
    )


def saturated(report: Mapping[str, Any]) -> Finding | None:
    """Pairs hardly move the weights any more."""
    weight = tail_mean(curve(report, "dpo", "gradient_weight"))
    if weight is None:
        return None
    return Finding(
        name="Saturated",
        severity="warning",
        raised=weight < SATURATED,
        value=weight,
        threshold=f"mean gradient weight σ(−βh) below {SATURATED:g}",
        what=f"At the end a pair's mean gradient weight is {number(weight)}; it begins at 0.5.",
        meaning="Nearly all pairs are already separated, so more updates teach little and may over-fit.",
        action="Stop earlier, add pairs, or take a loss that does not push without end (ipo).",
    )


def memorised(report: Mapping[str, Any]) -> Finding | None:
    """Training pairs are all ranked right."""
    accuracy = tail_mean(curve(report, "dpo", "accuracy"))
    if accuracy is None:
        return None
    return Finding(
        name="TrainingPairsMemorised",
        severity="note",
        raised=accuracy >= MEMORISED,
        value=accuracy,
        threshold=f"accuracy on training pairs of {percent(MEMORISED, 0)} or more",
        what=f"At the end {percent(accuracy)} of the training pairs are ranked as labelled.",
        meaning="Labels are noisy, so a policy that ranks all of them right has learned them by heart. "
        "That is not always harmful.",
        action="Judge by the held-out prompts; where those do not improve, train for less.",
    )


def dpo_loss_rose(report: Mapping[str, Any]) -> Finding | None:
    """DPO ended with a higher loss than it began with."""
    return _loss_rose(report, "dpo", curve(report, "dpo", "loss")[:1])


def sft_loss_rose(report: Mapping[str, Any]) -> Finding | None:
    """SFT ended with a higher loss than it began with."""
    return _loss_rose(report, "sft", curve(report, "sft", "loss")[:MIN_TAIL])


def _loss_rose(report: Mapping[str, Any], stage: str, head: Sequence[float]) -> Finding | None:
    last = tail_mean(curve(report, stage, "loss"))
    if last is None or not head:
        return None
    first = sum(head) / len(head)
    return Finding(
        name=f"{stage.upper()}LossRose",
        severity="warning",
        raised=last > first,
        value=last - first,
        threshold="the loss of the last tenth is above that of the beginning",
        what=f"The {stage.upper()} loss went from {number(first)} to {number(last)}.",
        meaning="Training moved away from what it was to learn.",
        action="Lower the learning rate, or warm up for longer.",
    )


def counts_differ(report: Mapping[str, Any]) -> Finding | None:
    """Data counts do not add up."""
    sums = totals(report.get("data") or {})
    wrong = [f"{group} {total.name}".strip() for group, total in sums if not total.adds_up]
    if not sums:
        return None
    return Finding(
        name="CountsDoNotAddUp",
        severity="serious",
        raised=bool(wrong),
        value=len(wrong),
        threshold="a total is not the sum of its parts",
        what=f"{', '.join(wrong)}: the parts do not give the total." if wrong else "All counts add up.",
        meaning="Rows were lost or counted twice somewhere.",
        action="Run `logratio check` on the data, and report this.",
    )


CHECKS: tuple[Check, ...] = (
    verdict_beyond_interval,
    interval_holds_half,
    few_prompts,
    many_ties,
    length_control_differs,
    reward_intervals_touch,
    length_drift,
    answers_unfinished,
    kl_far,
    kl_unmoved,
    variety_lost,
    repetition_rises,
    displacement,
    chosen_falls,
    saturated,
    memorised,
    dpo_loss_rose,
    sft_loss_rose,
    counts_differ,
)
"""Every check."""
