"""How much of what a policy does and sees lies outside of an environment's spaces: shares for the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from logratio.control.env.adapter import VectorEnvAdapter

CLIPPED = "action_clip_fraction"
OUTSIDE = "observation_outside_fraction"
UNMASKED = "episodes_without_mask"
MAX_DIMENSIONS = 32
"""Dimensions of an action up to which each has a share of its own."""
ROUNDING = 1e-5
"""Of a bound, or absolute: an observation that is no farther off is not outside."""


def reach(
    environments: VectorEnvAdapter,
    actions: Sequence[np.ndarray],
    observations: Sequence[np.ndarray],
    valid: Sequence[np.ndarray],
) -> dict[str, float]:
    """What of a rollout lay outside of the spaces.

    Args:
        environments: that were driven.
        actions: `[n, columns]` of each step, as the policy drew them.
        observations: `[n, ...]` of each step, as the environment showed them.
        valid: `[n]` of each step, whether it was one.

    Returns:
        `action_clip_fraction_i`, the share of drawn numbers that were cut to a bound in dimension i, and
        `action_clip_fraction`, the largest of them, where actions are numbers with bounds;
        `observation_outside_fraction`, the share of observations outside of their space's bounds, where it
        has any; `episodes_without_mask`, how many began without one, where the environment has masks.
    """
    rows = np.concatenate(valid)
    found = _clipped(np.concatenate(actions)[rows], environments.action.low, environments.action.high)
    low, high = environments.observation.low, environments.observation.high
    bounded = np.isfinite(low) | np.isfinite(high)
    if bounded.any():
        seen = np.concatenate(observations)[rows]
        slack = ROUNDING * np.maximum(1.0, np.abs(np.stack([low, high])))
        slack[~np.isfinite(slack)] = 0.0
        outside = (seen < low - slack[0]) | (seen > high + slack[1])
        found[OUTSIDE] = float(outside.any(axis=1).mean())
    if environments.masks.action_mask is not None:
        found[UNMASKED] = float(environments.masks.missing)
    return found


def _clipped(drawn: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, float]:
    if not (np.isfinite(low) | np.isfinite(high)).any():
        return {}
    shares = ((drawn < low) | (drawn > high)).mean(axis=0)
    each = {f"{CLIPPED}_{place}": float(share) for place, share in enumerate(shares)}
    return {CLIPPED: float(shares.max())} | (each if 1 < len(each) <= MAX_DIMENSIONS else {})
