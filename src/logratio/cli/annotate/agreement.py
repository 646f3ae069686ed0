"""How far people agree, with themselves too: before a model is trained on what they said.

    logratio annotate agreement --store labels.db --html agreement.html

tells raw agreement, Krippendorff's alpha for all, Cohen's kappa for each two people, both with bootstrap
intervals by pair; and for each person how often a hidden repeat got the same verdict, a gold pair the right
one, and the left or the longer answer the preference, with the median time of a verdict. Agreement needs 20
pairs that two people judged; with fewer, the rest is told and the exit status is 2. Verdicts on pairs that a
margin chose are left out, since close pairs say little about the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from logratio.annotate.domain.agreement import Between, Coefficient, Proportion
from logratio.annotate.domain.annotator_quality import Quality, QualityReport, assess
from logratio.annotate.storage.snapshot import Snapshot
from logratio.annotate.storage.store import Store
from logratio.data.normalised_names import lookalikes
from logratio.errors import TooFewLabels
from logratio.report.html import visible
from logratio.run_directory import atomic_write, write_json
from logratio.stats.wilson import percent

if TYPE_CHECKING:
    from rich.table import Table

FILE_WIDTH = 150
"""Columns of the tables where the output is no terminal."""
PAIR_HEADINGS = ("people", "pairs in common", "same verdict", "Cohen's kappa", "opposite", "tie against one")
ANNOTATOR_HEADINGS = (
    "person",
    "verdicts",
    "same again",
    "gold right",
    "for the left",
    "for the longer",
    "seconds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Flags of `logratio annotate agreement`."""

    store: Path
    """The file of labels that `logratio annotate serve` keeps; people may be judging meanwhile."""
    json: Path | None = None
    """Write every number to this file."""
    html: Path | None = None
    """Write the page to this file, with all that it needs."""
    seed: int = 0
    """Seed of the bootstrap."""


def run(arguments: Arguments) -> int:
    """Measure, write, print; where agreement is refused all else is printed first."""
    with Store.open(arguments.store) as store:
        report = assess(Snapshot.of(store), seed=arguments.seed)
    if arguments.json is not None:
        write_json(arguments.json, report.to_json())
    if arguments.html is not None:
        from logratio.annotate.web.agreement_page import render_report

        page = render_report(report, alone=True)
        with atomic_write(arguments.html) as stream:
            stream.write(page)
    print_report(report)
    for kind, path in (("numbers", arguments.json), ("page", arguments.html)):
        if path is not None:
            print(f"{kind + ':':<8} {path}")
    if report.agreement is None:
        raise TooFewLabels(report.refused, where=str(arguments.store), action=report.action)
    return 0


def print_report(report: QualityReport) -> None:
    """Sentences and two tables."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    for line in describe(report):
        console.print(escape(visible(line)))
    if report.agreement is not None:
        console.print()
        console.print(_table(PAIR_HEADINGS, [_two_row(two) for two in report.agreement.between]))
    if report.annotators:
        everybody = [report.together] if len(report.annotators) > 1 else []
        rows = [_person_row(quality) for quality in (*report.annotators, *everybody)]
        console.print()
        console.print(_table(ANNOTATOR_HEADINGS, rows))
    console.print()


def describe(report: QualityReport) -> Iterator[str]:
    """The report in lines; its counts add up."""
    people = len(report.annotators)
    yield (
        f"{report.num_verdicts} verdicts by {people} {'person' if people == 1 else 'people'}"
        f" on {report.num_pairs} pairs"
    )
    left_out = "".join(f" + {num} {name}" for name, num in report.left_out.items())
    yield f"{report.num_used} in the agreement{left_out} = {report.num_verdicts}"
    yield from (f"note: {sentence}" for sentence in lookalikes(one.annotator for one in report.annotators))
    agreement = report.agreement
    if agreement is None:
        return
    yield ""
    yield f"Krippendorff's alpha  {coefficient(agreement.alpha)}"
    yield f"same verdict          {share(agreement.raw)}"
    if agreement.opposite is not None:
        yield f"opposite answers      {share(agreement.opposite)}, where both people prefer one"
    yield f"judged by two or more {agreement.num_overlapping} pairs, {agreement.num_ratings} verdicts"


def coefficient(estimate: Coefficient) -> str:
    """`0.61 (0.53 to 0.69)`, or why there is none."""
    value = "" if estimate.value is None else f"{estimate.value:.2f}"
    if estimate.low is not None:
        return f"{value} ({estimate.low:.2f} to {estimate.high:.2f})"
    return f"{value} {estimate.reason}".strip()


def share(estimate: Proportion | None) -> str:
    """`76.5% (71 to 82%) of 226`, or a dash where nothing counts towards it."""
    if estimate is None:
        return "-"
    low, high = percent(estimate.low, 0).removesuffix("%"), percent(estimate.high, 0)
    return f"{percent(estimate.value)} ({low} to {high}) of {estimate.total}"


def _two_row(two: Between) -> list[str]:
    tied = two.num_common - two.num_same - two.num_opposite
    names = f"{two.first}, {two.second}"
    counts = [str(two.num_opposite), str(tied)]
    return [names, str(two.num_common), share(two.raw), coefficient(two.kappa), *counts]


def _person_row(quality: Quality) -> list[str]:
    rates = (quality.consistency, quality.gold, quality.left, quality.longer)
    seconds = "-" if quality.seconds is None else f"{quality.seconds:.1f}"
    return [quality.annotator or "everybody", str(quality.num_verdicts), *map(share, rates), seconds]


def _table(headings: tuple[str, ...], rows: list[list[str]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    return table
