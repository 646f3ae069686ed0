"""Rows that are given in memory instead of in a file, read by the same rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logratio.errors import BadConfig, WrongType
from logratio.records import Comparison, Prompt, Sample
from logratio.run_directory import atomic_write, hash_file

Row = Mapping[str, Any] | Comparison | Prompt | Sample | str


@dataclass(frozen=True, slots=True)
class GivenRows:
    """JSON objects with a name, in the place of a file of JSON Lines.

    >>> rows = GivenRows.of([{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}], name="pairs")
    >>> str(rows), len(rows.values)
    ('pairs', 1)
    """

    values: tuple[Mapping[str, Any], ...]
    """The rows."""
    name: str
    """Stands in messages where a file's path would: `pairs:3` is the third row."""

    @classmethod
    def of(cls, rows: Sequence[Row], *, name: str) -> GivenRows:
        """Rows as they are; a text is a prompt, records are the rows that they are written as."""
        return cls(tuple(_as_mapping(row) for row in rows), name)

    def __str__(self) -> str:
        return self.name

    def lines(self) -> Iterator[bytes]:
        """Each row as a line of JSON, without its end.

        Raises:
            WrongType: a row holds something that JSON does not know.
        """
        for number, value in enumerate(self.values, start=1):
            try:
                yield json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
            except (TypeError, ValueError) as error:
                raise WrongType(
                    f"the row is no JSON: {error}",
                    where=f"{self.name}:{number}",
                    action="give texts, numbers, lists and mappings",
                ) from error

    def write(self, path: Path) -> None:
        """Write the rows as JSON Lines, atomically."""
        with atomic_write(path, "wb") as stream:
            stream.writelines(line + b"\n" for line in self.lines())

    def sha256(self) -> str:
        """The hash of the file that `write` makes."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line + b"\n")
        return digest.hexdigest()


RowSource = Path | str | GivenRows
"""Where rows are read: a file, or what was given in its place."""


def as_source(rows: Path | str | GivenRows | Sequence[Row], *, name: str) -> Path | GivenRows:
    """A file by its path, or rows in memory under a name.

    Raises:
        BadConfig: it is neither.
    """
    if isinstance(rows, str | Path):
        return Path(rows)
    if isinstance(rows, GivenRows):
        return rows
    if isinstance(rows, Sequence):
        return GivenRows.of(rows, name=name)
    raise BadConfig(f"the {name} are a {type(rows).__name__}", action="give a path, or a list of rows")


def hash_source(source: RowSource) -> str:
    """sha256 of a file, or of the file that rows in memory would be."""
    return source.sha256() if isinstance(source, GivenRows) else hash_file(Path(source))


def _as_mapping(row: Row) -> Mapping[str, Any]:
    if isinstance(row, str):
        return {"prompt": row}
    if isinstance(row, Prompt):
        return row.columns()
    return row.to_json() if isinstance(row, Comparison | Sample) else row
