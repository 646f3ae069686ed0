"""Say what is wrong with a file of comparisons, row by row, before a model is trained on it.

Each row is usable, or left out for one named reason with its file and line; the counts add up to the rows
of the file. With a model, its tokenizer and its configuration show also what training would see: lengths in
tokens, answers that are cut, prompts that leave no room, tokens that have no embedding, rows behind the last
position. No weight is loaded. The exit status is 1 where training would be refused, else 0;
with --strict it is 2 where a row cannot be used.

    logratio check --data comparisons.jsonl
    logratio check --data comparisons.jsonl --model embedded --max-length 512 --json check.json
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from logratio.data.unusable_rows import (
    FEW_SHOWN,
    UnusableRow,
    by_fault,
    count_rows,
    describe_columns,
    one_line,
)
from logratio.data.validation import CheckReport, count_ties
from logratio.recipes.check import check
from logratio.recipes.prompt_format import PromptFormatConfig
from logratio.recipes.rows import RowConfig
from logratio.run_directory import write_json
from logratio.stats.wilson import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Flags of `logratio check`."""

    data: Path
    """Comparisons: JSON Lines (also .gz) or Parquet with prompt, chosen and rejected as text or messages,
    or whole transcripts."""
    model: str | None = None
    """The model to be trained, for its tokenizer: a transformers directory, a run directory, a hub id, a
    .gguf file, or `embedded`."""
    prompt_format: Annotated[PromptFormatConfig, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatConfig
    )
    """How prompts given as text are rendered."""
    max_length: int = 1024
    """Tokens of prompt and answer together; longer answers are cut and counted."""
    max_prompt_length: int | None = None
    """Tokens of a prompt; rows with a longer one are left out. By default a prompt may fill all but one."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of rows that cannot be used."""
    limit: int | None = None
    """Read only so many rows."""
    json: Path | None = None
    """Write every number and every row left out to this file."""
    all: bool = False
    """Show every place, not only the first few of each fault."""


def run(arguments: Arguments) -> int:
    """Read, check and print; 1 if training would be refused."""
    report = check(
        arguments.data,
        arguments.model,
        max_length=arguments.max_length,
        max_prompt_length=arguments.max_prompt_length,
        prompt_format=arguments.prompt_format,
        rows=arguments.rows,
        limit=arguments.limit,
    )
    if arguments.json is not None:
        write_json(arguments.json, report.to_json())
    print_report(report, few=None if arguments.all else FEW_SHOWN)
    if arguments.rows.strict:
        arguments.rows.ensure(report.unusable, report.num_rows)
    return int(report.refuses_training)


def print_report(report: CheckReport, *, few: int | None) -> None:
    """Faults with their places, then what the usable rows are like, then the verdict."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for line in describe(report, few=few):
        style = next((style for mark, style in STYLES.items() if line.startswith(mark)), None)
        console.print(escape(line), style=style)


STYLES = {"training would be refused": "bold red", "training can begin": "bold green", "warning": "yellow"}


def describe(report: CheckReport, *, few: int | None) -> Iterator[str]:
    """The report in lines."""
    yield count_rows(report.unusable, report.num_rows)
    for name, rows in by_fault(report.unusable).items():
        yield f"\n{name}: {len(rows)}"
        yield from _places(rows, few)
    if report.ties:
        yield f"\n{count_ties(len(report.ties))}"
        yield from _more([f"  {source}" for source in report.ties], few)
    for title, groups in (
        ("several equal votes on one pair", report.duplicates),
        ("votes for both answers of one pair", report.contradictions),
        ("cycles (A over B over C over A)", report.cycles),
        ("both answers begin with the prompt", [[source] for source in report.prompts_repeated]),
    ):
        if groups:
            yield f"\n{title}: {len(groups)}"
            yield from _more([f"  {'  '.join(rows)}" for rows in groups], few)
    if report.columns_not_used:
        yield f"\n{one_line(describe_columns(report.columns_not_used))}"
    if report.num_usable:
        yield ""
        yield from _measures(report)
    yield ""
    yield from report.notes
    yield from (f"warning: {warning}" for warning in report.warnings)
    yield from (f"training would be refused: {reason}" for reason in report.reasons)
    if not report.reasons:
        yield "training can begin"


def _places(rows: list[UnusableRow], few: int | None) -> Iterator[str]:
    yield from _more([f"  {row.source}  {one_line(row.what)}" for row in rows], few)
    for action in sorted({row.action for row in rows if row.action})[:few]:
        yield f"  do: {action}"


def _more(lines: list[str], few: int | None) -> Iterator[str]:
    yield from lines[:few]
    if few is not None and len(lines) > few:
        yield f"  and {len(lines) - few} more (--all or --json shows them)"


def _measures(report: CheckReport) -> Iterator[str]:
    bias = report.length_bias
    for index, (name, quantiles) in enumerate(report.lengths.items()):
        if index == 0:
            yield f"length in {bias.unit:<12}" + "".join(f"{title:>8}" for title in quantiles)
        yield f"  {name:<20}" + "".join(f"{value:>8}" for value in quantiles.values())
    if not bias.num_pairs:
        yield 'no pair has answers of unequal length: "the longer wins" says nothing'
    else:
        yield (
            f'"the longer wins" is right in {bias.wins} of {bias.num_pairs} pairs of unequal length: '
            f"{percent(bias.accuracy)}, 95 % interval {percent(bias.low)} to {percent(bias.high)}"
        )
    if report.truncated is None:
        yield "tokens were not looked at: give --model"
        return
    of_all = report.num_usable
    shares = (f"{side} {count} ({percent(count / of_all)})" for side, count in report.truncated.items())
    yield f"answers cut at the end: {', '.join(shares)}"
    yield f"boundary mismatches: {report.boundary_mismatches}"
