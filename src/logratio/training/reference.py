"""The reference's log-probabilities: computed once, by the very model that training starts from.

There is no second model: before the first update the policy is its own reference. What it says of the data is
kept in the run directory under the hash of its weights and of the data, so that a run resumed later, when the
weights have moved, still has the numbers from before the first update and no others.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from logratio.errors import ResumeMismatch
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.progress import Progress
from logratio.run_directory import atomic_directory
from logratio.training.checkpointing import list_checkpoints

REFERENCE = "reference"


def hash_groups(groups: Sequence[AnswerGroup]) -> str:
    """sha256 over all tokens of the data, in order, in hexadecimal digits."""
    digest = hashlib.sha256()
    for group in groups:
        for part in (group.prompt, *group.answers):
            digest.update(struct.pack(f"<{len(part) + 1}q", len(part), *part))
    return digest.hexdigest()


def hash_tensor(values: Tensor) -> str:
    """sha256 over a tensor's bytes, in hexadecimal digits."""
    return hashlib.sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def reference_logprobs(
    policy: LanguagePolicy,
    groups: Sequence[AnswerGroup],
    run_path: Path,
    *,
    model_hash: str,
    row_tokens: int,
    batches: Sequence[Sequence[int]],
) -> Tensor:
    """Log-probability of every answer under the model that training starts from.

    They are computed in the rows that the first pass will read: products of other shapes are rounded
    otherwise, which in bfloat16 is some hundredths of a nat a token, where the first loss must be ln 2.

    Args:
        policy: the policy before its first update.
        groups: the data; all groups have the same number of answers.
        run_path: the run directory, in which the numbers are kept.
        model_hash: hash of the weights that training starts from.
        row_tokens: tokens computed at a time.
        batches: groups by number that are read together, each group in one of them.

    Returns:
        `[groups, answers]` nats.

    Raises:
        ResumeMismatch: there are checkpoints but the numbers kept are of another model or other data.
    """
    directory = run_path / REFERENCE
    identity = {"model": model_hash, "data": hash_groups(groups)}
    started = bool(list_checkpoints(run_path / "checkpoints"))
    rows = {"rows": _describe_rows(batches, row_tokens, policy)}
    # Before the first update their rounding counts as well.
    kept = _read(directory, identity if started else identity | rows)
    if kept is not None:
        return kept
    if started:
        raise ResumeMismatch(
            "the reference's log-probabilities kept with this run are of another model or other data",
            where=str(directory),
            action="begin anew in another --out",
        )
    values = compute_logprobs(policy, groups, row_tokens=row_tokens, batches=batches)
    with atomic_directory(directory) as temporary:
        save_file({"logprobs": values}, temporary / "logprobs.safetensors", metadata=identity | rows)
    return values


def _describe_rows(batches: Sequence[Sequence[int]], row_tokens: int, policy: LanguagePolicy) -> str:
    """What the rounding of log-probabilities depends on beside model and data."""
    order = hashlib.sha256(repr([list(batch) for batch in batches]).encode()).hexdigest()[:16]
    return (
        f"{policy.precision} {policy.layout} {row_tokens} {order} {policy.device} {torch.get_num_threads()}"
    )


@torch.no_grad()
def compute_logprobs(
    policy: LanguagePolicy,
    groups: Sequence[AnswerGroup],
    *,
    row_tokens: int,
    batches: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """`[groups, answers]` log-probabilities, without gradient, with a progress line; `None`: in one batch."""
    num_answers = len(groups[0].answers)
    values = torch.empty(len(groups), num_answers)
    with Progress("reference log-probabilities", len(groups), unit="examples") as progress:
        for batch in [range(len(groups))] if batches is None else batches:
            for part, rows in policy.micro_batches([groups[index] for index in batch], max_tokens=row_tokens):
                result = policy.sequence_logprobs(rows).reshape(-1, num_answers)
                values = values.to(result.dtype)
                values[[batch[place] for place in part]] = result.cpu()
                progress.advance(len(part))
    return values


def _read(directory: Path, identity: dict[str, str]) -> Tensor | None:
    file = directory / "logprobs.safetensors"
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as stream:
        known = (stream.metadata() or {}).items() >= identity.items()
        return stream.get_tensor("logprobs") if known else None
