"""A reward model on held-out comparisons, in lines for a terminal."""

from __future__ import annotations

from dataclasses import replace

from logratio.evaluation.reward_calibration import RewardModelReport, Share
from logratio.evaluation.summary import align
from logratio.evaluation.verdict import as_percent


def describe(report: RewardModelReport | None) -> str:
    """The reward model on held-out comparisons, in lines for a terminal."""
    if report is None:
        return "no comparison was held out, so that nothing is known of other prompts: raise --held-out"
    n = report.accuracy.n
    rows = [
        (f"held out: {n} pairs of {report.num_prompts} prompts", "ranked right", "95 % interval"),
        ("reward model", *_cells(report.accuracy)),
        length_rule(report.longer_wins),
    ]
    if report.judge_accuracy is not None:
        rows.append(("the reward that the labels were drawn from", *_cells(report.judge_accuracy)))
    if report.agreement is not None:
        rows.append((f"two labels of one pair agree ({report.agreement.n} pairs)", *_cells(report.agreement)))
    lines = [align(rows)]
    if report.ceiling is not None:
        lines.append(f"ceiling: labels that noisy allow {as_percent(report.ceiling)}")
    lines.append(
        f"calibration error {report.calibration_error:.3f} (a perfectly calibrated model would show about "
        f"{report.calibration_error_by_chance:.3f} on so few pairs); loss {report.loss:.3f}"
    )
    by_length = [
        f"{one.low:+.0f} to {one.high:+.0f} tokens {as_percent(one.accuracy.value)}"
        for one in report.by_length
    ]
    lines.append("ranked right, by how much longer the preferred answer is: " + ", ".join(by_length))
    lines.append(f"correlation of score and length, from answer to answer: {report.length_correlation:+.2f}")
    return "\n".join(lines)


def length_rule(longer: Share) -> tuple[str, str, str]:
    """The rule of length that does better: where people like short answers, that is the one to beat."""
    if longer.value >= 0.5:
        return "the longer answer wins", *_cells(longer)
    mirrored = replace(longer, value=1 - longer.value, low=1 - longer.high, high=1 - longer.low)
    return "the shorter answer wins", *_cells(mirrored)


def _cells(share: Share) -> tuple[str, str]:
    return as_percent(share.value), f"{as_percent(share.low)} to {as_percent(share.high)}"
