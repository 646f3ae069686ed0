"""Checks of what an environment takes and gives against the spaces that it declares.

The thresholds are starting points of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from logratio.report.formatting import number, percent
from logratio.report.warnings.metric_series import STAGES
from logratio.report.warnings.warning import MIN_TAIL, ReportWarning, curve

MANY_CLIPPED = 0.5
CLIPPED = "action_clip_fraction"
OF_THE_SPACES = ("ActionsClipped", "ObservationsOutsideTheirSpace", "EpisodesWithoutMask")
"""Names of these findings, which the command says as well as the page."""


def actions_clipped(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Most drawn numbers of some dimension are cut to its bounds."""
    shares = _shares(report, stage)
    if not shares:
        return None
    dimension = max(shares, key=lambda name: max(shares[name]))
    first, last = shares[dimension]
    return ReportWarning(
        name="ActionsClipped",
        severity="warning",
        raised=max(first, last) > MANY_CLIPPED,
        value=max(first, last),
        threshold=f"more than {percent(MANY_CLIPPED, 0)} of the numbers drawn in a dimension are cut to a "
        "bound, at the beginning or at the end",
        what=f"In {STAGES[stage]} {percent(first, 0)} of the numbers drawn for {dimension} lay beyond a "
        f"bound at the beginning, {percent(last, 0)} at the end; the environment got the bound.",
        meaning="Draws that are cut to one bound are one action, and say nothing of the actions between the "
        "bounds. Where the best action lies at a bound, the policy may well go beyond it.",
        action="At the beginning: lower --initial-log-std, or let the environment declare the bounds "
        "that it truly has. At the end: look whether the best action lies at the bound.",
    )


def _shares(report: Mapping[str, Any], stage: str) -> dict[str, tuple[float, float]]:
    """Share of the draws that were cut, at the beginning and at the end, of each dimension that is known."""
    curves = report["training"][stage]["curves"]
    names = [name for name in curves if name.startswith(f"{CLIPPED}_")] or [CLIPPED]
    shares = {}
    for name in names:
        if values := curve(report, stage, name):
            dimension = name.removeprefix(CLIPPED).removeprefix("_")
            ends = fmean(values[:MIN_TAIL]), fmean(values[-MIN_TAIL:])
            shares[f"number {dimension} of an action" if dimension else "an action"] = ends
    return shares


def observations_outside(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Observations do not lie between the bounds that their space declares."""
    shares = curve(report, stage, "observation_outside_fraction")
    if not shares:
        return None
    worst = max(shares)
    return ReportWarning(
        name="ObservationsOutsideTheirSpace",
        severity="note",
        raised=worst > 0,
        value=worst,
        threshold="an observation lies beyond a bound of its space",
        what=f"In {STAGES[stage]} up to {percent(worst, 1)} of a rollout's observations lay outside of "
        "the space that the environment declares.",
        meaning="They were taken as they came. What was built on the declared bounds, such as a scale, is "
        "not what it was meant to be.",
        action="Let the environment declare the bounds that it truly has, or keep to those that it declares.",
    )


def masks_missing(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Episodes began without an action mask, though the environment has masks."""
    counts = curve(report, stage, "episodes_without_mask")
    if not counts:
        return None
    most = int(max(counts))
    return ReportWarning(
        name="EpisodesWithoutMask",
        severity="warning",
        raised=most > 0,
        value=float(most),
        threshold="an episode begins without an action mask, and masks come later",
        what=f"{number(most)} episodes began without info['action_mask'], which came later.",
        meaning="Until it came all actions were taken for allowed: some that were drawn may not have been.",
        action="Let the environment's reset give info['action_mask'] too.",
    )
