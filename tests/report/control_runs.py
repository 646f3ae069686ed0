"""Runs in an environment with plausible numbers, written without a policy: one, or one for each seed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from report import run_directories

SETTINGS = {
    "learning_rate": 1e-3,
    "schedule": "linear",
    "max_gradient_norm": 0.5,
    "clip_range": 0.2,
    "target_update_kl": 0.02,
    "early_stop_factor": 0.0,
}
INVARIANTS = [
    {"name": "ratio_is_one", "value": 1e-6, "limit": 1e-4, "step": 39},
    {"name": "every_row_is_counted", "value": 256.0, "limit": 256.0, "step": 39},
    {"name": "reference_unchanged", "value": 0.0, "limit": 0.0, "step": 40},
]
ROWS_AN_UPDATE = 256


def rows(count: int = 40, *, seed: int = 0, stage: str = "ppo", **changed: Any) -> list[dict[str, Any]]:
    """A run that learns; what is changed is a number, or a function of the share that is done."""
    draw = random.Random(seed)
    made = []
    for step in range(1, count + 1):
        done = step / count
        row = {
            "stage": stage,
            "step": step,
            "env_steps": float(ROWS_AN_UPDATE * step),
            "episode_return": 20.0 + 400.0 * done,
            "episode_length": 20.0 + 400.0 * done,
            "entropy": 0.69 - 0.3 * done,
            "explained_variance": 0.8 * done,
            "value_loss": 5.0,
            "update_kl": 0.01,
            "clip_fraction": 0.05 + draw.uniform(0.0, 0.02),
            "ratio_deviation": 0.4 + draw.uniform(0.0, 0.1),
            "effective_share": 0.98 + draw.uniform(0.0, 0.01),
            "gradient_norm": 1.0,
            "optimiser_steps": 20.0,
            "policy_loss": draw.gauss(0.0, 0.01),
            "learning_rate": 1e-3 * (1.0 - done),
            "tokens_per_second": 2000.0,
            "seconds": 0.1,
        }
        row |= {name: value(done) if callable(value) else value for name, value in changed.items()}
        made.append(row)
    return made


def judged(mean: float, *, deviation: float = 10.0, unended: int = 0) -> dict[str, Any]:
    """How a policy was judged: two episodes by the most probable actions, two by drawn ones."""
    ways = {
        name: {
            "mean_return": mean - less,
            "std_return": deviation,
            "episodes": 2,
            "mean_length": mean - less,
            "unended": unended,
            "returns": [mean - less - deviation, mean - less + deviation],
        }
        for name, less in (("deterministic", 0.0), ("stochastic", 5.0))
    }
    return {name: ways["deterministic"][name] for name in ("mean_return", "std_return", "episodes")} | ways


def config_of(seed: int, *, stage: str = "ppo", several: bool = False) -> dict[str, Any]:
    settings = SETTINGS | {"seed": seed}
    return {
        "command": f"control {stage}",
        "environment": "CartPole-v1",
        "settings": settings,
        "identity": settings | {"stage": stage, "several": several},
    }


def write_one(path: Path, made: list[dict[str, Any]], *, seed: int = 0, mean: float | None = 300.0) -> Path:
    """One run; without a mean it has not come to its end."""
    run_directories.write_training(path, made, invariants=INVARIANTS)
    (path / "config.json").write_text(json.dumps(config_of(seed)))
    if mean is None:
        (path / "summary.json").unlink()
        return path
    curve = [{"steps": row["env_steps"], "return": row["episode_return"]} for row in made]
    report = {"environment": "CartPole-v1", "seed": seed, "evaluation": judged(mean), "curve": curve}
    (path / "report.json").write_text(json.dumps(report))
    return path


def write_several(path: Path, runs: dict[int, tuple[float, list[dict[str, Any]]]]) -> Path:
    """A run for each seed, with what its policy earned."""
    path.mkdir(parents=True)
    for seed, (mean, made) in runs.items():
        write_one(path / f"seed-{seed}", made, seed=seed, mean=mean)
    (path / "config.json").write_text(json.dumps(config_of(min(runs), several=True)))
    means = [mean for mean, _ in runs.values()]
    middle = sum(means) / len(means)
    seeds = [{"seed": seed, "directory": f"seed-{seed}", **judged(mean)} for seed, (mean, _) in runs.items()]
    columns = zip(*([row["episode_return"] for row in made] for _, made in runs.values()), strict=True)
    curve = [
        {
            "steps": float(ROWS_AN_UPDATE * (place + 1)),
            "return": sum(values) / len(values),
            "low": min(values) + 1.0,
            "high": max(values) - 1.0,
        }
        for place, values in enumerate(columns)
    ]
    report = {
        "environment": "CartPole-v1",
        "evaluation": {
            "mean_return": middle,
            "std_return": 1.0,
            "episodes": 2 * len(means),
            "interquartile_mean": {"value": middle, "low": min(means), "high": max(means)},
            "seeds": seeds,
        },
        "curve": curve,
    }
    (path / "report.json").write_text(json.dumps(report))
    return path
