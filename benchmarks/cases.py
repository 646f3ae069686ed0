"""What `bench.py` runs: each benchmark with its two sides, its work, and the bars that it is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from control_vs_peers import TASKS
from dpo_vs_trl import make_comparisons, write_rows
from driving import run_job

from logratio.data.quickstart_prompts import quickstart_prompts
from logratio.records import Comparison
from logratio.run_directory import write_json_lines

HERE = Path(__file__).parent
ROOT = HERE.parent
TRL, OLD_TRL, CONTROL = ".venv-conformance-trl", ".venv-bench-ppo", ".venv-bench-control"
"""Environments that the Makefile makes, each with one peer."""
PAIRS, FEW_PAIRS, PROMPTS, FEW_PROMPTS = 32, 8, 64, 16
"""Few where the peer takes minutes a batch, as it does in bfloat16 on a processor without it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One benchmark."""

    name: str
    """As in the results."""
    about: str
    """What is done."""
    script: str
    """The script that does either side."""
    environment: str
    """Where both sides run."""
    unit: str
    """Of the rates."""
    job: dict[str, Any]
    """What both sides are given."""
    theirs: dict[str, dict[str, Any]]
    """The ways in which the peer is run, and what each adds to the job; we are held to the fastest."""
    also: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Ways that are no default of the peer's, run once and shown beside."""
    ours: dict[str, Any] = field(default_factory=lambda: {"side": "logratio"})
    """What our side adds."""
    num_prompts: int = PROMPTS
    """How many prompts both sides are given."""
    same_losses: bool = False
    """Whether both sides start from the same weights, so that their losses can be compared."""
    least_ratio: float = 0.0
    """Times the peer's rate that are wanted."""
    most_memory: float | None = None
    """Share of the peer's peak memory that is allowed; `None`: memory is shown and held to nothing."""
    least_share: float = 0.0
    """Share of the rate of matrix products that is wanted."""

    def only(self, ways: Sequence[str]) -> Case:
        """The same with those ways of the peer alone whose names have one of these in them."""
        if not ways:
            return self

        def among(those: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
            return {way: job for way, job in those.items() if any(part in way for part in ways)}

        return replace(self, theirs=among(self.theirs) or self.theirs, also=among(self.also))

    @property
    def num_pairs(self) -> int:
        """How many pairs both sides are given."""
        return int(self.job.get("pairs", PAIRS))

    @property
    def python(self) -> str:
        """The interpreter of the environment."""
        return str(ROOT / self.environment / "bin" / "python")


def write_inputs(cases: Sequence[Case], model: str | None, work: Path) -> dict[str, str]:
    """Write models, rows and prompts once for all runs; gives the models' paths by their names in jobs."""
    inputs: dict[str, str] = {}
    comparisons = make_comparisons(PAIRS)
    for count in {case.num_pairs for case in cases}:
        write_rows(rows_path(work, count), spread(comparisons, count))
    prompts = quickstart_prompts(PROMPTS, 0)
    for count in {case.num_prompts for case in cases}:
        rows = ({"prompt": prompt.to_json()} for prompt in prompts[:count])
        write_json_lines(prompts_path(work, count), rows)
    if any(case.environment != CONTROL for case in cases):
        job = {"side": "prepare", "model": model or "", "out": str(work / "models"), "threads": 0}
        run_job(HERE / "ppo_sides.py", job, work)
        inputs |= {"model": str(work / "models" / "policy"), "reward": str(work / "models" / "reward")}
    return inputs


def spread(comparisons: Sequence[Comparison], count: int) -> list[Comparison]:
    """So many comparisons, the longest among them and the others at equal steps of length, in their order.

    What a peer takes for a batch is decided by its longest row, so that few must be as widely spread as all.
    """
    by_length = sorted(range(len(comparisons)), key=lambda place: -len(str(comparisons[place].to_json())))
    chosen = by_length[:: len(comparisons) // count][:count]
    return [comparisons[place] for place in sorted(chosen)]


def rows_path(work: Path, count: int) -> Path:
    """Where so many pairs are written."""
    return work / f"rows-{count}.jsonl"


def prompts_path(work: Path, count: int) -> Path:
    """Where so many prompts are written."""
    return work / f"prompts-{count}.jsonl"


def tuning(
    name: str, *, side: str, about: str, unit: str, precision: str, pairs: int = PAIRS, **bars: Any
) -> Case:
    """A benchmark against a trainer of TRL."""
    bf16 = precision == "bf16"
    ways: dict[str, dict[str, Any]] = {"as it comes": {}}
    if side == "dpo" and not bf16:
        ways["reference precomputed"] = {"precompute_ref_log_probs": True}
    # By default TRL computes activations twice, which takes less memory and more time.
    other: dict[str, dict[str, Any]] = {"activations kept": {"gradient_checkpointing": False}}

    def settled(ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            way: {"side": "trl", "settings": {"bf16": bf16, **settings}} for way, settings in ways.items()
        }

    return Case(
        name=name,
        about=about,
        script="tuning_sides.py",
        environment=TRL,
        unit=unit,
        job={
            **{"task": side, "pairs": pairs, "batch_size": 8 if side != "dpo" else 4, "threads": 0},
            **{"learning_rate": 1e-5, "precision": precision, "out": ""},
        },
        theirs=settled(ways),
        also=settled(other),
        same_losses=side in ("dpo", "sft"),
        **bars,
    )


def sampling(
    name: str,
    *,
    precision: Literal["fp32", "bf16"],
    prompts: int = PROMPTS,
    rows: Sequence[int] = (64, 128, 256),
    **bars: Any,
) -> Case:
    """A benchmark against transformers' `generate`."""
    return Case(
        name=name,
        about=f"{prompts} prompts with 4 answers each of up to 64 tokens, {precision}",
        script="sampling_sides.py",
        environment=TRL,
        unit="tokens/s",
        job={
            **{"num_samples": 4, "answer_tokens": 64},
            **{"precision": precision, "threads": 0, "out": ""},
        },
        num_prompts=prompts,
        ours={"side": "logratio", "batch_size": 256},
        theirs={f"{count} rows at a time": {"side": "transformers", "batch_size": count} for count in rows},
        **bars,
    )


def proximal(name: str, *, precision: str, critic: str = "shared", **bars: Any) -> Case:
    """A benchmark against the last TRL that has PPO, in float32, which is what it is compared in."""
    return Case(
        name=name,
        about=f"one update of 16 answers of 32 tokens, 4 epochs, critic {critic}, {precision}",
        script="ppo_sides.py",
        environment=OLD_TRL,
        unit="answers/s",
        job={
            **{"updates": 1, "batch_size": 16, "num_samples": 1, "answer_tokens": 32, "answers": "full"},
            **{"epochs": 4, "minibatches": 4, "learning_rate": 3e-6, "as_it_comes": False, "threads": 0},
            **{"out": "", "seen": ""},
        },
        num_prompts=16,
        ours={"side": "logratio", "precision": precision, "critic": critic},
        theirs={"same settings": {"side": "trl"}},
        **bars,
    )


def control(name: str, task: str, **bars: Any) -> Case:
    """A benchmark against Stable-Baselines3."""
    settings = {key: value for key, value in TASKS[task].items() if key != "least"}
    return Case(
        name=name,
        about=f"PPO on {settings['env']}, {settings['steps']:,} steps, one thread",
        script="control_sides.py",
        environment=CONTROL,
        unit="steps/s",
        job={**settings, "vectorisation": "sync", "threads": 1, "out": ""},
        theirs={"same settings": {"side": "sb3"}},
        **bars,
    )


_ALL = (
    tuning(
        "dpo-fp32",
        side="dpo",
        about=f"DPO on {PAIRS} pairs, reference included, float32",
        unit="pairs/s",
        precision="fp32",
        **{"least_ratio": 4.0, "most_memory": 0.4, "least_share": 0.6},
    ),
    tuning(
        "dpo-bf16",
        side="dpo",
        about=f"DPO on {FEW_PAIRS} pairs, reference included, bfloat16",
        unit="pairs/s",
        precision="bf16",
        pairs=FEW_PAIRS,
        **{"least_ratio": 8.0, "most_memory": 0.4, "least_share": 0.45},
    ),
    tuning(
        "sft-fp32",
        side="sft",
        about=f"SFT on {PAIRS} answers, float32",
        unit="tokens/s",
        precision="fp32",
        **{"least_ratio": 2.5, "most_memory": 0.5},
    ),
    tuning(
        "reward-fp32",
        side="reward",
        about=f"a reward model on {PAIRS} pairs, float32",
        unit="pairs/s",
        precision="fp32",
        **{"least_ratio": 2.5, "most_memory": 0.5},
    ),
    sampling("sample-fp32", precision="fp32", least_ratio=2.0),
    sampling("sample-bf16", precision="bf16", prompts=FEW_PROMPTS, rows=(64,), least_ratio=3.0),
    proximal("ppo-fp32", precision="fp32", least_ratio=2.0, most_memory=0.5),
    proximal("ppo-bf16", precision="bf16", least_ratio=3.5, most_memory=0.5),
    proximal("ppo-fp32-separate", precision="fp32", critic="separate", least_ratio=1.0),
    control("control-cartpole", "cartpole", least_ratio=3.0),
    control("control-hopper", "hopper", least_ratio=2.0),
)
CASES: Mapping[str, Case] = {case.name: case for case in _ALL}
"""All benchmarks by name."""
