"""The run directory: the only thing that passes between commands.

Everything is written to a temporary file, flushed, synced and moved into place (`os.replace`), so that a
process killed at any moment leaves either the old file or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from logratio.errors import BadConfig, DiskFull, NotWritable, ResumeMismatch, RunDirBusy, RunExists
from logratio.legacy_names import INVARIANTS, OLD_INVARIANTS, current_metrics, current_settings
from logratio.progress import say
from logratio.runtime.versions import changed_versions, describe_versions

CONFIG, METRICS, SAMPLES, REPORT = "config.json", "metrics.jsonl", "samples.jsonl", "report.json"
CONFIG_FILE = "config.yaml"
"""A command's settings, which `--config` reads."""
TRAINING_DATA = "training_data.jsonl"
"""The rows that were trained on, where they were given in memory and no file holds them."""
SUMMARY = "summary.json"
LOCK = ".lock"
SETUP_FILES = frozenset(
    {
        *(CONFIG, CONFIG_FILE, TRAINING_DATA, "data.json", "held_out.jsonl", "training_prompts.json"),
        *(INVARIANTS, OLD_INVARIANTS),
    }
)
"""What a run directory holds before anything was computed in it that would have to be computed again."""


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn the operating system's words for a full or closed disk into `DiskFull` and `NotWritable`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no room left to write {path.name}",
                where=str(path),
                action="free some space and run again with --resume; what was there is intact",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise NotWritable(
                f"cannot write {path.name}: {error.strerror}",
                where=str(path),
                action="choose another --out, or change the permissions",
            ) from error
        raise


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on leaving, flush, sync and move it into place.

    If the body raises, `path` is as it was and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory; on leaving, sync what is in it and move it to `path`.

    A directory that stands at `path` already is replaced: it is moved aside first and deleted last.
    """
    token = uuid.uuid4().hex[:8]
    temporary = path.with_name(f".{path.name}.{token}.tmp")
    with disk_faults(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    with open(file, "rb") as stream:
                        os.fsync(stream.fileno())
            aside = path.with_name(f".{path.name}.{token}.old")
            if path.exists():
                os.replace(path, aside)
            os.replace(temporary, path)
            sync_directory(path.parent)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def clean_up_leftovers(path: Path) -> None:
    """Put away what a killed process left half-written below `path`; only for the holder of its lock."""
    for leftover in [*path.rglob(".*.old"), *path.rglob(".*.tmp")]:
        target = leftover.with_name(leftover.name[1:].rsplit(".", 2)[0])
        if leftover.suffix == ".old" and not target.exists():
            os.replace(leftover, target)
        elif leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since no other tool would read them."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as stream:
        stream.write(text + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON Lines atomically; returns the number of rows."""
    num_rows = 0
    with atomic_write(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            num_rows += 1
    return num_rows


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file that logratio itself wrote; a last line cut off by a kill is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n"):
            if not line:
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """sha256 of a value's JSON with sorted keys, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def ensure_space(path: Path, num_bytes: int) -> None:
    """Raise `DiskFull` now rather than at the first checkpoint."""
    existing = next(parent for parent in (path, *path.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise DiskFull(
            f"{free / 1e9:.1f} GB are free and this run will write about {num_bytes / 1e9:.1f} GB",
            where=str(path),
            action="free some space, choose another --out, or keep fewer checkpoints (--keep-checkpoints)",
        )


def describe_machine() -> dict[str, Any]:
    """The machine and interpreter, for provenance."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


class RunDirectory:
    """A directory that one process writes to at a time.

    Use `RunDirectory.begin` in a `with` statement; the lock is the operating system's and goes with the
    process, however it ends, so a dead process never blocks a run.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None

    @property
    def config_path(self) -> Path:
        """`config.json`: settings as resolved, versions, seeds, hashes."""
        return self.path / CONFIG

    @property
    def metrics_path(self) -> Path:
        """`metrics.jsonl`: one JSON object a step."""
        return self.path / METRICS

    @property
    def samples_path(self) -> Path:
        """`samples.jsonl`: answers side by side."""
        return self.path / SAMPLES

    @property
    def checkpoints_path(self) -> Path:
        """`checkpoints/`: one directory a checkpoint."""
        return self.path / "checkpoints"

    @property
    def model_path(self) -> Path:
        """`model/`: the trained model as a transformers directory."""
        return self.path / "model"

    @property
    def adapter_path(self) -> Path:
        """`adapter/`: the trained adapter in peft's format, where one was trained."""
        return self.path / "adapter"

    @property
    def report_path(self) -> Path:
        """`report.json`: every number of the report."""
        return self.path / REPORT

    @property
    def has_results(self) -> bool:
        """Whether anything was computed here: a run that was refused before leaves nothing worth keeping."""
        return any(entry.name not in SETUP_FILES | {LOCK} for entry in self.path.iterdir())

    @property
    def config(self) -> dict[str, Any]:
        """The contents of `config.json`; empty where there is none."""
        return current_settings(json.loads(self.config_path.read_text())) if self.config_path.exists() else {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`."""
        return [current_metrics(row) for row in read_json_lines(self.metrics_path)]

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`: what became of the run; empty where it has not ended."""
        path = self.path / SUMMARY
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    @classmethod
    def begin(cls, path: Path | str, config: Mapping[str, Any], *, resume: bool = False) -> RunDirectory:
        """Take the directory for a run of `config`.

        Args:
            path: the directory; made if it is not there.
            config: settings as resolved; those under `"identity"` must be the same on a resume.
            resume: go on with the run that stands there.

        Raises:
            RunDirBusy: another process holds it.
            RunExists: it holds a run that has computed something, and `resume` is false.
            ResumeMismatch: it holds a run with another identity.
            NotWritable: it cannot be written to.
        """
        run = cls(path)
        run._acquire()
        try:
            clean_up_leftovers(run.path)
            run._settle_config(dict(config), resume=resume)
        except BaseException:
            run.close()
            raise
        return run

    def _acquire(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise BadConfig(
                "--out is a file", where=str(self.path), action="give a directory that is new or holds a run"
            )
        with disk_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / LOCK, "a+")  # noqa: SIM115 - held for the life of the run
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise RunDirBusy(
                f"process {holder or 'unknown'} works in this run directory",
                where=str(self.path),
                action="wait for it, stop it, or give another --out",
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _settle_config(self, config: dict[str, Any], *, resume: bool) -> None:
        before = self.config
        if before and resume:
            now = config.get("identity", {})
            # What a run settled after it began (the model's hash) is not known yet.
            began_with = {name: value for name, value in before.get("identity", {}).items() if name in now}
            check_identity(began_with, now, where=str(self.path))
            self._note_versions(before, config)
            return
        if before and self.has_results:
            raise RunExists(
                "this directory holds a run already",
                where=str(self.path),
                action="go on with it (--resume), or give another --out",
            )
        if before:
            for name in SETUP_FILES:
                (self.path / name).unlink(missing_ok=True)
        write_json(self.config_path, {**config, "versions": describe_versions()})

    def _note_versions(self, before: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Say and write down what other versions the run goes on with."""
        if (changed := changed_versions(before, config)) is not None:
            now, note = changed
            say(f"note: {note}")
            resumed = [*before.get("resumed_with", []), now]
            write_json(self.config_path, {**before, "resumed_with": resumed})

    def rendered_at(self) -> datetime:
        """When the run's prompts were rendered first: their templates may write the date.

        Of a run that did not write it down, when `config.json` was written; now, where there is no run.
        """
        if (rendered_at := self.config.get("rendered_at")) is not None:
            return datetime.fromisoformat(rendered_at)
        known = self.config_path.exists()
        return datetime.fromtimestamp(self.config_path.stat().st_mtime) if known else datetime.now()

    def add_identity(self, **identity: Any) -> None:
        """Add what is known only later, such as the model's hash, to the run's identity.

        Raises:
            ResumeMismatch: the run was begun with another value.
        """
        config = self.config
        before = {name: value for name, value in config["identity"].items() if name in identity}
        if before:
            check_identity(before, identity, where=str(self.path))
        else:
            write_json(self.config_path, config | {"identity": config["identity"] | identity})

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to `metrics.jsonl`; it is on its way to the disk when this returns."""
        with disk_faults(self.metrics_path), open(self.metrics_path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Drop the metrics of steps past `step`, which a resumed run computes again."""
        if self.metrics_path.exists():
            write_json_lines(self.metrics_path, [row for row in self.metrics if row.get("step", 0) <= step])

    def close(self) -> None:
        """Give the directory back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_identity(before: Mapping[str, Any], now: Mapping[str, Any], *, where: str) -> None:
    """Raise `ResumeMismatch` with the names and values that differ."""
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if differing:
        changes = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in differing)
        raise ResumeMismatch(
            f"what is resumed differs from what was begun: {changes}",
            where=where,
            action="give what the run was begun with, or begin anew in another --out",
        )
