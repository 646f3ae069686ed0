"""An evaluation as a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from logratio.evaluation.model_comparison import EvaluationResult, HeadToHead, StageResult
from logratio.evaluation.verdict import as_percent

HEADER = ("", "reward", "95 % interval", "KL, nats", "length", "ended", "distinct-2")


def describe(evaluation: EvaluationResult) -> str:
    """The verdict, a row of numbers for each model, what the verdict rests on, and the warnings."""
    warnings = [f"{warning.severity}: {warning.what} {warning.meaning}" for warning in evaluation.warnings]
    parts = [
        evaluation.verdict.sentence,
        align([HEADER, *map(_stage_cells, evaluation.stages)]),
        _describe_contest(evaluation.main),
        *warnings,
    ]
    return "\n\n".join(parts)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in rows
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _stage_cells(stage: StageResult) -> tuple[str, ...]:
    return (
        stage.name,
        f"{stage.reward.value:.3f}",
        f"{stage.reward.low:.3f} to {stage.reward.high:.3f}",
        "" if stage.kl is None else f"{stage.kl.value:.2f}",
        f"{stage.text.length:.1f}",
        f"{as_percent(stage.text.eos_rate)}",
        "" if stage.text.distinct_2 is None else f"{stage.text.distinct_2:.3f}",
    )


def _describe_contest(contest: HeadToHead) -> str:
    rate, controlled, gain = contest.win_rate, contest.length_controlled, contest.reward_difference
    longer = contest.longer_share_of_wins
    lines = [
        f"{rate.wins} won, {rate.ties} tied, {rate.losses} lost; {contest.identical} answers are identical;"
        f" interval: {rate.method}",
        f"difference of mean rewards {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})",
        f"win rate at equal length {as_percent(controlled.value)}"
        f" ({as_percent(controlled.low)} to {as_percent(controlled.high)})"
        + ("" if longer is None else f"; of the wins, {as_percent(longer)} are the longer answer"),
    ]
    return "\n".join(lines)
