"""What every command does with rows that it cannot use: leave them out, count them, name them; or end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logratio.data.unusable_rows import (
    ReadRows,
    UnusableRow,
    describe_rows,
    ensure_share,
    refuse_rows,
    too_many,
    unused_columns,
)
from logratio.progress import say
from logratio.run_directory import write_json

LEFT_OUT = ".left_out.json"
"""Ending of the file beside a command's output that names the rows left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowConfig:
    """What becomes of rows that cannot be used."""

    strict: bool = False
    """End where a row cannot be used, instead of leaving it out, counting it and naming it."""
    max_unusable_share: float | None = None
    """End if a larger share of the rows cannot be used. Without it: more than a tenth and more than five
    rows, or half of them."""

    def ensure(self, unusable: Sequence[UnusableRow], num_rows: int) -> None:
        """Raise `UnusableRows` where so many must not be left out, or none at all.

        Raises:
            BadConfig: the share is none.
        """
        ensure_share(self.max_unusable_share)
        if self.strict and unusable:
            raise refuse_rows(unusable, num_rows, because="--strict")
        if len(unusable) == num_rows:
            raise refuse_rows(unusable, num_rows, because="nothing is left")
        if too_many(unusable, num_rows, max_share=self.max_unusable_share):
            raise refuse_rows(unusable, num_rows)


def settle_rows(
    read: ReadRows[Any], flags: RowConfig, *, used: Iterable[str], noted: Path | None = None
) -> dict[str, Any]:
    """Say what became of every row and which columns nothing reads, and end where too little is left.

    Args:
        read: the rows.
        flags: what may be left out.
        used: columns that something reads.
        noted: the file in which all rows left out will stand.

    Returns:
        The same for a file: counts that add up, rows left out, columns not used.

    Raises:
        UnusableRows: too many rows cannot be used, or with --strict one.
    """
    unused = unused_columns(read.columns, used)
    lines = describe_rows(read.unusable, read.num_rows, unused, noted=str(noted or ""))
    say("\n".join(f"data: {line}" for line in lines))
    flags.ensure(read.unusable, read.num_rows)
    return read.to_json() | {"columns_not_used": unused}


def write_rows_left_out(path: Path, settled: Mapping[str, Any]) -> None:
    """Write what became of every row, where any was left out; what an earlier run wrote there is put away."""
    if settled["unusable"]:
        write_json(path, dict(settled))
    else:
        path.unlink(missing_ok=True)
