"""Policy-gradient runs with plausible numbers, written without a model: a healthy one, and what to change."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from logratio.report.warnings.policy_gradient import find_warnings
from logratio.report.warnings.warning import ReportWarning
from report import run_directories

SETTINGS = {
    "target_update_kl": 0.02,
    "clip_range": 0.2,
    "early_stop_factor": 1.5,
    "target_kl": 6.0,
    "batch_size": 16,
    "num_samples": 4,
    "baseline": "leave-one-out",
}
ANSWERS = SETTINGS["batch_size"] * SETTINGS["num_samples"]
REWARDS = [{"name": "mod:kind", "weight": 1.0}, {"name": "mod:short", "weight": 0.5}]
INVARIANTS = [
    {"name": "packed_equals_unpacked", "value": 1.9e-6, "limit": 1e-3, "step": 0},
    {"name": "sampled_equals_recomputed", "value": 4.1e-6, "limit": 1e-3, "step": 39},
    {"name": "ratio_is_one", "value": 0.0, "limit": 1e-4, "step": 39},
    {"name": "every_row_is_counted", "value": 480.0, "limit": 480.0, "step": 39},
    {"name": "update_kl_is_zero", "value": 0.0, "limit": 1e-6, "step": 39},
    {"name": "nothing_is_clipped", "value": 0.0, "limit": 0.0, "step": 39},
    {"name": "reference_unchanged", "value": 0.0, "limit": 0.0, "step": 40},
]


def noisy(
    shape: Callable[[float], float], *, spread: float = 0.02, seed: int = 1
) -> Callable[[float], float]:
    """A curve of a shape with noise on it."""
    draw = random.Random(seed)
    return lambda done: shape(done) + draw.gauss(0, spread)


def chance(kl: float, draw: random.Random) -> float:
    """The KL by the tokens drawn, where the exact one is `kl`."""
    return kl + draw.gauss(0.0, math.sqrt(2 * kl / ANSWERS))


def healthy_rows(count: int = 40, *, stage: str = "ppo", seed: int = 5) -> list[dict[str, Any]]:
    """Every number as it should be."""
    draw = random.Random(seed)
    rows = []
    for step in range(1, count + 1):
        done = step / count
        kind = 0.2 + 0.5 * done + draw.gauss(0, 0.02)
        short = -0.3 + draw.gauss(0, 0.01)
        kl, beta = 6.0 * done, 0.05 + 0.01 * done
        rows.append(
            {
                "stage": stage,
                "step": step,
                "policy_loss": draw.gauss(0, 0.02),
                "reward/mod:kind": kind,
                "reward/mod:short": short,
                "reward": kind + 0.5 * short,
                "monitored/judge:gold": 0.1 + 0.3 * done + draw.gauss(0, 0.02),
                "objective": kind + 0.5 * short - beta * kl,
                "reward_std": 0.2,
                "constant_groups": 0.125,
                "gradient_signal": 0.6 + draw.gauss(0, 0.4),
                "reference_kl": kl,
                "reference_log_ratio": chance(kl, draw),
                "kl_coefficient": beta,
                "entropy": 3.0 - 0.5 * done,
                "answer_tokens": 30.0 + draw.gauss(0, 0.7),
                "ended": 0.95,
                "repetition": 0.05 + 0.02 * done,
                "ratio_deviation": 0.6,
                "effective_share": 0.97,
                "gradient_norm": 1.0,
                "learning_rate": 1e-5,
                "seconds": 1.0,
            }
        )
        if stage == "ppo":
            rows[-1] |= {
                "update_kl": 0.012,
                "clip_fraction": 0.06,
                "explained_variance": 0.6 * done,
                "value_loss": 0.1,
                "optimiser_steps": 16.0,
            }
    return rows


def changed_rows(
    count: int = 40, *, stage: str = "ppo", without: tuple[str, ...] = (), **changed: Any
) -> list[dict[str, Any]]:
    """The healthy run with some curves replaced, each by a number or by a function of the share done."""
    rows = healthy_rows(count, stage=stage)
    for row in rows:
        for name, value in changed.items():
            row[name] = value(row["step"] / count) if callable(value) else value
        for name in without:
            del row[name]
    return rows


def report_of(
    *,
    stage: str = "ppo",
    settings: Mapping[str, Any] = SETTINGS,
    count: int = 40,
    summary: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    **changed: Any,
) -> dict[str, Any]:
    """What `collect` makes of such a run."""
    rows = changed_rows(count, stage=stage, without=without, **changed)
    curves = {name: [row.get(name) for row in rows] for name in rows[0] if name != "stage"}
    config = {"settings": dict(settings), "identity": {"rewards": REWARDS}}
    training = {"curves": curves, "settings": config, "updates": count, "finished": True}
    return {"training": {stage: training | dict(summary or {})}}


def write_run(
    path: Path,
    rows: list[dict[str, Any]],
    *,
    settings: Mapping[str, Any] = SETTINGS,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """A run directory of these rows; `summary` adds to its summary."""
    run_directories.write_training(path, rows, invariants=INVARIANTS)
    config = {"settings": dict(settings), "identity": {"rewards": REWARDS}}
    (path / "config.json").write_text(json.dumps(config))
    written = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(written | dict(summary or {})))
    return path


def by_name(report: Mapping[str, Any]) -> dict[str, ReportWarning]:
    return {finding.name: finding for finding in find_warnings(report)}


def raised(report: Mapping[str, Any]) -> set[str]:
    return {name for name, finding in by_name(report).items() if finding.raised}
