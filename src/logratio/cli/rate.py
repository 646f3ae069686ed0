"""Strengths of models from comparisons, with intervals: who is better than whom, and how surely.

    logratio rate --comparisons votes.csv --out runs/ratings

reads who beat whom, fits a Bradley-Terry model by maximum likelihood and prints a table; with --out it writes
ratings.html, a page with a plot, and ratings.json, every number of it. A file has the columns of one of
these lines:

    winner,loser               and if wanted tie (1 where nobody won)
    model_a,model_b,outcome    model_a, model_b or the winner's name, tie or tie (bothbad); the column may be
                               called winner, and --winner-column says which, where the rows do not tell
    chosen_model,rejected_model

as CSV, JSON Lines or Parquet, and if wanted a column count. The database of `logratio annotate serve` is read
too, where the answers came with the names of their models.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from logratio.data.normalised_names import tidy
from logratio.errors import LogratioError
from logratio.recipes.out_directory import prepare_out_directory
from logratio.recipes.rate import WinnerColumn, is_database, read_tally
from logratio.recipes.rows import RowConfig
from logratio.run_directory import atomic_write, describe_machine, hash_file, write_json
from logratio.stats.wilson import percent
from logratio.version import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from logratio.evaluation.ratings.records import Contrast, Ratings

NUMBERS, PAGE = "ratings.json", "ratings.html"
FILE_WIDTH = 120
"""Columns of the table where it is not shown in a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Flags of `logratio rate`."""

    comparisons: Path
    """Who beat whom: .csv, .jsonl, .parquet, or the database of `logratio annotate serve`."""
    ties: Literal["davidson", "rao-kupper", "half"] = "davidson"
    """What a tie means: the first two are models with a parameter for ties; half is half a win for each."""
    bootstrap: int = 1000
    """How many resamples of the comparisons are fitted for the second interval; 0 leaves it out."""
    baseline: str = ""
    """A model that every other is held against."""
    out: Path | None = None
    """Directory of ratings.html and ratings.json; nothing is written without it."""
    seed: int = 0
    """Seed of the resamples."""
    winner_column: WinnerColumn = "auto"
    """What the column beside model_a and model_b holds: the winner's name (names), model_a or model_b
    (sides), or what the file's rows tell (auto)."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of rows that cannot be used."""


def run(arguments: Arguments) -> int:
    """Read, fit, print and write."""
    started = time.monotonic()
    if arguments.out is not None:
        prepare_out_directory(arguments.out)
    tally = read_tally(arguments.comparisons, arguments.rows, winner_column=arguments.winner_column)
    # Only now: torch takes seconds to import, and most faults are in the file.
    from logratio.evaluation.ratings.rating import rate
    from logratio.progress import Progress

    with Progress("bootstrap", arguments.bootstrap, unit="resamples") as progress:
        try:
            ratings = rate(
                tally,
                ties=arguments.ties,
                resamples=arguments.bootstrap,
                seed=arguments.seed,
                baseline=tidy(arguments.baseline),
                on_fit=progress.advance,
            )
        except LogratioError as fault:
            fault.where = fault.where or str(arguments.comparisons)
            raise
    print_ratings(ratings)
    if arguments.out is not None:
        write(arguments.out, ratings, describe_run(arguments, seconds=time.monotonic() - started))
        print(f"\npage:    {arguments.out / PAGE}\nnumbers: {arguments.out / NUMBERS}")
    return 0


def describe_run(arguments: Arguments, *, seconds: float) -> dict[str, Any]:
    """Where the numbers come from."""
    import torch

    path = arguments.comparisons
    return {
        "logratio": __version__,
        "torch": torch.__version__,
        "machine": describe_machine(),
        "file": path.name,
        # A database changes with every label, and part of it stands in another file.
        "sha256": None if is_database(path) else hash_file(path),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(seconds, 1),
    }


def write(out: Path, ratings: Ratings, provenance: Mapping[str, Any]) -> None:
    """Write the numbers, then the page."""
    from logratio.report.ratings_page import page

    report = ratings.to_json() | {"provenance": dict(provenance)}
    write_json(out / NUMBERS, report)
    with atomic_write(out / PAGE) as stream:
        stream.write(page(report))


# --- what the terminal shows ------------------------------------------------------------------------


def print_ratings(ratings: Ratings) -> None:
    """Strengths, differences, and what a reader must know of both."""
    from rich.console import Console

    from logratio.evaluation.ratings.records import notes

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(describe_counts(ratings), markup=False)
    console.print()
    console.print(strengths_table(ratings))
    _print_contrasts(console, "each against the next", ratings.to_next)
    if ratings.baseline:
        _print_contrasts(console, "each against the baseline", ratings.to_baseline)
    console.print()
    for note in notes(ratings):
        console.print(f"note: {plain(note)}", style="yellow", markup=False, soft_wrap=True)


def describe_counts(ratings: Ratings) -> str:
    """How many models and comparisons there are, and what ties were taken for."""
    counts = ratings.to_json()["counts"]
    text = (
        f"{len(ratings.ratings)} models, {counts['comparisons']:,} comparisons"
        f" = {counts['decided']:,} decided + {counts['ties']:,} ties"
    )
    if ratings.tie_parameter is not None:
        sign = "ν" if ratings.tie_model == "davidson" else "θ"
        return f"{text}; ties by {ratings.tie_model}, {sign} = {ratings.tie_parameter:.4g}"
    return f"{text}; a tie is half a win for each" if counts["ties"] else text


def strengths_table(ratings: Ratings) -> Table:
    """A row for each model."""
    from logratio.evaluation.ratings.records import ELO

    headings = ["strength", "95 % covariance", "95 % bootstrap", "Elo", "won", "lost", "tied"]
    rows = [
        (
            one.model,
            [
                f"{one.strength:+.3f}",
                between(one.interval),
                between(one.bootstrap),
                f"{ELO * one.strength:+.0f}",
                *(f"{number:,}" for number in (one.wins, one.losses, one.ties)),
            ],
        )
        for one in ratings.ratings
    ]
    return _table("model", headings, rows)


def _print_contrasts(console: Console, heading: str, contrasts: Iterable[Contrast]) -> None:
    headings = ["difference", "95 % covariance", "95 % bootstrap", "of decided", ""]
    rows = [
        (
            f"{one.first} against {one.second}",
            [
                f"{one.difference:+.3f}",
                between(one.interval),
                between(one.bootstrap),
                percent(one.win_chance),
                "clear" if one.is_clear else "not told apart",
            ],
        )
        for one in contrasts
    ]
    console.print()
    console.print(_table(heading, headings, rows))


def _table(first: str, headings: list[str], rows: list[tuple[str, list[str]]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold", min_width=12)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, cells in rows:
        table.add_row(Text(plain(name)), *cells)
    return table


def between(interval: tuple[float, float] | None) -> str:
    """`-0.21 to 0.35`; a dash where there is none."""
    return "-" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def plain(text: str) -> str:
    """A text with nothing in it that a terminal would act on, on one line."""
    from logratio.report.html import visible

    return " ".join(visible(text).split())
