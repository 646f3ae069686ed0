"""What a recipe returns: a run directory, read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from logratio.errors import BadConfig
from logratio.run_directory import CONFIG_FILE, RunDirectory

HELD_OUT = "held_out.jsonl"


class Run:
    """A run directory: its metrics, its summary, its model and its report.

    Args:
        path: the `out` of a recipe or the `--out` of a command.

    Raises:
        BadConfig: nothing is there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._directory = RunDirectory(self.path)
        if not self.path.is_dir():
            raise BadConfig("there is no run", where=str(path), action="give the --out of a run")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def model_path(self) -> Path:
        """The trained model, a transformers directory."""
        return self._directory.model_path

    @property
    def adapter_path(self) -> Path:
        """The trained adapter in peft's format, where one was trained."""
        return self._directory.adapter_path

    @property
    def held_out(self) -> Path:
        """The rows that were kept out of training, to evaluate on."""
        return self.path / HELD_OUT

    @property
    def config_path(self) -> Path:
        """The settings, which `logratio COMMAND --config` repeats."""
        return self.path / CONFIG_FILE

    @cached_property
    def config(self) -> dict[str, Any]:
        """Settings as resolved, versions, seeds and hashes: `config.json`."""
        return self._directory.config

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """A row of metrics per update; docs/objectives.md says what they mean."""
        return self._directory.metrics

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Updates, examples, seconds, peak memory; empty while a run is not done."""
        return self._directory.summary

    def report(self) -> Path:
        """Write report.html and report.json into the directory: results, intervals, warnings.

        Returns:
            The page.
        """
        from logratio.report import collect, write_report

        return write_report(self.path, collect(self.path))
