"""How a policy gradient went: its settings, and what parts of its curves say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any

from logratio.report.control_runs import is_control
from logratio.report.warnings.warning import MIN_TAIL, TAIL, measured

STAGES = {"reinforce": "REINFORCE", "ppo": "PPO"}
"""The stages that are checked, with what sentences call them."""
MONITORED = "monitored/"
"""Before the name of a reward that is only monitored."""
ERRORS = 2.0
"""Standard errors beyond which a mean has moved."""


def setting(report: Mapping[str, Any], stage: str, name: str) -> float | None:
    """A number among the settings that the stage ran with; `None` where it is not known."""
    return measured(report, "training", stage, "settings", "settings", name)


def setting_text(report: Mapping[str, Any], stage: str, name: str) -> str:
    """A word among the settings that the stage ran with; empty where it is not known."""
    value: Any = report
    for key in ("training", stage, "settings", "settings", name):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def monitored_names(report: Mapping[str, Any], stage: str) -> list[str]:
    """The metrics of the rewards that are only monitored."""
    curves = ((report.get("training") or {}).get(stage) or {}).get("curves") or {}
    return [name for name in curves if name.startswith(MONITORED)]


def unit(report: Mapping[str, Any]) -> str:
    """What a row is: a token of an answer, or an action in an environment."""
    return "action" if is_control(report) else "token"


def per_unit(report: Mapping[str, Any]) -> str:
    """What a quantity is of, as in nats per token."""
    return "per action" if is_control(report) else "per token"


def head_mean(values: Sequence[float]) -> float | None:
    """The mean over a curve's first 5 values; `None` for a shorter curve."""
    return fmean(values[:MIN_TAIL]) if len(values) >= MIN_TAIL else None


def stretch_length(num_values: int) -> int:
    """How many values a tenth of a curve has, 5 at least."""
    return max(MIN_TAIL, math.ceil(num_values * TAIL))


def stretches(values: Sequence[float]) -> list[float]:
    """The means over all stretches of a tenth of a curve, of at least 5 values; none for a shorter curve.

    A learning rate that falls to 0 makes the end of every run a quiet one, so what is asked of the size of
    updates is asked of the worst stretch.
    """
    length = stretch_length(len(values))
    sums = [0.0, *accumulate(values)]
    return [(end - start) / length for start, end in zip(sums, sums[length:], strict=False)]


def quarters(values: Sequence[float]) -> list[Sequence[float]]:
    """A curve cut into four parts, into fewer where they would have less than 5 values."""
    count = min(4, len(values) // MIN_TAIL)
    edges = [round(part * len(values) / count) for part in range(count + 1)] if count else []
    return [values[start:end] for start, end in pairwise(edges)]


def change(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """How far the mean rose from one part of a curve to another, and the standard error of that."""
    error = (squared_error(before) + squared_error(after)) ** 0.5
    return fmean(after) - fmean(before), error


def rises(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the mean rose from one part of a curve to another by more than its noise."""
    rise, error = change(before, after)
    return rise > ERRORS * error


def squared_error(values: Sequence[float]) -> float:
    """The squared standard error of a mean, from how much the updates differ."""
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
