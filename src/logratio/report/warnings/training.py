"""Checks of the training curves, at their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.formatting import number, percent
from logratio.report.warnings.warning import MIN_TAIL, ReportWarning, mean_at_end, mean_at_start

CHOSEN_FLOOR, CHOSEN_FALLS, REJECTED_GAP = -5.0, -0.5, 1.0
"""Implicit rewards; starting points of ours, as are the next two."""
SATURATED = 0.05
MEMORISED = 0.98


def displacement(report: Mapping[str, Any]) -> ReportWarning | None:
    """Chosen answers became much less likely together with rejected ones."""
    chosen, rejected = (mean_at_end(report, "dpo", f"{side}_reward") for side in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        return None
    displaced = chosen < CHOSEN_FLOOR and rejected < chosen - REJECTED_GAP
    return ReportWarning(
        name="LikelihoodDisplacement",
        severity="serious",
        raised=displaced,
        value=chosen,
        threshold=f"chosen reward below {number(CHOSEN_FLOOR)} with the rejected at least "
        f"{REJECTED_GAP:g} lower",
        what=f"At the end the implicit reward of chosen answers is {number(chosen)}, of rejected ones "
        f"{number(rejected)}.",
        meaning="The margin grows though both answers lose probability, which goes to answers "
        "nobody has seen.",
        action="Lower the learning rate, try the losses dpop or dpo-nll, leave out pairs that "
        "are nearly the same.",
    )


def chosen_falls(report: Mapping[str, Any]) -> ReportWarning | None:
    """Chosen answers became less likely than under the reference."""
    chosen = mean_at_end(report, "dpo", "chosen_reward")
    if chosen is None:
        return None
    return ReportWarning(
        name="ChosenRewardFalls",
        severity="note",
        raised=CHOSEN_FLOOR <= chosen < CHOSEN_FALLS,
        value=chosen,
        threshold=f"chosen reward from {number(CHOSEN_FLOOR)} to {number(CHOSEN_FALLS)}",
        what=f"At the end the implicit reward of chosen answers is {number(chosen)}.",
        meaning="Chosen answers are less likely than under the reference. After SFT on them "
        "that is expected.",
        action="Nothing, unless reward or win rate fall too.",
    )


def saturated(report: Mapping[str, Any]) -> ReportWarning | None:
    """Pairs hardly move the weights any more."""
    weight = mean_at_end(report, "dpo", "gradient_weight")
    if weight is None:
        return None
    return ReportWarning(
        name="Saturated",
        severity="warning",
        raised=weight < SATURATED,
        value=weight,
        threshold=f"mean gradient weight σ(−βh) below {SATURATED:g}",
        what=f"At the end a pair's mean gradient weight is {number(weight)}; it begins at 0.5.",
        meaning="Nearly all pairs are already separated, so more updates teach little and may over-fit.",
        action="Stop earlier, add pairs, or take a loss that does not push without end (ipo).",
    )


def memorised(report: Mapping[str, Any]) -> ReportWarning | None:
    """Training pairs are all ranked right."""
    accuracy = mean_at_end(report, "dpo", "accuracy")
    if accuracy is None:
        return None
    return ReportWarning(
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


def dpo_loss_rose(report: Mapping[str, Any]) -> ReportWarning | None:
    """DPO ended with a higher loss than it began with."""
    return _loss_rose(report, "dpo", num_first=1)


def sft_loss_rose(report: Mapping[str, Any]) -> ReportWarning | None:
    """SFT ended with a higher loss than it began with."""
    return _loss_rose(report, "sft", num_first=MIN_TAIL)


def _loss_rose(report: Mapping[str, Any], stage: str, *, num_first: int) -> ReportWarning | None:
    last = mean_at_end(report, stage, "loss")
    first = mean_at_start(report, stage, "loss", num=num_first)
    if last is None or first is None:
        return None
    return ReportWarning(
        name=f"{stage.upper()}LossRose",
        severity="warning",
        raised=last > first,
        value=last - first,
        threshold="the loss of the last tenth is above that of the beginning",
        what=f"The {stage.upper()} loss went from {number(first)} to {number(last)}.",
        meaning="Training moved away from what it was to learn.",
        action="Lower the learning rate, or warm up for longer.",
    )
