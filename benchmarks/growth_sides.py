"""One point of the growth benchmark: passes forward and backward over groups of one size, and what they take.

The model has the embedded model's shape, with as many words as the job asks for and weights drawn from a
seed: what is measured depends on sizes alone. A group is a prompt with its answers; their log-probabilities
are computed and differentiated as every trainer does. Groups have nothing in common, so that nothing is
saved by what they share.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from working import Job, do_job

from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.runtime.malloc import keep_freed_memory
from logratio.runtime.memory import peak_memory_bytes

SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "pad_token_id": None,
}
"""The embedded model's, SmolLM2-135M."""


def run(job: Job) -> dict[str, Any]:
    """Median seconds of the passes over all groups, and the peak of memory beyond weights and gradients."""
    torch.manual_seed(0)
    keep_freed_memory()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=job["vocabulary"], **SHAPE)).eval()
    policy = LanguagePolicy(model, None)
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(job["vocabulary"], (length,), generator=generator).tolist())

    groups = [
        AnswerGroup(draw(job["prompt"]), tuple(draw(job["answer"]) for _ in range(job["answers"])))
        for _ in range(job["groups"])
    ]
    if job["prompt_once"]:
        parts = [rows for _, rows in policy.micro_batches(groups, max_tokens=job["row_tokens"])]
    else:
        alone = [AnswerGroup(group.prompt, (answer,)) for group in groups for answer in group.answers]
        parts = [policy.pack([group]) for group in alone]
    seconds = []
    with policy.accumulate_in_place():
        # The first pass takes the gradients' memory.
        _pass(policy, parts)
        _forget_peak()
        for _ in range(job["repeats"]):
            started = time.perf_counter()
            _pass(policy, parts)
            seconds.append(time.perf_counter() - started)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return {
        "seconds": statistics.median(seconds),
        "tokens": sum(row.input_ids.numel() for rows in parts for row in rows),
        "weight_bytes": weights,
        "beyond_bytes": _peak() - _imported - 2 * weights,
        "versions": {"logratio": version("logratio")},
    }


def _pass(policy: LanguagePolicy, parts: list[Any]) -> None:
    for rows in parts:
        logprobs = policy.sequence_logprobs(rows)
        signs = torch.ones_like(logprobs)
        signs[1::2] = -1.0
        (logprobs * signs).sum().backward()


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def _peak() -> int:
    """The peak since it was forgotten, or of the whole process where the system cannot forget it."""
    with suppress(OSError):
        return _status("VmHWM")
    return peak_memory_bytes()


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


_imported = _status("VmRSS")

if __name__ == "__main__":
    sys.exit(do_job(sys.stdin.read(), {"logratio": run}))
