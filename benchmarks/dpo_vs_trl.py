"""DPO here and in TRL: the same model, rows, batch and precision, on the machine at hand.

    python benchmarks/dpo_vs_trl.py                                 the embedded model, rows made here
    python benchmarks/dpo_vs_trl.py --data pairs.jsonl --pairs 64   your own comparisons
    python benchmarks/dpo_vs_trl.py --model my-model --repeats 5

Every run is a process of its own, one at a time, the sides in turn, so that neither shares a core, a cache or
a peak of memory with another; `benchmarks/README.md` says what is measured and how.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from driving import median, run_job
from rich.console import Console
from rich.table import Table

from logratio.records import Comparison, Completion, Message, Prompt
from logratio.run_directory import write_json, write_json_lines

HERE = Path(__file__).parent
SIDES = HERE / "dpo_sides.py"
LOSS_TOLERANCE = 1e-3
WORDS = (
    "the a of to and in that it was for on with as his they at be this from have or by one had not but "
    "what all were when we there can an your which their said if do will each about how up out them "
    "then she many some so these would other into has more her two like him see time could no make than "
    "first been its who now people my made over did down only way find use may water long little very "
    "after words called just where most know small house world good great light river letter garden "
    "music story answer table window morning paper market winter"
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is compared."""

    model: str | None = None
    """A transformers directory, a hub id or a .gguf file; the embedded model without it."""
    data: Path | None = None
    """A file of comparisons, whose first usable rows are taken; without it rows are made from a seed."""
    pairs: int = 32
    """Pairs in a timed run."""
    batch_size: int = 4
    """Pairs an update."""
    repeats: int = 3
    """Timed runs of each side; the table shows medians."""
    agree_steps: int = 20
    """Updates whose losses are compared, on shorter rows; 0 leaves this out."""
    learning_rate: float = 1e-5
    """Learning rate of both sides, constant."""
    trl_gradient_checkpointing: Literal["on", "off", "both"] = "both"
    """TRL computes activations a second time by default (`on`), which saves memory and costs time."""
    threads: int = 0
    """Threads of each side; 0 leaves it to torch, the same on both sides."""
    out: Path = HERE / "dpo_results.json"
    """Where the numbers go."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one side, as it is handed to the process that does it."""

    side: Literal["prepare", "logratio", "trl"]
    """What to do; `prepare` opens the model once and writes it as safetensors for both sides."""
    model: str
    """Where the model is."""
    out: str
    """Where the result goes; for `prepare`, the model."""
    data: str = ""
    """A file of comparisons."""
    pairs: int = 0
    """How many of them."""
    batch_size: int = 0
    """Pairs an update."""
    learning_rate: float = 0.0
    """Constant learning rate."""
    gradient_checkpointing: bool = False
    """Only for TRL."""
    threads: int = 0
    """0: as torch chooses."""


def main(arguments: Arguments) -> int:
    """Run both sides, print the table, write the results; 1 where tokens or losses do not agree."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="dpo-vs-trl-") as name:
        work = Path(name)
        model = str(work / "model")
        run_job(SIDES, asdict(Job(side="prepare", model=arguments.model or "", out=model)), work)
        agreement = compare_losses(arguments, model, work, console) if arguments.agree_steps else None
        results = compare_speed(arguments, model, work, console)
    if agreement is not None:
        for result in results:
            result["largest_loss_difference"] = agreement
    write_json(arguments.out, results)
    console.print(tabulate(results))
    console.print(f"written to {arguments.out}")
    return 0 if agreement is None or agreement <= LOSS_TOLERANCE else 1


def compare_losses(arguments: Arguments, model: str, work: Path, console: Console) -> float:
    """The largest difference between the losses of the first updates, on rows of their own."""
    data = work / "short.jsonl"
    pairs = arguments.agree_steps * arguments.batch_size
    write_rows(data, make_comparisons(pairs, prompt_words=14, chosen_words=12, rejected_words=14, seed=1))
    ours, theirs = (
        run_job(SIDES, asdict(job_of(arguments, side, model, data, pairs=pairs)), work)
        for side in ("logratio", "trl")
    )
    check_same_tokens(ours, theirs)
    console.print("step  loss here   loss in TRL  difference")
    differences = []
    for step, (left, right) in enumerate(zip(ours["losses"], theirs["losses"], strict=True), start=1):
        differences.append(abs(left - right))
        console.print(f"{step:4d}  {left:.7f}   {right:.7f}    {left - right:+.1e}", highlight=False)
    largest = max(differences)
    console.print(f"largest of {len(differences)} differences: {largest:.1e} (limit {LOSS_TOLERANCE:g})\n")
    return largest


def compare_speed(arguments: Arguments, model: str, work: Path, console: Console) -> list[dict[str, Any]]:
    """Time the sides in turn; one result for each way that TRL is set."""
    data = arguments.data or work / "rows.jsonl"
    if arguments.data is None:
        write_rows(data, make_comparisons(arguments.pairs))
    both = {"on": [True], "off": [False], "both": [True, False]}[arguments.trl_gradient_checkpointing]
    jobs = {"logratio": job_of(arguments, "logratio", model, data, pairs=arguments.pairs)}
    for checkpointing in both:
        label = "TRL as it comes" if checkpointing else "TRL without gradient checkpointing"
        jobs[label] = job_of(
            arguments, "trl", model, data, pairs=arguments.pairs, gradient_checkpointing=checkpointing
        )
    measured: dict[str, list[dict[str, Any]]] = {label: [] for label in jobs}
    for repeat in range(arguments.repeats):
        for label, job in jobs.items():
            measured[label].append(run_job(SIDES, asdict(job), work))
            last = measured[label][-1]
            console.print(
                f"run {repeat + 1} of {arguments.repeats}  {label:<34} {last['seconds']:7.1f} s  "
                f"{last['peak_memory_bytes'] / 1e9:5.2f} GB",
                highlight=False,
            )
    ours = measured.pop("logratio")
    for runs in measured.values():
        check_same_tokens(ours[0], runs[0])
    return [summarise(label, ours, runs) for label, runs in measured.items()]


def job_of(
    arguments: Arguments,
    side: Literal["logratio", "trl"],
    model: str,
    data: Path,
    *,
    pairs: int,
    gradient_checkpointing: bool = False,
) -> Job:
    """The job of one side on `data`."""
    return Job(
        side=side,
        model=model,
        data=str(data),
        out="",
        pairs=pairs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        gradient_checkpointing=gradient_checkpointing,
        threads=arguments.threads,
    )


def check_same_tokens(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Stop where the two sides were not given the very same tokens."""
    for row, (left, right) in enumerate(zip(ours["token_ids"], theirs["token_ids"], strict=True)):
        if left != right:
            raise SystemExit(f"pair {row} has other tokens here than in TRL:\n  here {left}\n  TRL  {right}")


def summarise(label: str, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one comparison, as they stand in the results file."""
    pairs = len(ours[0]["token_ids"])
    seconds = {"ours": median(ours, "seconds"), "theirs": median(theirs, "seconds")}
    peaks = {"ours": median(ours, "peak_memory_bytes"), "theirs": median(theirs, "peak_memory_bytes")}
    # One machine, one kind of useful work: the rate of matrix products is that of all runs together.
    rate = statistics.median(run["matmul_flops_per_second"] for run in (*ours, *theirs))
    useful = ours[0]["useful_flops"]
    return {
        "name": f"DPO, {pairs} pairs, {label}",
        "peer": f"trl {theirs[0]['versions']['trl']}",
        "unit": "pairs/s",
        "ours": pairs / seconds["ours"],
        "theirs": pairs / seconds["theirs"],
        "ratio": seconds["theirs"] / seconds["ours"],
        "peak_memory_ratio": peaks["ours"] / peaks["theirs"],
        "matmul_share": useful / seconds["ours"] / rate,
        "their_matmul_share": useful / seconds["theirs"] / rate,
        "our_peak_memory_bytes": peaks["ours"],
        "their_peak_memory_bytes": peaks["theirs"],
        "our_seconds": [run["seconds"] for run in ours],
        "their_seconds": [run["seconds"] for run in theirs],
        "threads": ours[0]["threads"],
        "mean_tokens": ours[0]["mean_tokens"],
        "versions": {**ours[0]["versions"], **theirs[0]["versions"]},
    }


def tabulate(results: Sequence[dict[str, Any]]) -> Table:
    """The results as a table, here beside TRL."""
    table = Table("comparison", "", "logratio", "TRL", "ratio", title="medians of the runs")
    for result in results:
        table.add_row(
            result["name"],
            "pairs/s",
            f"{result['ours']:.3f}",
            f"{result['theirs']:.3f}",
            f"{result['ratio']:.2f}× as fast",
        )
        table.add_row(
            "",
            "peak GB",
            f"{result['our_peak_memory_bytes'] / 1e9:.2f}",
            f"{result['their_peak_memory_bytes'] / 1e9:.2f}",
            f"{result['peak_memory_ratio']:.2f}× the memory",
        )
        table.add_row(
            "",
            "useful work",
            f"{result['matmul_share']:.0%}",
            f"{result['their_matmul_share']:.0%}",
            "",
            end_section=True,
        )
    return table


def make_comparisons(
    pairs: int, *, prompt_words: int = 48, chosen_words: int = 42, rejected_words: int = 48, seed: int = 0
) -> list[Comparison]:
    """Pairs of seeded words with the given mean lengths, which vary as widely as those of real comparisons.

    Lengths are log-normal with the deviations that the first 1,500 rows of HH-RLHF's harmless test split have
    (arXiv 2204.05862, in tokens of SmolLM2): 0.75 for prompts, 0.86 for chosen and 0.92 for rejected answers.
    """
    draw = random.Random(seed)

    def text(mean: int, deviation: float) -> str:
        words = draw.lognormvariate(math.log(mean) - deviation**2 / 2, deviation)
        return " ".join(draw.choices(WORDS.split(), k=min(max(3, round(words)), 400)))

    return [
        Comparison(
            prompt=Prompt((Message(role="user", content=text(prompt_words, 0.75)),)),
            chosen=Completion(text=text(chosen_words, 0.86)),
            rejected=Completion(text=text(rejected_words, 0.92)),
        )
        for _ in range(pairs)
    ]


def write_rows(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write comparisons as JSON Lines."""
    write_json_lines(path, (comparison.to_json() for comparison in comparisons))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
