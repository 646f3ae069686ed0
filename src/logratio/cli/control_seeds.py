"""Several runs of one experiment together: what a method does, not what a lucky seed did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from logratio.evaluation.episodes import interquartile_interval, interquartile_mean

POINTS = 50
"""Places at which the learning curves are put together."""


def aggregate(reports: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """The runs side by side, their interquartile mean with its interval, and one learning curve of all."""
    returns = [float(report["evaluation"]["mean_return"]) for report in reports.values()]
    low, high = interquartile_interval(returns)
    first = next(iter(reports.values()))
    return {
        "environment": first["environment"],
        "evaluation": {
            "mean_return": float(np.mean(returns)),
            "std_return": float(np.std(returns)),
            "episodes": sum(int(report["evaluation"]["episodes"]) for report in reports.values()),
            "interquartile_mean": {"value": interquartile_mean(returns), "low": low, "high": high},
            "seeds": [
                {"seed": report["seed"], "mean_return": value, "directory": path.name}
                for (path, report), value in zip(reports.items(), returns, strict=True)
            ],
        },
        "curve": join_curves([report["curve"] for report in reports.values()]),
    }


def join_curves(curves: list[list[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Mean and spread over runs of the episodes' return, at the same steps; where every run has a value."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return []
    start = max(curve[0]["steps"] for curve in curves)
    end = min(curve[-1]["steps"] for curve in curves)
    places = np.linspace(start, end, POINTS)
    values = np.array(
        [
            np.interp(places, [row["steps"] for row in curve], [row["return"] for row in curve])
            for curve in curves
        ]
    )
    return [
        {
            "steps": float(place),
            "return": float(column.mean()),
            "lowest": float(column.min()),
            "highest": float(column.max()),
        }
        for place, column in zip(places, values.T, strict=True)
    ]


def describe_seeds(environment: str, found: Mapping[str, Any]) -> str:
    """The runs and what they say together, in lines for a terminal."""
    judged = found["evaluation"]
    middle = judged["interquartile_mean"]
    lines = [f"seed {one['seed']}: return {one['mean_return']:.1f}" for one in judged["seeds"]]
    lines.append(
        f"{environment}: interquartile mean {middle['value']:.1f} "
        f"({middle['low']:.1f} to {middle['high']:.1f}) of {len(lines)} runs"
    )
    return "\n".join(lines)
