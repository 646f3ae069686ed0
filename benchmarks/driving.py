"""What the benchmarks share on the side that starts the runs; it must never import torch.

A child's peak of memory begins at its parent's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_job(
    sides: Path, job: Mapping[str, Any], work: Path, *, python: str = sys.executable
) -> dict[str, Any]:
    """Do `job` in a process of its own and give what it found.

    Args:
        sides: the script that does it, with `working.do_job`.
        job: what to do; `side` names it, and an empty `out` becomes a directory that is thrown away.
        work: where files may be written.
        python: the interpreter of the environment that does it.
    """
    result = work / "result.json"
    result.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        task = {**job, "out": job["out"] or scratch, "result": str(result)}
        done = subprocess.run(
            [python, str(sides)], input=json.dumps(task), text=True, capture_output=True, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"{job['side']} failed with status {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(result.read_text())


def median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    """The median of one figure over the runs of a side."""
    return statistics.median(run[key] for run in runs)
