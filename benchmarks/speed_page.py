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
GROWTH = """
## How cost grows

Written by `make bench-growth`: passes forward and backward over groups of one size, with a model of the
embedded model's shape and nothing in common between prompts. *Beyond* is peak memory beyond weights, their
gradients and what is imported.

"""
SERIES_HEAD = (
    "| words | prompt | answer | answers | groups | tokens at a time | prompt computed | tokens "
    "| a group | a token | beyond |\n",
    "|---|---|---|---|---|---|---|---|---|---|---|\n",
)
RULE = "|---|---|---|---|---|---|---|---|---|---|\n"


STARTUP = """
## Before the first step

Written by `make bench-startup`: medians of calls on a quiet machine.

"""

MACHINE = "\n## The machine\n\n"
ABLATION_BEGIN, ABLATION_END = "<!-- written by make bench-ablation -->", "<!-- to here -->"


def write_page(
    results: Sequence[Mapping[str, Any]],
    growth: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    *,
    startup: Mapping[str, Any] | None = None,
) -> None:
    """Write what was measured beside peers, before a first step, how cost grows, and on which machines."""
    beside = [result for result in results if result["name"] in CASES]
    lines = [HEAD, COLUMNS, RULE, *(row_of(result) for result in beside), "\n"]
    lines += [f"- `{result['name']}`: {CASES[result['name']].about}{also_of(result)}.\n" for result in beside]
    if startup:
        lines += [STARTUP, *(wait_of(row) for row in startup["rows"])]
    if growth:
        lines += [GROWTH, *(bar_of(result) for result in results if result["name"] not in CASES)]
        lines += [line for name, points in growth.items() for line in series_of(name, points)]
    section = ablation_of(path)
    lines += [f"\n{section}" if section else "", MACHINE, *machines_of(results)]
    path.write_text("".join(lines), encoding="utf-8")


def ablation_of(path: Path) -> str:
    """The section that `make bench-ablation` wrote, where there is one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if ABLATION_BEGIN not in text:
        return ""
    return text[text.index(ABLATION_BEGIN) : text.index(ABLATION_END) + len(ABLATION_END)] + "\n"


def replace_ablation(path: Path, section: str) -> None:
    """Put the section in the place of the one that was there, or before the machine's."""
    text = path.read_text(encoding="utf-8")
    before = ablation_of(path)
    text = text.replace(before, section) if before else text.replace(MACHINE, f"\n{section}{MACHINE}")
    path.write_text(text, encoding="utf-8")


def also_of(result: Mapping[str, Any]) -> str:
    """Ways to run the peer that are not its defaults, and whether it says nothing of other processors."""
    stands_in = "; this processor has no bfloat16, and what stands in for it is compared"
    return (stands_in if result.get("stands_in") else "") + "".join(
        f"; beside the peer with {way}: {found['ratio']:.2f} times its rate, "
        f"{found['peak_memory_ratio']:.2f} of its memory"
        for way, found in result.get("also", {}).items()
    )


def bar_of(result: Mapping[str, Any]) -> str:
    """A series that is held to something."""
    held = "held" if result["holds"] else "**missed**"
    return f"- `{result['name']}`: {result['about']}: {result['measured']:.2f}, {result['wanted']}: {held}.\n"


def wait_of(row: Mapping[str, Any]) -> str:
    """What a command takes before it begins."""
    held = "held" if row["holds"] else "**missed**"
    return f"- {row['about']}: {row['seconds']:.2f} s, at most {row['most']:g}: {held}.\n"


def series_of(name: str, points: Sequence[Mapping[str, Any]]) -> list[str]:
    """One thing that is changed."""
    lines = [f"\n### By {name}\n\n", *SERIES_HEAD]
    for point in points:
        each = point["groups"]
        cells = [
            *(
                f"{point[key]:,}"
                for key in ("vocabulary", "prompt", "answer", "answers", "groups", "row_tokens")
            ),
            "once" if point["prompt_once"] else "with each answer",
            f"{point['tokens']:,}",
            f"{point['seconds'] / each:.3f} s",
            f"{1000 * point['seconds'] / point['tokens']:.2f} ms",
            f"{point['beyond_bytes'] / 1e9:.3f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return lines


def row_of(result: Mapping[str, Any]) -> str:
    """One benchmark."""
    bars, share = result["bars"], result["matmul_share"]
    cells = [
        f"`{result['name']}`",
        f"{figure(result['ours'])} {result['unit']}",
        f"{figure(result['theirs'])}, {result['peer']}",
        f"{result['ratio']:.2f}",
        f"at least {bars['ratio']:g}",
        f"{result['our_peak_memory_bytes'] / 1e9:.2f} GB, {result['peak_memory_ratio']:.2f} of the peer's",
        "" if bars["memory"] is None else f"at most {bars['memory']:g}",
        f"{share:.0%}" if share else "",
        f"at least {bars['matmul_share']:.0%}" if bars["matmul_share"] else "",
        "held" if result["holds"] else "**missed**",
    ]
    return f"| {' | '.join(cells)} |\n"


def figure(value: float) -> str:
    """Three digits, and thousands as people write them."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def machines_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the benchmarks were run on, each with the lowest and highest rate of products in them."""
    rates: dict[str, list[float]] = {}
    for result in results:
        machine = result["machine"].items()
        name = ", ".join(f"{key} {value}" for key, value in machine if not isinstance(value, (dict, list)))
        rates.setdefault(name, []).append(round(result["matmul_flops_per_second"] / 1e9, -1))
    return [
        f"- {name}; about {min(own):.0f}{f' to {max(own):.0f}' if max(own) > min(own) else ''} GFLOP/s "
        "in matrix products\n"
        for name, own in sorted(rates.items())
    ]
