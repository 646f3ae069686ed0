"""The sentence on top of a report: better, worse or not shown, and never more than the interval allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from logratio.evaluation.win_rate import WinRate
from logratio.stats.bootstrap import Estimate
from logratio.stats.wilson import percent

VerdictOutcome = Literal["better", "worse", "not shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison shows."""

    outcome: VerdictOutcome
    """`better` or `worse` only where the whole interval of the win rate is on one side of one half."""
    sentence: str
    """The same for a reader, with the numbers and the judge."""
    judge: str
    """Who judged: the name of the reward."""

    def to_json(self) -> dict[str, str]:
        """All fields by name."""
        return asdict(self)


def outcome_of(low: float, high: float) -> VerdictOutcome:
    """What an interval of a win rate allows one to say; nothing where it touches one half."""
    if low > 0.5:
        return "better"
    return "worse" if high < 0.5 else "not shown"


def give_verdict(
    rate: WinRate,
    *,
    judge: str,
    length_controlled: Estimate | None = None,
    policy: str = "policy",
    reference: str = "reference",
    trained_on_judge: bool = False,
) -> Verdict:
    """The verdict that a win rate allows.

    Args:
        rate: of the policy against the reference.
        judge: who judged.
        length_controlled: the win rate at equal length, if it is to be weighed.
        policy: what to call the policy.
        reference: what to call the reference.
        trained_on_judge: the policy was trained towards this very judge.
    """
    outcome = outcome_of(rate.low, rate.high)
    claim = {
        "better": f"The {policy} is better than the {reference}",
        "worse": f"The {policy} is worse than the {reference}",
        "not shown": f"It is not shown that the {policy} is better or worse than the {reference}",
    }[outcome]
    trained = ", which is also what it was trained towards" if trained_on_judge else ""
    parts = [
        f"{claim}, judged by {judge}{trained}: {_describe_rate(rate)}.",
        _on_length(rate, length_controlled),
    ]
    return Verdict(outcome=outcome, sentence=" ".join(filter(None, parts)), judge=judge)


def _describe_rate(rate: WinRate) -> str:
    ties = f", {rate.ties} {'tie' if rate.ties == 1 else 'ties'} counted half" if rate.ties else ""
    side = {
        "better": "all of it above one half",
        "worse": "all of it below one half",
        "not shown": "which does not exclude one half",
    }[outcome_of(rate.low, rate.high)]
    return (
        f"it wins {as_percent(rate.value)} of {rate.n} prompts{ties}"
        f" ({rate.confidence * 100:g} % interval {as_percent(rate.low)} to {as_percent(rate.high)}, {side})"
    )


def _on_length(rate: WinRate, controlled: Estimate | None) -> str:
    """A sentence where equal length leads to another conclusion or number; else empty."""
    if controlled is None:
        return ""
    controlled_rate = (
        f"At equal length the win rate is {as_percent(controlled.value)}"
        f" ({as_percent(controlled.low)} to {as_percent(controlled.high)})"
    )
    plain, equal = outcome_of(rate.low, rate.high), outcome_of(controlled.low, controlled.high)
    if plain != equal:
        meaning = {
            "better": "which would be a win: length works against it",
            "worse": "which would be a loss: length works for it",
            "not shown": f"which does not show it: length may be part of why it is {plain}",
        }[equal]
        return f"{controlled_rate}, {meaning}."
    if not rate.low <= controlled.value <= rate.high:
        return f"{controlled_rate}, outside the plain interval: length plays a part."
    return ""


def as_percent(share: float) -> str:
    """`61.3 %`; never rounded onto or across one half, nor onto 0 or 1."""
    return percent(share, exact=(0.0, 0.5, 1.0), space=" ")
