"""How much to smooth labels that people gave, from how often people contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from logratio.annotate.domain.agreement import MIN_OVERLAP, Proportion
from logratio.stats.wilson import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """A suggestion for `logratio train dpo --label-smoothing`, with what it rests on."""

    value: float | None
    """The suggestion; none where too little is known, or nothing could be learned."""
    verdict_error: float | None
    """Chance that one verdict is wrong."""
    disagreement: Proportion | None
    """Chance that two people who both prefer an answer prefer different ones."""
    reason: str
    """Why there is no suggestion, or what it means."""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def verdict_error(disagreement: float) -> float | None:
    """Chance e that one verdict is wrong, from the chance d that two of them contradict each other.

    Two verdicts that are wrong with chance e each, independently, contradict each other where exactly one is
    wrong: `d = 2 e (1 − e)`. The smaller root is `e = (1 − √(1 − 2 d)) / 2`. Coin flips have d = 1/2; above
    that no e gives d, and there is none.

    Raises:
        ValueError: the chance is not between 0 and 1.
    """
    if not 0 <= disagreement <= 1:
        raise ValueError(f"a chance of {disagreement}")
    if disagreement > 0.5:
        return None
    return (1 - (1 - 2 * disagreement) ** 0.5) / 2


def label_error(error: float, margin: int) -> float:
    """Chance that a majority is wrong that has `margin` verdicts more than the minority.

    `1 / (1 + ((1 − e) / e)^margin)`, by Bayes with both answers equally likely to be the better one: each
    verdict multiplies the odds by (1 − e) / e, and one of either kind takes another back. With one verdict a
    pair it is e.
    """
    if error == 0:
        return 0.0
    return 1 / (1 + ((1 - error) / error) ** margin)


def suggest_smoothing(disagreement: Proportion | None, margins: Sequence[int]) -> Smoothing:
    """The label smoothing of a set of labels: the mean chance that one of them is wrong.

    It supposes that errors are independent and equally likely in every pair. Where some pairs are harder than
    others, the labels of the easy ones are better than this and those of the hard ones worse.

    Args:
        disagreement: measured on pairs that two people decided.
        margins: of each label, the verdicts for it less those against it.
    """
    num = disagreement.total if disagreement is not None else 0
    if disagreement is None or num < MIN_OVERLAP:
        reason = f"{num} pairs were decided by two people; {MIN_OVERLAP} are needed to measure disagreement"
        return Smoothing(value=None, verdict_error=None, disagreement=disagreement, reason=reason)
    error = verdict_error(disagreement.value)
    if error is None or error >= 0.5:
        reason = "people contradict each other as often as coins would: there is nothing here to learn"
        return Smoothing(value=None, verdict_error=error, disagreement=disagreement, reason=reason)
    value = sum(label_error(error, margin) for margin in margins) / len(margins) if margins else error
    reason = (
        f"two people contradict each other in {percent(disagreement.value)} of {num} pairs, as they would if"
        f" each verdict were wrong with chance {error:.3f}"
    )
    if any(margin > 1 for margin in margins):
        reason += f"; majorities are so more seldom, these labels with chance {value:.3f}"
    return Smoothing(value=value, verdict_error=error, disagreement=disagreement, reason=reason)
