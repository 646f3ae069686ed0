"""What a policy gradient learned: its numbers at the beginning and at the end, then its curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from logratio.report.control_runs import is_control
from logratio.report.formatting import number, percent
from logratio.report.html import Html, element, join
from logratio.report.sections.curves import draw
from logratio.report.sections.learning_curves import means_something, panel_groups
from logratio.report.sections.section import Section, table
from logratio.report.warnings.distance import KL_WARNING
from logratio.report.warnings.metric_series import MONITORED, STAGES, monitored_names, setting
from logratio.report.warnings.overoptimisation import monitored_rewards
from logratio.report.warnings.policy_gradient import find_stage_warnings
from logratio.report.warnings.warning import curve, mean_at_end

LEDE = (
    "Each update the model answers, is rewarded, and makes better answers more probable. Healthy training "
    "raises the reward while the model stays near its reference, moves little at a time and goes on trying "
    "different answers."
)
MetricRow = tuple[str, str, Callable[[float | None], str], str, str]
REWARD: tuple[MetricRow, ...] = (("reward", "Reward", number, "rising", "RewardFell"),)
ROWS: tuple[MetricRow, ...] = (
    ("objective", "Objective", number, "rising", ""),
    ("reward_std", "Spread of rewards", number, "above 0", "RewardConstant"),
    ("constant_groups", "Prompts without spread", percent, "below 50 %", "GroupsWithoutSpread"),
    ("gradient_signal", "Gradient signal", number, "above 0.1", "GradientMostlyNoise"),
    ("reference_kl", "KL to the reference", number, "", "ReferenceKLTooHigh"),
    ("reference_log_ratio", "KL by the tokens drawn", number, "much as the KL", "KLEstimatesDisagree"),
    ("kl_coefficient", "KL coefficient", number, "within 10 times", "KLCoefficientDrifted"),
    ("update_kl", "KL of an update", number, "", "UpdateTooLarge"),
    ("clip_fraction", "Clip fraction", percent, "2 to 15 %", "ClipTooActive"),
    ("ratio_deviation", "Ratio deviation", number, "below 1", "RatioFarFromOne"),
    ("effective_share", "Effective share", percent, "above 50 %", "FewEffectiveSamples"),
    ("explained_variance", "Explained variance", percent, "above 30 %", "CriticExplainsNothing"),
    ("entropy", "Entropy", number, "falling slowly", "EntropyLost"),
    ("repetition", "Repetition", percent, "below 20 %", "RepetitionRose"),
    ("answer_tokens", "Tokens an answer", number, "much as at first", "AnswerLengthChanged"),
    ("ended", "Ended answers", percent, "above 90 %", "AnswersCutOff"),
)
"""Metric, what it is, how it is written, what is healthy, and the check that watches it."""


def policy_gradient_section(report: Mapping[str, Any]) -> Section | None:
    """The course of every stage that learns from rewarded answers: from beginning to end, then its curves."""
    if is_control(report):
        return None
    training = report.get("training") or {}
    stages = [
        stage
        for stage in STAGES
        if isinstance(training.get(stage), Mapping) and training[stage].get("curves")
    ]
    if not stages:
        return None
    return Section(
        anchor="policy-gradient",
        title="What was learned from reward",
        lede=LEDE,
        body=join(_stage(report, stage, titled=len(stages) > 1) for stage in stages),
    )


def _stage(report: Mapping[str, Any], stage: str, *, titled: bool) -> Html:
    return join(
        [
            element("h3", STAGES[stage]) if titled else None,
            table(
                ["Metric", "First update", "At the end", "Healthy"],
                _rows(report, stage),
                caption=f"{STAGES[stage]} from its beginning to its end",
                class_="course",
            ),
            *_charts(report, stage),
        ]
    )


def _charts(report: Mapping[str, Any], stage: str) -> Iterator[Html]:
    """The groups of charts of which there are some, each with its heading."""
    for name, panels in panel_groups(report, stage).items():
        charts = [chart for panel in panels if (chart := draw(panel, report["training"][stage])) is not None]
        if charts:
            yield element("h3", name)
            yield element("div", *charts, class_="charts")


def _rows(report: Mapping[str, Any], stage: str) -> list[list[object]]:
    raised = {finding.name: finding.raised for finding in find_stage_warnings(report, stage)}
    rows: list[list[object]] = []
    for metric, label, write, healthy, check in (*REWARD, *_monitored(report, stage), *ROWS):
        values = curve(report, stage, metric)
        if not values or not means_something(report, stage, metric):
            continue
        last = mean_at_end(report, stage, metric)
        expected = _target(report, stage, metric) or healthy
        warning = element("a", "see the warning", href="#warnings") if raised.get(check) else None
        end = join([write(values[-1] if last is None else last), " ", warning])
        rows.append([label, write(values[0]), end, element("span", expected, class_="count")])
    return rows


def _monitored(report: Mapping[str, Any], stage: str) -> list[MetricRow]:
    """A row for each reward that is only monitored, right behind the one that is learned from."""
    behind = {
        monitored.name for monitored in monitored_rewards(report, stage) if monitored.severity is not None
    }
    labels = {name: name.removeprefix(MONITORED) for name in monitored_names(report, stage)}
    return [
        (name, f"Monitored: {label}", number, "rising too", "RewardOveroptimised" if label in behind else "")
        for name, label in labels.items()
    ]


def _target(report: Mapping[str, Any], stage: str, metric: str) -> str:
    """What the run's own settings ask of a metric."""
    name = {"reference_kl": "target_kl", "update_kl": "target_update_kl"}.get(metric)
    target = setting(report, stage, name) if name else None
    unit = f"nats {'per answer' if metric == 'reference_kl' else 'per token'}"
    if target:
        return f"{'near' if metric == 'reference_kl' else 'up to'} {number(target)} {unit}"
    return f"below {number(KL_WARNING)} {unit}" if metric == "reference_kl" else ""
