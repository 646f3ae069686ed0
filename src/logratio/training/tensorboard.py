"""Metrics for TensorBoard, beside `metrics.jsonl`, which stays the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logratio.errors import MissingExtra


class TensorBoardWriter:
    """Event files that `tensorboard --logdir` reads.

    Args:
        directory: where they are.
        purge_step: from there on, what an earlier process drew is hidden.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    def __init__(self, directory: Path, *, purge_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra(
                "TensorBoard is not installed",
                where="--tensorboard",
                action="pip install 'logratio[tensorboard]', or leave the flag out",
            ) from error
        # A resumed run draws its repeated steps again: what an earlier process drew past them is hidden.
        self._writer = SummaryWriter(str(directory), purge_step=purge_step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Draw every number of the row as `stage/name`, over its place."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(f"{row['stage']}/{name}", value, global_step_of(row))

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


def global_step_of(row: Mapping[str, Any]) -> int:
    """Where a row is drawn: over environment steps, where there are such, or over updates."""
    return int(row.get("env_steps", row["step"]))
