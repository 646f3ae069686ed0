"""Several runs of one experiment together: what a method does, not what a lucky seed did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from logratio.config_file import write_settings
from logratio.control.env.action_scaling import ActionScaling
from logratio.control.env.normalisation import ObservationNormaliser
from logratio.control.evaluation import interquartile_interval, interquartile_mean
from logratio.control.policy_files import load_policy
from logratio.control.video import film
from logratio.progress import say
from logratio.recipes.control_config import ControlSettings
from logratio.report.collect import read_object
from logratio.report.page import render
from logratio.run_directory import CONFIG_FILE, REPORT, RunDirectory, write_json
from logratio.stats.bootstrap import RESAMPLES, resampled_means

POINTS = 100
"""Places at which the learning curves are put together."""
WAYS = ("deterministic", "stochastic")


def train_several(
    flags: ControlSettings,
    train_one: Callable[[ControlSettings], dict[str, Any]],
    description: dict[str, Any],
) -> dict[str, Any]:
    """Train with one seed after the other; the report of them all grows with each that is done."""
    reports: dict[Path, dict[str, Any]] = {}
    with RunDirectory.begin(flags.out, description, resume=flags.resume) as run:
        write_settings(run.path / CONFIG_FILE, description["command"], flags)
        for number, seed in enumerate(range(flags.seed, flags.seed + flags.seeds)):
            say(f"seed {seed}, run {number + 1} of {flags.seeds}")
            own = replace(flags, seed=seed, seeds=1, video=False, out=flags.out / f"seed-{seed}")
            reports[own.out] = train_one(own)
            found = aggregate(reports)
            write_json(run.path / REPORT, found)
            render(run.path)
            found["warnings"] = read_object(run.path / REPORT)["warnings"]
        if flags.video:
            found["film"] = record_best_video(flags, reports)
            write_json(run.path / REPORT, found)
            render(run.path)
    return found


def aggregate(reports: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """The runs side by side, their interquartile mean with its interval, and one learning curve of all."""
    returns = [mean_return(report) for report in reports.values()]
    low, high = interquartile_interval(returns)
    first = next(iter(reports.values()))
    return {
        "environment": first["environment"],
        "evaluation": {
            "mean_return": float(np.mean(returns)),
            "std_return": float(np.std(returns)),
            "episodes": sum(int(report["evaluation"]["episodes"]) for report in reports.values()),
            "interquartile_mean": {"value": interquartile_mean(returns), "low": low, "high": high},
            "seeds": [judged_run(path.name, report) for path, report in reports.items()],
        },
        "curve": join_curves([report["curve"] for report in reports.values()]),
    }


def mean_return(report: Mapping[str, Any]) -> float:
    """What the most probable actions of a run's policy earned."""
    return float(report["evaluation"]["mean_return"])


def judged_run(directory: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """How a run was judged, with all that `report.json` of a single one has in `evaluation`."""
    judged = report["evaluation"]
    numbers = {name: judged[name] for name in ("mean_return", "std_return", "episodes", *WAYS)}
    return {"seed": report["seed"], "directory": directory, **numbers}


def join_curves(curves: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """The runs' return at the same steps, where every run has one.

    A row holds the mean over runs, the 95 % interval of its percentile bootstrap over runs (`low`, `high`),
    and the lowest and highest run.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return []
    start = max(curve[0]["steps"] for curve in curves)
    end = min(curve[-1]["steps"] for curve in curves)
    # Where one run ended before another's first episode did, there is no step at which all have a return.
    places = np.linspace(start, end, POINTS) if end > start else np.array([start])[: int(end == start)]
    values = np.array(
        [
            np.interp(places, [row["steps"] for row in curve], [row["return"] for row in curve])
            for curve in curves
        ]
    )
    if not len(places):
        return []
    lows, highs = np.quantile(resampled_means(values.T, resamples=RESAMPLES), [0.025, 0.975], axis=0)
    columns = {
        "steps": places,
        "return": values.mean(axis=0),
        "low": lows,
        "high": highs,
        "lowest": values.min(axis=0),
        "highest": values.max(axis=0),
    }
    return [{name: float(column[place]) for name, column in columns.items()} for place in range(len(places))]


def record_best_video(flags: ControlSettings, reports: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """Film the policy of the run whose most probable actions earned most."""
    best = max(reports, key=lambda path: mean_return(reports[path]))
    policy, description = load_policy(best / "model")
    scale = ObservationNormaliser(1, wanted=False)
    scale.load(description["observation_scale"])
    found = description.get("action_scaling")
    scaling = None if found is None else ActionScaling.from_json(found)
    return film(flags.env, policy, scale, flags.out, seed=int(reports[best]["seed"]), scaling=scaling)


def describe_seeds(environment: str, found: Mapping[str, Any]) -> str:
    """The runs and what they say together, in lines for a terminal."""
    judged = found["evaluation"]
    middle = judged["interquartile_mean"]
    lines = [
        f"seed {one['seed']}: return {one['mean_return']:.1f} ± {one['std_return']:.1f} "
        f"over {one['episodes']} episodes"
        for one in judged["seeds"]
    ]
    lines.append(
        f"{environment}: interquartile mean {middle['value']:.1f} "
        f"({middle['low']:.1f} to {middle['high']:.1f}) of {len(lines)} runs"
    )
    return "\n".join(lines)
