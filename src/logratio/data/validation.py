"""What is wrong with preference data, what is left to train on, and whether training may begin.

Each row is either usable or left out for one named reason; the counts add up to the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from logratio.data.encoding import UNLIMITED, EncodedPair, encode_comparison
from logratio.data.label_consistency import LabelReport, compare_labels
from logratio.data.length_statistics import LengthBias, length_bias, quantiles
from logratio.data.preference_formats import COLUMNS, ReadResult
from logratio.data.rendering import count_unrendered, describe_rendering, describe_unrendered
from logratio.data.unusable_rows import (
    UnusableRow,
    by_fault,
    describe_rows,
    ensure_share,
    line_of,
    too_many,
    unusable_json,
    unused_columns,
)
from logratio.errors import BadConfig, BoundaryMismatch, ContradictoryLabels, DataFault, Tie
from logratio.models.input_limits import ModelLimits
from logratio.models.tokenisation import Tokenizer, end_token_ids
from logratio.records import Comparison
from logratio.stats.wilson import percent

__all__ = ["CheckReport", "EncodedPair", "check_comparisons"]

TRUNCATION_GAP = 0.02
"""Two points: with more, cutting tells chosen from rejected."""
LENGTH_ACCURACY = 0.6
"""About as well as length alone predicts people's labels; beyond it a model may learn length only."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What became of every row, and what the usable ones are like."""

    unusable: list[UnusableRow]
    """Rows that are left out, each with its one reason."""
    comparisons: list[Comparison]
    """Rows that are usable."""
    usable: list[EncodedPair]
    """The same rows as tokens; empty without a tokenizer."""
    duplicates: list[list[str]]
    """Places of equal votes on one pair; they are kept, as several votes."""
    contradictions: list[list[str]]
    """Places of the votes on each pair that both answers won at least once."""
    undecided: list[list[str]]
    """Those contradictions without a majority, which are left out."""
    cycles: list[list[str]]
    """Places of votes that go round: A over B, B over C, C over A; they are kept."""
    length_bias: LengthBias
    """How well "the longer wins" predicts the labels."""
    lengths: dict[str, dict[str, int]]
    """Quantiles of the lengths of prompt, chosen and rejected."""
    truncated: dict[str, int] | None
    """How many answers were cut, by side; `None` without a tokenizer."""
    prompts_repeated: list[str]
    """Rows in which both answers begin with the whole prompt."""
    not_rendered: dict[str, int] = field(default_factory=dict)
    """Fields, contents and tools that the chat template leaves out, with the number of rows."""
    notes: list[str] = field(default_factory=list)
    """How prompts are rendered and how answers end."""
    columns_not_used: dict[str, int] = field(default_factory=dict)
    """Columns that nothing reads, with how many rows have each."""
    reasons: list[str] = field(default_factory=list)
    """Why training is refused; empty where it is not."""
    warnings: list[str] = field(default_factory=list)
    """What is not refused, but should be known."""

    @property
    def num_rows(self) -> int:
        """How many rows the file has."""
        return len(self.unusable) + self.num_usable

    @property
    def num_usable(self) -> int:
        """How many can be trained on."""
        return len(self.comparisons)

    @property
    def ties(self) -> list[str]:
        """Places of the usable rows in which neither answer is preferred."""
        return [comparison.source for comparison in self.comparisons if comparison.tie]

    @property
    def refuses_training(self) -> bool:
        """Whether training must not begin."""
        return bool(self.reasons)

    @property
    def faults(self) -> dict[str, list[str]]:
        """The places of the rows left out, by the fault's name, the most frequent first."""
        return {name: [row.source for row in rows] for name, rows in by_fault(self.unusable).items()}

    @property
    def boundary_mismatches(self) -> int:
        """Rows in which prompt and answer share a token."""
        return len(self.faults.get(BoundaryMismatch.__name__, ()))

    def summary(self, *, noted: str = "") -> str:
        """A few lines: what is usable, what is left out and why, warnings.

        Args:
            noted: the file in which all rows left out will stand.
        """
        rows = describe_rows(self.unusable, self.num_rows, self.columns_not_used, noted=noted)
        ties = [count_ties(len(self.ties))] if self.ties else []
        return "\n".join(f"data: {line}" for line in [*rows, *ties, *self.notes, *self.warnings])

    def to_json(self) -> dict[str, Any]:
        """Every number, and every row left out with its place and reason."""
        return {
            "num_rows": self.num_rows,
            "num_usable": self.num_usable,
            "num_ties": len(self.ties),
            "num_prompts": len({comparison.prompt.key for comparison in self.comparisons}),
            **unusable_json(self.unusable),
            "columns_not_used": self.columns_not_used,
            "duplicates": self.duplicates,
            "contradictions": self.contradictions,
            "undecided": self.undecided,
            "cycles": self.cycles,
            "length_bias": self.length_bias.to_json(),
            "lengths": self.lengths,
            "truncated": self.truncated,
            "boundary_mismatches": self.boundary_mismatches,
            "prompts_repeated": self.prompts_repeated,
            "not_rendered": self.not_rendered,
            "notes": self.notes,
            "refuses_training": self.refuses_training,
            "reasons": self.reasons,
            "warnings": self.warnings,
        }


def check_comparisons(
    result: ReadResult,
    tokenizer: Tokenizer | None = None,
    *,
    max_length: int = 1024,
    max_prompt_length: int | None = None,
    max_unusable_share: float | None = None,
    min_usable: int = 1,
    limits: ModelLimits = UNLIMITED,
    used: Iterable[str] = COLUMNS,
) -> CheckReport:
    """Check rows and labels, and with a tokenizer the tokens that training would take.

    Args:
        result: what `read_comparisons` returned.
        tokenizer: of the model to be trained; without it nothing about tokens is known.
        max_length: tokens of prompt and answer together; a longer answer is cut and counted.
        max_prompt_length: a longer prompt makes its row unusable; without it, one that leaves no room does.
        max_unusable_share: training is refused if a larger share of the rows is unusable; without it as
            `unusable_rows.too_many` says.
        min_usable: training is refused if fewer rows are usable.
        limits: the tokens and positions of the model to be trained.
        used: columns that something reads; the others are named.

    Raises:
        BadConfig: a limit is out of range.
    """
    _ensure_limits(max_length, max_prompt_length)
    ensure_share(max_unusable_share)
    reasons = _tokenizer_faults(tokenizer)
    tokenizer = None if reasons else tokenizer
    how = {"max_length": max_length, "max_prompt_length": max_prompt_length, "limits": limits}
    pairs, unusable = _encode(result.comparisons, tokenizer, how)
    # Two ties of one pair in different orders would count as votes that contradict each other.
    ties = [pair for pair in pairs if pair[0].tie]
    pairs = [pair for pair in pairs if not pair[0].tie]
    labels = compare_labels([comparison for comparison, _ in pairs])
    sources = [comparison.source for comparison, _ in pairs]
    undecided = {row for rows in labels.undecided for row in rows}
    unusable += [_undecided_row(row, rows, sources) for rows in labels.undecided for row in rows]
    kept = [pair for row, pair in enumerate(pairs) if row not in undecided] + ties
    unusable = sorted(result.unusable + unusable, key=line_of)
    report = _describe(kept, unusable, labels, sources, with_tokens=tokenizer is not None)
    reasons += _reasons(report, max_unusable_share=max_unusable_share, min_usable=min_usable)
    warnings = [*_position_warnings(report, limits, max_length), *_warnings(report)]
    unused = unused_columns(result.columns, used)
    report = replace(report, reasons=reasons, warnings=warnings, columns_not_used=unused)
    return report if tokenizer is None else _add_rendering(report, tokenizer)


def _add_rendering(report: CheckReport, tokenizer: Tokenizer) -> CheckReport:
    rows = [
        (comparison.prompt, (comparison.chosen, comparison.rejected)) for comparison in report.comparisons
    ]
    counts = count_unrendered(tokenizer, rows)
    return replace(
        report,
        not_rendered=counts,
        notes=describe_rendering(tokenizer, [prompt for prompt, _ in rows]),
        warnings=[*report.warnings, *describe_unrendered(tokenizer, counts)],
    )


def _ensure_limits(max_length: int, max_prompt_length: int | None) -> None:
    if max_length < 2:
        raise BadConfig(
            f"max_length is {max_length}", action="give at least 2: one token of prompt, one of answer"
        )
    if max_prompt_length is not None and not 1 <= max_prompt_length < max_length:
        raise BadConfig(
            f"max_prompt_length is {max_prompt_length}",
            action=f"give 1 or more and below max_length {max_length}",
        )


def _tokenizer_faults(tokenizer: Tokenizer | None) -> list[str]:
    if tokenizer is not None:
        try:
            end_token_ids(tokenizer)
        except DataFault as fault:
            return [f"{fault.name}: {fault.what}"]
    return []


def _encode(
    comparisons: Sequence[Comparison],
    tokenizer: Tokenizer | None,
    how: Mapping[str, Any],
) -> tuple[list[tuple[Comparison, EncodedPair | None]], list[UnusableRow]]:
    """Comparisons with their tokens where there is a tokenizer, and those that have none that can be used."""
    if tokenizer is None:
        return [(comparison, None) for comparison in comparisons], []
    pairs: list[tuple[Comparison, EncodedPair | None]] = []
    unusable: list[UnusableRow] = []
    for comparison in comparisons:
        try:
            pairs.append((comparison, encode_comparison(tokenizer, comparison, **how)))
        except DataFault as fault:
            unusable.append(UnusableRow.of(fault, source=comparison.source))
    return pairs, unusable


def _undecided_row(row: int, rows: Sequence[int], sources: Sequence[str]) -> UnusableRow:
    others = ", ".join(sources[other].rpartition(":")[2] for other in rows if other != row)
    return UnusableRow(
        source=sources[row],
        fault_name=ContradictoryLabels.__name__,
        what=f"as many rows prefer the other answer; the rows on this pair besides: {others}",
        action="add a vote that decides, or take the rows out",
    )


def _describe(
    pairs: Sequence[tuple[Comparison, EncodedPair | None]],
    unusable: list[UnusableRow],
    labels: LabelReport,
    sources: Sequence[str],
    *,
    with_tokens: bool,
) -> CheckReport:
    comparisons = [comparison for comparison, _ in pairs]
    usable = [encoded for _, encoded in pairs if encoded is not None]
    if with_tokens:
        sizes = [(len(pair.prompt_ids), len(pair.chosen_ids), len(pair.rejected_ids)) for pair in usable]
    else:
        sizes = [(len(str(row.prompt)), len(row.chosen.text), len(row.rejected.text)) for row in comparisons]
    decided = [size[1:] for size, row in zip(sizes, comparisons, strict=True) if not row.tie]
    cut = {
        "chosen": sum(pair.chosen_cut for pair in usable),
        "rejected": sum(pair.rejected_cut for pair in usable),
    }
    names = ("prompt", "chosen", "rejected")
    return CheckReport(
        unusable=unusable,
        comparisons=comparisons,
        usable=usable,
        duplicates=_sources_of(labels.duplicates, sources),
        contradictions=_sources_of(labels.contradictions, sources),
        undecided=_sources_of(labels.undecided, sources),
        cycles=_sources_of(labels.cycles, sources),
        length_bias=length_bias(decided, unit="tokens" if with_tokens else "characters"),
        lengths={name: quantiles([size[index] for size in sizes]) for index, name in enumerate(names)},
        truncated=cut if with_tokens else None,
        prompts_repeated=[row.source for row in comparisons if _repeats_prompt(row)],
    )


def _sources_of(groups: Sequence[Sequence[int]], sources: Sequence[str]) -> list[list[str]]:
    return [[sources[row] for row in rows] for rows in groups]


def _repeats_prompt(comparison: Comparison) -> bool:
    """Whether both answers begin with the whole prompt, as if a transcript had been taken for an answer."""
    prompt = comparison.prompt.messages[-1].text.strip()
    answers = (comparison.chosen.text, comparison.rejected.text)
    return bool(prompt) and all(answer.strip().startswith(prompt) for answer in answers)


def _reasons(report: CheckReport, *, max_unusable_share: float | None, min_usable: int) -> list[str]:
    reasons = []
    if report.num_usable < max(1, min_usable):
        reasons.append(f"{report.num_usable} rows are usable, and at least {max(1, min_usable)} are needed")
    share = too_many(report.unusable, report.num_rows, max_share=max_unusable_share)
    if share:
        reasons.append(share)
    return reasons


def _position_warnings(report: CheckReport, limits: ModelLimits, max_length: int) -> list[str]:
    """Where rows end at the model's positions, or go on behind those that it was made for."""
    ends_at, because = limits.truncated_to(max_length)
    if not report.usable or limits.positions is None:
        return []
    if ends_at < max_length:
        return [f"rows end after {ends_at} tokens instead of max_length {max_length}: {because}"]
    long = sum(_longest(pair) > limits.positions for pair in report.usable)
    if not long:
        return []
    return [
        f"{long} rows have more tokens than the {limits.positions} positions that the model's configuration "
        "names; its rotary positions go on behind them, with numbers that nobody trained: lower max_length"
    ]


def _longest(pair: EncodedPair) -> int:
    """Tokens of a pair's longer row."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def _warnings(report: CheckReport) -> list[str]:
    bias, cut = report.length_bias, report.truncated
    warnings = []
    if bias.low > LENGTH_ACCURACY:
        warnings.append(
            f'"the longer wins" predicts {percent(bias.accuracy, 0)} of the labels: '
            "the model may learn length only"
        )
    if cut and abs(cut["chosen"] - cut["rejected"]) > TRUNCATION_GAP * report.num_usable:
        warnings.append(
            f"{cut['chosen']} chosen and {cut['rejected']} rejected answers of {report.num_usable} are cut; "
            "the sides differ by more than 2 points, so that cutting tells them apart: raise max_length"
        )
    if report.prompts_repeated:
        warnings.append(f"both answers begin with the whole prompt in {len(report.prompts_repeated)} rows")
    settled = len(report.contradictions) - len(report.undecided)
    if settled:
        warnings.append(
            f"{settled} pairs have votes for both answers with a majority; all their votes are kept"
        )
    if report.duplicates:
        warnings.append(
            f"{len(report.duplicates)} pairs have several equal votes; they count as often as they stand"
        )
    if report.cycles:
        warnings.append(
            f"{len(report.cycles)} prompts have cycles (A over B over C over A); their rows are kept"
        )
    return warnings


def count_ties(num_ties: int) -> str:
    """How many rows are ties, and what becomes of them."""
    noun = "row is a tie" if num_ties == 1 else "rows are ties"
    return f"{num_ties} {noun}: half a label for each side in DPO and reward models, left out of SFT"


def without_ties(report: CheckReport) -> CheckReport:
    """The report for a trainer that needs a preferred answer: rows without one are among the unusable."""
    unusable = [
        UnusableRow(
            source=source,
            fault_name=Tie.__name__,
            what="neither answer is preferred",
            action="nothing, where the comparisons are trained on by DPO or a reward model later",
        )
        for source in report.ties
    ]
    return replace(
        report,
        unusable=sorted(report.unusable + unusable, key=line_of),
        comparisons=[comparison for comparison in report.comparisons if not comparison.tie],
        usable=[pair for pair in report.usable if not pair.comparison.tie],
    )
