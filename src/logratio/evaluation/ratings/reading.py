"""Comparisons of models from CSV, JSON Lines or Parquet.

| columns | meaning |
|---|---|
| `winner`, `loser`, and if wanted `tie` | `tie` is 1, true or yes where nobody won; 0, false, no or empty |
| `model_a`, `model_b`, `outcome` or `winner` | `model_a`, `model_b` or a name; `tie`, or `tie (bothbad)` |
| `chosen_model`, `rejected_model` | of a row that has one answer preferred to another |

Each may have a column `count`, of how often it came out so.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from logratio.data.jsonl import SourceRow, collect, scan_rows
from logratio.data.normalised_names import NameForms, tidy
from logratio.data.record_parsing import kind_of, require_column
from logratio.data.text_lines import decode_line, physical_lines
from logratio.data.unusable_rows import ReadRows, UnusableRow, line_of
from logratio.errors import BadEncoding, DataFault, FileNotReadable, MissingColumn, WrongType
from logratio.evaluation.ratings.pairwise_counts import PairOutcome, Result, short
from logratio.evaluation.ratings.winner_column import Meaning, WinnerRow, reader, settle_meaning

ENDINGS = (".csv", ".jsonl", ".jsonl.gz", ".ndjson", ".json", ".parquet")
MAX_NAME = 200
MAX_COUNT = 10**9
FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
COLUMNS = "winner,loser or model_a,model_b,outcome or chosen_model,rejected_model"


def read_outcomes(path: Path | str, *, winner_column: Meaning = "auto") -> list[PairOutcome]:
    """The comparisons of a file.

    Raises:
        DataFault: the file cannot be read, or a row cannot be used; with the file and the line.
    """
    rows, forms = [], NameForms()
    for row in scan_outcomes(path):
        if isinstance(row, DataFault):
            raise row
        rows.append(parse_row(row.value, where=row.source, forms=forms))
    meaning, _ = settle_meaning(_undecided(rows), winner_column)
    read = reader(meaning)
    return [read(row) if isinstance(row, WinnerRow) else row for row in rows]


def collect_outcomes(
    path: Path | str, *, winner_column: Meaning = "auto"
) -> tuple[ReadRows[PairOutcome], tuple[str, ...]]:
    """All comparisons of a file; rows that cannot be used are collected with their fault and place.

    Args:
        path: the file.
        winner_column: what the column beside model_a and model_b holds.

    Returns:
        The rows, and in sentences how names and winners were read.

    Raises:
        AmbiguousWinner: who won can be read in two ways.
        DataFault: the file cannot be read.
    """
    forms = NameForms()
    read = collect(
        path,
        scan_outcomes(path),
        lambda row: parse_row(row.value, where=row.source, forms=forms),
        may_be_empty=True,
    )
    meaning, sentence = settle_meaning(_undecided(read.usable), winner_column)
    one_way = reader(meaning)
    usable: list[PairOutcome] = []
    unusable = list(read.unusable)
    for row in read.usable:
        try:
            usable.append(one_way(row) if isinstance(row, WinnerRow) else row)
        except DataFault as fault:
            unusable.append(UnusableRow.of(fault, source=row.source))
    unusable.sort(key=line_of)
    settled = ReadRows(usable=usable, unusable=unusable, columns=read.columns)
    return settled, (*([sentence] if sentence else []), *forms.remarks())


def _undecided(rows: Iterable[WinnerRow | PairOutcome]) -> list[WinnerRow]:
    return [row for row in rows if isinstance(row, WinnerRow)]


def scan_outcomes(path: Path | str) -> Iterator[SourceRow | DataFault]:
    """The rows of a file of comparisons, with the faults of single rows in their places.

    Raises:
        DataFault: the file cannot be read.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise FileNotReadable(
            f"the ending {path.suffix!r} is not understood",
            where=str(path),
            action="give CSV (.csv), JSON Lines (.jsonl, .jsonl.gz), Parquet (.parquet), or a database that "
            "`logratio annotate serve` keeps",
        )
    yield from _csv_rows(path) if path.suffix == ".csv" else scan_rows(path)


def columns_read(columns: Collection[str]) -> tuple[str, ...]:
    """Those that `parse_outcome` reads of rows with these columns."""
    if "model_a" in columns or "model_b" in columns:
        return "model_a", "model_b", "outcome" if "outcome" in columns else "winner", "count"
    if "chosen_model" in columns or "rejected_model" in columns:
        return "chosen_model", "rejected_model", "count"
    return "winner", "loser", "tie", "count"


def parse_outcome(row: Mapping[str, Any], *, where: str) -> PairOutcome:
    """The comparison that a row holds, as far as it can be told from the row alone.

    Raises:
        MissingColumn: a column is not there, or has no value.
        WrongType: a value is not what its column takes.
        AmbiguousWinner: who won can be read in two ways.
    """
    parsed = parse_row(row, where=where, forms=NameForms())
    return parsed if isinstance(parsed, PairOutcome) else reader(settle_meaning([parsed])[0])(parsed)


def parse_row(row: Mapping[str, Any], *, where: str, forms: NameForms) -> WinnerRow | PairOutcome:
    """The comparison that a row holds; who won is still open where that depends on the other rows.

    Raises:
        MissingColumn: a column is not there, or has no value.
        WrongType: a value is not what its column takes.
    """
    count = _count(row.get("count"), where=where)
    result: Result = "first"
    if "model_a" in row or "model_b" in row:
        names = ("model_a", "model_b")
    elif "chosen_model" in row or "rejected_model" in row:
        names = ("chosen_model", "rejected_model")
    elif "winner" in row or "loser" in row:
        names = ("winner", "loser")
        result = "tie" if _flag(row.get("tie"), where=where) else "first"
    else:
        raise MissingColumn(
            f"there are no columns of models; found: {', '.join(map(short, [*row][:20])) or 'none'}",
            where=where,
            action=f"name the columns {COLUMNS}",
        )
    column, winner = _winner_value(row, where=where) if names == ("model_a", "model_b") else ("", "")
    first, second = (
        clean_name(_value(row, name, where=where), column=name, where=where, forms=forms) for name in names
    )
    if column:
        return WinnerRow(first=first, second=second, winner=winner, column=column, count=count, source=where)
    return PairOutcome(first=first, second=second, result=result, count=count, source=where)


def clean_name(value: Any, *, column: str, where: str, forms: NameForms) -> str:
    """A model's name in the form in which names are compared.

    Raises:
        WrongType: it is no text, or too long for a name.
    """
    if not isinstance(value, str):
        raise WrongType(f"{column} is {kind_of(value)}, not a name", where=where, action="give a text")
    if len(name := tidy(value)) > MAX_NAME:
        raise WrongType(
            f"{column} is a text of {len(name)} characters, {short(name)}: too long for a name",
            where=where,
            action=f"give the model a name of at most {MAX_NAME} characters",
        )
    return forms.tidy(value, where=where)


def _value(row: Mapping[str, Any], column: str, *, where: str) -> Any:
    value = row.get(column)
    if column in row and (value is None or (isinstance(value, str) and not value.strip())):
        raise MissingColumn(f"{column} is empty", where=where, action="name the model, or take the row out")
    require_column(row, column, where=where)
    return value


def _winner_value(row: Mapping[str, Any], *, where: str) -> tuple[str, str]:
    """The column that says who won, and what it says."""
    column = "winner" if "winner" in row and "outcome" not in row else "outcome"
    value = _value(row, column, where=where)
    if not isinstance(value, str):
        raise WrongType(
            f"{column} is {kind_of(value)}", where=where, action="give model_a, model_b, tie or tie (bothbad)"
        )
    return column, tidy(value)


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


def _csv_rows(path: Path) -> Iterator[SourceRow | DataFault]:
    """Each row by its columns' names, with the file and the line on which it begins."""
    unclean: dict[int, DataFault] = {}
    reader = csv.reader(_lines(path, unclean), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        source = f"{path}:{line}"
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
        fault = next((unclean[at] for at in range(line, reader.line_num + 1) if at in unclean), None)
        if header is None and fault is not None:
            raise fault
        if not any(field.strip() for field in fields):
            continue
        if header is None:
            header = _header(fields, source=source)
        elif fault is not None:
            yield fault
        else:
            yield _named_fields(header, fields, line=line, source=source)
    if header is None:
        raise FileNotReadable("the file holds no row", where=str(path), action=f"name the columns {COLUMNS}")


def _named_fields(header: list[str], fields: list[str], *, line: int, source: str) -> SourceRow | DataFault:
    if len(fields) == len(header):
        return SourceRow(line=line, value=dict(zip(header, fields, strict=True)), source=source)
    return WrongType(
        f"the row has {len(fields)} fields and the first line names {len(header)} columns",
        where=source,
        action="write a value, or nothing, for each column; put a text with commas in quotes",
    )


def _header(fields: list[str], *, source: str) -> list[str]:
    names = [field.strip() for field in fields]
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


def _lines(path: Path, unclean: dict[int, DataFault]) -> Iterator[str]:
    """Lines as text; those that are no clean UTF-8 are noted in `unclean`.

    A byte-order mark, which spreadsheets write before CSV, is passed over.
    """
    if path.is_dir():
        raise FileNotReadable("this is a directory", where=str(path), action="give a file in it")
    line = 0
    for line, content in physical_lines(path):
        try:
            yield decode_line(content, source=f"{path}:{line}")
        except BadEncoding as fault:
            unclean[line] = fault
            yield content.decode("utf-8", errors="replace").replace("\0", "\ufffd")
    if line == 0:
        raise FileNotReadable("the file is empty", where=str(path), action="write it again")
