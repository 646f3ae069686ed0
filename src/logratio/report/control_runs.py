"""Reports of policies that drive environments: whether one is, and of which runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def is_control(report: Mapping[str, Any]) -> bool:
    """Whether a report is of a policy that drives an environment."""
    return isinstance(report.get("environment"), str)


def runs_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The training runs that have curves, by name: one, or one for each seed."""
    training = report.get("training") or {}
    training_runs = {
        str(name): run for name, run in training.items() if isinstance(run, Mapping) and run.get("curves")
    }
    return {name: training_runs[name] for name in sorted(training_runs, key=natural)}


def stage_of(training: Mapping[str, Any]) -> str:
    """The trainer of a run: `ppo` or `reinforce`; empty where it is not known."""
    settings = training.get("settings")
    identity = settings.get("identity") if isinstance(settings, Mapping) else None
    stage = identity.get("stage") if isinstance(identity, Mapping) else None
    return stage if isinstance(stage, str) else str(training.get("stage") or "")


def alone(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The report as if one of its runs were the only one, under its trainer's name."""
    run, judged = runs_of(report)[name], report.get("evaluation") or {}
    if judged.get("seeds"):
        judged = next((seed for seed in judged["seeds"] if seed.get("directory") == name), {})
    return {
        "environment": report["environment"],
        "training": {stage_of(run): run},
        "evaluation": judged,
    }


def run_label(name: str) -> str:
    """How the page calls a run: `seed-3` is seed 3."""
    return name.replace("-", " ") if re.fullmatch(r"seed-\d+", name) else name


def natural(name: str) -> tuple[str | int, ...]:
    """A key by which `seed-10` stands behind `seed-9`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
