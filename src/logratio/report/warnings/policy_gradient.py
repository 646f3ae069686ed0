"""Checks of a policy-gradient run: steps too large, a critic that says nothing, answers that go astray.

Thresholds with a source carry it; the others are starting points of ours. What is learned, and how far from
the reference, has checks of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from logratio.report.formatting import number, percent
from logratio.report.warnings.answers import (
    ENDED_ALIKE,
    ENDED_SERIOUS,
    ENDED_WARNING,
    severity_of_cut_answers,
)
from logratio.report.warnings.distance import kl_coefficient_drifted, kl_estimates_disagree, reference_kl_high
from logratio.report.warnings.learning import (
    gradient_noisy,
    groups_constant,
    policy_ran_away,
    reward_constant,
    reward_fell,
)
from logratio.report.warnings.metric_series import STAGES, per_unit, setting, stretches, unit
from logratio.report.warnings.overoptimisation import reward_overoptimised
from logratio.report.warnings.warning import MIN_TAIL, ReportWarning, curve, mean_at_end, mean_at_start

UPDATE_KL_FACTOR = 1.5
"""Spinning Up ends an update at 1.5 times its target."""
CLIP_WARNING, CLIP_SERIOUS = 0.2, 0.4
RATIO_WARNING, RATIO_SERIOUS = 5.0, 10.0
EFFECTIVE_WARNING, EFFECTIVE_SERIOUS = 0.5, 0.1
WARMED_UP = 10
"""Updates in which a critic that begins at 0 may learn something."""
EXPLAINED_SERIOUS = -0.5
ENTROPY_LEFT, ENTROPY_SERIOUS = 0.5, 0.1
LENGTH_CHANGE = 0.5
REPETITION_WARNING, REPETITION_SERIOUS, REPETITION_RISE = 0.2, 0.5, 2.0

Check = Callable[[Mapping[str, Any], str], ReportWarning | None]


def find_warnings(report: Mapping[str, Any]) -> list[ReportWarning]:
    """The results of all checks of every policy-gradient stage whose numbers are there."""
    return [warning for stage in STAGES for warning in find_stage_warnings(report, stage)]


def find_stage_warnings(report: Mapping[str, Any], stage: str) -> list[ReportWarning]:
    """The results of all checks of one stage whose numbers are there."""
    return [warning for check in CHECKS if (warning := check(report, stage)) is not None]


def update_kl_high(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Updates move the policy further than they were to."""
    means = stretches(curve(report, stage, "update_kl"))
    target = setting(report, stage, "target_update_kl")
    if not means or not target:
        return None
    update_kl = max(means)
    cut_short = " Where that is passed, the rest of the update is left out." * bool(
        setting(report, stage, "early_stop_factor")
    )
    return ReportWarning(
        name="UpdateTooLarge",
        severity="warning",
        raised=update_kl > UPDATE_KL_FACTOR * target,
        value=update_kl,
        threshold=f"update KL above {UPDATE_KL_FACTOR:g} times its target ({number(target)} nats "
        f"{per_unit(report)}) in a tenth of the run",
        what=f"In the worst tenth of {STAGES[stage]} an update moves the policy by {number(update_kl)} nats "
        f"{per_unit(report)}; {number(target)} are wanted.",
        meaning="What the advantages say holds near the policy that acted, and this one is no longer near."
        + cut_short,
        action="Lower --learning-rate or --update-epochs, or take larger batches.",
    )


def clip_fraction_high(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Much of an update is lost to the clip."""
    means = stretches(curve(report, stage, "clip_fraction"))
    if not means or setting(report, stage, "clip_range") == 0:
        return None
    clipped = max(means)
    return ReportWarning(
        name="ClipTooActive",
        severity="serious" if clipped > CLIP_SERIOUS else "warning",
        raised=clipped > CLIP_WARNING,
        value=clipped,
        threshold=f"the clip stops more than {percent(CLIP_WARNING, 0)} of the {unit(report)}s in a tenth of "
        f"the run (serious above {percent(CLIP_SERIOUS, 0)})",
        what=f"In the worst tenth of {STAGES[stage]} the clip stops {percent(clipped)} of the "
        f"{unit(report)}s.",
        meaning="The steps are so large that the clip, which is there for the few, decides what is learned.",
        action="Lower --learning-rate or --update-epochs.",
    )


def clip_never_active(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The clip never did anything, though there were several steps per update."""
    clipped, steps = curve(report, stage, "clip_fraction"), curve(report, stage, "optimiser_steps")
    if len(clipped) < WARMED_UP or not setting(report, stage, "clip_range") or max(steps, default=0) <= 1:
        return None
    return ReportWarning(
        name="ClipNeverActive",
        severity="note",
        raised=max(clipped) == 0,
        value=max(clipped),
        threshold=f"no {unit(report)} is clipped in any update",
        what=f"The clip stopped {percent(max(clipped))} of the {unit(report)}s in the update where it "
        "stopped most.",
        meaning="The policy hardly moves within an update, so more could be made of each batch.",
        action="Raise --learning-rate or --update-epochs, if the reward does not rise as it is.",
    )


def ratio_far(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Some token became many times more probable within an update."""
    means = stretches(curve(report, stage, "ratio_deviation"))
    if not means:
        return None
    ratio = 1.0 + max(means)
    return ReportWarning(
        name="RatioFarFromOne",
        severity="serious" if ratio > RATIO_SERIOUS else "warning",
        raised=ratio > RATIO_WARNING,
        value=ratio,
        threshold=f"an update's largest ratio is above {RATIO_WARNING:g} "
        f"(serious above {RATIO_SERIOUS:g}), as a mean over a tenth of the run",
        what=f"In the worst tenth of {STAGES[stage]} an update makes some {unit(report)} {number(ratio)} "
        "times as probable.",
        meaning=f"Few {unit(report)}s carry the update: its estimate rests on what the policy would no "
        "longer do, or does far more often.",
        action="Lower --learning-rate, or make fewer steps on each batch.",
    )


def effective_share_low(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Importance weights leave few of the rows that count."""
    means = stretches(curve(report, stage, "effective_share"))
    if not means:
        return None
    share = min(means)
    return ReportWarning(
        name="FewEffectiveSamples",
        severity="serious" if share < EFFECTIVE_SERIOUS else "warning",
        raised=share < EFFECTIVE_WARNING,
        value=share,
        threshold=f"effective sample size below {percent(EFFECTIVE_WARNING, 0)} of the {unit(report)}s in a "
        f"tenth of the run (serious below {percent(EFFECTIVE_SERIOUS, 0)})",
        what=f"In the worst tenth of {STAGES[stage]} the {unit(report)}s of an update are worth "
        f"{percent(share)} of their number, by their ratios to the policy that acted.",
        meaning=f"The policy has left the one that acted so far behind that a few {unit(report)}s decide the "
        "step.",
        action="Lower --learning-rate or --update-epochs, or take larger batches."
        if stage == "ppo"
        else "Lower --minibatches or --learning-rate, or try `--weights token`.",
    )


def critic_explains_nothing(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The critic predicts returns no better than their mean does."""
    last = mean_at_end(report, stage, "explained_variance")
    updates = len(curve(report, stage, "explained_variance"))
    # Without a critic all values are 0, which explains nothing and is no fault.
    if last is None or updates < WARMED_UP or not curve(report, stage, "value_loss"):
        return None
    return ReportWarning(
        name="CriticExplainsNothing",
        severity="serious" if last < EXPLAINED_SERIOUS else "warning",
        raised=last <= 0,
        value=last,
        threshold=f"explained variance of 0 or less after {WARMED_UP} updates (serious below "
        f"{number(EXPLAINED_SERIOUS)})",
        what=f"At the end of {STAGES[stage]} the critic explains {number(last)} of the variance of returns.",
        meaning="Advantages measured against this critic are noisier than against a plain mean.",
        action="Raise --value-coefficient, train for longer, or use `train reinforce --baseline "
        "leave-one-out`, which needs no critic.",
    )


def ended_rarely(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Many answers are cut off."""
    ended, before = _both_ends(report, stage, "ended")
    if ended is None or before is None:
        return None
    alike = before - ended < ENDED_ALIKE
    return ReportWarning(
        name="AnswersCutOff",
        severity=severity_of_cut_answers(ended, alike=alike),
        raised=ended < ENDED_WARNING,
        value=ended,
        threshold=f"fewer than {percent(ENDED_WARNING, 0)} of the answers end by themselves (serious below "
        f"{percent(ENDED_SERIOUS, 0)}, unless they began so)",
        what=f"At the end of {STAGES[stage]} {percent(ended)} of the answers end by themselves, "
        f"{percent(before)} at its beginning.",
        meaning="The rest are cut at the token limit and rewarded half said."
        + (" It began so: the limit is too short for these prompts." if alike else ""),
        action="Raise --max-new-tokens; where only the trained policy runs on, give --truncation-penalty.",
    )


def length_changed(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Answers became much longer or shorter."""
    last, first = _both_ends(report, stage, "answer_tokens")
    if last is None or not first:
        return None
    ratio = last / first
    return ReportWarning(
        name="AnswerLengthChanged",
        severity="warning",
        raised=abs(ratio - 1.0) > LENGTH_CHANGE,
        value=ratio,
        threshold=f"more than {percent(LENGTH_CHANGE, 0)} longer or shorter than at the beginning",
        what=f"In {STAGES[stage]} answers went from {number(first)} to {number(last)} tokens.",
        meaning="Rewards that grow with length, or with brevity, are raised by length alone.",
        action="Compare answers of equal length by their reward, and add a reward that makes up for it.",
    )


def entropy_halved(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Entropy has collapsed."""
    last, first = _both_ends(report, stage, "entropy")
    if last is None or not first:
        return None
    return ReportWarning(
        name="EntropyLost",
        severity="serious" if last < ENTROPY_SERIOUS else "warning",
        raised=last < ENTROPY_LEFT * first,
        value=last / first,
        threshold=f"entropy below {percent(ENTROPY_LEFT, 0)} of that at the beginning (serious below "
        f"{ENTROPY_SERIOUS:g} nats per token)",
        what=f"In {STAGES[stage]} the entropy went from {number(first)} to {number(last)} nats per token.",
        meaning="The policy settles on few answers. What it does not try it cannot learn from.",
        action="Raise --kl-coefficient, give --entropy-coefficient 0.01, or stop earlier.",
    )


def repetition_rose(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Answers repeat themselves."""
    last, first = _both_ends(report, stage, "repetition")
    if last is None or first is None:
        return None
    return ReportWarning(
        name="RepetitionRose",
        severity="serious" if last > REPETITION_SERIOUS else "warning",
        raised=last > REPETITION_WARNING and last > REPETITION_RISE * first,
        value=last,
        threshold=f"more than {percent(REPETITION_WARNING, 0)} of an answer's triples of tokens stood in it "
        f"before, and more than {REPETITION_RISE:g} times as many as at the beginning (serious above "
        f"{percent(REPETITION_SERIOUS, 0)})",
        what=f"In {STAGES[stage]} the share of repeated triples went from {percent(first)} to "
        f"{percent(last)}.",
        meaning="The policy says things over and over, and the reward pays for it.",
        action="Read the answers; raise --kl-coefficient, or add a reward that repetition lowers.",
    )


def _both_ends(report: Mapping[str, Any], stage: str, metric: str) -> tuple[float | None, float | None]:
    """A metric's mean over the last tenth of the updates, and over the first 5."""
    start = mean_at_start(report, stage, metric, num=MIN_TAIL)
    return mean_at_end(report, stage, metric), start


CHECKS: tuple[Check, ...] = (
    policy_ran_away,
    reward_overoptimised,
    reward_fell,
    reward_constant,
    groups_constant,
    gradient_noisy,
    reference_kl_high,
    kl_coefficient_drifted,
    kl_estimates_disagree,
    update_kl_high,
    clip_fraction_high,
    clip_never_active,
    ratio_far,
    effective_share_low,
    critic_explains_nothing,
    entropy_halved,
    ended_rarely,
    length_changed,
    repetition_rose,
)
