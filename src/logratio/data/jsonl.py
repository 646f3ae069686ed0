"""Files into rows: JSON Lines, plain or gzip, Parquet, and plain lines of text.

A row knows the physical line it stands on. What is wrong with one row is a fault of that row, which is
collected; what is wrong with the file as a whole is raised.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from logratio.data.given_rows import GivenRows, RowSource
from logratio.data.record_parsing import (
    parse_completion,
    parse_prompt_columns,
    require_column,
    with_prompt_format,
)
from logratio.data.text_lines import decode_line, ensure_file, read_lines
from logratio.data.unusable_rows import HasSource, ReadRows, UnusableRow
from logratio.errors import (
    BadConfig,
    BadEncoding,
    BadJsonLine,
    DataFault,
    FileNotReadable,
    MissingExtra,
    RowNotObject,
    WrongType,
)
from logratio.records import PROMPT_FORMAT, Prompt, PromptFormat, Sample

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
JUDGE = "judge"
"""The column in which `logratio label` names the reward that the labels were drawn from."""
SURROGATE = re.compile("[\ud800-\udfff]")
FILE_FAULTS = (BadJsonLine, BadEncoding, RowNotObject)
"""What no line of a file of another kind gets past."""
Parsed = TypeVar("Parsed", bound=HasSource)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """A JSON object and where it stands."""

    line: int
    """Physical line from 1; the row's number in a Parquet file."""
    value: dict[str, Any]
    """The object."""
    source: str
    """`file:line`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """A prompt with the further columns of its row."""

    prompt: Prompt
    """What is to be answered."""
    columns: Mapping[str, Any]
    """Further columns of its row."""
    source: str
    """`file:line`."""

    @property
    def judge_columns(self) -> dict[str, Any]:
        """The columns that a judge is given by name; old answers in the file do not shadow the new ones."""
        return {name: value for name, value in self.columns.items() if name not in ("prompt", "completions")}


def read_rows(path: RowSource) -> Iterator[SourceRow]:
    """The rows of a JSON Lines file (`.jsonl`, `.jsonl.gz`) or a Parquet file.

    Raises:
        FileNotReadable: it is not there, empty, cut off, or of another kind.
        BadJsonLine: a line is not JSON, names a key twice, or holds NaN.
        RowNotObject: a line is JSON, but not an object.
        BadEncoding: a line is not clean UTF-8.
        MissingExtra: Parquet, and pyarrow is not installed.
    """
    for row in scan_rows(path):
        if isinstance(row, DataFault):
            raise row
        yield row


def scan_rows(path: RowSource) -> Iterator[SourceRow | DataFault]:
    """As `read_rows`, with the faults of single rows in their places instead of raised."""
    if isinstance(path, GivenRows):
        for number, content in enumerate(path.lines(), start=1):
            yield _parse_line(content, line=number, source=f"{path}:{number}")
        return
    path = Path(path)
    kind = path.with_suffix("") if path.suffix == ".gz" else path
    if kind.suffix in JSON_ENDINGS:
        for line, content in read_lines(path):
            yield _parse_line(content, line=line, source=f"{path}:{line}")
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        ensure_file(path)
        raise FileNotReadable(
            f"the ending {path.suffix!r} is not understood",
            where=str(path),
            action="give JSON Lines (.jsonl, .jsonl.gz) or Parquet (.parquet)",
        )


def read_judge(path: RowSource) -> str | None:
    """Who labelled the comparisons of a file, where its first row says so."""
    first = next(scan_rows(path), None)
    judge = first.value.get(JUDGE) if isinstance(first, SourceRow) else None
    return judge if isinstance(judge, str) else None


def collect(
    path: RowSource,
    rows: Iterable[SourceRow | DataFault],
    parse: Callable[[SourceRow], Parsed],
    *,
    limit: int | None = None,
    noun: str = "row",
    may_be_empty: bool = False,
) -> ReadRows[Parsed]:
    """Parse rows; the faults of single ones are collected with their name and place.

    Args:
        path: the file they come from.
        rows: what `scan_rows` gives.
        parse: gives what a row holds, or raises a `DataFault`.
        limit: read only so many rows.
        noun: what a row is, for the fault of a file without one.
        may_be_empty: whether a file without a row is none of this function's business.

    Raises:
        FileNotReadable: there is no row.
        BadJsonLine, BadEncoding, RowNotObject: not one line is a JSON object, so that this is no JSON Lines.
        BadConfig: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise BadConfig(f"limit is {limit}", where="--limit", action="give 1 or more, or leave it out")
    usable: list[Parsed] = []
    faults: list[DataFault] = []
    columns: Counter[str] = Counter()
    for row in islice(rows, limit):
        try:
            if isinstance(row, DataFault):
                raise row
            usable.append(parse(row))
            columns.update([name for name, value in row.value.items() if value is not None])
        except DataFault as fault:
            faults.append(fault)
    if not usable and not faults and not may_be_empty:
        raise FileNotReadable(
            f"the file holds no {noun}", where=str(path), action=f"write one {noun} on each line"
        )
    if faults and not usable and all(isinstance(fault, FILE_FAULTS) for fault in faults):
        first = faults[0]
        what = "text" if str(path).endswith(".txt") else "a JSON object"
        raise type(first)(
            f"no line is {what}; the first: {first.what}", where=first.where, action=first.action
        )
    unusable = [UnusableRow.of(fault, source=str(path)) for fault in faults]
    return ReadRows(usable=usable, unusable=unusable, columns=columns)


def read_prompts(
    path: RowSource, *, limit: int | None = None, prompt_format: PromptFormat = "auto"
) -> ReadRows[PromptRow]:
    """Prompts: rows with `prompt` (text or messages) and further columns, or the lines of a `.txt` file.

    Raises:
        DataFault, BadConfig: as for `collect`.
    """
    path = path if isinstance(path, GivenRows) else Path(path)
    rows = _text_rows(path) if isinstance(path, Path) and path.suffix == ".txt" else scan_rows(path)
    return collect(path, rows, lambda row: _prompt_row(row, prompt_format), limit=limit, noun="prompt")


def read_samples(path: RowSource, *, prompt_format: PromptFormat = "auto") -> ReadRows[Sample]:
    """Read the completions file that `logratio sample` writes.

    Raises:
        DataFault: as for `collect`.
    """
    return collect(path, scan_rows(path), lambda row: _sample_row(row, prompt_format))


def _sample_row(row: SourceRow, form: PromptFormat) -> Sample:
    require_column(row.value, "completions", where=row.source)
    answers = row.value["completions"]
    if not isinstance(answers, list) or not answers:
        raise WrongType("completions is not a list of answers", where=row.source)
    completions = tuple(
        parse_completion(answer, column=f"completions[{index}]", where=row.source)
        for index, answer in enumerate(answers)
    )
    prompt = _prompt_row(row, form)
    return Sample(
        prompt=prompt.prompt, completions=completions, columns=prompt.judge_columns, source=row.source
    )


def _text_rows(path: Path) -> Iterator[SourceRow | DataFault]:
    """The lines of a file of plain text, each a prompt."""
    for line, content in read_lines(path):
        source = f"{path}:{line}"
        try:
            yield SourceRow(
                line=line, value={"prompt": decode_line(content, source=source).strip()}, source=source
            )
        except DataFault as fault:
            yield fault


def _prompt_row(row: SourceRow, form: PromptFormat) -> PromptRow:
    value = with_prompt_format(row.value, form, where=row.source)
    prompt = parse_prompt_columns(value, where=row.source)
    columns = {name: of for name, of in value.items() if name not in ("prompt", PROMPT_FORMAT)}
    return PromptRow(prompt=prompt, columns=columns, source=row.source)


# --- rows -------------------------------------------------------------------------------------------


def _parse_line(content: bytes, *, line: int, source: str) -> SourceRow | DataFault:
    try:
        value = _parse_json(decode_line(content, source=source), source=source)
        _ensure_clean_texts(value, source=source)
    except DataFault as fault:
        return fault
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number or true/false")
        return RowNotObject(
            f"the line is {kind}, not an object", where=source, action="write one JSON object on each line"
        )
    return SourceRow(line=line, value=value, source=source)


def _parse_json(text: str, *, source: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        what = f"{error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        what = str(error)
    raise BadJsonLine(
        f"the line is not JSON: {what}", where=source, action="write one JSON object on each line"
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is larger than any number of double precision")
    return value


def _ensure_clean_texts(value: Any, *, source: str) -> None:
    """Escapes can hide in JSON what no UTF-8 holds: half of a surrogate pair."""
    for text in _texts(value):
        if SURROGATE.search(text):
            raise BadEncoding(f"a lone surrogate stands in {text[:20]!r}", where=source, action="take it out")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value:
            yield from _texts(part)
        if isinstance(value, dict):
            yield from _texts(list(value.values()))


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    ensure_file(path)
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtra(
            "reading Parquet needs pyarrow", where=str(path), action="pip install 'logratio[parquet]'"
        ) from error
    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    line += 1
                    # Dates and the like become text, and NaN null: what a row holds is what JSON can.
                    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
                    yield SourceRow(line=line, value=plain, source=f"{path}:{line}")
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileNotReadable(
            f"not a whole Parquet file: {error}", where=f"{path}:{line + 1}", action="fetch or write it again"
        ) from error
