"""PPO in environments: here, in Stable-Baselines3 and in a loop of one file. Steps per second, same return.

    python benchmarks/control_vs_peers.py                     CartPole and Hopper
    python benchmarks/control_vs_peers.py --tasks cartpole    one of them

Every run is a process of its own, one at a time, the sides in turn; `benchmarks/README.md` says what is
measured and how.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from driving import median, run_job
from rich.console import Console
from rich.table import Table

from logratio.run_directory import describe_machine, write_json

HERE = Path(__file__).parent
SIDES = HERE / "control_sides.py"
OTHERS = ("sb3", "single file")
COMMON: dict[str, Any] = {
    "clip_range": 0.2,
    "value_coefficient": 0.5,
    "entropy_coefficient": 0.0,
    "max_gradient_norm": 0.5,
}
TASKS: dict[str, dict[str, Any]] = {
    # RL Baselines3 Zoo's settings, but for the clip range, which stays.
    "cartpole": {
        **COMMON,
        **{"env": "CartPole-v1", "steps": 100_000, "num_envs": 8, "num_steps": 32, "minibatches": 1},
        **{"update_epochs": 20, "learning_rate": 1e-3, "discount": 0.98, "lam": 0.8, "normalise": False},
        **{"widths": [64, 64], "activation": "tanh", "least": 2.5},
    },
    # The settings of the original MuJoCo experiments.
    "hopper": {
        **COMMON,
        **{"env": "Hopper-v5", "steps": 100_000, "num_envs": 4, "num_steps": 512, "minibatches": 32},
        **{"update_epochs": 10, "learning_rate": 3e-4, "discount": 0.99, "lam": 0.95, "normalise": True},
        **{"widths": [64, 64], "activation": "tanh", "least": 1.5},
    },
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is compared."""

    tasks: tuple[str, ...] = ("cartpole", "hopper")
    """Which tasks."""
    repeats: int = 3
    """Runs of each side, with seeds 0, 1 and so on; the table shows medians."""
    vectorisation: str = "sync"
    """How environments are stepped here: sync, async, own."""
    threads: int = 1
    """Threads of each side."""
    out: Path = HERE / "control_results.json"
    """Where the numbers go."""


def main(arguments: Arguments) -> int:
    """Run all sides, print the table, write the results; 1 where a bar is missed."""
    console = Console()
    results = []
    for name in arguments.tasks:
        results.append(compare(name, arguments, console))
        write_results(results, arguments.out)
    console.print(tabulate(results))
    for result in results:
        verdict = "held" if result["holds"] else "MISSED"
        console.print(
            f"{result['name']}: {result['ratio']:.2f} times the steps per second of Stable-Baselines3, "
            f"wanted at least {result['least_ratio']:g}: {verdict}",
            highlight=False,
        )
    console.print(f"written to {arguments.out}")
    return 0 if all(result["holds"] for result in results) else 1


def write_results(results: list[dict[str, Any]], out: Path) -> None:
    """Write the results; those of other tasks that stand in the file stay."""
    measured = {result["name"] for result in results}
    before = json.loads(out.read_text()) if out.exists() else []
    write_json(out, [*(one for one in before if one["name"] not in measured), *results])


def compare(name: str, arguments: Arguments, console: Console) -> dict[str, Any]:
    """The runs of all sides on one task, in turn."""
    task = dict(TASKS[name])
    least = task.pop("least")
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in ("logratio", *OTHERS)}
    with tempfile.TemporaryDirectory(prefix="control-vs-peers-") as work:
        for seed in range(arguments.repeats):
            for side, runs in measured.items():
                job = {"side": side, "out": "", "seed": seed, "threads": arguments.threads, **task}
                job["vectorisation"] = arguments.vectorisation
                found = run_job(SIDES, job, Path(work))
                runs.append(found)
                rate = found["env_steps"] / found["whole_seconds"]
                console.print(
                    f"{task['env']:<12} seed {seed}  {side:<12} {rate:7.0f} steps/s, "
                    f"return {found['return']:7.1f}",
                    highlight=False,
                )
    return summarise(task, measured, least)


def summarise(
    task: dict[str, Any], measured: dict[str, list[dict[str, Any]]], least: float
) -> dict[str, Any]:
    """Medians of one task, as they stand in the results file."""
    sides = {}
    for side, runs in measured.items():
        sides[side] = {
            "steps_per_second": runs[0]["env_steps"] / median(runs, "whole_seconds"),
            "steps_per_second_without_imports": runs[0]["env_steps"] / median(runs, "seconds"),
            "whole_seconds": [run["whole_seconds"] for run in runs],
            "seconds": [run["seconds"] for run in runs],
            "processor_seconds": [run["processor_seconds"] for run in runs],
            "returns": [run["return"] for run in runs],
            "peak_memory_bytes": [run["peak_memory_bytes"] for run in runs],
            "versions": runs[0]["versions"],
        }
    ratio = sides["logratio"]["steps_per_second"] / sides["sb3"]["steps_per_second"]
    return {
        "name": task["env"],
        "sides": sides,
        "ratio": ratio,
        "ratio_to_single_file": sides["logratio"]["steps_per_second"]
        / sides["single file"]["steps_per_second"],
        "least_ratio": least,
        "holds": ratio >= least,
        "settings": task,
        "machine": describe_machine(),
    }


def tabulate(results: list[dict[str, Any]]) -> Table:
    """The results as a table."""
    table = Table(
        "task", "side", "steps/s", "without imports", "return", "peak GB", title="medians of the runs"
    )
    for result in results:
        for side, found in result["sides"].items():
            table.add_row(
                result["name"],
                side,
                f"{found['steps_per_second']:,.0f}",
                f"{found['steps_per_second_without_imports']:,.0f}",
                f"{statistics.median(found['returns']):.1f}",
                f"{statistics.median(found['peak_memory_bytes']) / 1e9:.2f}",
            )
        table.add_section()
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
