"""What stands in a run of several stages, and what must be done again.

Each stage has a key: a hash of its settings, of the files it reads and of the key of the stage before. A
stage whose key and outputs stand is not done again; one whose key changed is, with all that follow.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logratio.errors import RunExists
from logratio.progress import format_seconds
from logratio.report.collect import read_object
from logratio.runs import hash_file, hash_json, write_json

LEDGER = "stages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of a run."""

    name: str
    """Its name, as printed."""
    outputs: tuple[Path, ...]
    """Files and directories that it alone writes; the last one is written last."""
    settings: Mapping[str, Any]
    """What its outputs depend on, beside the outputs of the stages before."""
    work: Callable[[str], str]
    """Does it; takes the stage's key and returns a headline. Called again after a kill, it goes on."""


def run_stages(directory: Path, stages: Sequence[Stage]) -> dict[str, Any]:
    """Do every stage that does not stand, in order, with a line on each.

    Returns:
        What `stages.json` holds: for each stage its key, headline and seconds.

    Raises:
        RunExists: a stage's output is there and no stage of this directory wrote it.
    """
    path = directory / LEDGER
    ledger = read_object(path)
    key = ""
    for number, stage in enumerate(stages, 1):
        key = hash_json([stage.name, stage.settings, key])
        label = f"[{number}/{len(stages)}] {stage.name}"
        before = ledger.get(stage.name, {})
        if before.get("key") == key and before.get("done") and all(one.exists() for one in stage.outputs):
            print(f"{label}: stands already ({before['headline']})", flush=True)
        else:
            if before.get("key") != key:
                _clear(stage, known=bool(before))
            print(f"{label} …", flush=True)
            ledger = _note(path, ledger, stage.name, {"key": key, "done": False})
            started = time.monotonic()
            headline = stage.work(key)
            seconds = time.monotonic() - started
            done = {"key": key, "done": True, "headline": headline, "seconds": round(seconds, 1)}
            ledger = _note(path, ledger, stage.name, done)
            print(f"{label}: {headline}  [{format_seconds(seconds)}]", flush=True)
        # What a person changed in a file by hand counts as a change as well.
        key = hash_json([key, *(hash_file(output) for output in stage.outputs if output.is_file())])
    return ledger


def _note(path: Path, ledger: dict[str, Any], name: str, entry: dict[str, Any]) -> dict[str, Any]:
    changed = ledger | {name: entry}
    write_json(path, changed)
    return changed


def _clear(stage: Stage, *, known: bool) -> None:
    """Remove what the stage wrote under other settings; what somebody else wrote is not touched."""
    for output in stage.outputs:
        if not output.exists():
            continue
        if not known:
            raise RunExists(
                f"{output.name} is there, and was not written by this command",
                where=str(output),
                action="give another --out",
            )
        if output.is_dir():
            shutil.rmtree(output)
        else:
            output.unlink()
