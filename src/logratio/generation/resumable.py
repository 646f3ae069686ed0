"""Answers on the disk while more are being drawn, so that a killed run loses one batch at most."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from logratio.errors import NotWritable, RunDirBusy
from logratio.generation.sampler import IndexedCompletion
from logratio.records import Completion, Prompt
from logratio.run_directory import check_identity, disk_faults


class PartialAnswers:
    """A file of answers that grows batch by batch; a context manager that holds the file's lock.

    Args:
        path: the file; the first line says what is being drawn, each other line is one answer.
        identity: what must be the same for the answers that stand there to be used.
        prompts: what is answered; each stands beside its first answer, for whoever reads along.

    Raises:
        RunDirBusy: another process writes to it.
        ResumeMismatch: it was begun with another identity.
        NotWritable: it cannot be written to.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], prompts: Sequence[Prompt]) -> None:
        self.path, self._prompts = path, prompts
        self.known: dict[tuple[int, int], Completion] = {}
        """The answers that stood there already, by (prompt, answer)."""
        ensure_parent_directory(path)
        with disk_faults(path):
            self._stream: IO[bytes] = open(path, "a+b")  # noqa: SIM115 - held while answers are drawn
        try:
            self._lock()
            self._load_existing(identity)
        except BaseException:
            self._stream.close()
            raise

    def add(self, placed: Sequence[IndexedCompletion]) -> None:
        """Append answers; they are on the disk when this returns."""
        rows = [
            {"prompt": row, "answer": answer, "completion": completion.to_json()}
            | ({"asked": self._prompts[row].to_json()} if answer == 0 else {})
            for row, answer, completion in placed
        ]
        self._append(rows)

    def discard(self) -> None:
        """Remove the file: the answers stand elsewhere now."""
        self.path.unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunDirBusy(
                "another process is drawing these answers",
                where=str(self.path),
                action="wait for it, stop it, or give another --out",
            ) from error

    def _load_existing(self, identity: Mapping[str, Any]) -> None:
        self._stream.seek(0)
        valid_bytes, rows = _complete_rows(self._stream.read())
        # What a kill cut off is drawn again.
        self._stream.truncate(valid_bytes)
        if not rows:
            self._append([dict(identity)])
            return
        check_identity(rows[0], identity, where=str(self.path))
        self.known = {
            (row["prompt"], row["answer"]): Completion.from_json(row["completion"]) for row in rows[1:]
        }

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with disk_faults(self.path):
            for row in rows:
                self._stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def __enter__(self) -> PartialAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def read_header(path: Path) -> dict[str, Any]:
    """What the answers in a file are begun with; empty where there is no such file."""
    if not path.is_file():
        return {}
    with disk_faults(path), open(path, "rb") as stream:
        _, rows = _complete_rows(stream.readline())
    return rows[0] if rows else {}


def ensure_parent_directory(path: Path) -> None:
    """Make the directory of `path`; `NotWritable` where that cannot be."""
    try:
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotWritable(
            f"{path.parent} is a file, not a directory", where=str(path), action="choose another --out"
        ) from error


def _complete_rows(content: bytes) -> tuple[int, list[dict[str, Any]]]:
    """The rows up to the first line that is not whole, and the number of bytes they take."""
    rows: list[dict[str, Any]] = []
    length = 0
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            break
        rows.append(row)
        length += len(line)
    return length, rows
