"""Checks of what the policy writes: length, endings, distance, variety."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.formatting import number, percent
from logratio.report.warnings.distance import KL_SERIOUS, KL_WARNING
from logratio.report.warnings.warning import ReportWarning, Severity, measured

LENGTH_RATIO = (0.7, 1.3)
ENDED_WARNING, ENDED_SERIOUS = 0.8, 0.5
ENDED_ALIKE = 0.1
"""Nearer than this to what they are compared with, answers end as often."""
KL_UNMOVED = 0.1
DISTINCT_DROP = 0.8
REPETITION_RISE = 0.1


def length_drift(report: Mapping[str, Any]) -> ReportWarning | None:
    """Answers became much longer or shorter."""
    policy = measured(report, "length", "policy")
    before = next((name for name in ("sft", "reference") if measured(report, "length", name)), None)
    base = measured(report, "length", before) if before else None
    if policy is None or not base:
        return None
    ratio, (low, high) = policy / base, LENGTH_RATIO
    return ReportWarning(
        name="LengthDrift",
        severity="warning",
        raised=not low <= ratio <= high,
        value=ratio,
        threshold=f"below {low} or above {high} times the length of {before}",
        what=f"The policy's answers are {number(ratio)} times as long as those of {before}.",
        meaning="Preference losses reward length where chosen answers are longer, whether or "
        "not length helps.",
        action="Look at the length-controlled win rate; try the length-normalised loss or SimPO.",
    )


def answers_unfinished(report: Mapping[str, Any]) -> ReportWarning | None:
    """Many answers are cut off."""
    rate, before = measured(report, "eos_rate", "policy"), measured(report, "eos_rate", "reference")
    if rate is None:
        return None
    alike = before is not None and abs(rate - before) < ENDED_ALIKE
    return ReportWarning(
        name="AnswersUnfinished",
        severity=severity_of_cut_answers(rate, alike=alike),
        raised=rate < ENDED_WARNING,
        value=rate,
        threshold=f"fewer than {percent(ENDED_WARNING, 0)} end by themselves "
        f"(serious below {percent(ENDED_SERIOUS, 0)}, unless the reference is alike)",
        what=f"{percent(rate)} of the policy's answers end by themselves"
        + (f", {percent(before)} of the reference's." if before is not None else "."),
        meaning="The rest are cut at the token limit, so they are judged half said."
        + (" The reference does the same: the limit is too short for these prompts." if alike else ""),
        action="Raise --max-new-tokens or ask for shorter answers; where only the policy runs on, check that "
        "end tokens carry loss.",
    )


def severity_of_cut_answers(ended: float, *, alike: bool) -> Severity:
    """How much it matters that so many answers end by themselves, and whether as many did before."""
    return "serious" if ended < ENDED_SERIOUS and not alike else "warning"


def kl_far(report: Mapping[str, Any]) -> ReportWarning | None:
    """The policy is far from its reference."""
    kl = measured(report, "kl", "policy")
    if kl is None:
        return None
    return ReportWarning(
        name="FarFromReference",
        severity="serious" if kl > KL_SERIOUS else "warning",
        raised=kl > KL_WARNING,
        value=kl,
        threshold=f"above {KL_WARNING:g} nats per sequence (serious above {KL_SERIOUS:g})",
        what=f"KL to the reference is {number(kl)} nats per sequence.",
        meaning="This far from its reference a policy usually exploits its judge rather than improving.",
        action="Raise --beta, lower the learning rate, or stop earlier; read the answers below.",
    )


def kl_unmoved(report: Mapping[str, Any]) -> ReportWarning | None:
    """The policy hardly differs from its reference."""
    kl = measured(report, "kl", "policy")
    if kl is None:
        return None
    return ReportWarning(
        name="HardlyMoved",
        severity="note",
        raised=kl < KL_UNMOVED,
        value=kl,
        threshold=f"below {KL_UNMOVED:g} nats per sequence",
        what=f"KL to the reference is {number(kl)} nats per sequence.",
        meaning="The policy says nearly what the reference says: training changed little.",
        action="Train for longer, with more pairs, a larger learning rate or a smaller --beta.",
    )


def variety_lost(report: Mapping[str, Any]) -> ReportWarning | None:
    """Fewer different word pairs than before."""
    policy, reference = measured(report, "distinct_2", "policy"), measured(report, "distinct_2", "reference")
    if policy is None or not reference:
        return None
    return ReportWarning(
        name="VarietyLost",
        severity="warning",
        raised=policy / reference < DISTINCT_DROP,
        value=policy / reference,
        threshold=f"distinct-2 below {DISTINCT_DROP:g} times the reference's",
        what=f"Distinct-2 went from {number(reference)} to {number(policy)}.",
        meaning="Answers repeat the same words: the policy collapses onto phrases that the judge likes.",
        action="Raise --beta, train for less, or look for a phrase that the judge overrates.",
    )


def repetition_rises(report: Mapping[str, Any]) -> ReportWarning | None:
    """Answers repeat themselves."""
    policy, reference = measured(report, "repetition", "policy"), measured(report, "repetition", "reference")
    if policy is None or reference is None:
        return None
    return ReportWarning(
        name="RepetitionRises",
        severity="warning",
        raised=policy - reference > REPETITION_RISE,
        value=policy - reference,
        threshold=f"more than {percent(REPETITION_RISE, 0)} above the reference's",
        what=f"Repetition inside an answer went from {percent(reference)} to {percent(policy)}.",
        meaning="The policy loops, which judges that count words do not see.",
        action="Raise --beta, train for less, and read the answers.",
    )
