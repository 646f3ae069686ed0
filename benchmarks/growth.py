"""How cost grows: `make bench-growth`.

    python benchmarks/growth.py
    python benchmarks/growth.py --only vocabulary --repeats 1

Passes forward and backward over groups of one size after another, with a model of the embedded model's shape,
each size in a process of its own and alone on the machine: seconds, and memory beyond weights and gradients.
Two of the series are held to a bar: memory that does not grow with the vocabulary, and a long prompt that is
computed once for both of its answers. What was measured is written to `growth.json` and to `docs/speed.md`,
the two bars to `results.json` as well.
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
from driving import run_job
from rich.console import Console
from rich.table import Table
from speed_page import write_page

from logratio.run_directory import describe_machine, write_json

HERE = Path(__file__).parent
STARTUP = HERE / "startup.json"
POINT = {
    **{"side": "logratio", "vocabulary": 49152, "prompt": 77, "answer": 46, "answers": 2, "groups": 4},
    **{"row_tokens": 1024, "prompt_once": True, "threads": 0, "out": ""},
}
"""A batch of four short pairs, of which each series changes one thing."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One thing that is changed, with everything else fixed."""

    about: str
    """What is changed."""
    points: tuple[dict[str, Any], ...]
    """What each point changes."""


SERIES: Mapping[str, Series] = {
    "vocabulary": Series(
        about="words of the vocabulary",
        points=tuple({"vocabulary": words} for words in (32_768, 65_536, 131_072, 262_144)),
    ),
    "prompt": Series(
        about="tokens of the prompt of a pair with answers of 64 tokens, computed once and with each answer",
        points=tuple(
            {"prompt": tokens, "answer": 64, "groups": 2, "row_tokens": 2048, "prompt_once": once}
            for tokens in (64, 256, 1024, 2048)
            for once in (True, False)
        ),
    ),
    "answers": Series(
        about="answers of 64 tokens to a prompt of 256",
        points=tuple(
            {"prompt": 256, "answer": 64, "answers": count, "groups": 2, "row_tokens": 2048}
            for count in (1, 2, 4, 8, 16)
        ),
    ),
    "pairs": Series(about="pairs of a batch", points=tuple({"groups": count} for count in (2, 4, 8, 16, 32))),
    "row tokens": Series(
        about="tokens computed at a time, of a batch of 16 pairs",
        points=tuple({"groups": 16, "row_tokens": tokens} for tokens in (256, 512, 1024, 2048)),
    ),
}
"""Everything that is measured, by name."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is run."""

    only: tuple[str, ...] = ()
    """Which series, by name; all of them without it."""
    repeats: int = 3
    """Passes at each point; medians are what counts."""
    out: Path = HERE / "growth.json"
    """Where the numbers go."""
    results: Path = HERE / "results.json"
    """The results of `bench.py`, to which the two bars are added."""
    page: Path = HERE.parent / "docs" / "speed.md"
    """Where the tables go."""


def main(arguments: Arguments) -> int:
    """Measure, write down, and give 1 where a bar is missed."""
    console = Console()
    unknown = sorted(set(arguments.only) - set(SERIES))
    if unknown:
        console.print(f"there is no series {unknown[0]!r}: {', '.join(SERIES)}")
        return 2
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="logratio-growth-") as work:
        for name in arguments.only or SERIES:
            found[name] = [measure(point, arguments.repeats, Path(work)) for point in SERIES[name].points]
            console.print(tabulate(name, found[name]))
            write_json(arguments.out, {name: found[name] for name in SERIES if name in found})
    barred = results_of(found)
    before = json.loads(arguments.results.read_text()) if arguments.results.exists() else []
    names = {result["name"] for result in barred}
    results = [*(result for result in before if result["name"] not in names), *barred]
    write_json(arguments.results, results)
    startup = json.loads(STARTUP.read_text()) if STARTUP.exists() else {}
    write_page(results, found, arguments.page, startup=startup)
    for result in barred:
        bar = f"{result['about']}: {result['measured']:.2f}, {result['wanted']}"
        console.print(f"{bar}: {'held' if result['holds'] else 'MISSED'}", highlight=False)
    return 0 if all(result["holds"] for result in barred) else 1


def measure(point: Mapping[str, Any], repeats: int, work: Path) -> dict[str, Any]:
    """One point, with what it was measured on."""
    job = {**POINT, **point, "repeats": repeats}
    found = run_job(HERE / "growth_sides.py", job, work)
    kept = ("seconds", "tokens", "weight_bytes", "beyond_bytes", "matmul_2048_flops_per_second", "versions")
    return {**job, **{name: found[name] for name in kept}, "machine": describe_machine()}


def results_of(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The series that are held to something, in the form of `results.json`."""
    results = []
    if points := found.get("vocabulary"):
        small, large = points[0], points[-1]
        grown = large["beyond_bytes"] / small["beyond_bytes"]
        results.append(
            {
                **_row("growth-vocabulary", large, small, unit="pairs/s", memory=grown),
                "about": "memory of a step beyond weights and gradients, 262,144 words over 32,768",
                **{"measured": grown, "wanted": "at most 1.10", "holds": grown <= 1.10},
            }
        )
    if points := found.get("prompt"):
        once, twice = (
            next(p for p in points if p["prompt"] == 1024 and p["prompt_once"] is way)
            for way in (True, False)
        )
        share = once["seconds"] / twice["seconds"]
        memory = once["beyond_bytes"] / twice["beyond_bytes"]
        results.append(
            {
                **_row("growth-prompt", once, twice, unit="pairs/s", memory=memory),
                "about": "seconds per pair, prompt of 1,024, answers of 64, over those of computing it twice",
                **{"measured": share, "wanted": "at most 0.60", "holds": share <= 0.60},
            }
        )
    return results


def _row(
    name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], *, unit: str, memory: float
) -> dict[str, Any]:
    rates = [point["groups"] / point["seconds"] for point in (ours, theirs)]
    peer = "itself with 32,768 words" if name == "growth-vocabulary" else "itself, prompt with each answer"
    return {
        "name": name,
        "peer": peer,
        "ratio": rates[0] / rates[1],
        "peak_memory_ratio": memory,
        "matmul_share": None,
        "ours": rates[0],
        "theirs": rates[1],
        "unit": unit,
        "machine": ours["machine"],
        "matmul_flops_per_second": ours["matmul_2048_flops_per_second"],
        "versions": ours["versions"],
    }


def tabulate(name: str, points: Sequence[Mapping[str, Any]]) -> Table:
    """One series in the terminal."""
    table = Table("changed", "tokens", "seconds", "a group", "beyond weights", title=SERIES[name].about)
    for point, changed in zip(points, SERIES[name].points, strict=True):
        table.add_row(
            ", ".join(f"{key} {value}" for key, value in changed.items()),
            str(point["tokens"]),
            f"{point['seconds']:.2f}",
            f"{point['seconds'] / point['groups']:.3f}",
            f"{point['beyond_bytes'] / 1e9:.3f} GB",
        )
    return table


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
