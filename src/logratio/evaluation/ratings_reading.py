"""Comparisons of models from CSV, JSON Lines or Parquet.

| columns | meaning |
|---|---|
| `winner`, `loser`, and if wanted `tie` | `tie` is 1, true or yes where nobody won; 0, false, no or empty |
| `model_a`, `model_b`, `outcome` or `winner` | `model_a`, `model_b`, `tie`, or `tie (bothbad)` |
| `chosen_model`, `rejected_model` | of a row that has one answer preferred to another |

Each may have a column `count`, of how often it came out so.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from logratio.data.reading import MAX_LINE_BYTES, read_rows
from logratio.data.values import kind_of, require_column
from logratio.errors import BadEncoding, FileNotReadable, MissingColumn, WrongType
from logratio.evaluation.tally import Outcome, Result, short

ENDINGS = (".csv", ".jsonl", ".jsonl.gz", ".ndjson", ".json", ".parquet")
MAX_NAME = 200
MAX_COUNT = 10**9
RESULT_WORDS: dict[str, Result] = {
    "model_a": "first",
    "a": "first",
    "model_b": "second",
    "b": "second",
    "tie": "tie",
    "tie (bothbad)": "both-bad",
    "both_bad": "both-bad",
    "bothbad": "both-bad",
}
FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
COLUMNS = "winner,loser or model_a,model_b,outcome or chosen_model,rejected_model"
RECODE = "save the file as UTF-8"


def read_outcomes(path: Path | str) -> Iterator[Outcome]:
    """The comparisons of a file, row by row.

    Raises:
        DataFault: the file cannot be read, or a row cannot be used; with the file and the line.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise FileNotReadable(
            f"the ending {path.suffix!r} is not understood",
            where=str(path),
            action="give CSV (.csv), JSON Lines (.jsonl, .jsonl.gz), Parquet (.parquet), or a database that "
            "`logratio annotate serve` keeps",
        )
    if path.suffix == ".csv":
        for row, source in _csv_rows(path):
            yield parse_outcome(row, where=source)
    else:
        for one in read_rows(path):
            yield parse_outcome(one.value, where=one.source)


def parse_outcome(row: Mapping[str, Any], *, where: str) -> Outcome:
    """The comparison that a row holds.

    Raises:
        MissingColumn: a column is not there, or has no value.
        WrongType: a value is not what its column takes.
    """
    count = _count(row.get("count"), where=where)
    if "model_a" in row or "model_b" in row:
        names, result = ("model_a", "model_b"), _result(row, where=where)
    elif "chosen_model" in row or "rejected_model" in row:
        names, result = ("chosen_model", "rejected_model"), "first"
    elif "winner" in row or "loser" in row:
        tied = _flag(row.get("tie"), where=where)
        names, result = ("winner", "loser"), "tie" if tied else "first"
    else:
        raise MissingColumn(
            f"there are no columns of models; found: {', '.join(map(short, [*row][:20])) or 'none'}",
            where=where,
            action=f"name the columns {COLUMNS}",
        )
    first, second = (clean_name(_value(row, name, where=where), column=name, where=where) for name in names)
    return Outcome(first=first, second=second, result=result, count=count, source=where)


def clean_name(value: Any, *, column: str, where: str) -> str:
    """A model's name, with single spaces for all its white space.

    Raises:
        WrongType: it is no text, or too long for a name.
    """
    if not isinstance(value, str):
        raise WrongType(f"{column} is {kind_of(value)}, not a name", where=where, action="give a text")
    name = " ".join(value.split())
    if len(name) > MAX_NAME:
        raise WrongType(
            f"{column} is a text of {len(name)} characters, {short(name)}: too long for a name",
            where=where,
            action=f"give the model a name of at most {MAX_NAME} characters",
        )
    return name


def _value(row: Mapping[str, Any], column: str, *, where: str) -> Any:
    value = row.get(column)
    if column in row and (value is None or (isinstance(value, str) and not value.strip())):
        raise MissingColumn(f"{column} is empty", where=where, action="name the model, or take the row out")
    require_column(row, column, where=where)
    return value


def _result(row: Mapping[str, Any], *, where: str) -> Result:
    column = "winner" if "winner" in row and "outcome" not in row else "outcome"
    value = _value(row, column, where=where)
    result = RESULT_WORDS.get(value.strip().casefold()) if isinstance(value, str) else None
    if result is None:
        shown = short(value) if isinstance(value, str) else kind_of(value)
        raise WrongType(
            f"{column} is {shown}", where=where, action="give model_a, model_b, tie or tie (bothbad)"
        )
    return result


def _flag(value: Any, *, where: str) -> bool:
    known = FLAGS.get(str("" if value is None else value).strip().casefold())
    if known is None:
        raise WrongType(f"tie is {short(str(value))}", where=where, action="give 1 for a tie, 0 or nothing")
    return known


def _count(value: Any, *, where: str) -> int:
    if value is None:
        return 1
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,12}", text) or int(text) > MAX_COUNT:
        raise WrongType(
            f"count is {short(text)}", where=where, action=f"give a whole number from 0 to {MAX_COUNT:,}"
        )
    return int(text)


# --- CSV --------------------------------------------------------------------------------------------


def _csv_rows(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Each row by its columns' names, with the file and the line on which it begins."""
    reader = csv.reader(_lines(path), strict=True)
    header: list[str] | None = None
    while True:
        source = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise FileNotReadable(
                f"the row that begins here is not CSV: {error}",
                where=source,
                action="look for a quotation mark that is not closed; double those within a text",
            ) from error
        if fields is None:
            break
        if not any(one.strip() for one in fields):
            continue
        if header is None:
            header = _header(fields, source=source)
            continue
        if len(fields) != len(header):
            raise WrongType(
                f"the row has {len(fields)} fields and the first line names {len(header)} columns",
                where=source,
                action="write a value, or nothing, for each column; put a text with commas in quotes",
            )
        yield dict(zip(header, fields, strict=True)), source
    if header is None:
        raise FileNotReadable("the file holds no row", where=str(path), action=f"name the columns {COLUMNS}")


def _header(fields: list[str], *, source: str) -> list[str]:
    names = [one.strip() for one in fields]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise WrongType(f"two columns are called {short(doubled)}", where=source, action="rename one")
    if len(names) == 1 and re.search("[;\t|]", names[0]):
        raise WrongType(
            f"the first line is one column, {short(names[0])}",
            where=source,
            action="separate columns by commas",
        )
    return names


def _lines(path: Path) -> Iterator[str]:
    """Lines as text; a byte-order mark, which spreadsheets write before CSV, is passed over."""
    if path.is_dir():
        raise FileNotReadable("this is a directory", where=str(path), action="give a file in it")
    try:
        with open(path, "rb") as stream:
            line = 0
            while content := stream.readline(MAX_LINE_BYTES + 1):
                line += 1
                if line == 1:
                    content = content.removeprefix(b"\xef\xbb\xbf")
                yield _decode(content, f"{path}:{line}")
    except OSError as error:
        raise FileNotReadable(
            error.strerror or str(error), where=str(path), action="check the path and its permissions"
        ) from error
    if line == 0:
        raise FileNotReadable("the file is empty", where=str(path), action="write it again")


def _decode(content: bytes, source: str) -> str:
    if len(content) > MAX_LINE_BYTES:
        raise FileNotReadable(
            f"the line is longer than {MAX_LINE_BYTES} bytes", where=source, action="write a row on each line"
        )
    if b"\0" in content:
        raise BadEncoding("a NUL byte in the line", where=source, action=RECODE)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadEncoding(
            f"byte {content[error.start]:#04x} at column {error.start + 1} is not UTF-8",
            where=source,
            action=RECODE,
        ) from error
