"""Gymnasium's spaces as arrays: observations flattened into one vector or image, actions given their form.

A policy knows neither dictionaries nor bounds: it sees `[environments, features]` numbers or
`[environments, C, H, W]` images, and answers with choices or numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from logratio.control.env.action_scaling import ActionScaling, action_scaling, drawn_bounds
from logratio.errors import UnsupportedSpace

SMALLEST_IMAGE = 36
"""Rows and columns that the convolutions need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationLayout:
    """How observations become arrays."""

    shape: tuple[int, ...]
    """`(features,)`, or `(C, H, W)` of an image."""
    flatten: Callable[[Any], np.ndarray]
    """From a batch of observations, as a vector environment gives it, to `[environments, *shape]`; raises
    `ValueError` for an element that the space does not have."""
    low: np.ndarray
    """`[features]` the least that the space has, as it is flattened; empty for an image."""
    high: np.ndarray
    """`[features]` the most."""

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
    to_env: Callable[[np.ndarray], np.ndarray]
    """From `[environments, columns]` to what the vector environment takes; numbers are scaled to the space,
    and cut to its bounds."""
    scaling: ActionScaling | None = None
    """How a policy's numbers lie in the space; `None` where they are the action's own."""
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """`[num_numbers]` in a policy's numbers, what is below it is cut."""
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """`[num_numbers]` and what is above."""

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
        case spaces.Box() if np.prod(space.shape):
            return _vector(space.low, space.high, 1.0)
        case spaces.Discrete():
            return _one_hot([int(space.n)], [int(space.start)])
        case spaces.MultiDiscrete():
            return _one_hot(
                space.nvec.flatten().tolist(),
                np.broadcast_to(space.start, space.nvec.shape).flatten().tolist(),
            )
        case spaces.MultiBinary():
            return _vector(np.zeros(space.shape), np.ones(space.shape), 1.0, whole=True)
        case spaces.Dict():
            return _concatenated({name: observation_layout(part) for name, part in space.spaces.items()})
        case spaces.Tuple():
            return _concatenated(dict(enumerate(map(observation_layout, space.spaces))))
    raise UnsupportedSpace(
        f"observations of {_described(space)} are not understood",
        action="wrap the environment: Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple are",
    )


def action_layout(space: Any, *, scaling: ActionScaling | Literal["own"] | None = "own") -> ActionLayout:
    """How a policy's answers become actions of a Gymnasium space.

    Args:
        space: of the actions.
        scaling: of the policy, where it has been trained already; `own` is what the space's bounds ask for.

    Raises:
        UnsupportedSpace: neither Discrete, MultiDiscrete, MultiBinary nor Box of floats; or one of nothing.
    """
    from gymnasium import spaces

    match space:
        case spaces.Discrete():
            start = int(space.start)
            return _discrete_actions((int(space.n),), lambda drawn: drawn[:, 0] + start)
        case spaces.MultiDiscrete():
            shape, starts = space.nvec.shape, np.broadcast_to(space.start, space.nvec.shape)
            sizes = tuple(int(size) for size in space.nvec.flatten())
            return _discrete_actions(sizes, lambda drawn: drawn.reshape(-1, *shape) + starts)
        case spaces.MultiBinary():
            shape = space.shape
            return _discrete_actions(
                (2,) * int(np.prod(shape)), lambda drawn: drawn.reshape(-1, *shape).astype(np.int8)
            )
        case spaces.Box() if np.issubdtype(space.dtype, np.floating) and np.prod(space.shape):
            return _box_actions(space, scaling)
    raise UnsupportedSpace(
        f"actions of {_described(space)} ({space}) are not understood",
        action="wrap the environment so that it takes Discrete, MultiDiscrete, MultiBinary or Box of floats",
    )


def as_batch(observation: Any) -> Any:
    """One observation as a batch of one."""
    if isinstance(observation, dict):
        return {name: as_batch(part) for name, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(map(as_batch, observation))
    return np.asarray(observation)[None]


def _discrete_actions(sizes: tuple[int, ...], to_env: Callable[[np.ndarray], np.ndarray]) -> ActionLayout:
    return ActionLayout(sizes=sizes, num_numbers=0, to_env=to_env)


def _box_actions(space: Any, scaling: ActionScaling | Literal["own"] | None) -> ActionLayout:
    """Numbers, scaled to a Box and cut to its bounds."""
    shape, dtype, low, high = space.shape, space.dtype, space.low, space.high
    flat_low, flat_high = low.flatten(), high.flatten()
    if scaling == "own":
        scaling = action_scaling(flat_low, flat_high)

    def clipped(drawn: np.ndarray) -> np.ndarray:
        return np.clip(drawn.reshape(-1, *shape), low, high).astype(dtype)

    def scaled(drawn: np.ndarray) -> np.ndarray:
        # In double precision: between 1,000,000 and 1,000,001 float32 has sixteen numbers.
        actions = centre + scale * drawn.reshape(-1, len(centre)).astype(np.float64)
        return np.clip(actions, flat_low, flat_high).astype(dtype).reshape(-1, *shape)

    if scaling is not None:
        centre, scale = np.array(scaling.centre), np.array(scaling.scale)
    least, most = drawn_bounds(flat_low, flat_high, scaling)
    return ActionLayout(
        sizes=(),
        num_numbers=len(flat_low),
        to_env=clipped if scaling is None else scaled,
        scaling=scaling,
        low=least,
        high=most,
    )


def _described(space: Any) -> str:
    """The kind of a space, with its shape where that holds nothing, and whose it is where not Gymnasium's."""
    kind = type(space).__name__
    if type(space).__module__.partition(".")[0] == "gym":
        return f"the old gym package's {kind}, which is none of Gymnasium's,"
    return f"{kind} of shape {space.shape}" if kind == "Box" and 0 in space.shape else kind


def _vector(low: np.ndarray, high: np.ndarray, unit: float, *, whole: bool = False) -> ObservationLayout:
    """Numbers in units of `unit`; `whole` ones are refused where they are none between the bounds."""
    size, divisor = int(np.prod(low.shape)), np.float32(unit)

    def flatten(batch: Any) -> np.ndarray:
        values = np.asarray(batch, dtype=np.float32).reshape(-1, size)
        if whole and not np.isin(values, (0.0, 1.0)).all():
            raise ValueError("a number that is neither 0 nor 1")
        return values if unit == 1.0 else values / divisor

    least, most = (bound.flatten().astype(np.float64) / unit for bound in (low, high))
    return ObservationLayout(shape=(size,), flatten=flatten, low=least, high=most)


def _image(space: Any) -> ObservationLayout:
    # Channels are the axis that is much the smallest, and the last one where that is not clear.
    first = space.shape[0] < min(space.shape[1:]) and space.shape[0] <= 4 * 4
    shape = space.shape if first else (space.shape[2], *space.shape[:2])
    if min(shape[1:]) < SMALLEST_IMAGE:
        return _vector(space.low, space.high, 255.0)

    def flatten(batch: Any) -> np.ndarray:
        pictures = np.asarray(batch)
        if pictures.dtype != np.uint8:
            raise ValueError(f"a picture of {pictures.dtype}, not of bytes")
        return pictures if first else np.moveaxis(pictures, -1, -3)

    return ObservationLayout(shape=shape, flatten=flatten, low=np.zeros(0), high=np.zeros(0))


def _one_hot(sizes: list[int], starts: list[int]) -> ObservationLayout:
    offsets = np.cumsum([0, *sizes[:-1]])
    total, first = sum(sizes), np.asarray(starts)

    def flatten(batch: Any) -> np.ndarray:
        given = np.asarray(batch).reshape(-1, len(sizes))
        places = given.astype(np.int64) - first
        if (places != given - first).any() or (places < 0).any() or (places >= sizes).any():
            raise ValueError(
                f"{given.tolist()}, where {starts} to {np.add(first, sizes) - 1} are all there is"
            )
        hot = np.zeros((len(places), total), dtype=np.float32)
        np.put_along_axis(hot, places + offsets, 1.0, axis=1)
        return hot

    return ObservationLayout(shape=(total,), flatten=flatten, low=np.zeros(total), high=np.ones(total))


def _concatenated(parts: dict[Any, ObservationLayout]) -> ObservationLayout:
    if not parts:
        raise UnsupportedSpace(
            "observations hold nothing", action="wrap the environment so that it shows any"
        )
    if any(part.is_image for part in parts.values()):
        raise UnsupportedSpace(
            "an image beside other observations is not understood",
            action="wrap the environment so that it observes the image alone, or numbers alone",
        )

    def flatten(batch: Any) -> np.ndarray:
        return np.concatenate([part.flatten(batch[name]) for name, part in parts.items()], axis=1)

    return ObservationLayout(
        shape=(sum(part.shape[0] for part in parts.values()),),
        flatten=flatten,
        low=np.concatenate([part.low for part in parts.values()]),
        high=np.concatenate([part.high for part in parts.values()]),
    )
