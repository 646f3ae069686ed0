"""Following a file of answers while a run writes it: pairs as they come, from whole lines alone.

What `logratio sample` writes while it draws is a list of single answers beside its --out; a prompt's answers
are paired once all of them are there, so that the pairs are those that the finished file gives.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from logratio.annotate.domain.pairs import Pair, PairFile
from logratio.errors import DataFault
from logratio.records import Prompt

PARTIAL = ".partial.jsonl"
"""What `logratio sample` puts behind the name of its --out while it draws."""
PATTERN = "completions*.jsonl"
MAX_READ_BYTES = 1 << 24
"""Read at a time, unless one line is longer."""


def find_followed_file(path: Path) -> Path | None:
    """The file to follow: the path, what a sampling run writes beside it, or the newest in a directory."""
    if path.is_dir():
        dated = []
        for found in path.glob(PATTERN):
            # A file may be put away between the listing and the look at it.
            with suppress(OSError):
                dated.append((found.stat().st_mtime_ns, found.name, found))
        return max(dated)[2] if dated else None
    for candidate in (path, path.with_name(path.name + PARTIAL)):
        if candidate.is_file():
            return candidate
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUpdate:
    """What one look at the file gave."""

    path: Path
    """The file that is followed now."""
    file: PairFile
    """Its new pairs; the hash is of all that was read so far."""


@dataclass(slots=True)
class _FilePosition:
    """How far one file was read."""

    path: Path
    identity: tuple[int, int]
    offset: int = 0
    line: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    rows: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    """The rows of each prompt, since answers to one prompt are compared across rows."""
    drawing: _Drawing | None = None


class Follower:
    """Looks at a growing file again and again.

    Args:
        path: a file of answers, there or not yet, or a directory that one is written into.
        read: pairs of a file, such as `read_pairs` with its settings.
    """

    def __init__(self, path: Path, read: Callable[[Path], PairFile]) -> None:
        self._path, self._read = path, read
        self._position: _FilePosition | None = None

    def poll(self) -> FileUpdate | None:
        """The pairs of the lines that are new since the last look; None where there are none.

        A file that was replaced or cut is read from its beginning.
        """
        path = find_followed_file(self._path)
        if path is None:
            return None
        try:
            rows = self._new_rows(path)
        except OSError:
            # Put away by the run that wrote it, between finding and opening: the next look finds another.
            return None
        if not rows:
            return None
        assert self._position is not None
        file = replace(self._pairs(path, rows), sha256=self._position.digest.hexdigest())
        return FileUpdate(path=path, file=file)

    def _new_rows(self, path: Path) -> list[tuple[int, bytes]]:
        with open(path, "rb") as stream:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            position = self._position
            if (
                position is None
                or position.path != path
                or position.identity != identity
                or status.st_size < position.offset
            ):
                position = self._position = _FilePosition(path, identity)
            stream.seek(position.offset)
            content = stream.read(MAX_READ_BYTES)
            while b"\n" not in content and (more := stream.read(MAX_READ_BYTES)):
                content += more
        whole = content[: content.rfind(b"\n") + 1]
        position.offset += len(whole)
        position.digest.update(whole)
        return _touched(position, whole)

    def _pairs(self, path: Path, rows: list[tuple[int, bytes]]) -> PairFile:
        """The pairs of some rows of a file; faults say the line that they have in it."""
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / "rows.jsonl"
            copy.write_bytes(b"".join(content for _, content in rows))
            try:
                file = self._read(copy)
            except DataFault as fault:
                return PairFile(pairs=[], sha256="", left_out={fault.name: len(rows)})
        lines = {f"{copy}:{number}": f"{path}:{line}" for number, (line, _) in enumerate(rows, start=1)}
        pairs: list[Pair] = [replace(pair, source=lines.get(pair.source, pair.source)) for pair in file.pairs]
        return replace(file, pairs=pairs)


def _touched(position: _FilePosition, content: bytes) -> list[tuple[int, bytes]]:
    """All rows of the prompts that have new ones, in the file's order, each with its line."""
    touched: dict[str, list[tuple[int, bytes]]] = {}
    for line in content.split(b"\n")[:-1]:
        position.line += 1
        row = line + b"\n"
        value = _object(line)
        if position.line == 1 and value is not None and "num_samples" in value and "completions" not in value:
            position.drawing = _Drawing(int(value["num_samples"]))
            continue
        if position.drawing is not None:
            drawn = position.drawing.add(value)
            if drawn is None:
                continue
            row, value = json.dumps(drawn, ensure_ascii=False).encode() + b"\n", drawn
        key = _key(value) or f"line {position.line}"
        touched[key] = position.rows.setdefault(key, [])
        touched[key].append((position.line, row))
    return sorted(pair for rows in touched.values() for pair in rows)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _key(value: Mapping[str, Any] | None) -> str | None:
    """The prompt of a row of completions; what is wrong with a row is said by whoever reads it."""
    if value is None or "completions" not in value:
        return None
    try:
        return Prompt.from_columns(value).key
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


class _Drawing:
    """The answers that a sampling run has drawn so far, until a prompt has all of its own.

    Args:
        num_samples: how many answers a prompt gets.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._asked: dict[int, Any] = {}
        self._answers: dict[int, dict[int, Any]] = {}

    def add(self, value: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Take one answer; the row of its prompt where it was the last."""
        if value is None or not isinstance(value.get("prompt"), int):
            return None
        number = value["prompt"]
        if "asked" in value:
            self._asked[number] = value["asked"]
        answers = self._answers.setdefault(number, {})
        answers[value.get("answer", len(answers))] = value.get("completion")
        if len(answers) < self._num_samples or number not in self._asked:
            return None
        del self._answers[number]
        return {
            "prompt": self._asked[number],
            "completions": [answers[index] for index in sorted(answers)],
        }
