"""The clip, the adaptive penalty, and both, on the same code: two tasks, three seeds each.

    python benchmarks/control_penalty.py

Every run is `logratio control ppo` with the task's preset and nothing else changed, judged over 100 episodes
on seeds of their own. What stands in --work is not run again.
"""

from __future__ import annotations

import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from control_returns import run
from rich.console import Console
from rich.table import Table

from logratio.run_directory import describe_machine, write_json

HERE = Path(__file__).parent
TASKS = ("CartPole-v1", "Pendulum-v1")
ARMS: dict[str, tuple[str, ...]] = {
    "clip": (),
    "penalty": ("--clip-range", "0", "--kl-penalty", "1"),
    "both": ("--kl-penalty", "1"),
}
SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    work: Path = Path("runs/penalty")
    """Where the runs go."""
    workers: int = 2
    """Runs at a time, each with one thread."""
    out: Path = HERE / "control_penalty.json"
    """Where the numbers go."""


def main(arguments: Arguments) -> int:
    """Run, print the table, write the results."""
    jobs = [(task, arm, seed) for task in TASKS for arm in ARMS for seed in range(SEEDS)]
    with ThreadPoolExecutor(arguments.workers) as pool:
        found = list(pool.map(lambda job: run_arm(*job, arguments.work), jobs))
    runs: dict[str, dict[str, list[Any]]] = {task: {arm: [] for arm in ARMS} for task in TASKS}
    for (task, arm, _), result in zip(jobs, found, strict=True):
        runs[task][arm].append(result)
    write_json(arguments.out, {"runs": runs, "machine": describe_machine()})
    console = Console()
    console.print(tabulate(runs))
    console.print(f"written to {arguments.out}")
    return 0


def run_arm(task: str, arm: str, seed: int, work: Path) -> dict[str, Any]:
    """One run of one arm."""
    return run("logratio", task, seed, work / arm, flags=ARMS[arm])


def tabulate(runs: dict[str, dict[str, list[Any]]]) -> Table:
    """The returns of all arms."""
    table = Table(
        "task", *ARMS, title="return of each seed, mean of 100 episodes by the most probable actions"
    )
    for task, arms in runs.items():
        cells = []
        for found in arms.values():
            returns = [one["mean_return"] for one in found]
            listed = ", ".join(f"{value:.0f}" for value in returns)
            cells.append(f"{statistics.mean(returns):.1f}  ({listed})")
        table.add_row(task, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
