"""Environments whose answers are known: how long a reward goes on, which action is right, what came first.

They are Gymnasium's, so that what is checked is the whole way from an environment to a trained policy.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Endless(gymnasium.Env[np.ndarray, Any]):
    """A reward of 1 for ever, in one state: worth 1/(1 − γ), wherever a time limit cuts it."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, limit: int) -> None:
        self.limit, self.time = limit, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.time = 0
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act once."""
        self.time += 1
        return np.ones(1, np.float32), 1.0, False, self.time >= self.limit, {}


class Recall(gymnasium.Env[np.ndarray, Any]):
    """A bit is shown first, then nothing for some steps; at last it must be said. 1 for the right bit.

    Without a memory one half is all that can be earned.

    Args:
        delay: steps between the bit and the question.
    """

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, delay: int = 3) -> None:
        self.delay, self.time, self.bit = delay, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.time, self.bit = 0, int(self.np_random.integers(2))
        return self._show(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act once."""
        asked = self.time == self.delay
        self.time += 1
        return self._show(), float(asked and int(action) == self.bit), asked, False, {}

    def _show(self) -> np.ndarray:
        shown = np.zeros(3, np.float32)
        if self.time == 0:
            shown[self.bit] = 1.0
        shown[2] = float(self.time == self.delay)
        return shown


class Narrow(gymnasium.Env[np.ndarray, Any]):
    """Of four actions two are allowed at a time, one of them paid; doing a forbidden one raises."""

    observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(4)
    STEPS = 10

    def __init__(self) -> None:
        self.time, self.mask = 0, np.ones(4, np.int8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.time = 0
        return self._draw()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act once."""
        if not self.mask[int(action)]:
            raise ValueError(f"action {action} is not allowed")
        reward, self.time = float(int(action) == int(np.argmax(self.mask))), self.time + 1
        seen, info = self._draw()
        return seen, reward, self.time >= self.STEPS, False, info

    def _draw(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.mask = np.zeros(4, np.int8)
        self.mask[self.np_random.choice(4, size=2, replace=False)] = 1
        return self.mask.astype(np.float32), {"action_mask": self.mask.copy()}
