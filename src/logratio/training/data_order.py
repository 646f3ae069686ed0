"""The order of the data: a function of seed and step, with no state to save or lose."""

from __future__ import annotations

import math

import numpy as np

from logratio.training.config import TrainingConfig


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


FRESH_STATE = np.random.Philox(key=0).state
"""The state of a generator of which nothing has been drawn."""


def reseed(bits: np.random.Philox, *key: int) -> None:
    """Set a generator to where a new one of this key begins; a new one takes several times as long."""
    state = FRESH_STATE["state"] | {"key": np.array(key, dtype=np.uint64)}
    bits.state = FRESH_STATE | {"state": state}
