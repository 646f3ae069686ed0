"""One run of one side of the sampling benchmark: prompts in, answers and their rate out.

Both sides start their clock with the model in memory and the prompts as tokens, and stop it when every answer
is there. Tokens counted are those of answers, up to the one that ends it: what a side computes for rows that
have ended is its own affair.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from working import Clock, Job, do_job, forward_flops

from logratio.data.jsonl import read_prompts
from logratio.generation.sampler import stop_tokens
from logratio.models.loading import load
from logratio.models.tokenisation import encode_prompt
from logratio.packed_rows import AnswerGroup

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def open_job(job: Job) -> tuple[Any, list[list[int]], list[int]]:
    """The model, the prompts as tokens, and the tokens that end an answer."""
    loaded = load(job["model"], dtype=DTYPES[job["precision"]])
    prompts = [row.prompt for row in read_prompts(Path(job["prompts"])).usable]
    encoded = [list(encode_prompt(loaded.tokenizer, prompt)) for prompt in prompts]
    return loaded.model, encoded, sorted(stop_tokens(loaded.model, loaded.tokenizer))


def run_logratio(job: Job) -> dict[str, Any]:
    """Answers with their exact log-probabilities, which the other side does not compute."""
    from logratio.generation.config import SamplingConfig
    from logratio.generation.engines.selection import sample_tokens

    model, prompts, stops = open_job(job)
    config = SamplingConfig(max_new_tokens=job["answer_tokens"], decode_batch_size=job["batch_size"])
    seeds = [
        [1000 * number + answer for answer in range(job["num_samples"])] for number in range(len(prompts))
    ]
    clock = Clock()
    answers = sample_tokens(model, prompts, seeds, stops, 0, config)
    groups = [
        AnswerGroup(tuple(prompt), tuple(answer.token_ids for answer in own))
        for prompt, own in zip(prompts, answers, strict=True)
    ]
    return describe(clock, model, groups)


def run_transformers(job: Job) -> dict[str, Any]:
    """`generate` on batches of prompts of like length, padded on the left, each as often as it is asked."""
    model, prompts, stops = open_job(job)
    torch.manual_seed(0)
    rows = [number for number in range(len(prompts)) for _ in range(job["num_samples"])]
    rows.sort(key=lambda number: -len(prompts[number]))
    answers: dict[int, list[tuple[int, ...]]] = {number: [] for number in rows}
    clock = Clock()
    for start in range(0, len(rows), job["batch_size"]):
        batch = rows[start : start + job["batch_size"]]
        longest = max(len(prompts[number]) for number in batch)
        ids = torch.tensor([[0] * (longest - len(prompts[n])) + prompts[n] for n in batch])
        mask = torch.tensor([[0] * (longest - len(prompts[n])) + [1] * len(prompts[n]) for n in batch])
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=job["answer_tokens"],
                eos_token_id=stops,
                pad_token_id=0,
            )
        for number, row in zip(batch, found[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
            answers[number].append(tuple(row[: end + 1]))
    groups = [AnswerGroup(tuple(prompts[number]), tuple(own)) for number, own in answers.items()]
    return describe(clock, model, groups)


def describe(clock: Clock, model: Any, groups: list[AnswerGroup]) -> dict[str, Any]:
    """What a run found."""
    seconds = clock.seconds
    tokens = sum(group.num_answer_tokens for group in groups)
    return {
        "seconds": seconds,
        "work": tokens,
        "useful_flops": sum(forward_flops(model, group) for group in groups),
        "answers": sum(len(group.answers) for group in groups),
        "mean_prompt": sum(len(group.prompt) for group in groups) / len(groups),
        "versions": {"logratio": version("logratio")},
        "versions_of_peer": f"transformers {version('transformers')}",
    }


if __name__ == "__main__":
    sides = {"logratio": run_logratio, "transformers": run_transformers}
    sys.exit(do_job(sys.stdin.read(), sides))
