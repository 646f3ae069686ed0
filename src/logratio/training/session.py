"""One training run: its updates in order, from the last checkpoint on, each guarded, logged and saved.

A session owns what every trainer needs and no algorithm should repeat: the optimiser, the learning rate, the
order of the data, checkpoints, the laws' record and the orderly stop on a signal. The loss is the trainer's.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from logratio.errors import EnvironmentFault, Interrupted, OutOfMemory, PolicyRunaway, ResumeMismatch
from logratio.models.products import gradients_in_place
from logratio.models.resident import move_out_of_file
from logratio.progress import Progress
from logratio.runs import RunDirectory, ensure_space, write_json
from logratio.training import laws
from logratio.training.board import Board, NoBoard, open_board, place_of
from logratio.training.checkpoints import (
    WEIGHTS,
    checkpoint_bytes,
    checkpoint_path,
    restore_latest,
    restore_weights,
    save_checkpoint,
)
from logratio.training.memory import peak_memory_bytes
from logratio.training.optimisation import OwnRate, build_optimizer, clip_gradient, learning_rate_at
from logratio.training.order import batch_at, epochs_done, num_updates
from logratio.training.settings import PolicyGradientConfig, TrainingConfig

LAWS, SUMMARY = "laws.json", "summary.json"
Controller = TypeVar("Controller")


@dataclass
class Best:
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


class Session:
    """The updates of one training run.

    Args:
        model: what is trained; the session leaves it in evaluation mode, so that no dropout stands between
            the policy and its reference.
        config: the trainer's settings.
        run: where metrics and checkpoints go.
        stage: the algorithm's name, as in the metrics.
        num_examples: how many examples the data has.
        unit: what an example is, for the progress line.
        own_rate: weights that learn at a rate of their own, and whose gradient is clipped apart.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        run: RunDirectory,
        *,
        stage: str,
        num_examples: int,
        unit: str,
        own_rate: OwnRate | None = None,
    ) -> None:
        self.model, self.config, self.run, self.stage = model, config, run, stage
        self.num_examples, self.unit = num_examples, unit
        self.num_steps = num_updates(num_examples, batch_size=config.batch_size, epochs=config.epochs)
        self.optimizer = build_optimizer(model, config, own_rate)
        self._clipped_together = _clipped_together(self.optimizer)
        self.step = 0
        self.best = Best()
        self._laws: dict[str, dict[str, Any]] = {}
        self._kept: dict[str, Any] = {}
        self._restored: dict[str, dict[str, Any]] = {}
        self._stop_signal: int | None = None
        self._checkpoint_at = -1
        self._started = self._step_started = time.monotonic()
        self._progress: Progress | None = None
        self._board: Board = NoBoard()

    def __enter__(self) -> Session:
        self.model.eval()
        self._open = ExitStack()
        self._open.enter_context(gradients_in_place())
        move_out_of_file(self.model)
        restored = restore_latest(self.run.checkpoints_path, self.model, self.optimizer)
        self.step, self._restored = restored.step, restored.numbers
        if 0 < self.step < self.num_steps and not self.optimizer.state:
            raise ResumeMismatch(
                f"the run ended with update {self.step}, after which its optimiser was not kept",
                where=str(self.run.checkpoints_path),
                action=f"{self.num_steps} updates are another run: begin in another --out",
            )
        self.optimizer.begin()
        for note in restored.notes:
            print(note, file=sys.stderr)
        self.keep("best", self.best)
        self._checkpoint_at = self.step
        self.run.forget_after(self.step)
        if (self.run.path / LAWS).exists():
            self._laws = {law["name"]: law for law in json.loads((self.run.path / LAWS).read_text())}
        directory, rows = self.run.path / "tensorboard", self.run.metrics
        place = place_of(rows[-1]) if rows else self.step
        self._board = open_board(directory, wanted=self.config.tensorboard, place=place)
        if self.step == 0:
            # The best checkpoint so far stands beside the newest.
            extra = isinstance(self.config, PolicyGradientConfig)
            size = checkpoint_bytes(self.model, keep=self.config.keep_checkpoints + extra)
            ensure_space(self.run.path, size)
        self._handlers = (
            {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
            if _in_main_thread()
            else {}
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._board.close()
        if isinstance(error, EnvironmentFault):
            # The weights are those of the last whole update: what cost hours is not lost to one environment.
            self.checkpoint()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop_signal is not None:
            raise KeyboardInterrupt
        self._stop_signal = number
        print("\nstopping after this update; once more to stop at once", file=sys.stderr)

    def steps(self) -> Iterator[int]:
        """The numbers of the updates still to do; between them, checkpoints and the orderly stop."""
        with Progress(self.stage, self.num_steps, unit="updates", done=self.step) as self._progress:
            while self.step < self.num_steps:
                self._step_started = time.monotonic()
                yield self.step
                self.step += 1
                every = self.config.checkpoint_every
                if self._stop_signal is not None:
                    self.checkpoint()
                    raise Interrupted(
                        self._stop_signal,
                        where=f"{self.stage}, after update {self.step} of {self.num_steps}",
                        action="go on with --resume",
                    )
                if self.step == self.num_steps or (every and self.step % every == 0):
                    self.checkpoint()

    def batch(self, step: int) -> list[int]:
        """The examples of update `step`."""
        return batch_at(step, self.num_examples, self.config)

    def keep(self, name: str, thing: Controller) -> Controller:
        """Have checkpoints hold what a thing says of itself, and tell it that where the run goes on.

        It is a dataclass of numbers, or has `save`, which gives what JSON can hold, and `load`.
        """
        saved = self._restored.get(name, {})
        if hasattr(thing, "load"):
            if saved:
                thing.load(saved)
        else:
            for field, value in saved.items():
                setattr(thing, field, value)
        self._kept[name] = thing
        return thing

    def update(self, step: int, examples: Sequence[int], metrics: Mapping[str, float | None]) -> None:
        """Move the weights along the gradients that stand, if they are finite, and log the update."""
        self.log(step, len(examples), {**metrics, "gradient_norm": self.move(step, examples)})

    def move(self, step: int, examples: Sequence[int]) -> float:
        """Move the weights along the gradients that stand, if they are finite; returns their norm."""
        max_norm = self.config.max_gradient_norm
        norms = [clip_gradient(parameters, max_norm=max_norm) for parameters in self._clipped_together]
        for norm in norms:
            laws.gradient_is_finite(norm, examples, step=step)
        rate = learning_rate_at(step, num_steps=self.num_steps, config=self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.step()
        self.drop_gradients()
        return norms[0]

    def drop_gradients(self) -> None:
        """Forget the gradients that stand."""
        for parameters in self._clipped_together:
            for parameter in parameters:
                parameter.grad = None

    def log(self, step: int, num_examples: int, metrics: Mapping[str, float | None]) -> None:
        """Write down an update that was made; a metric that has no value in it is `None`."""
        seconds = time.monotonic() - self._step_started
        row: dict[str, Any] = {
            "stage": self.stage,
            "step": step + 1,
            "epoch": epochs_done(step + 1, num_examples=self.num_examples, batch_size=self.config.batch_size),
            **metrics,
            "learning_rate": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["scale"],
            f"{self.unit}_per_second": num_examples / seconds,
            "seconds": seconds,
        }
        if (num_tokens := metrics.get("tokens")) is not None:
            row["tokens_per_second"] = num_tokens / seconds
        self.best.add(metrics)
        self.run.log(row)
        self._board.show(row)
        if self._progress is not None:
            names = (
                *("loss", "accuracy", "reward", "episode_return", "reference_kl", "update_kl"),
                f"{self.unit}_per_second",
            )
            shown = {name: row[name] for name in names if row.get(name) is not None}
            self._progress.advance(**shown)

    def held(self, law: laws.LawHeld) -> None:
        """Record that a law was checked and held; the last check of each law is what the report shows."""
        self._laws[law.law] = law.to_json()

    def checkpoint(self) -> None:
        """Save what stands, unless it is saved already."""
        if self._checkpoint_at == self.step:
            return
        write_json(self.run.path / LAWS, list(self._laws.values()))
        self.best.compare(self.step)
        save_checkpoint(
            self.run.checkpoints_path,
            self.step,
            self.model,
            self.optimizer if self.step < self.num_steps else None,
            keep=self.config.keep_checkpoints,
            best=int(self.best.step) or None,
            numbers={
                name: thing.save() if hasattr(thing, "save") else asdict(thing)
                for name, thing in self._kept.items()
            },
        )
        self._checkpoint_at = self.step

    def runaway(self, reason: str) -> PolicyRunaway:
        """Put the best checkpoint's weights into the model, note the stop, and return the fault to raise."""
        kept = int(self.best.step)
        if kept:
            path = checkpoint_path(self.run.checkpoints_path, kept)
            restore_weights(self.model, load_file(path / WEIGHTS))
        # The update that was to be watched is made; those after it are not.
        self._summarise(stopped=reason, best_checkpoint=kept, updates=self.step + 1)
        return PolicyRunaway(
            reason,
            where=f"{self.stage}, update {self.step + 1} of {self.num_steps}",
            action=(f"the weights of update {kept}, the best checkpoint, are kept; " if kept else "")
            + "lower --learning-rate or raise --kl-coefficient, and begin in another --out",
        )

    def finish(self) -> dict[str, Any]:
        """Write the laws that held and the run's summary, and return the summary."""
        return self._summarise()

    def _summarise(self, **more: Any) -> dict[str, Any]:
        write_json(self.run.path / LAWS, list(self._laws.values()))
        summary = {
            "stage": self.stage,
            "updates": self.num_steps,
            "examples": self.num_examples,
            "seconds": sum(row.get("seconds", 0.0) for row in self.run.metrics),
            "peak_memory_bytes": peak_memory_bytes(),
            **more,
        }
        write_json(self.run.path / SUMMARY, summary)
        return summary


def _clipped_together(optimizer: torch.optim.Optimizer) -> list[list[nn.Parameter]]:
    """The weights without a rate of their own, and those with one, if there are any.

    A critic that is far off would otherwise leave the policy nothing of the norm that both may have.
    """
    apart: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        (rest if group["scale"] == 1.0 else apart).extend(group["params"])
    return [rest, apart] if apart else [rest]


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


@contextmanager
def memory_fault(*, step: int, config: TrainingConfig, longest: int) -> Iterator[None]:
    """Name running out of memory, with the next smaller setting."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(step, config, longest) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _out_of_memory(step, config, longest) from error
        raise


def _out_of_memory(step: int, config: TrainingConfig, longest: int) -> OutOfMemory:
    smaller = max(longest, config.row_tokens // 2)
    action = (
        f"run again with --resume --row-tokens {smaller}"
        if smaller < config.row_tokens
        else "shorten the answers (--max-length), or use a smaller model"
    )
    return OutOfMemory(
        f"no memory left for rows of {config.row_tokens} tokens, the longest example has {longest}; "
        f"the peak so far was {peak_memory_bytes() / 1e9:.1f} GB",
        where=f"step {step}, batch of {config.batch_size}",
        action=action + "; the last checkpoint is intact",
    )
