"""Checkpoints that are whole or not there: weights, optimiser and random state, with a checksum each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from logratio.errors import CheckpointCorrupt, UnknownFormatVersion
from logratio.legacy_names import current_states, current_weights
from logratio.run_directory import atomic_directory, hash_file
from logratio.runtime.memory import num_bytes
from logratio.training.direct_io import write_tensors

FORMAT_VERSION = 1
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class BestCheckpoint:
    """Which checkpoint ends the best stretch of updates so far, by their mean objective."""

    step: float = 0.0
    """Its updates; 0 while there is none."""
    score: float = 0.0
    """The mean objective of the updates between the checkpoint before and this one."""
    total: float = 0.0
    """Sum of the objective since the last checkpoint."""
    count: float = 0.0
    """Updates since then."""

    def add(self, metrics: Mapping[str, float | None]) -> None:
        """Take in an update, if it has an objective."""
        if (objective := metrics.get("objective")) is not None:
            self.total, self.count = self.total + objective, self.count + 1.0

    def compare(self, step: int) -> None:
        """A checkpoint is made after `step` updates: it is the best if no stretch before was better."""
        if self.count:
            score = self.total / self.count
            if not self.step or score >= self.score:
                self.step, self.score = float(step), score
        self.total = self.count = 0.0


@dataclass(frozen=True, slots=True)
class RestoredCheckpoint:
    """Where a run goes on from."""

    step: int
    """Updates done; 0 where there is no checkpoint."""
    extra_state: dict[str, dict[str, Any]]
    """What else was saved, by name: the fields of controllers, where environments stand."""
    notes: tuple[str, ...]
    """A sentence for each damaged checkpoint that was passed over."""


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    keep_last: int,
    best: int | None = None,
    extra_state: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Save the state after `step` updates; delete the oldest checkpoints past `keep_last`, but not `best`.

    `extra_state` is what else stands, by name, as JSON takes it: Python writes and reads a float exactly.
    After the last update no `optimizer` is given: two thirds of a checkpoint, of which nothing would go on.

    The checkpoint's directory appears under its name only when everything in it is on the disk.
    """
    path = checkpoint_path(directory, step)
    with atomic_directory(path) as temporary:
        contents = {WEIGHTS: trainable_weights(model)}
        if optimizer is not None:
            contents[OPTIMIZER] = optimizer_tensors(optimizer)
        # Hashing and writing both leave Python's lock: the two files take two cores.
        with ThreadPoolExecutor(len(contents)) as pool:
            files = [temporary / name for name in contents]
            checksums = dict(zip(contents, pool.map(write_tensors, files, contents.values()), strict=True))
        state = {
            "format": FORMAT_VERSION,
            "step": step,
            "numbers": dict(extra_state or {}),
            "sha256": checksums,
        }
        # Without lines of its own for each number, which takes ten times as long.
        (temporary / STATE).write_text(json.dumps(state))
    for older in list_checkpoints(directory)[:-keep_last]:
        if best is None or older != checkpoint_path(directory, best):
            shutil.rmtree(older)
    return path


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the state after `step` updates is kept."""
    return directory / f"step-{step:06d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest, without what a killed process left half-written."""
    return sorted(path for path in directory.glob("step-*") if (path / STATE).is_file())


def restore_latest(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> RestoredCheckpoint:
    """Load the newest checkpoint that has its checksums.

    Raises:
        CheckpointCorrupt: there are checkpoints and all of them are damaged.
        UnknownFormatVersion: the newest was written in another format.
    """
    skipped: list[str] = []
    for path in reversed(list_checkpoints(directory)):
        try:
            step, extra_state = restore(path, model, optimizer)
            return RestoredCheckpoint(step, extra_state, tuple(skipped))
        except CheckpointCorrupt as fault:
            skipped.append(f"{path.name} is damaged ({fault.what}): going back to the one before")
    if skipped:
        raise CheckpointCorrupt(
            "all checkpoints of this run are damaged",
            where=str(directory),
            action="check the disk, then begin anew in another --out",
        )
    return RestoredCheckpoint(0, {}, ())


def restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Load one checkpoint after checking its sums; returns the updates done, and the numbers saved."""
    try:
        state = json.loads((path / STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{STATE} cannot be read: {error}", where=str(path)) from error
    if state.get("format") != FORMAT_VERSION:
        raise UnknownFormatVersion(
            f"the checkpoint has format {state.get('format')}, this version reads {FORMAT_VERSION}",
            where=str(path),
            action="resume with the version that wrote it",
        )
    for name, expected in state["sha256"].items():
        file = path / name
        if not file.is_file() or hash_file(file) != expected:
            raise CheckpointCorrupt(f"{name} does not have the checksum it was saved with", where=str(path))
    restore_weights(model, current_weights(load_file(path / WEIGHTS)))
    if OPTIMIZER in state["sha256"]:
        restore_optimizer(optimizer, load_file(path / OPTIMIZER))
    return int(state["step"]), current_states(state.get("numbers", {}))


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training moves, each once even where it is tied to another."""
    return {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def restore_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into the parameters of the same names, in place."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if parameters.keys() != weights.keys():
        differing = sorted(parameters.keys() ^ weights.keys())
        raise CheckpointCorrupt(f"its weights are not this model's: {', '.join(differing[:3])}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `number/name` tensors, numbered as in its parameter groups."""
    return {
        f"{number}/{name}": torch.as_tensor(value).detach().clone()
        if name == "step"
        else value.detach().contiguous()
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, name = key.split("/", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def checkpoint_bytes(model: nn.Module, *, keep_last: int) -> int:
    """Bytes that a run's checkpoints and its finished model take.

    A checkpoint has what is trained and its two moments; the model has all weights.
    """
    trained = num_bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    return trained * 3 * (keep_last + 1) + num_bytes(model.parameters())
