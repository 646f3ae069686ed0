"""How long a command takes before it does what it was called for.

`logratio --help`, and `logratio train sft` on the embedded model, converted before: from its call to the
beginning of its first update, with imports, data, weights and the invariants that are checked before a run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from dpo_vs_trl import make_comparisons, write_rows
from rich.console import Console
from speed_page import write_page

from logratio.run_directory import describe_machine, write_json

HERE = Path(__file__).parent
LOGRATIO = Path(sys.executable).parent / "logratio"
MOST = {"help": 0.8, "train": 12.0}
"""Seconds that are allowed."""
ABOUT = {
    "help": "`logratio --help`",
    "train": "`logratio train sft` on the embedded model, to the beginning of its first update",
}
GIVE_UP = 300.0
"""Seconds after which a run has not begun."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    repeats: int = 5
    """Calls of each; the table shows medians."""
    out: Path = HERE / "startup.json"
    """Where the numbers go."""
    page: Path = HERE.parent / "docs" / "speed.md"
    """Where they are shown."""


def main(arguments: Arguments) -> int:
    """Measure, write down, and give 1 where a bar is missed."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="logratio-startup-") as name:
        work = Path(name)
        write_rows(work / "rows.jsonl", make_comparisons(16))
        # The first of each is not counted: it converts the model, and reads files that are not in memory.
        seconds = {
            "help": [help_once() for _ in range(arguments.repeats + 1)][1:],
            "train": [train_once(work, number) for number in range(arguments.repeats + 1)][1:],
        }
    found: dict[str, Any] = {"machine": describe_machine(), "rows": []}
    for name, runs in seconds.items():
        median = statistics.median(runs)
        row = {"name": f"startup-{name}", "about": ABOUT[name], "seconds": median, "runs": runs}
        found["rows"].append(row | {"most": MOST[name], "holds": median <= MOST[name]})
        console.print(f"{ABOUT[name]}: {median:.2f} s, at most {MOST[name]:g}", highlight=False)
    write_json(arguments.out, found)
    results, growth = (json.loads((HERE / name).read_text()) for name in ("results.json", "growth.json"))
    write_page(results, growth, arguments.page, startup=found)
    return 0 if all(row["holds"] for row in found["rows"]) else 1


def help_once() -> float:
    """Seconds of one call of `logratio --help`."""
    started = time.perf_counter()
    subprocess.run([LOGRATIO, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def train_once(work: Path, number: int) -> float:
    """Seconds from the call of a training command to the beginning of its first update."""
    out = work / f"run-{number}"
    flags = ["--data", work / "rows.jsonl", "--held-out", "0", "--batch-size", "4", "--epochs", "0.1"]
    command = [LOGRATIO, "train", "sft", *flags, "--out", out]
    started = time.time()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        rows = out / "metrics.jsonl"
        while not (rows.exists() and rows.read_text().endswith("\n")):
            if process.poll() is not None or time.time() - started > GIVE_UP:
                process.kill()
                raise SystemExit(f"{' '.join(map(str, command))} ended before its first update")
            time.sleep(0.005)
        # A row is written when its update is done, and says how long that took.
        ended, first = rows.stat().st_mtime, json.loads(rows.read_text().splitlines()[0])
        process.kill()
    return ended - first["seconds"] - started


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
