"""Gymnasium's spaces as arrays: observations flattened into one vector or image, actions given their form.

A policy knows neither dictionaries nor bounds: it sees `[environments, features]` numbers or
`[environments, C, H, W]` images, and answers with choices or numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from logratio.errors import UnsupportedSpace

SMALLEST_IMAGE = 36
"""Rows and columns that the convolutions need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationLayout:
    """How observations become arrays."""

    shape: tuple[int, ...]
    """`(features,)`, or `(C, H, W)` of an image."""
    flatten: Callable[[Any], np.ndarray]
    """From a batch of observations, as a vector environment gives it, to `[environments, *shape]`."""

    @property
    def is_image(self) -> bool:
        """Whether observations are images of bytes."""
        return len(self.shape) == 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLayout:
    """What a policy answers with, and how that becomes the environment's actions."""

    sizes: tuple[int, ...]
    """Of how many actions each choice is one; empty where an action is numbers."""
    num_numbers: int
    """Numbers in an action; 0 where an action is choices."""
    give: Callable[[np.ndarray], np.ndarray]
    """From `[environments, columns]` to what the vector environment takes; numbers are cut to the bounds."""

    @property
    def num_columns(self) -> int:
        """Columns of an action."""
        return len(self.sizes) or self.num_numbers


def observation_layout(space: Any) -> ObservationLayout:
    """How the observations of a Gymnasium space become arrays.

    Box is flattened, an image of bytes kept; Discrete and MultiDiscrete become one-hot vectors, MultiBinary
    0 and 1; Dict and Tuple are their parts side by side, in the space's own order.

    Raises:
        UnsupportedSpace: text, graphs, sequences, or parts of those.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        return _image(space)
    match space:
        case spaces.Box():
            size = int(np.prod(space.shape))
            return ObservationLayout(shape=(size,), flatten=lambda batch: _numbers(batch, size))
        case spaces.Discrete():
            return _one_hot([int(space.n)], [int(space.start)])
        case spaces.MultiDiscrete():
            return _one_hot(
                space.nvec.flatten().tolist(),
                np.broadcast_to(space.start, space.nvec.shape).flatten().tolist(),
            )
        case spaces.MultiBinary():
            size = int(np.prod(space.shape))
            return ObservationLayout(shape=(size,), flatten=lambda batch: _numbers(batch, size))
        case spaces.Dict():
            return _side_by_side({name: observation_layout(part) for name, part in space.spaces.items()})
        case spaces.Tuple():
            return _side_by_side(dict(enumerate(map(observation_layout, space.spaces))))
    raise UnsupportedSpace(
        f"observations of {type(space).__name__} are not understood",
        action="wrap the environment: Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple are",
    )


def action_layout(space: Any) -> ActionLayout:
    """How a policy's answers become actions of a Gymnasium space.

    Raises:
        UnsupportedSpace: neither Discrete, MultiDiscrete, MultiBinary nor Box.
    """
    from gymnasium import spaces

    match space:
        case spaces.Discrete():
            start = int(space.start)
            return _choices((int(space.n),), lambda drawn: drawn[:, 0] + start)
        case spaces.MultiDiscrete():
            shape, starts = space.nvec.shape, np.broadcast_to(space.start, space.nvec.shape)
            sizes = tuple(int(size) for size in space.nvec.flatten())
            return _choices(sizes, lambda drawn: drawn.reshape(-1, *shape) + starts)
        case spaces.MultiBinary():
            shape = space.shape
            return _choices(
                (2,) * int(np.prod(shape)), lambda drawn: drawn.reshape(-1, *shape).astype(np.int8)
            )
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            shape, dtype = space.shape, space.dtype
            low, high = space.low, space.high
            return ActionLayout(
                sizes=(),
                num_numbers=int(np.prod(shape)),
                give=lambda drawn: np.clip(drawn.reshape(-1, *shape), low, high).astype(dtype),
            )
    raise UnsupportedSpace(
        f"actions of {type(space).__name__} ({space}) are not understood",
        action="wrap the environment so that it takes Discrete, MultiDiscrete, MultiBinary or Box of floats",
    )


def alone(observation: Any) -> Any:
    """One observation as a batch of one."""
    if isinstance(observation, dict):
        return {name: alone(part) for name, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(map(alone, observation))
    return np.asarray(observation)[None]


def _choices(sizes: tuple[int, ...], give: Callable[[np.ndarray], np.ndarray]) -> ActionLayout:
    return ActionLayout(sizes=sizes, num_numbers=0, give=give)


def _numbers(batch: Any, size: int) -> np.ndarray:
    return np.asarray(batch, dtype=np.float32).reshape(-1, size)


def _image(space: Any) -> ObservationLayout:
    # Channels are the axis that is much the smallest, and the last one where that is not clear.
    first = space.shape[0] < min(space.shape[1:]) and space.shape[0] <= 4 * 4
    shape = space.shape if first else (space.shape[2], *space.shape[:2])
    if min(shape[1:]) < SMALLEST_IMAGE:
        size = int(np.prod(space.shape))
        return ObservationLayout(
            shape=(size,), flatten=lambda batch: _numbers(batch, size) / np.float32(255.0)
        )
    if first:
        return ObservationLayout(shape=shape, flatten=lambda batch: np.asarray(batch))
    return ObservationLayout(shape=shape, flatten=lambda batch: np.moveaxis(np.asarray(batch), -1, -3))


def _one_hot(sizes: list[int], starts: list[int]) -> ObservationLayout:
    offsets = np.cumsum([0, *sizes[:-1]]) - np.asarray(starts)
    total = sum(sizes)

    def flatten(batch: Any) -> np.ndarray:
        values = np.asarray(batch, dtype=np.int64).reshape(-1, len(sizes))
        hot = np.zeros((len(values), total), dtype=np.float32)
        np.put_along_axis(hot, values + offsets, 1.0, axis=1)
        return hot

    return ObservationLayout(shape=(total,), flatten=flatten)


def _side_by_side(parts: dict[Any, ObservationLayout]) -> ObservationLayout:
    if any(part.is_image for part in parts.values()):
        raise UnsupportedSpace(
            "an image beside other observations is not understood",
            action="wrap the environment so that it observes the image alone, or numbers alone",
        )

    def flatten(batch: Any) -> np.ndarray:
        return np.concatenate([part.flatten(batch[name]) for name, part in parts.items()], axis=1)

    return ObservationLayout(shape=(sum(part.shape[0] for part in parts.values()),), flatten=flatten)
