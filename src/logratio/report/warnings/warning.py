"""The result of one check of a run's numbers, and how checks read the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from logratio.report.formatting import is_number

Severity = Literal["serious", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
"""The worst first."""
TAIL, MIN_TAIL = 0.1, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportWarning:
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


def measured(report: Mapping[str, Any], *keys: str) -> float | None:
    """The number under `keys`, one inside the other; `None` where there is none."""
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if is_number(value) else None


def curve(report: Mapping[str, Any], stage: str, name: str) -> list[float]:
    """The numbers of a training curve, in order."""
    values = _curves(report, stage).get(name)
    return [value for value in values if is_number(value)] if isinstance(values, list) else []


def mean_at_end(report: Mapping[str, Any], stage: str, name: str) -> float | None:
    """The mean of a metric over what the last tenth of the updates read; `None` for fewer than 5 updates.

    An update's value is a mean itself, and weighs as what it is a mean over does: the last batch of a pass,
    which may be smaller, weighs less. SFT's loss is a mean over tokens, DPO's over pairs, all else of DPO
    over the pairs that are no ties, and a policy gradient's metrics count by prompts. An update of ties alone
    says nothing. Where the sizes are not known, as of a run that is not over, all updates weigh the same.
    """
    known = _weighted(report, stage, name)
    return _mean(known[-max(MIN_TAIL, math.ceil(len(known) * TAIL)) :]) if len(known) >= MIN_TAIL else None


def mean_at_start(report: Mapping[str, Any], stage: str, name: str, *, num: int) -> float | None:
    """The same over the first `num` updates; `None` where there is none."""
    known = _weighted(report, stage, name)[:num]
    return _mean(known) if known else None


def _mean(known: Sequence[tuple[float, float]]) -> float:
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)


def _weighted(report: Mapping[str, Any], stage: str, name: str) -> list[tuple[float, float]]:
    """The values of the updates that have one and weigh anything, each with what it weighs."""
    values, weights = _curves(report, stage).get(name) or [], _weights(report, stage, name)
    if len(weights) != len(values):
        weights = [1.0] * len(values)
    pairs = zip(values, weights, strict=True)
    return [(value, weight) for value, weight in pairs if is_number(value) and weight > 0]


def _weights(report: Mapping[str, Any], stage: str, name: str) -> list[float]:
    """What each update's value is a mean over: tokens, pairs or prompts; empty where that is unknown."""
    curves = _curves(report, stage)
    steps = [step for step in curves.get("step") or [] if is_number(step)]
    tokens = [count for count in curves.get("tokens") or [] if is_number(count)]
    if stage == "sft":
        return tokens if len(tokens) == len(steps) else []
    examples = measured(report, "training", stage, "examples")
    size = measured(report, "training", stage, "settings", "settings", "batch_size")
    if not examples or not size:
        return []
    per_pass = math.ceil(examples / size)
    read = [min(size, examples - (int(step) - 1) % per_pass * size) for step in steps]
    ties = [count or 0.0 for count in curves.get("ties") or [None] * len(read)]
    return read if name == "loss" else [count - tied for count, tied in zip(read, ties, strict=True)]


def _curves(report: Mapping[str, Any], stage: str) -> Mapping[str, list[float | None]]:
    value: Any = report
    for key in ("training", stage, "curves"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def tail_mean(values: Sequence[float]) -> float | None:
    """The mean over the last tenth of a curve, over at least 5 values; `None` for a shorter curve."""
    if len(values) < MIN_TAIL:
        return None
    tail = values[-max(MIN_TAIL, math.ceil(len(values) * TAIL)) :]
    return sum(tail) / len(tail)
