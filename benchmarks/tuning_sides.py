"""One run of DPO, SFT or a reward model, here or in TRL: a job on standard input, its result in a file.

Both sides start their clock with the model in memory and the rows as text, and stop it when the trained model
is on disk, as in `dpo_sides`, whose DPO this is. Tokens are held to be the same on both sides.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from dpo_sides import BETA, MAX_GRADIENT_NORM, MAX_LENGTH, encode, fitting_comparisons
from working import Clock, Job, do_job, forward_flops, score_flops

from logratio.kernels.packing import common_prefix
from logratio.models.loading import load
from logratio.models.reward_model import load_for_training
from logratio.models.tokenisation import render_prompt
from logratio.packed_rows import AnswerGroup
from logratio.records import Comparison
from logratio.run_directory import RunDirectory

CONSTANT = {"schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "shuffle": False}
PASSES = {"dpo": 4.0, "sft": 3.0, "reward": 3.0}
"""Forward passes' worth of products: forward, two gradients, and DPO's reference."""


# --- here -------------------------------------------------------------------------------------------


def run_logratio(job: Job) -> dict[str, Any]:
    """The run of this library."""
    trains = {"dpo": _our_dpo, "sft": _our_sft, "reward": _our_reward}[job["task"]]
    with RunDirectory.begin(Path(job["out"]) / "run", {}) as run:
        found = trains(job, run)
        found["losses"] = [row["loss"] for row in run.metrics]
    return found | {"versions": {"logratio": version("logratio")}}


def _our_settings(job: Job) -> dict[str, Any]:
    return {
        **CONSTANT,
        "learning_rate": job["learning_rate"],
        "batch_size": job["batch_size"],
        "max_gradient_norm": MAX_GRADIENT_NORM,
    }


def _our_dpo(job: Job, run: RunDirectory) -> dict[str, Any]:
    from logratio.algorithms.dpo import DPOConfig, train_dpo
    from logratio.policies.language import LanguagePolicy

    loaded = load(job["model"])
    comparisons = fitting_comparisons(job, loaded.tokenizer)
    policy = LanguagePolicy(loaded.model, loaded.tokenizer)
    policy.set_compute(precision=job["precision"])
    clock = Clock()
    groups = [encode(loaded.tokenizer, comparison) for comparison in comparisons]
    train_dpo(policy, groups, DPOConfig.of(beta=BETA, **_our_settings(job)), run)
    return describe(job, clock, loaded.model, groups)


def _our_sft(job: Job, run: RunDirectory) -> dict[str, Any]:
    from logratio.algorithms.sft import SFTConfig, train_sft
    from logratio.policies.language import LanguagePolicy

    loaded = load(job["model"])
    comparisons = fitting_comparisons(job, loaded.tokenizer)
    clock = Clock()
    pairs = [encode(loaded.tokenizer, comparison) for comparison in comparisons]
    groups = [AnswerGroup(pair.prompt, pair.answers[:1]) for pair in pairs]
    policy = LanguagePolicy(loaded.model, loaded.tokenizer)
    policy.set_compute(precision=job["precision"])
    train_sft(policy, groups, SFTConfig.of(**_our_settings(job)), run)
    return describe(job, clock, loaded.model, groups)


def _our_reward(job: Job, run: RunDirectory) -> dict[str, Any]:
    from logratio.algorithms.reward import Label, LabelledGroup, RewardConfig, train_reward
    from logratio.policies.reward_scorer import RewardModel

    loaded = load_for_training(job["model"], seed=0)
    comparisons = fitting_comparisons(job, loaded.tokenizer)
    clock = Clock()
    groups = [encode(loaded.tokenizer, comparison) for comparison in comparisons]
    labelled = [LabelledGroup(group, (Label(0, 1),)) for group in groups]
    scorer = RewardModel(loaded.model, loaded.tokenizer)
    scorer.set_compute(precision=job["precision"])
    train_reward(scorer, labelled, RewardConfig.of(**_our_settings(job)), run)
    return describe(job, clock, loaded.model, groups)


# --- TRL --------------------------------------------------------------------------------------------


def run_trl(job: Job) -> dict[str, Any]:
    """The run of TRL with its own settings, but for what says which job it is."""
    trains = {"dpo": _their_dpo, "sft": _their_sft, "reward": _their_reward}[job["task"]]
    return trains(job) | {"versions_of_peer": f"trl {version('trl')}"}


def _their_settings(job: Job) -> dict[str, Any]:
    return {
        "output_dir": job["out"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": job["batch_size"],
        "num_train_epochs": 1,
        "weight_decay": 0.0,
        "max_grad_norm": MAX_GRADIENT_NORM,
        "max_length": MAX_LENGTH,
        "logging_steps": 1,
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        **job["settings"],
    }


def _opened(job: Job) -> tuple[Any, list[Comparison]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    return tokenizer, fitting_comparisons(job, tokenizer)


def _policy(job: Job) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)


def _their_dpo(job: Job) -> dict[str, Any]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer, comparisons = _opened(job)
    policy, reference = _policy(job), _policy(job)
    rows = [
        {
            "prompt": render_prompt(tokenizer, row.prompt),
            "chosen": row.chosen.text,
            "rejected": row.rejected.text,
        }
        for row in comparisons
    ]
    settings = DPOConfig(beta=BETA, train_sampling_strategy="sequential", **_their_settings(job))
    clock = Clock()
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    groups = [
        AnswerGroup(tuple(row["prompt_ids"]), (tuple(row["chosen_ids"]), tuple(row["rejected_ids"])))
        for row in trainer.train_dataset
    ]
    return describe(job, clock, policy, groups) | {"losses": losses_of(trainer)}


def _their_sft(job: Job) -> dict[str, Any]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer, comparisons = _opened(job)
    policy = _policy(job)
    rows = [
        {"prompt": render_prompt(tokenizer, row.prompt), "completion": row.chosen.text} for row in comparisons
    ]
    settings = SFTConfig(train_sampling_strategy="sequential", **_their_settings(job))
    clock = Clock()
    trainer = SFTTrainer(
        model=policy, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.train()
    groups = []
    for row in trainer.train_dataset:
        start = next(place for place, label in enumerate(row["labels"]) if label >= 0)
        groups.append(AnswerGroup(tuple(row["input_ids"][:start]), (tuple(row["input_ids"][start:]),)))
    return describe(job, clock, policy, groups) | {"losses": losses_of(trainer)}


def _their_reward(job: Job) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    tokenizer, comparisons = _opened(job)
    model = AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=1, dtype=torch.float32
    )
    rendered = [render_prompt(tokenizer, row.prompt) for row in comparisons]
    rows = [
        {"chosen": prompt + row.chosen.text, "rejected": prompt + row.rejected.text}
        for prompt, row in zip(rendered, comparisons, strict=True)
    ]
    settings = RewardConfig(train_sampling_strategy="sequential", **_their_settings(job))
    clock = Clock()
    trainer = RewardTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.train()
    groups = []
    for row, prompt in zip(trainer.train_dataset, rendered, strict=True):
        length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        answers = (tuple(row["chosen_ids"][length:]), tuple(row["rejected_ids"][length:]))
        groups.append(AnswerGroup(tuple(row["chosen_ids"][:length]), answers))
    return describe(job, clock, model, groups) | {"losses": losses_of(trainer)}


def losses_of(trainer: Any) -> list[float]:
    """The loss of every update."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def describe(job: Job, clock: Clock, model: Any, groups: list[AnswerGroup]) -> dict[str, Any]:
    """Time and work of a run, and a hash of the tokens that it was given."""
    seconds = clock.seconds
    flops = score_flops if job["task"] == "reward" else forward_flops
    tokens = [[group.prompt, *group.answers] for group in groups]
    real = sum(len(group.prompt) + group.num_answer_tokens for group in groups)
    # What all prompts begin with is no work that must be done for each.
    prefix = common_prefix(groups)
    return {
        "seconds": seconds,
        "work": real if job["task"] == "sft" else len(groups),
        "useful_flops": PASSES[job["task"]]
        * sum(flops(model, group, read_elsewhere=prefix) for group in groups),
        "tokens_sha256": hashlib.sha256(json.dumps(tokens).encode()).hexdigest(),
    }


if __name__ == "__main__":
    sys.exit(do_job(sys.stdin.read(), {"logratio": run_logratio, "trl": run_trl}))
