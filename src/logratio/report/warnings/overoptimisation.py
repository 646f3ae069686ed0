"""Is a reward exploited: does what is learned from rise while what is really wanted does not?

A reward model only stands for what people want. Pushed far enough it goes up while that goes down (Gao,
Schulman and Hilton, 2022, arXiv:2210.10760); a reward that is monitored and not learned from shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from logratio.report.formatting import number
from logratio.report.warnings.metric_series import (
    ERRORS,
    MONITORED,
    STAGES,
    change,
    monitored_names,
    quarters,
    rises,
    squared_error,
)
from logratio.report.warnings.warning import ReportWarning, Severity, curve

_PLACE: dict[Severity | None, int] = {"serious": 0, "warning": 1, "note": 2, None: 3}
_MEANINGS: dict[Severity | None, str] = {
    "serious": "What is learned from rises while what is monitored falls.",
    "warning": "What is learned from rises, and in what is monitored no rise is to be seen.",
    "note": "Both rose at first; of late only the one that is learned from does.",
    None: "What is monitored follows.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoredReward:
    """How a monitored reward went beside the one that is learned from, in quarters of the run."""

    name: str
    """What it is called."""
    parts: list[Sequence[float]]
    """Its values in each quarter."""
    reward: list[Sequence[float]]
    """Those of the reward that is learned from."""

    @property
    def best(self) -> int:
        """The quarter before the last in which it was highest."""
        return max(range(len(self.parts) - 1), key=lambda quarter: fmean(self.parts[quarter]))

    @property
    def severity(self) -> Severity | None:
        """How much it matters that it did not follow; `None` where it did, or the reward did not rise."""
        if not rises(self.reward[0], self.reward[-1]):
            return None
        fall, error = change(self.parts[self.best], self.parts[-1])
        # Where the reward falls from there as well, the two go together.
        if fall < -ERRORS * error and fmean(self.reward[-1]) >= fmean(self.reward[self.best]):
            return "serious"
        if not rises(self.parts[0], self.parts[-1]):
            return "warning"
        return "note" if self._left_behind else None

    @property
    def _left_behind(self) -> bool:
        """Of late no rise is to be seen, and there is less of one than its share of the reward's was."""
        first, before, last = (self.parts[quarter] for quarter in (0, -2, -1))
        reward = [fmean(self.reward[quarter]) for quarter in (0, -2, -1)]
        if len(self.parts) < 3 or reward[1] <= reward[0] or rises(before, last):
            return False
        if not rises(self.reward[-2], self.reward[-1]):
            return False
        share = (reward[2] - reward[1]) / (reward[1] - reward[0])
        parts = ((1.0, last), (-1.0 - share, before), (share, first))
        lack = sum(weight * fmean(part) for weight, part in parts)
        return lack < -ERRORS * sum(weight**2 * squared_error(part) for weight, part in parts) ** 0.5


def monitored_rewards(report: Mapping[str, Any], stage: str) -> list[MonitoredReward]:
    """The rewards that are only monitored, of runs that are long enough to say something of them."""
    reward = quarters(curve(report, stage, "reward"))
    columns = {name: quarters(curve(report, stage, name)) for name in monitored_names(report, stage)}
    return [
        MonitoredReward(name=name.removeprefix(MONITORED), parts=parts, reward=reward)
        for name, parts in columns.items()
        if len(parts) == len(reward) > 1
    ]


def reward_overoptimised(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """What is learned from rises, and what is monitored does not (Gao et al., 2022, arXiv:2210.10760)."""
    every = monitored_rewards(report, stage)
    if not every:
        return None
    worst = min(every, key=lambda monitored: _PLACE[monitored.severity])
    means = [fmean(part) for part in worst.parts]
    first, best, last = means[0], means[worst.best], means[-1]
    proxy = [number(fmean(part)) for part in (worst.reward[0], worst.reward[-1])]
    return ReportWarning(
        name="RewardOveroptimised",
        severity=worst.severity or "note",
        raised=worst.severity is not None,
        value=last - best,
        threshold="the reward rises, what is monitored no longer follows in the last quarter (note), is not "
        f"up by {ERRORS:g} standard errors (warning), or is down from its best quarter by as much (serious)",
        what=f"From the first to the last quarter of {STAGES[stage]} the reward went from {proxy[0]} to "
        f"{proxy[1]}; {worst.name}, which is only monitored, from {number(first)} to {number(last)}"
        + (f", after {number(best)} at best." if best > max(first, last) else "."),
        meaning=f"{_MEANINGS[worst.severity]} If {worst.name} is what you want, the reward only stands for "
        "it, and the policy learns the difference between the two (Gao et al., 2022).",
        action="Keep nearer to the reference (--kl-coefficient, --target-kl), end where the monitored one is "
        "best (--epochs), or make the reward better: a reward model learns most from comparisons of this "
        "policy's own answers.",
    )
