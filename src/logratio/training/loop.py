"""One training run: its updates in order, from the last checkpoint on, each guarded, logged and saved.

A session owns what every trainer needs and no algorithm should repeat: the optimiser, the learning rate, the
order of the data, checkpoints, the invariants and the orderly stop on a signal. The loss is the trainer's.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from logratio.errors import EnvironmentFault, Interrupted, OutOfMemory, PolicyRunaway, ResumeMismatch
from logratio.legacy_names import INVARIANTS, current_invariants, invariants_path
from logratio.policies.protocols import Controller, StatefulController
from logratio.progress import Progress, say
from logratio.run_directory import SUMMARY, RunDirectory, ensure_space, write_json
from logratio.runtime.mapped_weights import copy_out_of_mapping
from logratio.runtime.memory import peak_memory_bytes
from logratio.training import invariants
from logratio.training.checkpointing import (
    WEIGHTS,
    BestCheckpoint,
    checkpoint_bytes,
    checkpoint_path,
    restore_latest,
    restore_weights,
    save_checkpoint,
)
from logratio.training.config import PolicyGradientConfig, TrainingConfig
from logratio.training.optimizer import ParamGroupLR, build_optimizer, clip_gradient, learning_rate_at
from logratio.training.tensorboard import TensorBoardWriter, global_step_of


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
        param_group_lr: weights that learn at a rate of their own, and whose gradient is clipped apart.
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
        param_group_lr: ParamGroupLR | None = None,
    ) -> None:
        self.model, self.config, self.run, self.stage = model, config, run, stage
        self.num_examples, self.unit = num_examples, unit
        self.num_steps = num_updates(
            num_examples, batch_size=config.loop.batch_size, epochs=config.loop.epochs
        )
        self.optimizer = build_optimizer(model, config, param_group_lr)
        self._clip_groups = _clip_groups(self.optimizer)
        self.step = 0
        self.best = BestCheckpoint()
        self._invariants: dict[str, dict[str, Any]] = {}
        self._registered: dict[str, Controller] = {}
        self._restored: dict[str, dict[str, Any]] = {}
        self._stop_signal: int | None = None
        self._checkpoint_at = -1
        self._started = self._step_started = time.monotonic()
        self._progress: Progress | None = None
        self._tensorboard: TensorBoardWriter | None = None

    def __enter__(self) -> Session:
        self.model.eval()
        copy_out_of_mapping(self.model)
        restored = restore_latest(self.run.checkpoints_path, self.model, self.optimizer)
        self.step, self._restored = restored.step, restored.extra_state
        if 0 < self.step < self.num_steps and not self.optimizer.state:
            raise ResumeMismatch(
                f"the run ended with update {self.step}, after which its optimiser was not kept",
                where=str(self.run.checkpoints_path),
                action=f"{self.num_steps} updates are another run: begin in another --out",
            )
        self.optimizer.init_state()
        for note in restored.notes:
            say(note)
        self.register_state("best", self.best)
        self._checkpoint_at = self.step
        self.run.truncate_metrics(self.step)
        if (path := invariants_path(self.run.path)).exists():
            held = current_invariants(json.loads(path.read_text()))
            self._invariants = {invariant["name"]: invariant for invariant in held}
        if self.config.output.tensorboard:
            rows = self.run.metrics
            drawn = global_step_of(rows[-1]) if rows else self.step
            self._tensorboard = TensorBoardWriter(self.run.path / "tensorboard", purge_step=drawn + 1)
        if self.step == 0:
            # The best checkpoint so far stands beside the newest.
            extra = isinstance(self.config, PolicyGradientConfig)
            size = checkpoint_bytes(self.model, keep_last=self.config.output.keep_checkpoints + extra)
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
        if self._tensorboard is not None:
            self._tensorboard.close()
        if isinstance(error, EnvironmentFault):
            # The weights are those of the last whole update: what cost hours is not lost to one environment.
            self.checkpoint()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop_signal is not None:
            raise KeyboardInterrupt
        self._stop_signal = number
        say("\nstopping after this update; once more to stop at once")

    def steps(self) -> Iterator[int]:
        """The numbers of the updates still to do; between them, checkpoints and the orderly stop."""
        with Progress(self.stage, self.num_steps, unit="updates", done=self.step) as self._progress:
            while self.step < self.num_steps:
                self._step_started = time.monotonic()
                yield self.step
                self.step += 1
                every = self.config.output.checkpoint_every
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

    def register_state(self, name: str, state: Controller) -> None:
        """Have checkpoints hold a controller's state; where the run goes on, it takes over the saved one."""
        saved = self._restored.get(name, {})
        if isinstance(state, StatefulController):
            if saved:
                state.load(saved)
        else:
            for field, value in saved.items():
                setattr(state, field, value)
        self._registered[name] = state

    def update(self, step: int, examples: Sequence[int], metrics: Mapping[str, float | None]) -> None:
        """Move the weights along the gradients that stand, if they are finite, and log the update."""
        self.log(step, len(examples), {**metrics, "gradient_norm": self.optimizer_step(step, examples)})

    def optimizer_step(self, step: int, examples: Sequence[int]) -> float:
        """Move the weights along the gradients that stand, if they are finite; returns their norm."""
        max_norm = self.config.optimizer.max_gradient_norm
        norms = [clip_gradient(parameters, max_norm=max_norm) for parameters in self._clip_groups]
        for norm in norms:
            invariants.check_gradient_is_finite(norm, examples, step=step)
        rate = learning_rate_at(step, num_steps=self.num_steps, config=self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.step()
        self.zero_grad()
        return norms[0]

    def zero_grad(self) -> None:
        """Forget the gradients that stand."""
        for parameters in self._clip_groups:
            for parameter in parameters:
                parameter.grad = None

    def log(self, step: int, num_examples: int, metrics: Mapping[str, float | None]) -> None:
        """Write down an update that was made; a metric that has no value in it is `None`."""
        seconds = time.monotonic() - self._step_started
        row: dict[str, Any] = {
            "stage": self.stage,
            "step": step + 1,
            "epoch": epochs_done(
                step + 1, num_examples=self.num_examples, batch_size=self.config.loop.batch_size
            ),
            **metrics,
            "learning_rate": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["scale"],
            f"{self.unit}_per_second": num_examples / seconds,
            "seconds": seconds,
        }
        if (num_tokens := metrics.get("tokens")) is not None:
            row["tokens_per_second"] = num_tokens / seconds
        self.best.add(metrics)
        self.run.log(row)
        if self._tensorboard is not None:
            self._tensorboard.write(row)
        if self._progress is not None:
            names = (
                *("loss", "accuracy", "reward", "episode_return", "reference_kl", "update_kl"),
                f"{self.unit}_per_second",
            )
            shown = {name: row[name] for name in names if row.get(name) is not None}
            self._progress.advance(**shown)

    def record_invariant(self, invariant: invariants.InvariantResult) -> None:
        """Record that an invariant was checked and held; the report shows the last check of each."""
        self._invariants[invariant.invariant] = invariant.to_json()

    def checkpoint(self) -> None:
        """Save what stands, unless it is saved already."""
        if self._checkpoint_at == self.step:
            return
        write_json(self.run.path / INVARIANTS, list(self._invariants.values()))
        self.best.compare(self.step)
        save_checkpoint(
            self.run.checkpoints_path,
            self.step,
            self.model,
            self.optimizer if self.step < self.num_steps else None,
            keep_last=self.config.output.keep_checkpoints,
            best=int(self.best.step) or None,
            extra_state={
                name: state.save() if isinstance(state, StatefulController) else asdict(state)
                for name, state in self._registered.items()
            },
        )
        self._checkpoint_at = self.step

    def runaway(self, reason: str) -> PolicyRunaway:
        """Put the best checkpoint's weights into the model, note the stop, and return the fault to raise."""
        best_step = int(self.best.step)
        if best_step:
            path = checkpoint_path(self.run.checkpoints_path, best_step)
            restore_weights(self.model, load_file(path / WEIGHTS))
        # The update that was to be watched is made; those after it are not.
        self._write_summary(stopped=reason, best_checkpoint=best_step, updates=self.step + 1)
        return PolicyRunaway(
            reason,
            where=f"{self.stage}, update {self.step + 1} of {self.num_steps}",
            action=(
                f"the weights of update {best_step}, the best checkpoint, are kept; " if best_step else ""
            )
            + "lower --learning-rate or raise --kl-coefficient, and begin in another --out",
        )

    def finish(self) -> dict[str, Any]:
        """Write the invariants that held and the run's summary, and return the summary."""
        return self._write_summary()

    def _write_summary(self, **more: Any) -> dict[str, Any]:
        write_json(self.run.path / INVARIANTS, list(self._invariants.values()))
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


def num_updates(num_examples: int, *, batch_size: int, epochs: float) -> int:
    """Updates in `epochs` passes; the last batch of a pass may be smaller, and none is left out."""
    return max(1, round(epochs * math.ceil(num_examples / batch_size)))


def epochs_done(num_steps: int, *, num_examples: int, batch_size: int) -> float:
    """Passes over the data after `num_steps` updates: examples seen divided by their number.

    The last batch of a pass has what is left of it, so that every pass is 1, whatever the size of a batch.
    """
    epochs_passed, offset = divmod(num_steps, math.ceil(num_examples / batch_size))
    return epochs_passed + offset * batch_size / num_examples


def batch_indices(
    step: int, *, num_examples: int, batch_size: int, seed: int, shuffle: bool = True
) -> list[int]:
    """The examples of update `step`, counted from 0.

    Every pass is a permutation of its own, drawn from (seed, pass), so that any step's batch is known
    without the steps before it.
    """
    per_epoch = math.ceil(num_examples / batch_size)
    epoch, offset = divmod(step, per_epoch)
    order = np.arange(num_examples)
    if shuffle:
        order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_examples)
    return [int(index) for index in order[offset * batch_size : (offset + 1) * batch_size]]


def batch_at(step: int, num_examples: int, config: TrainingConfig) -> list[int]:
    """The examples of update `step` of a run with these settings."""
    return batch_indices(
        step,
        num_examples=num_examples,
        batch_size=config.loop.batch_size,
        seed=config.loop.seed,
        shuffle=config.loop.shuffle,
    )


def first_epoch_batches(num_examples: int, config: TrainingConfig) -> list[list[int]]:
    """The batches of the first pass, which together hold each example once."""
    num_batches = math.ceil(num_examples / config.loop.batch_size)
    return [batch_at(step, num_examples, config) for step in range(num_batches)]


def _clip_groups(optimizer: torch.optim.Optimizer) -> list[list[nn.Parameter]]:
    """The weights without a rate of their own, and those with one, if there are any.

    A critic that is far off would otherwise leave the policy nothing of the norm that both may have.
    """
    separate: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        (rest if group["scale"] == 1.0 else separate).extend(group["params"])
    return [rest, separate] if separate else [rest]


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
    smaller = max(longest, config.loop.row_tokens // 2)
    action = (
        f"run again with --resume --row-tokens {smaller}"
        if smaller < config.loop.row_tokens
        else "shorten the answers (--max-length), or use a smaller model"
    )
    return OutOfMemory(
        f"no memory left for rows of {config.loop.row_tokens} tokens, the longest example has {longest}; "
        f"the peak so far was {peak_memory_bytes() / 1e9:.1f} GB",
        where=f"step {step}, batch of {config.loop.batch_size}",
        action=action + "; the last checkpoint is intact",
    )
