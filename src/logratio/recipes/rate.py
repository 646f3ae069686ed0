"""Strengths of models from comparisons of their answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from logratio.data.normalised_names import NameForms, tidy
from logratio.data.unusable_rows import by_fault
from logratio.errors import LogratioError
from logratio.recipes.rows import RowConfig, settle_rows
from logratio.run_directory import disk_faults

if TYPE_CHECKING:
    from logratio.evaluation.ratings.pairwise_counts import PairwiseCounts
    from logratio.evaluation.ratings.records import Ratings

SQLITE = b"SQLite format 3\0"
WinnerColumn = Literal["auto", "names", "sides"]


def rate(
    comparisons: Path | str,
    *,
    ties: Literal["davidson", "rao-kupper", "half"] = "davidson",
    resamples: int = 1000,
    baseline: str = "",
    seed: int = 0,
    winner_column: WinnerColumn = "auto",
) -> Ratings:
    """Fit strengths s to who beat whom: `P(a beats b) = σ(s_a − s_b)` (Bradley and Terry 1952).

    Args:
        comparisons: .csv, .jsonl or .parquet with model_a, model_b and winner, or the database of
            `logratio annotate serve`.
        ties: a model with a parameter for ties (Davidson 1970; Rao and Kupper 1967), or half a win for each.
        resamples: of the comparisons, for the bootstrap intervals; 0 leaves them out.
        baseline: a model that every other is held against.
        seed: of the resamples.
        winner_column: what the column beside model_a and model_b holds: a name, a side, or what the rows
            tell.

    Returns:
        Strengths and differences with two kinds of 95 % intervals, and the counts they rest on.

    Raises:
        AmbiguousWinner: who won can be read in two ways.
        UnusableRows: too many rows cannot be used.
        BadConfig: the baseline is no model of the file, among others.
    """
    from logratio.evaluation.ratings import rating

    path = Path(comparisons)
    counts = read_tally(path, RowConfig(), winner_column=winner_column)
    return rating.rate(counts, ties=ties, resamples=resamples, seed=seed, baseline=tidy(baseline))


def read_tally(path: Path, rows: RowConfig, *, winner_column: WinnerColumn = "auto") -> PairwiseCounts:
    """The comparisons of a file or of a database of labels.

    Raises:
        AmbiguousWinner: who won can be read in two ways.
        BadConfig: --winner-column, and no row has such a column.
        UnusableRows: too many rows of the file cannot be used, or with --strict one.
        LogratioError: the file cannot be read, or holds nothing to compare.
    """
    from logratio.evaluation.ratings.pairwise_counts import count_outcomes
    from logratio.evaluation.ratings.reading import collect_outcomes, columns_read
    from logratio.evaluation.ratings.winner_column import no_winner_column

    try:
        if is_database(path):
            from logratio.recipes.rate_labels import read_labels

            if winner_column != "auto":
                raise no_winner_column()
            forms = NameForms()
            outcomes, left_out = read_labels(path, forms)
            tally = count_outcomes(outcomes, left_out=left_out)
            return replace(tally, remarks=tuple(forms.remarks()))
        read, remarks = collect_outcomes(path, winner_column=winner_column)
        if read.num_rows:
            settle_rows(read, rows, used=columns_read(read.columns))
        faults = by_fault(read.unusable)
        tally = count_outcomes(
            read.usable,
            left_out={name: len(own) for name, own in faults.items()},
            first_left_out={name: own[0].source for name, own in faults.items()},
        )
        return replace(tally, remarks=remarks)
    except LogratioError as fault:
        fault.where = fault.where or str(path)
        raise


def is_database(path: Path) -> bool:
    """Whether a file is a database, by its first bytes; or is to be one, by its name."""
    if path.is_file():
        with disk_faults(path), open(path, "rb") as stream:
            if stream.read(len(SQLITE)) == SQLITE:
                return True
    return path.suffix in (".db", ".sqlite")
