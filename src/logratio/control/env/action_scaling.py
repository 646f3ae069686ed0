"""Where a policy's numbers lie in a bounded space: an affine map, so that what it draws reaches the bounds.

A policy that begins at mean 0 and deviation 1 never acts between 5 and 35, and does nothing but act at the
bounds of ±0.01. So it acts in units of the space: `a = centre + scale · u`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

UNBOUNDED = 1e20
"""A bound this far off is none: ±3.4e38, the largest of float32, stands for infinity in many spaces."""
NEAREST, FARTHEST = 1.0, 2.0
"""Half-ranges about 0 that are left as they are: a deviation of 1 explores them in the space's own units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionScaling:
    """The map from a policy's numbers `u` to actions, `a = centre + scale · u`, in each dimension."""

    centre: tuple[float, ...]
    """The action of u = 0."""
    scale: tuple[float, ...]
    """What 1 in u is in the action: half the range between two bounds, 0 where they are the same."""

    def to_json(self) -> dict[str, list[float]]:
        """The fields, as lists."""
        return {"centre": list(self.centre), "scale": list(self.scale)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ActionScaling:
        """The inverse of `to_json`."""
        return cls(centre=tuple(map(float, value["centre"])), scale=tuple(map(float, value["scale"])))


def action_scaling(low: np.ndarray, high: np.ndarray) -> ActionScaling | None:
    """How a policy's numbers are mapped into bounds; `None` where they are actions as they are.

    Two bounds: their middle and half their distance, but for half-ranges from 1 to 2 about 0, which a normal
    distribution of deviation 1 explores without it. One bound: moved, in the space's units, until 0 in `u`
    lies 1 inside of it. No bound: nothing.

    Args:
        low: `[size]` lower bounds, −∞ or beyond −1e20 where there is none.
        high: `[size]` upper bounds likewise.
    """
    below, above = low > -UNBOUNDED, high < UNBOUNDED
    low = np.where(below, low, 0.0).astype(np.float64)
    high = np.where(above, high, 0.0).astype(np.float64)
    both = below & above
    centre, scale = (low + high) / 2, (high - low) / 2
    fits = (centre == 0) & (scale >= NEAREST) & (scale <= FARTHEST)
    centre = np.where(both, centre, np.where(below, np.maximum(0.0, low + 1.0), np.minimum(0.0, high - 1.0)))
    centre = np.where(below | above, centre, 0.0)
    scale = np.where(both & ~fits, scale, 1.0)
    if not centre.any() and (scale == 1.0).all():
        return None
    return ActionScaling(centre=tuple(centre.tolist()), scale=tuple(scale.tolist()))


def drawn_bounds(
    low: np.ndarray, high: np.ndarray, scaling: ActionScaling | None
) -> tuple[np.ndarray, np.ndarray]:
    """`[size]` each: the bounds in a policy's numbers, beyond which a draw is cut.

    A dimension whose bounds are the same has none: there is nothing to choose.
    """
    low, high = low.astype(np.float64), high.astype(np.float64)
    same = low == high
    if scaling is not None:
        centre = np.array(scaling.centre)
        scale = np.where(same, 1.0, np.array(scaling.scale))
        low, high = (low - centre) / scale, (high - centre) / scale
    return np.where(same, -np.inf, low), np.where(same, np.inf, high)
