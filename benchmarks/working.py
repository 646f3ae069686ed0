"""What the benchmarks share in the process that does a run: a job in, its result in a file."""

from __future__ import annotations

import os
import resource
import time

# Before any of these libraries is imported: no network, and no word on the side.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from logratio.kernels.precision import multiplies_bf16
from logratio.packed_rows import AnswerGroup

Job = dict[str, Any]


def do_job(argument: str, sides: Mapping[str, Callable[[Job], dict[str, Any]]]) -> int:
    """Do the job that `argument` describes and write its result, with the peak of memory of this process."""
    job: Job = json.loads(argument)
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    result = sides[job["side"]](job)
    # Kilobytes on Linux. Read before the rate is measured, which needs memory of its own.
    result["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["matmul_flops_per_second"] = matmul_flops_per_second()
    # In the precision that products come to here: a share of PyTorch's stand-in would be a hundredfold.
    wanted, has = job.get("precision") == "bf16", multiplies_bf16()
    result["matmul_2048_flops_per_second"] = matmul_flops_per_second(
        2048, repeats=8, dtype=torch.bfloat16 if wanted and has else torch.float32
    )
    result["stands_in"] = wanted and not has
    result["threads"] = torch.get_num_threads()
    result.setdefault("versions", {})["torch"] = torch.__version__
    Path(job["result"]).write_text(json.dumps(result))
    return 0


class Clock:
    """Time from its making on: on the wall, and of all processors that this process has used."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds by the clock on the wall."""
        return time.perf_counter() - self._wall

    @property
    def processor_seconds(self) -> float:
        """Seconds of processors: what a machine that does other work as well disturbs least."""
        return time.process_time() - self._processor


def matmul_flops_per_second(size: int = 1024, repeats: int = 20, dtype: torch.dtype = torch.float32) -> float:
    """The best rate of matrix products here, with as many threads as the run had."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def score_flops(model: Any, group: AnswerGroup, *, read_elsewhere: int = 0) -> float:
    """`forward_flops` of a reward model, which reads every answer to its last token; its head is nothing."""
    config = model.config
    blocks = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    read = len(group.prompt) + group.num_answer_tokens - read_elsewhere
    attended = len(group.prompt) * (len(group.prompt) + 1) / 2
    for answer in group.answers:
        attended += len(answer) * len(group.prompt) + len(answer) * (len(answer) + 1) / 2
    return float(2 * blocks * read + 4 * config.hidden_size * config.num_hidden_layers * attended)


def forward_flops(model: Any, group: AnswerGroup, *, read_elsewhere: int = 0) -> float:
    """Floating-point operations of one forward pass over a prompt, read once, and its answers.

    2 a weight for each token read, 4·hidden a layer for each token it attends to, and the head on predicted
    tokens alone. Tokens that every prompt begins with need not be read again: so many are `read_elsewhere`.
    """
    config = model.config
    head = model.get_output_embeddings().weight
    blocks = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.weight is not head
    )
    prompt = len(group.prompt)
    attended = prompt * (prompt + 1) / 2
    for answer in group.answers:
        read = len(answer) - 1
        attended += read * prompt + read * (read + 1) / 2
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return float(
        2 * blocks * (group.num_tokens - read_elsewhere)
        + 4 * width * config.num_hidden_layers * attended
        + 2 * head.numel() * group.num_answer_tokens
    )
