"""The result of one check of a run's numbers, and how checks read the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from logratio.report.digits import is_number

Severity = Literal["serious", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
"""The worst first."""
TAIL, MIN_TAIL = 0.1, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
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
    value: Any = report
    for key in ("training", stage, "curves", name):
        value = value.get(key) if isinstance(value, Mapping) else None
    return [one for one in value if is_number(one)] if isinstance(value, list) else []


def tail_mean(values: Sequence[float]) -> float | None:
    """The mean over the last tenth of a curve, over at least 5 values; `None` for a shorter curve."""
    if len(values) < MIN_TAIL:
        return None
    tail = values[-max(MIN_TAIL, math.ceil(len(values) * TAIL)) :]
    return sum(tail) / len(tail)
