"""Checks of the verdict: does it say more than the numbers?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from logratio.report.formatting import number, percent
from logratio.report.warnings.warning import ReportWarning, measured

FEW_PROMPTS = 100
MANY_TIES = 0.3
"""A starting point of ours."""


def allowed_verdict(report: Mapping[str, Any]) -> tuple[str, str]:
    """Outcome and sentence as the evaluation gave them, or what the interval allows where that is less."""
    verdict = report.get("verdict") or {}
    beyond = verdict_beyond_interval(report)
    if beyond is not None and beyond.raised:
        return "not shown", f"{beyond.what} {beyond.meaning}"
    return str(verdict.get("outcome", "")), str(verdict.get("sentence", ""))


def verdict_beyond_interval(report: Mapping[str, Any]) -> ReportWarning | None:
    """The verdict claims more than the win rate's interval allows."""
    verdict = report.get("verdict")
    low, high = measured(report, "win_rate", "low"), measured(report, "win_rate", "high")
    if not isinstance(verdict, Mapping) or low is None or high is None:
        return None
    outcome = verdict.get("outcome")
    beyond = (outcome == "better" and low <= 0.5) or (outcome == "worse" and high >= 0.5)
    return ReportWarning(
        name="VerdictBeyondInterval",
        severity="serious",
        raised=beyond,
        value=low if outcome == "better" else high,
        threshold="better needs an interval above 50 %, worse one below",
        what=f"The verdict is “{outcome}”, and the interval is {percent(low)} to {percent(high)}.",
        meaning="The interval holds 50 %, so this data does not show a difference.",
        action="Read it as not shown; evaluate on more prompts.",
    )


def interval_holds_half(report: Mapping[str, Any]) -> ReportWarning | None:
    """The win rate's interval holds one half."""
    low, high = measured(report, "win_rate", "low"), measured(report, "win_rate", "high")
    if low is None or high is None:
        return None
    return ReportWarning(
        name="NotShown",
        severity="note",
        raised=low <= 0.5 <= high,
        value=low,
        threshold="the interval holds 50 %",
        what=f"The win rate's interval is {percent(low)} to {percent(high)}.",
        meaning="Neither better nor worse is shown: chance alone gives such a result often.",
        action="Evaluate on more prompts, or train for longer, with more pairs or a larger step.",
    )


def few_prompts(report: Mapping[str, Any]) -> ReportWarning | None:
    """Too few prompts for a narrow interval."""
    count = measured(report, "win_rate", "n")
    if count is None:
        return None
    half_width = 0.98 / math.sqrt(max(count, 1))
    return ReportWarning(
        name="FewPrompts",
        severity="warning",
        raised=count < FEW_PROMPTS,
        value=count,
        threshold=f"fewer than {FEW_PROMPTS} prompts",
        what=f"The win rate is measured on {number(count)} prompts.",
        meaning=f"Near 50 % the interval reaches about {percent(half_width, 0)} to each side.",
        action="Evaluate on more held-out prompts.",
    )


def many_ties(report: Mapping[str, Any]) -> ReportWarning | None:
    """The judge often cannot tell the answers apart."""
    ties, count = measured(report, "win_rate", "ties"), measured(report, "win_rate", "n")
    if ties is None or not count:
        return None
    return ReportWarning(
        name="ManyTies",
        severity="note",
        raised=ties / count > MANY_TIES,
        value=ties / count,
        threshold=f"more than {percent(MANY_TIES, 0)} ties",
        what=f"{percent(ties / count)} of the comparisons are ties.",
        meaning="The judge gives both answers the same reward, so the win rate says little "
        "about those prompts.",
        action="Use a finer judge, or look at the mean reward beside the win rate.",
    )


def length_control_differs(report: Mapping[str, Any]) -> ReportWarning | None:
    """The win rate changes when length is held equal."""
    raw = [measured(report, "win_rate", key) for key in ("value", "low", "high")]
    controlled = [measured(report, "length_controlled_win_rate", key) for key in ("value", "low", "high")]
    value, low, high = raw
    fair = controlled[0]
    if value is None or low is None or high is None or fair is None:
        return None
    lost = controlled[1] is not None and low > 0.5 >= controlled[1]
    return ReportWarning(
        name="LengthExplainsWins",
        severity="warning",
        raised=lost or not low <= fair <= high,
        value=fair - value,
        threshold="the length-controlled win rate leaves the interval of the raw one, or no "
        "longer excludes 50 %",
        what=f"The win rate is {percent(value)}; with length held equal it is {percent(fair)}.",
        meaning="Part of the difference is answers that are longer or shorter, not better.",
        action="Quote the length-controlled number; try the length-normalised loss or SimPO.",
    )


def reward_intervals_touch(report: Mapping[str, Any]) -> ReportWarning | None:
    """The rewards' intervals overlap."""
    intervals = report.get("reward_interval")
    policy, reference = (
        (intervals.get(name) for name in ("policy", "reference"))
        if isinstance(intervals, Mapping)
        else (None, None)
    )
    if not policy or not reference:
        return None
    gap = max(policy[0] - reference[1], reference[0] - policy[1])
    return ReportWarning(
        name="RewardIntervalsTouch",
        severity="note",
        raised=gap <= 0,
        value=gap,
        threshold="the intervals of the two mean rewards overlap",
        what=f"The intervals of the mean rewards overlap by {number(-gap)}."
        if gap <= 0
        else f"The intervals of the mean rewards are {number(gap)} apart.",
        meaning="Taken alone the means do not show a difference. The win rate compares prompt "
        "by prompt and can.",
        action="Judge by the win rate; evaluate on more prompts for narrower means.",
    )
