"""Checks of what a policy gradient learns: did it go to its end, does the reward rise, is there a signal?

Thresholds with a source carry it; the others are starting points of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from logratio.report.formatting import number, percent
from logratio.report.warnings.metric_series import (
    ERRORS,
    STAGES,
    change,
    quarters,
    setting_text,
    squared_error,
)
from logratio.report.warnings.warning import MIN_TAIL, ReportWarning, Severity, curve, mean_at_end
from logratio.training.divergence_guard import PATIENCE

NO_SPREAD = 1e-9
"""A spread of rounding errors is none."""
CONSTANT_WARNING, CONSTANT_SERIOUS = 0.1, 0.5
GROUPS_HEALTHY, GROUPS_WARNING = 0.5, 0.8
SIGNAL_LOW, SIGNAL_UPDATES = 0.1, 10
REMEDIES = {
    "KL": "Raise --kl-coefficient, or give --target-kl.",
    "triples": "Raise --kl-coefficient, or add a reward that repetition lowers: the present one pays for it.",
    "": "Add a reward that makes up for length; where answers no longer end, give --truncation-penalty.",
}
"""What to do, by a word of the sentence in which a run says why it stopped."""


def policy_ran_away(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The run stopped by itself: KL, repetition or length left their limits."""
    training = (report.get("training") or {}).get(stage)
    if not isinstance(training, Mapping) or "finished" not in training:
        return None
    reason, kept = str(training.get("stopped") or ""), training.get("best_checkpoint")
    made = len((training.get("curves") or {}).get("step") or [])
    remedy = next(advice for word, advice in REMEDIES.items() if word in reason)
    return ReportWarning(
        name="PolicyRunaway",
        severity="serious",
        raised=bool(reason),
        value=float(made),
        threshold=f"KL, repetition or length beyond its limit in {PATIENCE} updates in a row",
        what=f"{STAGES[stage]} stopped by itself at update {made}: {reason}."
        if reason
        else f"No limit ended {STAGES[stage]} in {made} updates.",
        meaning="A policy that leaves these limits no longer improves, it exploits its reward. "
        + (
            f"`model/` has the weights of update {number(kept)}, the checkpoint at the end of the stretch "
            "with the best objective."
            if kept
            else "No checkpoint had been made, so `model/` has the weights that it stopped at. Do not use "
            "them."
        ),
        action=f"{remedy} Lower --learning-rate, and begin again in another --out"
        + ("; what was kept can be evaluated as it is." if kept else ", with --checkpoint-every 1."),
    )


def reward_fell(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The reward is lower at the end than at the beginning, by more than its noise."""
    parts = quarters(curve(report, stage, "reward"))
    if len(parts) < 2:
        return None
    first, last = parts[0], parts[-1]
    rise, error = change(first, last)
    return ReportWarning(
        name="RewardFell",
        severity="warning",
        raised=rise < -ERRORS * error and rise < 0,
        value=rise,
        threshold=f"lower in the last quarter than in the first by more than {ERRORS:g} standard errors",
        what=f"In {STAGES[stage]} the mean reward went from {number(fmean(first))} to {number(fmean(last))}.",
        meaning="Training moved away from what it was to bring.",
        action="Lower --learning-rate; where the KL falls too, lower --kl-coefficient, which outweighs the "
        "reward.",
    )


def reward_constant(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """All answers of an update are rewarded alike."""
    spreads = curve(report, stage, "reward_std")
    if len(spreads) < MIN_TAIL:
        return None
    share = fmean(float(spread < NO_SPREAD) for spread in spreads)
    severity: Severity = "note" if share <= CONSTANT_WARNING else "warning"
    return ReportWarning(
        name="RewardConstant",
        severity="serious" if share > CONSTANT_SERIOUS else severity,
        raised=share > 0,
        value=share,
        threshold=f"an update whose answers have one and the same reward (a warning above "
        f"{percent(CONSTANT_WARNING, 0)} of the updates, serious above {percent(CONSTANT_SERIOUS, 0)})",
        what=f"In {percent(share)} of the {STAGES[stage]} updates every answer has the same reward.",
        meaning="Where all are rewarded alike none is better than another: the gradient of the reward is 0, "
        "and only the charge for the KL is learned from.",
        action="Use a reward with finer steps, more answers (--num-samples, --batch-size), or prompts that "
        "are neither too easy nor too hard.",
    )


def groups_constant(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Most prompts have answers that all earn the same."""
    share = mean_at_end(report, stage, "constant_groups")
    spread = mean_at_end(report, stage, "reward_std")
    if share is None:
        return None
    # Where the whole batch earns the same, RewardConstant says so.
    all_alike = spread is not None and spread < NO_SPREAD
    of_siblings = setting_text(report, stage, "baseline") in ("leave-one-out", "group-centred")
    return ReportWarning(
        name="GroupsWithoutSpread",
        severity="serious" if share >= 1.0 else "warning",
        raised=share > GROUPS_WARNING and not all_alike,
        value=share,
        threshold=f"more than {percent(GROUPS_WARNING, 0)} of the prompts have answers that all earn the "
        "same (serious where all have)",
        what=f"At the end of {STAGES[stage]} all answers to a prompt earn the same, for {percent(share)} of "
        "the prompts.",
        meaning="Such a prompt does not say which of its answers is better: "
        + ("with this baseline its reward adds nothing." if of_siblings else "its reward adds noise alone.")
        + " An update is then as noisy as one of the few prompts that are left.",
        action="Leave out prompts that are always or never solved, ask for more answers to each "
        "(--num-samples), or use a reward with finer steps.",
    )


def gradient_noisy(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Hardly anything of a step is signal."""
    signals = curve(report, stage, "gradient_signal")
    if len(signals) < SIGNAL_UPDATES:
        return None
    signal = fmean(signals)
    return ReportWarning(
        name="GradientMostlyNoise",
        severity="note",
        # One update's estimate may be anywhere: what chance may have added must not be enough.
        raised=signal + ERRORS * squared_error(signals) ** 0.5 < SIGNAL_LOW,
        value=signal,
        threshold=f"‖E g‖² below {SIGNAL_LOW:g} tr Var(g), as a mean over the run, by {ERRORS:g} standard "
        "errors",
        what=f"On average the gradient of a {STAGES[stage]} update has {number(max(signal, 0.0))} times as "
        "much signal as noise.",
        meaning=f"More than {percent(1 / (1 + SIGNAL_LOW), 0)} of a step's squared length is chance, which "
        "the optimiser's averages must take out again. That is slow rather than wrong.",
        action="More answers per update (--batch-size, --num-samples): twice as many double the ratio. "
        "If the reward rises all the same, nothing.",
    )
