"""Environments whose answers are known: how long a reward goes on, which action is right, what came first.

They are Gymnasium's, so that what is checked is the whole way from an environment to a trained policy.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.verify.worlds.mdp import DecisionProcess


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
        num_states, num_actions, _ = process.transitions.shape
        self.observation_space = spaces.Discrete(num_states)
        self.action_space = spaces.Discrete(num_actions)
        self.start, self.limit, self.time, self.state = process.start, limit, 0, process.start
        # Without the last bound: where a sum ends a little below 1, there is no gap behind it.
        self._bounds = process.transitions.cumsum(dim=2)[..., :-1].tolist()
        self._rewards, self._terminal = process.rewards.tolist(), process.terminal.tolist()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.time, self.state = 0, self.start
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Act once."""
        before, self.time = self.state, self.time + 1
        self.state = bisect_right(self._bounds[before][action], self.np_random.random())
        reward = self._rewards[before][action][self.state]
        return self.state, reward, self._terminal[self.state], self.time >= self.limit, {}


class Identity(gymnasium.Env[Any, Any]):
    """The right action is what is shown: 1 a step for it, less for others. Episodes have ten steps.

    Args:
        space: of what is shown and of the actions. Of several choices, the share that is right is earned; of
            numbers, 1 less their mean distance.
    """

    STEPS = 10

    def __init__(self, space: spaces.Space[Any]) -> None:
        # A space draws from a generator of its own, which environments side by side must not share.
        self.observation_space, self.action_space = copy.deepcopy(space), space
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
        reward = self._pay(np.asarray(action), np.asarray(self.shown))
        self.time, self.shown = self.time + 1, self.observation_space.sample()
        return self.shown, reward, self.time >= self.STEPS, False, {}

    def _pay(self, action: np.ndarray, shown: np.ndarray) -> float:
        if isinstance(self.observation_space, spaces.Box):
            return float(1.0 - np.abs(action - shown).mean())
        return float((action == shown).mean())


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
        ends = self.time == self.delay
        self.time += 1
        return self._show(), float(ends and int(action) == self.bit), ends, False, {}

    def _show(self) -> np.ndarray:
        shown = np.zeros(3, np.float32)
        if self.time == 0:
            shown[self.bit] = 1.0
        shown[2] = float(self.time == self.delay)
        return shown


class Narrow(gymnasium.Env[np.ndarray, Any]):
    """Of four actions two are allowed at a time, the first of them is paid. Episodes have ten steps.

    Args:
        strict: doing a forbidden action raises; otherwise it is counted, and earns nothing.
    """

    observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(4)
    STEPS = 10

    def __init__(self, *, strict: bool = True) -> None:
        self.strict, self.time, self.mask = strict, 0, np.ones(4, np.int8)
        self.num_forbidden = 0
        """Forbidden actions that were done, in all episodes."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.time = 0
        return self._draw()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act once."""
        forbidden = not self.mask[int(action)]
        if forbidden and self.strict:
            raise ValueError(f"action {action} is not allowed")
        self.num_forbidden += forbidden
        reward, self.time = float(int(action) == int(np.argmax(self.mask))), self.time + 1
        seen, info = self._draw()
        return seen, reward, self.time >= self.STEPS, False, info

    def _draw(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.mask = np.zeros(4, np.int8)
        self.mask[self.np_random.choice(4, size=2, replace=False)] = 1
        return self.mask.astype(np.float32), {"action_mask": self.mask.copy()}


def make_vector_env(
    build: Callable[[], gymnasium.Env[Any, Any]], num_envs: int, *, autoreset: str
) -> SyncVectorEnv:
    """Gymnasium's vector of copies, in one of its autoreset modes."""
    return SyncVectorEnv([build] * num_envs, autoreset_mode=AutoresetMode(autoreset))


def process_of_env(environment: gymnasium.Env[Any, Any]) -> DecisionProcess:
    """The decision process of one of Gymnasium's toy environments, from the table `P` that it steps by."""
    inner: Any = environment.unwrapped
    num_states, num_actions = len(inner.P), len(inner.P[0])
    transitions, rewards = torch.zeros(2, num_states, num_actions, num_states, dtype=torch.float64)
    terminal = torch.zeros(num_states, dtype=torch.bool)
    for state, actions in inner.P.items():
        for action, ways in actions.items():
            for chance, following, reward, over in ways:
                transitions[state, action, following] += chance
                rewards[state, action, following] = float(reward)
                terminal[following] |= over
    start = int(np.argmax(inner.initial_state_distrib))
    return DecisionProcess(transitions=transitions, rewards=rewards, terminal=terminal, start=start)
