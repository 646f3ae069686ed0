"""Rows of answers or comparisons that people cannot be shown, as `annotate serve` names them."""

from __future__ import annotations

from logratio.annotate.domain.pairs import USED_OF_ANSWERS, USED_OF_COMPARISONS, PairFile
from logratio.data.unusable_rows import describe_rows, unused_columns
from logratio.progress import say
from logratio.recipes.rows import RowConfig


def settle_pairs(file: PairFile, rows: RowConfig) -> None:
    """Say which rows of a file cannot be used and which columns nothing reads.

    Raises:
        UnusableRows: too many cannot be used, or with --strict one.
    """
    used = USED_OF_ANSWERS if "completions" in file.columns else USED_OF_COMPARISONS
    unused = unused_columns(file.columns, used)
    if file.unusable or unused:
        lines = describe_rows(file.unusable, file.num_rows, unused)
        say("\n".join(f"data: {line}" for line in lines))
    if len(file.unusable) < file.num_rows:
        rows.ensure(file.unusable, file.num_rows)
