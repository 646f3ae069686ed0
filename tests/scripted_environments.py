"""Environments for the tests: one whose steps are written down beforehand, and one that goes wrong."""

import math

import gymnasium
import numpy as np
from gymnasium import spaces


class Counting(gymnasium.Env):
    """Shows how many steps the episode has had; ends, is cut off, or both, after `length` steps."""

    observation_space = spaces.Box(-1000.0, 1000.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length, *, ends=True, cut=False):
        self.length, self.ends, self.cut = length, ends, cut

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        over = self.time >= self.length
        return np.full(1, self.time, np.float32), float(self.time), self.ends and over, self.cut and over, {}


class Faulty(Counting):
    """Goes wrong at its third step, or at a later one of all its episodes."""

    def __init__(self, how, at=3):
        super().__init__(10)
        self.how, self.at, self.steps = how, at, 0

    def step(self, action):
        seen, reward, *rest = super().step(action)
        self.steps += 1
        if self.steps == self.at:
            match self.how:
                case "observation":
                    seen = np.full(1, math.nan, np.float32)
                case "reward":
                    reward = math.inf
                case "raises":
                    raise ZeroDivisionError("no ground")
                case "shape":
                    seen = np.zeros(5, np.float32)
                case "words":
                    reward = "a lot"
                case "four values":
                    return seen, reward, rest[0], rest[2]
        return seen, reward, *rest


class Puzzling(Counting):
    """Wants words for actions."""

    action_space = spaces.Text(5)

    def __init__(self):
        super().__init__(3)


class Drawing(Counting):
    """Paints a picture of one colour, brighter with every step."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, length, shape, *, render_mode, breaks_at=None):
        super().__init__(length)
        self.shape, self.render_mode, self.breaks_at = shape, render_mode, breaks_at

    def render(self):
        if self.time == self.breaks_at:
            raise ZeroDivisionError("no colour")
        return np.full(self.shape, 40 * self.time, np.uint8)
