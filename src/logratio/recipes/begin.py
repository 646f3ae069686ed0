"""How a training run of a language model begins: directory, identity, and the settings that repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from logratio.config_file import write_settings
from logratio.data.given_rows import GivenRows
from logratio.recipes.compute import ComputeConfig
from logratio.recipes.lora import LoRA
from logratio.recipes.run_identity import describe_beginning
from logratio.run_directory import CONFIG_FILE, TRAINING_DATA, RunDirectory, describe_machine
from logratio.training.config import TrainingConfig
from logratio.version import __version__


class RunSettings(Protocol):
    """What the settings of every training recipe have."""

    @property
    def out(self) -> Path: ...  # noqa: D102

    @property
    def model(self) -> str: ...  # noqa: D102

    @property
    def lora(self) -> LoRA: ...  # noqa: D102

    @property
    def compute(self) -> ComputeConfig: ...  # noqa: D102

    @property
    def resume(self) -> bool: ...  # noqa: D102


def begin_training(
    settings: RunSettings,
    training: TrainingConfig,
    *,
    command: str,
    source: Path | GivenRows,
    described: Mapping[str, Any],
    identity: Mapping[str, Any],
    shown: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Take the run directory before a model is loaded, and write down what repeats the run.

    Args:
        settings: of the recipe.
        training: the trainer's own.
        command: the algorithm's name, as in `logratio train COMMAND`.
        source: what is trained on; rows in memory are written into the directory.
        described: what `config.json` says beside what every run says.
        identity: what decides the run beside the trainer's settings, adapter and precision.
        shown: settings that the report shows beside the trainer's.

    Raises:
        RunDirBusy, RunExists, ResumeMismatch, NotWritable: as for `RunDirectory.begin`.
    """
    compute, lora = settings.compute, settings.lora.identity()
    config = {
        "command": command,
        "logratio": __version__,
        "model": settings.model,
        **described,
        "machine": describe_machine(),
        **describe_beginning(device=compute.device, threads=compute.threads),
        "settings": training.to_json() | dict(shown or {}) | lora | {"precision": compute.precision},
        "identity": training.identity() | lora | compute.identity() | {"stage": command} | dict(identity),
    }
    run = RunDirectory.begin(settings.out, config, resume=settings.resume)
    if isinstance(source, GivenRows):
        source.write(run.path / TRAINING_DATA)
    write_settings(run.path / CONFIG_FILE, f"train {command}", settings)
    return run
