"""PPO here and in the last TRL that has it: the same model, prompts, reward model, answers and epochs.

    python benchmarks/ppo_vs_trl.py                                 the embedded model and prompts of our own
    python benchmarks/ppo_vs_trl.py --prompts prompts.jsonl         your own prompts
    python benchmarks/ppo_vs_trl.py --answers ended                 answers that end where the model ends them

Every run is a process of its own, one at a time, the sides in turn, so that neither shares a core, a cache or
a peak of memory with another; `benchmarks/README.md` says what is measured and how.
"""

from __future__ import annotations

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

from logratio.data.jsonl import read_prompts
from logratio.data.quickstart_prompts import quickstart_prompts
from logratio.run_directory import describe_machine, write_json, write_json_lines

HERE = Path(__file__).parent
SIDES = HERE / "ppo_sides.py"
LEAST_SPEED, MOST_MEMORY = 1.5, 0.5
"""How many times the samples per second are wanted, and what share of the peak memory."""
TOLERANCE = 1e-3
"""Different orders of the same float32 sums differ by less."""
TIMES = ("seconds", "update_seconds", "whole_seconds", "processor_seconds")
"""What is timed of a run; `ppo_sides.py` says what is in each."""
ROWS = (
    ("peak GB", "peak_memory_bytes", ".2f", 1e9),
    ("seconds", "seconds", ".1f", 1),
    ("… of updates", "update_seconds", ".1f", 1),
    ("… with loading", "whole_seconds", ".1f", 1),
    ("… of processors", "processor_seconds", ".1f", 1),
    ("useful work", "matmul_share", ".1%", 1),
    ("tokens a pass", "tokens_a_pass", ".0f", 1),
    ("answer tokens", "answer_tokens", ".0f", 1),
)
"""What the table shows: its name, its key behind `our_` and `their_`, its form and its unit."""
SAME, AS_IT_COMES = "TRL", "TRL as it comes"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is compared."""

    model: str | None = None
    """A transformers directory, a hub id or a .gguf file; the embedded model without it."""
    prompts: Path | None = None
    """A file of prompts, whose first rows are taken; without it the quickstart's own."""
    updates: int = 2
    """Updates of a timed run, each of other prompts."""
    batch_size: int = 16
    """Answers an update."""
    num_samples: int = 1
    """Answers to each prompt; more is faster here, where a prompt is read once for all its answers."""
    answer_tokens: int = 32
    """Tokens of an answer at most."""
    answers: Literal["full", "ended"] = "full"
    """All of the same length, so that both sides have the very same work, or each to its end token."""
    epochs: int = 4
    """Passes over the answers of an update."""
    minibatches: int = 4
    """Steps of the optimiser in a pass; TRL as it comes makes one, and is compared with one here."""
    learning_rate: float = 3e-6
    """Learning rate of both sides."""
    trl: Literal["same", "as-it-comes", "both"] = "both"
    """TRL with our settings, with its own, or both."""
    repeats: int = 3
    """Timed runs of each side; the table shows medians."""
    threads: int = 0
    """Threads of each side; 0 leaves it to torch, the same on both sides."""
    out: Path = HERE / "ppo_results.json"
    """Where the numbers go."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one side, as it is handed to the process that does it."""

    side: Literal["prepare", "logratio", "trl", "compare"]
    """What to do; `prepare` writes both models, `compare` holds what TRL saw against what we compute."""
    model: str
    """Where the policy is."""
    out: str = ""
    """Where the result goes; for `prepare`, the models."""
    reward: str = ""
    """Where the reward model is."""
    prompts: str = ""
    """A file of prompts."""
    seen: str = ""
    """For `compare`: what TRL drew and was paid."""
    updates: int = 0
    """How many updates."""
    batch_size: int = 0
    """Answers an update."""
    num_samples: int = 1
    """Answers to each prompt."""
    answer_tokens: int = 0
    """Tokens of an answer at most."""
    answers: str = "full"
    """Whether an end token ends an answer."""
    epochs: int = 0
    """Passes over the answers of an update."""
    minibatches: int = 0
    """Steps of the optimiser in a pass."""
    learning_rate: float = 0.0
    """Learning rate."""
    as_it_comes: bool = False
    """Only for TRL: its own settings."""
    threads: int = 0
    """0: as torch chooses."""


def main(arguments: Arguments) -> int:
    """Run both sides, print the table, write the results; 1 where rewards differ or a bar is missed."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ppo-vs-trl-") as name:
        work = Path(name)
        prepare = Job(side="prepare", model=arguments.model or "", out=name)
        run_job(SIDES, asdict(prepare), work)
        write_prompts(arguments, work / "prompts.jsonl")
        measured = measure(arguments, work, console)
        first = measured.get(SAME)
        agreement = compare_first_batch(arguments, first[0], work) if first else None
    results = [
        summarise(name, arguments, measured[f"logratio for {name}"], runs) | {"agreement": agreement}
        for name, runs in measured.items()
        if not name.startswith("logratio")
    ]
    write_json(arguments.out, results)
    console.print(tabulate(results))
    for line in judge(results):
        console.print(line, highlight=False)
    console.print(f"written to {arguments.out}")
    return 0 if all(result["holds"] for result in results) and agrees(agreement) else 1


def write_prompts(arguments: Arguments, path: Path) -> None:
    """The prompts of a run, each once."""
    count = arguments.updates * arguments.batch_size // arguments.num_samples
    if arguments.prompts is None:
        prompts = quickstart_prompts(count, 0)
    else:
        prompts = [row.prompt for row in read_prompts(arguments.prompts).usable[:count]]
    if len(prompts) < count:
        raise SystemExit(f"{arguments.prompts} has {len(prompts)} prompts, {count} are asked for")
    write_json_lines(path, ({"prompt": prompt.to_json()} for prompt in prompts))


def measure(arguments: Arguments, work: Path, console: Console) -> dict[str, list[dict[str, Any]]]:
    """The runs of every side, which take turns."""
    jobs = all_jobs(arguments, work)
    measured: dict[str, list[dict[str, Any]]] = {label: [] for label in jobs}
    for repeat in range(arguments.repeats):
        for label, job in jobs.items():
            found = run_job(SIDES, asdict(job), work)
            check_work(label, job, found)
            measured[label].append(found)
            console.print(
                f"run {repeat + 1} of {arguments.repeats}  {label:<28} {found['seconds']:6.1f} s, "
                f"updates {found['update_seconds']:6.1f} s, {found['peak_memory_bytes'] / 1e9:5.2f} GB",
                highlight=False,
            )
    for label, runs in measured.items():
        check_same_prompts(label, runs[0], measured[next(iter(measured))][0])
    return measured


def all_jobs(arguments: Arguments, work: Path) -> dict[str, Job]:
    """The job of each side by its name: each way that TRL is set has a run of ours beside it."""
    ways = {"same": [SAME], "as-it-comes": [AS_IT_COMES], "both": [SAME, AS_IT_COMES]}[arguments.trl]
    jobs = {}
    for way in ways:
        minibatches = arguments.minibatches if way == SAME else 1
        jobs[f"logratio for {way}"] = job_of(arguments, "logratio", work, minibatches=minibatches)
        jobs[way] = job_of(arguments, "trl", work, minibatches=minibatches, as_it_comes=way == AS_IT_COMES)
    return jobs


def job_of(
    arguments: Arguments,
    side: Literal["logratio", "trl", "compare"],
    work: Path,
    *,
    minibatches: int = 0,
    as_it_comes: bool = False,
    seen: str = "",
) -> Job:
    """The job of one side on the models and prompts in `work`."""
    return Job(
        side=side,
        model=str(work / "policy"),
        reward=str(work / "reward"),
        prompts=str(work / "prompts.jsonl"),
        seen=seen,
        updates=arguments.updates,
        batch_size=arguments.batch_size,
        num_samples=arguments.num_samples,
        answer_tokens=arguments.answer_tokens,
        answers=arguments.answers,
        epochs=arguments.epochs,
        minibatches=minibatches,
        learning_rate=arguments.learning_rate,
        as_it_comes=as_it_comes,
        threads=arguments.threads,
    )


def check_work(label: str, job: Job, found: dict[str, Any]) -> None:
    """Stop where a side did not do what it was given to do."""
    steps = job.updates * job.epochs * job.minibatches
    if found["optimiser_steps"] != steps:
        raise SystemExit(f"{label} made {found['optimiser_steps']} steps of the optimiser, not {steps}")
    lengths = {len(answer) for answer in found["answers"]}
    if job.answers == "full" and lengths != {job.answer_tokens}:
        raise SystemExit(f"{label} has answers of {sorted(lengths)} tokens, not of {job.answer_tokens}")
    if len(found["answers"]) != job.updates * job.batch_size:
        raise SystemExit(f"{label} drew {len(found['answers'])} answers, not {job.updates * job.batch_size}")


def check_same_prompts(label: str, found: dict[str, Any], other: dict[str, Any]) -> None:
    """Stop where two sides did not answer the very same prompts, in whatever order."""
    for left, right in zip(sorted(found["prompts"]), sorted(other["prompts"]), strict=True):
        if left != right:
            raise SystemExit(f"{label} answered other prompts:\n  it    {left}\n  here  {right}")


def compare_first_batch(arguments: Arguments, theirs: dict[str, Any], work: Path) -> dict[str, Any]:
    """How far TRL's log-probabilities and rewards are from ours, of the tokens of its first batch."""
    seen = {
        name: theirs[name][: arguments.batch_size] for name in ("prompts", "answers", "logprobs", "rewards")
    }
    write_json(work / "seen.json", seen)
    found = run_job(SIDES, asdict(job_of(arguments, "compare", work, seen=str(work / "seen.json"))), work)
    return {name: found[name] for name in ("answers", "logprob", "reward", "reward_deviation")}


def agrees(agreement: dict[str, Any] | None) -> bool:
    """Whether log-probabilities and rewards are the same up to rounding; nothing compared is no fault."""
    return agreement is None or max(agreement["logprob"], agreement["reward"]) <= TOLERANCE


def summarise(
    name: str, arguments: Arguments, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Medians of one comparison, as they stand in the results file."""
    samples = len(ours[0]["answers"])
    sides = {"our": ours, "their": theirs}
    # One machine, one kind of useful work: the rate of matrix products is that of all runs together.
    rate = median([*ours, *theirs], "matmul_flops_per_second")
    figures: dict[str, Any] = {}
    for whose, runs in sides.items():
        for key in (*TIMES, "peak_memory_bytes"):
            figures[f"{whose}_{key}"] = [run[key] for run in runs]
        figures[f"{whose}_answer_tokens"] = sum(map(len, runs[0]["answers"]))
        figures[f"{whose}_tokens_a_pass"] = runs[0]["tokens_a_pass"]
        figures[f"{whose}_matmul_share"] = ours[0]["useful_flops"] / median(runs, "seconds") / rate
    ratios = {key: median(theirs, key) / median(ours, key) for key in TIMES}
    ratio = ratios["seconds"]
    memory = median(ours, "peak_memory_bytes") / median(theirs, "peak_memory_bytes")
    return {
        "name": f"PPO, {samples} answers, {name}",
        "peer": f"trl {theirs[0]['versions']['trl']}",
        "unit": "answers/s",
        "ours": samples / median(ours, "seconds"),
        "theirs": samples / median(theirs, "seconds"),
        "ratio": ratio,
        "ratio_of_updates": ratios["update_seconds"],
        "ratio_of_whole_runs": ratios["whole_seconds"],
        "ratio_of_processor_time": ratios["processor_seconds"],
        "peak_memory_ratio": memory,
        "least_ratio": LEAST_SPEED,
        "most_peak_memory_ratio": MOST_MEMORY,
        "holds": ratio >= LEAST_SPEED and memory <= MOST_MEMORY,
        **figures,
        "settings": {
            key: getattr(arguments, key)
            for key in ("updates", "batch_size", "num_samples", "answer_tokens", "answers", "epochs")
        }
        | {"optimiser_steps": ours[0]["optimiser_steps"], "learning_rate": arguments.learning_rate},
        "threads": ours[0]["threads"],
        "machine": describe_machine(),
        "versions": {**ours[0]["versions"], **theirs[0]["versions"]},
    }


def tabulate(results: Sequence[dict[str, Any]]) -> Table:
    """The results as a table, here beside TRL."""
    table = Table("comparison", "", "logratio", "TRL", "TRL / logratio", title="medians of the runs")
    for result in results:
        table.add_row(result["name"], "answers/s", f"{result['ours']:.3f}", f"{result['theirs']:.3f}")
        for what, key, form, unit in ROWS:
            found = [result[f"{whose}_{key}"] for whose in ("our", "their")]
            ours, theirs = (statistics.median(one) if isinstance(one, list) else one for one in found)
            shown = (format(value / unit, form) for value in (ours, theirs))
            table.add_row("", what, *shown, f"{theirs / ours:.2f}")
        table.add_section()
    return table


def judge(results: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each bar, and one on whether both sides computed the same."""
    lines = []
    for result in results:
        ratio, memory = result["ratio"], result["peak_memory_ratio"]
        for what, holds in (
            (f"{ratio:.2f} times as fast, wanted at least {LEAST_SPEED:g}", ratio >= LEAST_SPEED),
            (f"{memory:.2f} of the peak memory, wanted at most {MOST_MEMORY:g}", memory <= MOST_MEMORY),
        ):
            lines.append(f"{result['name']}: {what}: {verdict(holds)}")
    agreement = results[0]["agreement"]
    if agreement is not None:
        lines.append(
            f"on TRL's first {agreement['answers']} answers: log-probabilities differ by "
            f"{agreement['logprob']:.1e}, and rewards, which deviate by {agreement['reward_deviation']:.2f}, "
            f"by {agreement['reward']:.1e}, wanted at most {TOLERANCE:g}: {verdict(agrees(agreement))}"
        )
    return lines


def verdict(holds: bool) -> str:
    """A bar's last word."""
    return "held" if holds else "MISSED"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
