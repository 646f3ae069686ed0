"""How fast logratio is on this machine, beside its peers: `make bench`.

    python benchmarks/bench.py                          everything; hours
    python benchmarks/bench.py --only dpo-fp32 sft-fp32 --repeats 1
    python benchmarks/bench.py --list

Each benchmark runs ours and the peer in turn, every run a process of its own and alone on the machine, and
takes medians. A peer that can be set in several ways is run once in each, and the fastest is what is held
against us. `benchmarks/README.md` says what is measured; what was measured is written to `results.json`,
where results of other benchmarks stay, and as a table to `docs/speed.md`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from cases import CASES, Case, prompts_path, rows_path, write_inputs
from driving import median, run_job
from rich.console import Console
from rich.table import Table
from speed_page import write_page

from logratio.run_directory import describe_machine, write_json

HERE = Path(__file__).parent
BESIDE = (HERE / "growth.json", HERE / "startup.json")
OURS = "logratio"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    only: tuple[str, ...] = ()
    """Which benchmarks, by name; all of them without it."""
    ways: tuple[str, ...] = ()
    """Which ways to run the peer, by parts of their names; all of them without it."""
    repeats: int = 3
    """Runs of each side; medians are what counts."""
    list: bool = False
    """Name the benchmarks and run none."""
    model: str | None = None
    """A transformers directory, a hub id or a .gguf file; the embedded model without it."""
    out: Path = HERE / "results.json"
    """Where the numbers go."""
    page: Path = HERE.parent / "docs" / "speed.md"
    """Where the table goes."""


def main(arguments: Arguments) -> int:
    """Run the benchmarks, write what was measured; 1 where a bar is missed."""
    console = Console()
    if arguments.list:
        for case in CASES.values():
            console.print(f"{case.name:<18} {case.about}", highlight=False)
        return 0
    unknown = sorted(set(arguments.only) - set(CASES))
    if unknown:
        console.print(f"there is no benchmark {unknown[0]!r}; --list names them")
        return 2
    chosen = [CASES[name].only(arguments.ways) for name in arguments.only or CASES]
    measured = []
    with tempfile.TemporaryDirectory(prefix="logratio-bench-") as name:
        work = Path(name)
        inputs = write_inputs(chosen, arguments.model, work)
        for case in chosen:
            measured.append(measure(case, inputs, arguments.repeats, work, console))
            results = merged(measured, arguments.out)
            write_json(arguments.out, results)
            growth, startup = (json.loads(path.read_text()) if path.exists() else {} for path in BESIDE)
            write_page(results, growth, arguments.page, startup=startup)
    console.print(tabulate(measured))
    return 0 if all(result["holds"] for result in measured) else 1


def measure(
    case: Case, inputs: Mapping[str, str], repeats: int, work: Path, console: Console
) -> dict[str, Any]:
    """The result of one benchmark."""
    theirs = {**case.theirs, **case.also}
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], **{way: [] for way in theirs}}
    inputs = {
        **inputs,
        "data": str(rows_path(work, case.num_pairs)),
        "prompts": str(prompts_path(work, case.num_prompts)),
    }
    for repeat in range(repeats):
        ways = theirs if repeat == 0 else [fastest(case, runs)]
        for way in (OURS, *ways):
            job = {**case.job, **(case.ours if way == OURS else theirs[way]), **inputs, "seed": repeat}
            found = run_job(HERE / case.script, job, work, python=case.python)
            runs[way].append(found)
            console.print(
                f"{case.name:<18} run {repeat + 1} of {repeats}  {way:<36} {rate(found):9.3f} {case.unit}  "
                f"{found['peak_memory_bytes'] / 1e9:5.2f} GB",
                highlight=False,
            )
    best = fastest(case, runs)
    return summarise(case, runs[OURS], best, runs) | agreement(case, runs[OURS][0], runs[best][0])


def agreement(case: Case, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """The largest difference of two sides' losses, where both start from the same weights.

    Raises:
        SystemExit: they were not given the very same tokens.
    """
    if ours.get("tokens_sha256") != theirs.get("tokens_sha256"):
        raise SystemExit(f"{case.name}: the two sides were not given the same tokens")
    if not case.same_losses:
        return {}
    pairs = zip(ours["losses"], theirs["losses"], strict=True)
    return {"largest_loss_difference": max(abs(left - right) for left, right in pairs)}


def fastest(case: Case, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The way in which the peer did best in its first run."""
    return max(case.theirs, key=lambda way: rate(runs[way][0]))


def rate(run: Mapping[str, Any]) -> float:
    """Work a second of one run."""
    return float(run["work"] / run.get("timed_seconds", run["seconds"]))


def summarise(
    case: Case,
    ours: Sequence[dict[str, Any]],
    way: str,
    runs: Mapping[str, Sequence[dict[str, Any]]],
) -> dict[str, Any]:
    """One row of the results file."""
    theirs = runs[way]
    rates = [median([{"rate": rate(run)} for run in side], "rate") for side in (ours, theirs)]
    peaks = [median(side, "peak_memory_bytes") for side in (ours, theirs)]
    # Of 2048 × 2048 matrices in our precision, in the processes of our runs.
    products = median(ours, "matmul_2048_flops_per_second")
    useful = [run.get("useful_flops", 0.0) / run["seconds"] for run in ours]
    ratio, memory = rates[0] / rates[1], peaks[0] / peaks[1]
    share = sorted(useful)[len(useful) // 2] / products
    return {
        "name": case.name,
        "peer": f"{theirs[0]['versions_of_peer']}, {way}",
        "ratio": ratio,
        "peak_memory_ratio": memory,
        "matmul_share": share or None,
        "ours": rates[0],
        "theirs": rates[1],
        "unit": case.unit,
        "bars": {"ratio": case.least_ratio, "memory": case.most_memory, "matmul_share": case.least_share},
        "holds": ratio >= case.least_ratio
        and (case.most_memory is None or memory <= case.most_memory)
        and share >= case.least_share,
        "our_rates": [rate(run) for run in ours],
        "their_rates": {other: [rate(run) for run in runs[other]] for other in case.theirs},
        "also": {other: _beside(rates[0], peaks[0], runs[other][0]) for other in case.also},
        "our_peak_memory_bytes": peaks[0],
        "their_peak_memory_bytes": peaks[1],
        "matmul_flops_per_second": products,
        "stands_in": bool(ours[0].get("stands_in")),
        "settings": case.job,
        "machine": describe_machine(),
        "versions": ours[0]["versions"],
    }


def _beside(our_rate: float, our_peak: float, run: Mapping[str, Any]) -> dict[str, float]:
    """Our rate and peak over those of one run of the peer."""
    return {
        "rate": rate(run),
        "ratio": our_rate / rate(run),
        "peak_memory_ratio": our_peak / run["peak_memory_bytes"],
    }


def merged(measured: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """What was measured now, and of other benchmarks what stands in the file; those of `growth.py` last."""
    before = json.loads(path.read_text()) if path.exists() else []
    found = {result["name"]: result for result in [*before, *measured]}
    others = [result for name, result in found.items() if name not in CASES]
    return [*(found[name] for name in CASES if name in found), *others]


def tabulate(results: Sequence[Mapping[str, Any]]) -> Table:
    """The results as a table in the terminal."""
    table = Table("benchmark", "logratio", "peer", "ratio", "memory", "of products", "bars")
    for result in results:
        share = result["matmul_share"]
        table.add_row(
            result["name"],
            f"{result['ours']:.3g} {result['unit']}",
            f"{result['theirs']:.3g} ({result['peer']})",
            f"{result['ratio']:.2f}",
            f"{result['peak_memory_ratio']:.2f}",
            f"{share:.0%}" if share else "",
            "held" if result["holds"] else "MISSED",
        )
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
