"""Which actions an environment allows: its `info["action_mask"]`, checked, and kept from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from logratio.errors import EnvironmentFault


class ActionMasks:
    """What environments side by side said last of the actions that they allow.

    Within an episode a mask holds until the next one comes. With a new episode it holds no longer: one that
    does not say at its beginning what is allowed allows everything until it does, and is counted.

    Args:
        sizes: of how many actions each choice is one.
        num_envs: environments side by side.
        name: of the environment, as faults name it.
    """

    def __init__(self, sizes: Sequence[int], num_envs: int, *, name: str) -> None:
        self.sizes, self.num_envs, self.name = tuple(sizes), num_envs, name
        self.action_mask: np.ndarray | None = None
        """`[n, Σ sizes]`; `None` until there was a mask."""
        self.begun_without = 0
        """Episodes that began without a mask."""

    @property
    def missing(self) -> int:
        """Episodes that began without a mask, of environments that have masks."""
        return 0 if self.action_mask is None else self.begun_without

    def begin(self, where: np.ndarray) -> None:
        """Episodes begin here, and nothing is known yet of what they allow."""
        self.begun_without += int(np.count_nonzero(where))
        if self.action_mask is not None:
            self.action_mask = self.action_mask | where[:, None]

    def update(self, infos: Mapping[str, Any], *, where: np.ndarray, episode_start: np.ndarray) -> None:
        """Take over what is said where `where` is true; `episode_start` where an episode begins.

        Raises:
            EnvironmentFault: a mask has another form than the actions.
        """
        if "action_mask" not in infos:
            return
        has_mask = np.asarray(infos.get("_action_mask", np.ones(self.num_envs, dtype=bool))) & where
        if not has_mask.any():
            return
        given = np.asarray(infos["action_mask"])
        masks = [self._checked(given[number], number) for number in np.flatnonzero(has_mask).tolist()]
        width = sum(self.sizes)
        # What is seen by a policy stays as it was.
        action_mask = (
            np.ones((self.num_envs, width), dtype=bool)
            if self.action_mask is None
            else self.action_mask.copy()
        )
        action_mask[has_mask] = masks
        self.action_mask = action_mask
        self.begun_without -= int(np.count_nonzero(has_mask & episode_start))

    def nothing_allowed(self) -> np.ndarray:
        """`[n]` where some choice has no action left."""
        if self.action_mask is None:
            return np.zeros(self.num_envs, dtype=bool)
        parts = np.split(self.action_mask, np.cumsum(self.sizes)[:-1], axis=1)
        return np.logical_or.reduce([~part.any(axis=1) for part in parts])

    def lift(self, where: np.ndarray) -> None:
        """Allow everything where this is true: no action is looked at there."""
        if self.action_mask is not None:
            self.action_mask = self.action_mask | where[:, None]

    def _checked(self, mask: Any, number: int) -> np.ndarray:
        """`[Σ sizes]` a mask of one environment."""
        if not self.sizes:
            raise self._fault("has an action mask, and its actions are numbers, not choices", number)
        try:
            flat = flat_mask(mask)
        except (ValueError, TypeError) as error:
            raise self._fault(f"has an action mask that is none: {error}", number) from error
        if len(flat) != sum(self.sizes):
            what = f"has an action mask of {len(flat)} entries, its actions are {sum(self.sizes)}"
            raise self._fault(what, number)
        return flat

    def _fault(self, what: str, number: int) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self.name} {what}",
            where=f"info['action_mask'] of environment {number}",
            action="give 1 or 0 for each action of each choice, in every step and at reset",
        )


def flat_mask(mask: Any) -> np.ndarray:
    """An action mask of one environment; Gymnasium's are tuples where there are several choices.

    Raises:
        ValueError: an entry is neither 1 nor 0.
    """
    parts = mask if isinstance(mask, tuple) else (mask,)
    flat = np.concatenate([np.ravel(part) for part in parts])
    if flat.dtype == bool:
        return flat
    if flat.dtype == object or not np.isin(flat, (0, 1)).all():
        raise ValueError(f"{flat.tolist()!r:.60} is not made of 1 and 0")
    return flat.astype(bool)
