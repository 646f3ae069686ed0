"""What a model was trained on and towards, as its run directory tells.

A policy must not be evaluated on prompts that it, or the model it started from, has seen in training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logratio.errors import FileNotReadable
from logratio.run_directory import CONFIG

KEYS_FILE, KEYS_NAME = "training_prompts.json", "training_prompt_keys"
REWARD_NAMES = ("training_reward", "reward")
LEVELS_UP = 2
"""`runs/quickstart/dpo/model` belongs to the run `dpo`, and that to the run `quickstart`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What is known of a model's training; empty for a model that no run here made."""

    prompt_keys: frozenset[str]
    """Keys of the prompts that it was trained on."""
    rewards: frozenset[str]
    """Names of the rewards that it was trained towards."""


def training_record(*sources: str | Path) -> TrainingRecord:
    """Read the run directories that `sources` lie in, and those of the models they started from.

    Raises:
        FileNotReadable: a record is not JSON, so that nobody knows what it says.
    """
    keys: set[str] = set()
    rewards: set[str] = set()
    for directory in _directories(sources):
        config = _read_object(directory / CONFIG)
        listed = _read(directory / KEYS_FILE)
        listed = listed.get(KEYS_NAME, []) if isinstance(listed, dict) else listed or []
        keys.update(map(str, [*listed, *(config.get(KEYS_NAME) or [])]))
        rewards.update(_rewards(config))
    return TrainingRecord(prompt_keys=frozenset(keys), rewards=frozenset(rewards))


def _directories(sources: tuple[str | Path, ...]) -> Iterator[Path]:
    waiting = [Path(source).expanduser() for source in sources]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop().resolve()
        for directory in (path, *list(path.parents)[:LEVELS_UP]):
            if directory in seen or not directory.is_dir():
                continue
            seen.add(directory)
            yield directory
            start = _read_object(directory / CONFIG).get("model")
            if isinstance(start, str) and Path(start).is_dir():
                waiting.append(Path(start))


def _rewards(config: dict[str, Any]) -> set[str]:
    sections = [config, config.get("settings"), config.get("identity")]
    return {
        section[name]
        for section in sections
        if isinstance(section, dict)
        for name in REWARD_NAMES
        if isinstance(section.get(name), str)
    }


def _read_object(path: Path) -> dict[str, Any]:
    value = _read(path)
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileNotReadable(
            f"{path.name} is not JSON: {error}",
            where=str(path),
            action="it says which prompts were trained on: restore it, or evaluate a copy of model/ alone",
        ) from error
