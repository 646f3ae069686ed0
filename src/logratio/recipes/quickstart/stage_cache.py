"""What stands in a run of several stages, and what must be done again.

Each stage has a key: a hash of its settings, of the keys of the stages that it builds on and of the files
that they wrote. A stage whose key and outputs stand is reused; one whose key changed is, with all
that build on it.
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
from logratio.run_directory import hash_file, hash_json, write_json

LEDGER = "stages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedStage:
    """A step of a run."""

    name: str
    """Its name, as printed."""
    outputs: tuple[Path, ...]
    """Files and directories that it alone writes; the last one is written last."""
    after: tuple[str, ...]
    """The stages that it builds on, all before it."""
    settings: Mapping[str, Any]
    """What its outputs depend on, beside the outputs of those stages."""
    work: Callable[[str], str]
    """Does it; takes the stage's key and returns a headline. Called again after a kill, it goes on."""
    enabled: bool = True
    """Whether it is asked for now. Where it is not, what it wrote earlier stays as long as what it builds on
    does."""


def run_stages(directory: Path, stages: Sequence[CachedStage]) -> dict[str, Any]:
    """Do every wanted stage that does not stand, in order, with a line on each.

    Returns:
        What `stages.json` holds: for each stage its key, headline and seconds.

    Raises:
        RunExists: a stage's output is there and no stage of this directory wrote it.
    """
    path = directory / LEDGER
    ledger = read_object(path)
    written: dict[str, str] = {}
    enabled = [stage for stage in stages if stage.enabled]
    for number, stage in enumerate(enabled, 1):
        key = hash_json([stage.name, stage.settings, _join([written[name] for name in stage.after])])
        label = f"[{number}/{len(enabled)}] {stage.name}"
        before = ledger.get(stage.name, {})
        if before.get("key") == key and before.get("done") and all(one.exists() for one in stage.outputs):
            print(f"{label}: up to date ({before['headline']})", flush=True)
        else:
            if before.get("key") != key:
                ledger = _forget(path, ledger, _disabled_after(stages, stage.name))
                _clear(stage, known=bool(before))
            print(f"{label} …", flush=True)
            earlier = float(before.get("seconds", 0.0)) if before.get("key") == key else 0.0
            ledger = _note(path, ledger, stage.name, {"key": key, "done": False, "seconds": earlier})
            headline, seconds = _time(path, ledger, stage, key, earlier=earlier)
            done = {"key": key, "done": True, "headline": headline, "seconds": round(seconds, 1)}
            ledger = _note(path, ledger, stage.name, done)
            print(f"{label}: {headline}  [{format_seconds(seconds)}]", flush=True)
        # What a person changed in a file by hand counts as a change as well.
        files = [hash_file(output) for output in stage.outputs if output.is_file()]
        written[stage.name] = hash_json([key, *files])
    return ledger


def _time(
    path: Path, ledger: dict[str, Any], stage: CachedStage, key: str, *, earlier: float
) -> tuple[str, float]:
    """Do a stage; its headline, and the seconds that it took, those before it was stopped included."""
    started = time.monotonic()
    try:
        headline = stage.work(key)
    except BaseException:
        # Whatever ended it: the time is spent. Of a process that was killed nothing is known.
        seconds = earlier + time.monotonic() - started
        _note(path, ledger, stage.name, {"key": key, "done": False, "seconds": round(seconds, 1)})
        raise
    return headline, earlier + time.monotonic() - started


def _join(keys: Sequence[str]) -> str:
    """One key for several: none for none, and one as it is."""
    return hash_json(keys) if len(keys) > 1 else "".join(keys)


def _disabled_after(stages: Sequence[CachedStage], name: str) -> list[CachedStage]:
    """Stages that are not asked for and build on `name`, directly or through others."""
    reached = {name}
    for stage in stages:
        if reached & set(stage.after):
            reached.add(stage.name)
    return [stage for stage in stages if stage.name in reached and not stage.enabled]


def _forget(path: Path, ledger: dict[str, Any], stages: Sequence[CachedStage]) -> dict[str, Any]:
    """Remove what stages wrote on top of outputs that are about to change, and every note of them."""
    stale = [stage for stage in stages if stage.name in ledger]
    for stage in stale:
        _clear(stage, known=True)
    kept = {name: entry for name, entry in ledger.items() if name not in {stage.name for stage in stale}}
    if stale:
        write_json(path, kept)
    return kept


def _note(path: Path, ledger: dict[str, Any], name: str, entry: dict[str, Any]) -> dict[str, Any]:
    changed = ledger | {name: entry}
    write_json(path, changed)
    return changed


def _clear(stage: CachedStage, *, known: bool) -> None:
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
