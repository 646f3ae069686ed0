"""What `logratio control ppo` reaches on classic tasks; Hopper beside Stable-Baselines3. Seeds are fixed.

    python benchmarks/control_returns.py                              all tasks, two runs at a time
    python benchmarks/control_returns.py --tasks Acrobot-v1           one of them
    python benchmarks/control_returns.py --workers 1                  one run at a time

A run is `logratio control ppo` with the task's preset, judged over 100 episodes on seeds of their own, by the
most probable actions. What stands in --work is not run again. Exit status 1 where a bar is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from logratio.run_directory import describe_machine, write_json

HERE = Path(__file__).parent
SB3 = HERE / "control_sb3.py"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a task must reach."""

    least: float
    """The mean return of a run."""
    seeds: int
    """Runs, with seeds 0, 1 and so on."""
    of_them: int
    """Runs that must reach it."""


BARS = {
    "CartPole-v1": Bar(least=495.0, seeds=5, of_them=5),
    "Acrobot-v1": Bar(least=-90.0, seeds=5, of_them=5),
    "Pendulum-v1": Bar(least=-250.0, seeds=5, of_them=4),
    "MountainCarContinuous-v0": Bar(least=85.0, seeds=5, of_them=4),
    "LunarLander-v3": Bar(least=200.0, seeds=5, of_them=4),
}
BESIDE, BESIDE_SEEDS = "Hopper-v5", 3
"""Held against Stable-Baselines3's mean with the same hyperparameters."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    tasks: tuple[str, ...] = (*BARS, BESIDE)
    """Which tasks."""
    work: Path = Path("runs/returns")
    """Where the runs go."""
    workers: int = 2
    """Runs at a time, each with one thread."""
    out: Path = HERE / "control_returns.json"
    """Where the numbers go; tasks that are not run keep theirs."""


def main(arguments: Arguments) -> int:
    """Run, print the table, write the results."""
    console = Console()
    jobs = [job for task in arguments.tasks for job in jobs_of(task)]
    with ThreadPoolExecutor(arguments.workers) as pool:
        runs = list(pool.map(lambda job: (job, run(*job, arguments.work)), jobs))
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for task in arguments.tasks:
        own = [(side, result) for (side, name, _), result in runs if name == task]
        found[task] = summarise(task, own) | {"machine": describe_machine()}
    write_json(arguments.out, found)
    console.print(tabulate(found))
    missed = [task for task in arguments.tasks if not found[task]["holds"]]
    console.print(f"missed: {', '.join(missed)}" if missed else "every bar held")
    console.print(f"written to {arguments.out}")
    return 1 if missed else 0


def jobs_of(task: str) -> list[tuple[str, str, int]]:
    """Side, task and seed of each run."""
    if task == BESIDE:
        return [(side, task, seed) for seed in range(BESIDE_SEEDS) for side in ("logratio", "sb3")]
    return [("logratio", task, seed) for seed in range(BARS[task].seeds)]


def run(side: str, task: str, seed: int, work: Path, *, flags: Sequence[str] = ()) -> dict[str, Any]:
    """One run in a process of its own, unless its report is there; its evaluation and its curve."""
    work.mkdir(parents=True, exist_ok=True)
    out = work / f"{task}-{side}-{seed}"
    report = out / "report.json"
    if not report.exists():
        program = str(Path(sys.executable).with_name("logratio"))
        ours = [program, "control", "ppo", "--env", task, "--seed", str(seed), "--out", str(out)]
        command = {
            "logratio": [*ours, "--resume", *flags],
            "sb3": [sys.executable, str(SB3), task, str(seed), str(out)],
        }[side]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{side} failed on {task}, seed {seed}:\n{done.stderr[-3000:]}")
    found = json.loads(report.read_text())
    judged = found["evaluation"]
    return {
        "seed": seed,
        "mean_return": judged["mean_return"],
        "std_return": judged["std_return"],
        "episodes": judged["episodes"],
        "seconds": found["summary"]["seconds"],
        "curve": thinned(found["curve"]),
    }


def thinned(curve: Sequence[dict[str, float]], points: int = 60) -> list[list[float]]:
    """So many points of a curve of steps and mean returns."""
    every = max(1, len(curve) // points)
    return [[point["steps"], round(point["return"], 2)] for point in curve[::every]]


def summarise(task: str, runs: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """A task's runs with what was asked of them and whether it holds."""
    ours = [result for side, result in runs if side == "logratio"]
    returns = [result["mean_return"] for result in ours]
    if task == BESIDE:
        theirs = [result for side, result in runs if side == "sb3"]
        least = statistics.mean(result["mean_return"] for result in theirs)
        holds = statistics.mean(returns) >= least
        return {"runs": ours, "sb3": theirs, "least": least, "reached": None, "holds": holds}
    bar = BARS[task]
    reached = sum(value >= bar.least for value in returns)
    return {
        "runs": ours,
        "least": bar.least,
        "of_them": bar.of_them,
        "reached": reached,
        "holds": reached >= bar.of_them,
    }


def tabulate(found: dict[str, Any]) -> Table:
    """The runs as a table."""
    table = Table(
        "task", "side", "returns of the runs", "mean", "bar", "reached", title="mean of 100 episodes"
    )
    for task, result in found.items():
        for side, runs in (("logratio", result["runs"]), ("sb3", result.get("sb3", []))):
            if not runs:
                continue
            returns = [one["mean_return"] for one in runs]
            reached = "" if side == "sb3" or result["reached"] is None else f"{result['reached']}/{len(runs)}"
            bar = "" if side == "sb3" else f"{result['least']:.1f}"
            table.add_row(
                task,
                side,
                ", ".join(f"{value:.1f}" for value in returns),
                f"{statistics.mean(returns):.1f}",
                bar,
                reached,
            )
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
