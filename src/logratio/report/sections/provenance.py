"""Provenance: versions, settings, seeds, hashes, machine, time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from logratio.progress import format_seconds
from logratio.report.formatting import ABSENT, fixed, is_number, number, size
from logratio.report.html import Html, element, join
from logratio.report.sections.section import Section, definitions, details, table

APART = ("settings", "stage_seconds")
"""What is not shown among the facts: settings have a table of their own, and so has what each stage cost."""


def provenance_section(report: Mapping[str, Any]) -> Section:
    """The facts, what each stage cost, then all settings."""
    provenance = report.get("provenance") or {}
    training = {k: v for k, v in (report.get("training") or {}).items() if isinstance(v, Mapping)}
    shown = {name: value for name, value in provenance.items() if name not in APART}
    facts = [
        (path.replace(".", " ").replace("_", " "), _measure(path, value)) for path, value in flatten(shown)
    ]
    of_stages = {name: stage.get("settings") for name, stage in training.items()}
    settings = {"run": provenance.get("settings")} | {
        name: value for name, value in of_stages.items() if not _known(value, provenance)
    }
    parts = [
        definitions(facts, class_="facts"),
        _cost(provenance.get("stage_seconds") or {}, training),
        *(_settings(name, value) for name, value in settings.items() if value),
    ]
    return Section(anchor="provenance", title="Provenance", body=join(parts))


def _known(settings: Any, provenance: Mapping[str, Any]) -> bool:
    """Whether a training run's settings are those of the whole, but for the seed that each of several has."""
    whole = provenance.get("settings")
    if not isinstance(settings, Mapping) or not isinstance(whole, Mapping):
        return False
    return settings == whole or _without_seed(settings) == _without_seed(whole)


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what several runs of one experiment differ in."""
    return {
        name: {key: setting for key, setting in value.items() if key not in ("seed", "several")}
        if name in ("settings", "identity") and isinstance(value, Mapping)
        else value
        for name, value in settings.items()
    }


def _cost(seconds: Mapping[str, float], training: Mapping[str, Mapping[str, Any]]) -> Html | None:
    """Time of every stage, with the updates of those that train and the process's peak memory by then."""
    rows = []
    for name in dict.fromkeys([*seconds, *training]):
        stage = training.get(name, {})
        rows.append(
            [
                name,
                duration(seconds.get(name, stage.get("seconds"))),
                number(stage.get("updates")),
                number(stage.get("examples")),
                size(stage.get("peak_memory_bytes")),
            ]
        )
    headings = ["Stage", "Time", "Updates", "Examples", "Peak memory of the process"]
    return table(headings, rows, caption="What each stage cost") if rows else None


def _settings(name: str, value: Mapping[str, Any]) -> Html:
    rows = [[path, _plain(leaf)] for path, leaf in flatten(value)]
    return details(
        join(["Settings, seeds and hashes: ", element("code", name)]),
        table(["Setting", "Value"], rows, caption=f"Settings of {name}", class_="small"),
    )


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings with the names that lead to it: `model.hash`."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def duration(seconds: Any) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if not is_number(seconds):
        return ABSENT
    return f"{fixed(seconds, 1)} s" if seconds < 10 else format_seconds(seconds)


def _measure(path: str, value: Any) -> str:
    """A value with its unit, where its name says one."""
    if is_number(value) and path.endswith("seconds"):
        return duration(value)
    return size(value) if is_number(value) and path.endswith("bytes") else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return fixed(value, 0) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value)
