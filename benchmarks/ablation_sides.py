"""One row of the ablation: updates with everything on, or with one optimisation off.

What is off is replaced by what a reader would write without it: PyTorch's own functions, or the model's own
forward pass. The numbers that are computed stay the same up to rounding.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from growth_sides import SHAPE
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from working import Job, do_job

from logratio.kernels import chunked_lm_head, fused_decoder, fused_layers, packed_attention
from logratio.packed_rows import AnswerGroup
from logratio.policies import language
from logratio.policies.language import LanguagePolicy
from logratio.runtime.malloc import keep_freed_memory
from logratio.training import direct_io
from logratio.training.config import TrainingConfig
from logratio.training.optimizer import build_optimizer

VOCABULARY = 49_152
PROMPT, ANSWER, PAIRS, ROW_TOKENS = 77, 46, 4, 512
"""Tokens of a prompt and of an answer, pairs of an update, tokens of a micro-batch, of which it has two."""


def full_logits(
    hidden: torch.Tensor, weight: torch.Tensor, target_ids: torch.Tensor, **_: Any
) -> torch.Tensor:
    """All logits of all answer tokens at once."""
    return (hidden @ weight.T).log_softmax(-1).gather(-1, target_ids[:, None])[:, 0]


def plain_attention(self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`scaled_dot_product_attention` of each group, differentiated by autograd."""
    return self.by_sdpa(query, key, value).flatten(1)


def fresh(self: Any, shape: Any, like: torch.Tensor, slot: int = 0) -> torch.Tensor:
    """Memory that is asked for each time."""
    return like.new_empty(torch.Size(shape))


@contextmanager
def without_workspace() -> Iterator[None]:
    """Every intermediate result in memory of its own."""
    workspace = fused_layers.Workspace
    with (
        mock.patch.object(workspace, "empty", fresh),
        mock.patch.object(workspace, "empty_small", fresh),
        mock.patch.object(workspace, "empty_like", lambda self, states, slot=0: torch.empty_like(states)),
    ):
        yield


@contextmanager
def without_mapped_gradients() -> Iterator[None]:
    """Gradients in the heap."""

    def zeros(like: torch.Tensor, shape: Any = None, *, sparse: bool = False) -> torch.Tensor:
        return like.new_zeros(like.shape if shape is None else shape)

    with (
        mock.patch.object(fused_layers, "mmap_zeros", zeros),
        mock.patch.object(chunked_lm_head, "mmap_zeros", zeros),
    ):
        yield


OFF: dict[str, Callable[[], Any]] = {
    "": nullcontext,
    "fused layers": lambda: mock.patch.object(fused_decoder.Decoder, "of", return_value=None),
    "packed attention": lambda: mock.patch.object(
        packed_attention.SegmentAttention, "__call__", plain_attention
    ),
    "chunked head": lambda: mock.patch.object(language, "token_logprobs", full_logits),
    "shared prompts": nullcontext,
    "in-place gradients": nullcontext,
    "malloc settings": nullcontext,
    "workspace": without_workspace,
    "mapped gradients": without_mapped_gradients,
}
"""What is off, and how it is replaced."""


def update(job: Job) -> dict[str, Any]:
    """Median seconds of an update of four pairs: forward, backward and AdamW."""
    off = job["off"]
    torch.manual_seed(0)
    if off != "malloc settings":
        keep_freed_memory()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **SHAPE)).eval()
    policy = LanguagePolicy(model, None)
    optimizer = build_optimizer(model, TrainingConfig())
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (length,), generator=generator).tolist())

    groups = [AnswerGroup(draw(PROMPT), (draw(ANSWER), draw(ANSWER))) for _ in range(PAIRS)]
    if off == "shared prompts":
        groups = [AnswerGroup(group.prompt, (answer,)) for group in groups for answer in group.answers]
    seconds = []
    with OFF[off](), nullcontext() if off == "in-place gradients" else policy.accumulate_in_place():
        for _ in range(job["updates"]):
            started = time.perf_counter()
            for _, rows in policy.micro_batches(groups, max_tokens=ROW_TOKENS):
                logprobs = policy.sequence_logprobs(rows)
                signs = torch.ones_like(logprobs)
                signs[1::2] = -1.0
                (logprobs * signs).sum().backward()
                del logprobs
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - started)
    # The first takes the memory of gradients and moments.
    return {"seconds": statistics.median(seconds[1:])}


def checkpoint(job: Job) -> dict[str, Any]:
    """Seconds to write and hash the weights and moments of the model."""
    generator = torch.Generator().manual_seed(0)
    tensors = {str(part): torch.randn(135_000_000, generator=generator) for part in range(3)}
    with tempfile.TemporaryDirectory(dir=job["out"]) as name:
        path = Path(name) / "tensors.safetensors"
        started = time.perf_counter()
        if job["off"]:
            save_file(tensors, path)
            with open(path, "rb") as stream:
                hashlib.file_digest(stream, "sha256")
                os.fsync(stream.fileno())
        else:
            direct_io.write_tensors(path, tensors)
        return {"seconds": time.perf_counter() - started}


def cartpole(job: Job) -> dict[str, Any]:
    """Seconds of 20,000 steps of PPO on CartPole, with or without recorded graphs."""
    from logratio.algorithms.ppo import train_ppo
    from logratio.control.collector import ControlCollector
    from logratio.control.policy import ControlActor
    from logratio.control.presets import cartpole as preset
    from logratio.recipes.control import new_policy, open_environments
    from logratio.recipes.control_config import ControlPPOConfig, ControlSettings
    from logratio.run_directory import RunDirectory

    chosen = preset()
    collect = replace(chosen.collect, steps=20_000)
    settings = ControlSettings(env=chosen.env, collect=collect, networks=chosen.networks)
    config = ControlPPOConfig.of(**chosen.training)
    environments = open_environments(settings, collect.num_envs, seed=0)
    with RunDirectory.begin(Path(job["out"]) / "run", {"identity": {}}) as run:
        actor = ControlActor(new_policy(settings, environments, config))
        if job["off"]:
            actor.recorded = None
        collector = ControlCollector(actor, environments, collect, seed=0)
        started = time.perf_counter()
        train_ppo(actor, collector, config, run)
        return {"seconds": time.perf_counter() - started}


if __name__ == "__main__":
    sys.exit(do_job(sys.stdin.read(), {"update": update, "checkpoint": checkpoint, "cartpole": cartpole}))
