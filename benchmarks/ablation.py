"""What each optimisation is worth: the same work with all of them and with one off, seconds and peak memory.

An update of four pairs with a model of the embedded model's shape; a checkpoint of its weights and moments;
PPO on CartPole. Runs with and without take turns, each in a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from driving import median, run_job
from rich.console import Console
from speed_page import ABLATION_BEGIN, ABLATION_END, replace_ablation

HERE = Path(__file__).parent
SIDES = HERE / "ablation_sides.py"
ROWS = [
    ("fused layers", "update", "the model's own forward pass, by autograd"),
    ("packed attention", "update", "PyTorch's attention of each group, by autograd"),
    ("chunked head", "update", "all logits of the answer tokens at once"),
    ("shared prompts", "update", "a prompt computed again for each answer"),
    ("in-place gradients", "update", "each gradient made beside the one that stands"),
    ("malloc settings", "update", "glibc returns freed memory to the kernel"),
    ("workspace", "update", "intermediate results in memory of their own"),
    ("mapped gradients", "update", "gradients in the heap"),
    ("direct writes", "checkpoint", "safetensors' writer, and the file read again for its hash"),
    ("graph replay", "cartpole", "minibatches of small networks computed by autograd"),
]
"""What is off, in which work, and what stands in its place."""
HEAD = """
## What each optimisation is worth

Written by `make bench-ablation`: medians of {repeats} runs each, with everything on and with one thing off,
on {cores} cores. *Update*: forward, backward and AdamW over four pairs (prompts of 77 tokens, answers of 46)
with a model of the embedded model's shape in float32, from its second update on. *Checkpoint*: 1.6 GB.
*CartPole*: 20,000 steps of PPO.

| off | in its place | work | seconds on | off | off / on | peak memory on | off | off / on |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    only: tuple[str, ...] = ()
    """Optimisations by name; all without it."""
    repeats: int = 3
    """Runs of each side; the table shows medians."""
    out: Path = HERE / "ablation.json"
    """Where the numbers go."""
    page: Path = HERE.parent / "docs" / "speed.md"
    """Where they are shown."""


def main(arguments: Arguments) -> int:
    """Measure and write down."""
    from logratio.run_directory import describe_machine, write_json

    console = Console()
    rows: list[dict[str, Any]] = []
    wanted = [row for row in ROWS if not arguments.only or row[0] in arguments.only]
    with tempfile.TemporaryDirectory(prefix="logratio-ablation-") as name:
        on: dict[str, list[dict[str, Any]]] = {}
        off: dict[str, list[dict[str, Any]]] = {}
        for _ in range(arguments.repeats):
            for work in dict.fromkeys(row[1] for row in wanted):
                on.setdefault(work, []).append(measure(work, "", Path(name)))
            for optimisation, work, _ in wanted:
                off.setdefault(optimisation, []).append(measure(work, optimisation, Path(name)))
        for optimisation, work, instead in wanted:
            row = {"off": optimisation, "work": work, "instead": instead}
            for key in ("seconds", "peak_memory_bytes"):
                row[key] = {"on": median(on[work], key), "off": median(off[optimisation], key)}
            rows.append(row)
            console.print(line_of(row), highlight=False)
    found = {"machine": describe_machine(), "repeats": arguments.repeats, "rows": rows}
    if not arguments.only:
        write_json(arguments.out, found)
        replace_ablation(arguments.page, table_of(found))
    return 0


def measure(work: str, off: str, place: Path) -> dict[str, Any]:
    """One run."""
    return run_job(SIDES, {"side": work, "off": off, "updates": 3, "threads": 0, "out": ""}, place)


def table_of(found: dict[str, Any]) -> str:
    """The section of docs/speed.md."""
    head = HEAD.format(repeats=found["repeats"], cores=found["machine"]["cores"])
    lines = "\n".join(line_of(row) for row in found["rows"])
    return f"{ABLATION_BEGIN}{head}{lines}\n{ABLATION_END}\n"


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    seconds, memory = row["seconds"], row["peak_memory_bytes"]
    return (
        f"| {row['off']} | {row['instead']} | {row['work']} | {seconds['on']:.2f} | {seconds['off']:.2f} | "
        f"{seconds['off'] / seconds['on']:.2f} | {memory['on'] / 1e9:.2f} GB | "
        f"{memory['off'] / 1e9:.2f} GB | {memory['off'] / memory['on']:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
