"""The actions of the episodes under way, from which environments are brought back to where they stood."""

from __future__ import annotations

import numpy as np

LONGEST = 100_000
"""Steps of an episode that are kept: one that is longer begins anew where a run goes on."""


class History:
    """The actions of the episodes under way.

    Args:
        num_envs: environments side by side.
        num_columns: columns of an action.
    """

    def __init__(self, num_envs: int, num_columns: int) -> None:
        self.num_columns = num_columns
        self.episodes = np.full(num_envs, -1, dtype=np.int64)
        """The number of each environment's episode, from 0."""
        self._begun = np.zeros(num_envs, dtype=np.int64)
        self._actions: list[np.ndarray] = []
        self._dropped = 0

    @property
    def now(self) -> int:
        """Steps of the vector so far."""
        return self._dropped + len(self._actions)

    def add(self, actions: np.ndarray) -> None:
        """`[n, columns]` were done."""
        self._actions.append(actions.copy())
        if len(self._actions) > 2 * LONGEST:
            del self._actions[:LONGEST]
            self._dropped += LONGEST

    def begin(self, where: np.ndarray) -> None:
        """An episode begins where this is true."""
        self.episodes[where] += 1
        self._begun[where] = self.now
        oldest = int(self._begun.min()) - self._dropped
        # Seldom and much at a time: taking the first element off a list moves all others.
        if oldest > 10_000:
            del self._actions[:oldest]
            self._dropped += oldest

    def of(self, number: int) -> np.ndarray | None:
        """`[steps, columns]` that an environment did in its episode; `None` where they are not kept."""
        first = int(self._begun[number]) - self._dropped
        if first < 0:
            return None
        rows = [actions[number] for actions in self._actions[first:]]
        return np.stack(rows) if rows else np.zeros((0, self.num_columns), dtype=np.float32)
