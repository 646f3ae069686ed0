"""Environments whose answers are known: how long a reward goes on, which action is right, what came first.

They are Gymnasium's, so that what is checked is the whole way from an environment to a trained policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from logratio.exact.mdp import DecisionProcess


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


class Process(gymnasium.Env[Any, Any]):
    """A decision process with a handful of states, cut off after some steps.

    Args:
        process: states, actions, what follows and what it earns.
        limit: steps after which an episode is cut off.
    """

    def __init__(self, process: DecisionProcess, limit: int) -> None:
        self.process, self.limit, self.time, self.state = process, limit, 0, process.start
        num_states, num_actions, _ = process.transitions.shape
        self.observation_space = spaces.Discrete(num_states)
        self.action_space = spaces.Discrete(num_actions)
        # Probabilities in float64 that come from float32 would not add up to 1 closely enough for numpy.
        chances = process.transitions.double().numpy()
        self.chances = chances / chances.sum(axis=-1, keepdims=True)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.time, self.state = 0, self.process.start
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Act once."""
        before, self.time = self.state, self.time + 1
        self.state = int(self.np_random.choice(len(self.chances), p=self.chances[before, action]))
        reward = float(self.process.rewards[before, action, self.state])
        return self.state, reward, bool(self.process.terminal[self.state]), self.time >= self.limit, {}


class Identity(gymnasium.Env[Any, Any]):
    """The right action is what is observed: 1 for it, less for others. Episodes have ten steps.

    Args:
        space: of observations and actions; Box from 0 to 1 is paid 1 less the distance.
    """

    STEPS = 10

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = self.action_space = space
        self.time, self.shown = 0, None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time, self.shown = 0, self.observation_space.sample()
        return self.shown, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act once."""
        reward = self._pay(action)
        self.time, self.shown = self.time + 1, self.observation_space.sample()
        return self.shown, reward, self.time >= self.STEPS, False, {}

    def _pay(self, action: Any) -> float:
        if isinstance(self.observation_space, spaces.Box):
            return float(1.0 - np.abs(np.asarray(action) - self.shown).mean())
        return float(np.mean(np.asarray(action) == np.asarray(self.shown)))


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


def side_by_side(build: Callable[[], gymnasium.Env[Any, Any]], num_envs: int, *, autoreset: str) -> Any:
    """Gymnasium's vector of copies, in one of its autoreset modes."""
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    return SyncVectorEnv([build] * num_envs, autoreset_mode=AutoresetMode(autoreset))


def one_hot_states(process: DecisionProcess) -> torch.Tensor:
    """`[states, states]` every state as a policy sees it."""
    return torch.eye(len(process.transitions))
