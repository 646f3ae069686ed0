"""One run of one side of `dpo_vs_trl.py`: a job on standard input, its result in a file.

Both sides start their clock with the model in memory and the rows as text, and stop it when the trained model
is on disk: tokenising, the reference's log-probabilities, training and the checkpoint that each writes by
default are all inside.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from working import Job, do_job, forward_flops

from logratio.data.preference_formats import read_comparisons
from logratio.models.loading import embedded_model_path, load, save
from logratio.models.tokenisation import encode_completion, encode_prompt, end_token_ids, render_prompt
from logratio.packed_rows import AnswerGroup
from logratio.records import Comparison, Completion

BETA = 0.1
MAX_GRADIENT_NORM = 1.0
MAX_LENGTH = 1024  # TRL's default; longer pairs are left out on both sides


def prepare(job: Job) -> dict[str, Any]:
    """Write the model as safetensors: what a GGUF file costs to open is neither side's."""
    loaded = load(job["model"] or str(embedded_model_path()))
    save(loaded.model, loaded.tokenizer, Path(job["out"]))
    return {}


def run_logratio(job: Job) -> dict[str, Any]:
    """The run of this library."""
    from logratio.algorithms.dpo import DPOConfig, train_dpo
    from logratio.policies.language import LanguagePolicy
    from logratio.run_directory import RunDirectory

    loaded = load(job["model"])
    comparisons = fitting_comparisons(job, loaded.tokenizer)
    config = DPOConfig.of(
        beta=BETA,
        learning_rate=job["learning_rate"],
        batch_size=job["batch_size"],
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        max_gradient_norm=MAX_GRADIENT_NORM,
        shuffle=False,
    )
    with RunDirectory.begin(Path(job["out"]) / "run", {}) as run:
        started = time.perf_counter()
        groups = [encode(loaded.tokenizer, comparison) for comparison in comparisons]
        train_dpo(LanguagePolicy(loaded.model, loaded.tokenizer), groups, config, run)
        seconds = time.perf_counter() - started
        losses = [row["loss"] for row in run.metrics]
    token_ids = [[group.prompt, *group.answers] for group in groups]
    return {
        "seconds": seconds,
        "losses": losses,
        "token_ids": token_ids,
        "useful_flops": sum(useful_flops(loaded.model, group) for group in groups),
        "mean_tokens": [sum(map(len, column)) / len(groups) for column in zip(*token_ids, strict=True)],
        "versions": {"logratio": version("logratio")},
    }


def run_trl(job: Job) -> dict[str, Any]:
    """The run of TRL, with an explicit reference, no dropout, float32 and the rows in their order."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32) for _ in range(2)
    )
    if (tokenizer.eos_token_id,) != end_token_ids(tokenizer):
        raise SystemExit("TRL ends text answers with the eos token, and this model's template with another")
    # Rendered prompts: TRL would put the newline that follows a template's end token into every answer.
    rows = [
        {
            "prompt": render_prompt(tokenizer, comparison.prompt),
            "chosen": comparison.chosen.text,
            "rejected": comparison.rejected.text,
        }
        for comparison in fitting_comparisons(job, tokenizer)
    ]
    settings = DPOConfig(
        output_dir=job["out"],
        beta=BETA,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        per_device_train_batch_size=job["batch_size"],
        num_train_epochs=1,
        weight_decay=0.0,
        max_grad_norm=MAX_GRADIENT_NORM,
        max_length=MAX_LENGTH,
        gradient_checkpointing=job["gradient_checkpointing"],
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to="none",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    started = time.perf_counter()
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "token_ids": [
            [row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]] for row in trainer.train_dataset
        ],
        "versions": {"trl": version("trl")},
    }


def fitting_comparisons(job: Job, tokenizer: Any) -> list[Comparison]:
    """The first comparisons that fit `MAX_LENGTH`, as plain text that has ended."""
    fitting: list[Comparison] = []
    for row in read_comparisons(Path(job["data"])).comparisons:
        plain = Comparison(
            prompt=row.prompt,
            chosen=Completion(text=row.chosen.text),
            rejected=Completion(text=row.rejected.text),
        )
        group = encode(tokenizer, plain)
        if len(group.prompt) + max(map(len, group.answers)) <= MAX_LENGTH:
            fitting.append(plain)
        if len(fitting) == job["pairs"]:
            return fitting
    raise SystemExit(f"{job['data']} has {len(fitting)} pairs that fit, {job['pairs']} are asked for")


def encode(tokenizer: Any, comparison: Comparison) -> AnswerGroup:
    """The tokens of a pair, chosen first."""
    return AnswerGroup(
        prompt=encode_prompt(tokenizer, comparison.prompt),
        answers=tuple(
            encode_completion(tokenizer, comparison.prompt, answer)
            for answer in (comparison.chosen, comparison.rejected)
        ),
    )


def useful_flops(model: Any, group: AnswerGroup) -> float:
    """Floating-point operations that one pair cannot do without.

    Three forward passes' worth for the policy (forward, gradients of activations and of weights) and one for
    the reference. The prompt counts once, though plain DPO reads it with each answer.
    """
    return 4.0 * forward_flops(model, group)


if __name__ == "__main__":
    sys.exit(do_job(sys.stdin.read(), {"prepare": prepare, "logratio": run_logratio, "trl": run_trl}))
