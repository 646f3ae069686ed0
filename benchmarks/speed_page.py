"""The results of `bench.py` as a page of the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cases import CASES

HEAD = """# How fast it is

Written by `make bench`, which runs every benchmark here and in the library that does the same, in turn, each
run alone on the machine; [benchmarks/README.md](../benchmarks/README.md) says what is measured and how.
Medians and ratios are of one machine; on others they differ.

"""
COLUMNS = "| benchmark | logratio | peer | ratio | wanted | peak memory | wanted | of products | wanted | |\n"
RULE = "|---|---|---|---|---|---|---|---|---|---|\n"


def write_page(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the table, what each benchmark does, and the machines it was run on."""
    lines = [HEAD, COLUMNS, RULE, *(row_of(result) for result in results), "\n"]
    lines += [f"- `{result['name']}`: {CASES[result['name']].about}.\n" for result in results]
    machines = sorted({machine_of(result) for result in results})
    lines += ["\n## The machine\n\n", *(f"- {machine}\n" for machine in machines)]
    path.write_text("".join(lines), encoding="utf-8")


def row_of(result: Mapping[str, Any]) -> str:
    """One benchmark."""
    bars, share = result["bars"], result["matmul_share"]
    cells = [
        f"`{result['name']}`",
        f"{result['ours']:.3g} {result['unit']}",
        f"{result['theirs']:.3g}, {result['peer']}",
        f"{result['ratio']:.2f}",
        f"at least {bars['ratio']:g}",
        f"{result['our_peak_memory_bytes'] / 1e9:.2f} GB, {result['peak_memory_ratio']:.2f} of the peer's",
        "" if bars["memory"] == float("inf") else f"at most {bars['memory']:g}",
        f"{share:.0%}" if share else "",
        f"at least {bars['matmul_share']:.0%}" if bars["matmul_share"] else "",
        "held" if result["holds"] else "**missed**",
    ]
    return f"| {' | '.join(cells)} |\n"


def machine_of(result: Mapping[str, Any]) -> str:
    """What a benchmark was run on."""
    machine = result["machine"]
    rate = result["matmul_flops_per_second"] / 1e9
    names = ", ".join(
        f"{key} {value}" for key, value in machine.items() if not isinstance(value, (dict, list))
    )
    return f"{names}; about {round(rate, -1):.0f} GFLOP/s in matrix products"
