"""Every check of a run's numbers, and what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from logratio.report.control_runs import is_control
from logratio.report.warnings import answers, control, data, policy_gradient, training, verdict
from logratio.report.warnings.warning import SEVERITIES, ReportWarning

Check = Callable[[Mapping[str, Any]], ReportWarning | None]

CHECKS: tuple[Check, ...] = (
    verdict.verdict_beyond_interval,
    verdict.interval_holds_half,
    verdict.few_prompts,
    verdict.many_ties,
    verdict.length_control_differs,
    verdict.reward_intervals_touch,
    answers.length_drift,
    answers.answers_unfinished,
    answers.kl_far,
    answers.kl_unmoved,
    answers.variety_lost,
    answers.repetition_rises,
    training.displacement,
    training.chosen_falls,
    training.saturated,
    training.memorised,
    training.dpo_loss_rose,
    training.sft_loss_rose,
    data.counts_differ,
)


def find_warnings(report: Mapping[str, Any]) -> list[ReportWarning]:
    """The results of all checks whose numbers are there."""
    if is_control(report):
        return control.find_warnings(report)
    warnings = [warning for check in CHECKS if (warning := check(report)) is not None]
    return warnings + policy_gradient.find_warnings(report)


def by_severity(warnings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same warnings, the serious ones first; of equal ones the order stays."""
    return sorted(warnings, key=lambda warning: SEVERITIES.index(warning.get("severity", "warning")))
