"""Every number that a run directory holds, as one dictionary: what `report.json` is and the page shows.

A run directory may be a quickstart's (with a run for each stage inside), a lone training run's or an
evaluation's; what is not there is named, and the rest is reported.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logratio.errors import FileNotReadable
from logratio.legacy_names import current_invariants, current_metrics, current_settings, invariants_path
from logratio.report.control_runs import natural
from logratio.report.formatting import is_number
from logratio.report.samples import reward_differences
from logratio.report.stages import stage_rows
from logratio.report.warnings.all_warnings import by_severity, find_warnings
from logratio.run_directory import CONFIG, METRICS, REPORT, SAMPLES, describe_machine, read_json_lines
from logratio.version import __version__

STAGE_ORDER = ("sft", "reward", "dpo", "reinforce", "ppo")
EVALUATION = "evaluation"
DATA = "data.json"
REWARD_MODEL = "reward_model.json"
DATA_CHECK = "DataCheck"
NOT_CURVES = frozenset({"stage", "step", "epoch"})


def collect(run_path: Path | str) -> dict[str, Any]:
    """Read a run directory.

    Args:
        run_path: the directory of a quickstart, of one training run or of an evaluation.

    Returns:
        What `report.json` holds: all that the evaluation wrote, with `training`, `stages`, `data`, `checks`,
        `warnings`, `missing` and `provenance` beside it.

    Raises:
        FileNotReadable: there is no such directory, it holds no run, or a file in it is not JSON.
    """
    path = Path(run_path)
    directories = training_directories(path)
    written = merge(read_object(path / REPORT), read_object(path / EVALUATION / REPORT))
    if not directories and not written:
        raise run_not_found(path)
    training = {name: read_training(directory) for name, directory in directories.items()}
    report = merge(written, {"training": training} if training else {})
    report = merge(side_by_side(path), report)
    for directory in directories.values():
        reward_model = read_object(directory / REWARD_MODEL)
        report |= {"reward_model": reward_model} if reward_model else {}
    report["data"] = merge(data_counts(path, directories), report.get("data") or {})
    report["stages"] = stage_rows(report)
    report["provenance"] = {"logratio": __version__, **(report.get("provenance") or {})}
    report["provenance"].setdefault("machine", describe_machine())
    if (path / CONFIG).exists() and "settings" not in report["provenance"]:
        report["provenance"]["settings"] = read_object(path / CONFIG)
    if "environment" in (settings := read_object(path / CONFIG)):
        report.setdefault("environment", settings["environment"])
    report["missing"] = missing_parts(report, directories)
    report = scrub(report)
    return judge(report)


def judge(report: dict[str, Any]) -> dict[str, Any]:
    """Add every check of the numbers, and the warnings: those raised here and those the evaluation raised."""
    checks = find_warnings(report)
    ours = {check.name for check in checks} | stale(report) | {DATA_CHECK}
    others = [warning for warning in report.get("warnings") or [] if warning.get("name") not in ours]
    raised = [*(check.to_json() for check in checks if check.raised), *data_warnings(report)]
    return report | {
        "checks": [check.to_json() for check in checks],
        "warnings": by_severity([*raised, *others]),
    }


def data_warnings(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the check of the training data said, each sentence once."""
    stages = [stage for stage in (report.get("training") or {}).values() if isinstance(stage, Mapping)]
    sentences = [str(sentence) for stage in stages for sentence in stage.get("data_warnings") or []]
    return [
        {
            "name": DATA_CHECK,
            "severity": "warning",
            "what": f"Training data: {sentence}.",
            "meaning": "Training went on; what the pairs teach may not be what they were meant to.",
            "action": "`logratio check --data` with the file of comparisons lists the rows.",
        }
        for sentence in dict.fromkeys(sentences)
    ]


def stale(report: Mapping[str, Any]) -> set[str]:
    """Names of the checks that an earlier report of this directory made."""
    return {check.get("name", "") for check in report.get("checks") or []}


def training_directories(path: Path) -> dict[str, Path]:
    """The training runs in a directory by name: itself and those right inside it, in order of training."""
    if not path.is_dir():
        return {}
    children = (child for child in path.iterdir() if child.is_dir() and (child / METRICS).exists())
    directories = sorted(children, key=lambda child: natural(child.name))
    stages = [stage_name(directory) for directory in directories]
    # Runs of one trainer side by side, one for each seed, go by their directories.
    several = bool((read_object(path / CONFIG).get("identity") or {}).get("several"))
    names = {
        stage if stages.count(stage) == 1 and not several else directory.name: directory
        for stage, directory in zip(stages, directories, strict=True)
    }
    if (path / METRICS).exists():
        names = {stage_name(path): path, **names}
    rank = {name: index for index, name in enumerate(STAGE_ORDER)}
    return {name: names[name] for name in sorted(names, key=lambda name: rank.get(name, len(rank)))}


def stage_name(directory: Path) -> str:
    """What the first metrics row calls the stage, else the directory's name."""
    with open(directory / METRICS, encoding="utf-8", errors="replace") as stream:
        try:
            row = json.loads(stream.readline())
        except json.JSONDecodeError:
            return directory.name
    return str(row.get("stage", directory.name)) if isinstance(row, Mapping) else directory.name


def read_training(directory: Path) -> dict[str, Any]:
    """Curves, summary, settings and invariants of one training run."""
    rows = [current_metrics(row) for row in read_json_lines(directory / METRICS)]
    summary = read_object(directory / "summary.json")
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    training: dict[str, Any] = {
        "curves": curves(rows),
        "updates": len(rows),
        "finished": bool(summary),
        "settings": current_settings(read_object(directory / CONFIG)),
        "invariants": read_invariants(directory),
        "data_warnings": read_object(directory / DATA).get("warnings") or [],
    }
    if seconds:
        training["seconds"] = sum(seconds)
    # A run that stopped by itself made fewer updates than its summary's plan.
    return training | summary | {"updates": len(rows)}


def curves(rows: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """The metrics by name: `step` and, for each number logged, its values; `None` where a row lacks it."""
    names = {name for row in rows for name, value in row.items() if isinstance(value, (int, float))}
    ordered = ["step", *sorted(names - NOT_CURVES)]
    return {name: [row.get(name) for row in rows] for name in ordered} if rows else {}


def read_invariants(directory: Path) -> list[dict[str, Any]]:
    """The invariants that were checked in a run and held; none where it has no such file."""
    value = read_json(invariants_path(directory))
    rows = value if isinstance(value, list) else []
    return current_invariants(row for row in rows if isinstance(row, dict))


def side_by_side(path: Path) -> dict[str, Any]:
    """The answers of `samples.jsonl`, and how much reward changed from prompt to prompt."""
    for file in (path / EVALUATION / SAMPLES, path / SAMPLES):
        rows = read_json_lines(file)
        if rows:
            return {"samples": rows, "reward_differences": reward_differences(rows)}
    return {}


def data_counts(path: Path, directories: Mapping[str, Path]) -> dict[str, Any]:
    """Lines of the files that the stages passed on, and what became of every row of the training data."""
    counts = file_counts(path)
    for name, directory in directories.items():
        counted = read_object(directory / DATA)
        if counted:
            values = {key: _as_count(value) for key, value in counted.items()}
            counts[name] = {key: value for key, value in values.items() if value is not None}
    return counts


def _as_count(value: Any) -> Any:
    """Numbers, alone or by name, as they stand; nothing of the rest, such as lists of rows."""
    if isinstance(value, Mapping):
        counts = {name: count for name, count in value.items() if is_number(count)}
        return counts if len(counts) == len(value) else None
    return value if is_number(value) else None


def file_counts(path: Path) -> dict[str, Any]:
    """Lines of the files that the stages passed on."""
    files = {name: path / f"{name}.jsonl" for name in ("prompts", "completions", "comparisons")}
    counts = {f"{name}.jsonl": count_lines(file) for name, file in files.items() if file.exists()}
    return {"lines": counts} if counts else {}


def count_lines(path: Path) -> int:
    """Lines that are not empty."""
    with open(path, "rb") as stream:
        return sum(bool(line.strip()) for line in stream)


def missing_parts(report: Mapping[str, Any], directories: Mapping[str, Path]) -> list[str]:
    """What a whole report would have and this one has not, each with what to do."""
    missing = []
    judged = "verdict" in report or "win_rate" in report
    # A reward model by itself has no reference to be compared with, nor has a policy in an environment.
    alone = [*directories] == ["reward"] and "reward_model" in report
    if not (judged or alone or "environment" in report):
        missing.append(
            "No evaluation: there is no verdict, no win rate, no KL and no answers. `logratio "
            "evaluate` makes one."
        )
    if not directories and not report.get("training"):
        missing.append(
            "No training run: there are no curves and no invariants. Give the directory of the whole run."
        )
    stages = (report.get("training") or {}).items()
    missing += [
        sentence
        for name, stage in stages
        if isinstance(stage, Mapping) and (sentence := interrupted(name, stage))
    ]
    return missing


def interrupted(name: str, training: Mapping[str, Any]) -> str:
    """That a training run is not whole, and why; empty for one that is."""
    updates = training.get("updates", 0)
    if training.get("stopped"):
        return (
            f"{name} stopped by itself after {updates} updates: {training['stopped']}. The warning "
            "PolicyRunaway says which weights were kept and what to do."
        )
    if training.get("finished") is False:
        return (
            f"{name} has not finished: {updates} updates are logged. "
            "Go on with --resume; the numbers here are of the part that ran."
        )
    return ""


def read_json(path: Path) -> Any:
    """A JSON file's value; `None` where there is no such file.

    Raises:
        FileNotReadable: it is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileNotReadable(
            f"{path.name} is not JSON: {error}",
            where=str(path),
            action="remove it and run the command that wrote it again",
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no such file."""
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def merge(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Both, mapping by mapping; where both have a value that is no mapping, the one of `now`."""
    merged = dict(before)
    for name, value in now.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def scrub(value: Any) -> Any:
    """The same value, fit for strict JSON in UTF-8: NaN and infinity become null, lone surrogates U+FFFD."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return re.sub(r"[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, Mapping):
        return {scrub(str(name)): scrub(item) for name, item in value.items()}
    return [scrub(item) for item in value] if isinstance(value, (list, tuple)) else value


def run_not_found(path: Path) -> FileNotReadable:
    """The fault of a directory that is not there or holds no run, with the runs that are near."""
    near = nearby_runs(path)
    action = (
        f"perhaps one of: {', '.join(near)}" if near else "give the --out of a training run or a quickstart"
    )
    if not path.exists():
        return FileNotReadable("there is no such run", where=str(path), action=action)
    if not path.is_dir():
        return FileNotReadable("this is a file, not a run directory", where=str(path), action=action)
    what = f"this directory holds no run: neither {METRICS} nor {REPORT} is in it"
    return FileNotReadable(what, where=str(path), action=action)


def nearby_runs(path: Path) -> list[str]:
    """Run directories in `path`, beside it, and under `runs/`."""
    parents = [path, path.parent, Path("runs")]
    candidates = [
        path.parent,
        *(child for parent in parents if parent.is_dir() for child in sorted(parent.iterdir())),
    ]
    runs = [
        candidate
        for candidate in candidates
        if (candidate / METRICS).is_file() or (candidate / REPORT).is_file()
    ]
    return list(dict.fromkeys(map(str, runs)))[:5]
