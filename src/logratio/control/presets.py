"""Settings for the classic tasks, one function each; docs/control.md has what each of them reaches.

What is said to be of the Zoo is from RL Baselines3 Zoo's hyperparams/ppo.yml, whose settings are tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from logratio.control.collector import ControlConfig
from logratio.control.policy import NetworkConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Settings for one environment."""

    env: str
    """Its name."""
    collect: ControlConfig
    """How it is driven."""
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    """Policy and critic."""
    training: dict[str, Any]
    """Settings of PPO that are not the general ones."""


def cartpole() -> Preset:
    """A pole on a cart, 500 steps at most; as in the Zoo."""
    return Preset(
        env="CartPole-v1",
        collect=ControlConfig(steps=100_000, num_envs=8, num_steps=32, discount=0.98, lam=0.8),
        training={"learning_rate": 1e-3, "update_epochs": 20, "minibatches": 1},
    )


def acrobot() -> Preset:
    """Two links that swing up: −1 a step until they are; as in the Zoo, but for a higher rate that falls."""
    return Preset(
        env="Acrobot-v1",
        collect=ControlConfig(
            steps=500_000, num_envs=16, num_steps=256, discount=0.99, lam=0.94, normalise_observations=True
        ),
        training={"learning_rate": 1e-3, "update_epochs": 4, "minibatches": 64},
    )


def pendulum() -> Preset:
    """A pendulum that is swung up and held, with a continuous torque; a short horizon is what it needs."""
    return Preset(
        env="Pendulum-v1",
        collect=ControlConfig(
            steps=100_000, num_envs=4, num_steps=256, discount=0.9, lam=0.95, normalise_rewards=True
        ),
        training={"learning_rate": 1e-3, "update_epochs": 10, "minibatches": 16},
    )


def mountain_car_continuous() -> Preset:
    """A car too weak for its hill, 100 at the top and a charge for power: found only by noise that lasts."""
    return Preset(
        env="MountainCarContinuous-v0",
        collect=ControlConfig(
            steps=50_000,
            num_envs=4,
            num_steps=256,
            discount=0.99,
            lam=0.95,
            normalise_observations=True,
            normalise_rewards=True,
            noise_correlation=0.95,
        ),
        training={"learning_rate": 3e-4, "update_epochs": 10, "minibatches": 16},
    )


def lunar_lander() -> Preset:
    """A lander with three engines, whose rewards are of very different sizes: they are normalised."""
    return Preset(
        env="LunarLander-v3",
        collect=ControlConfig(
            steps=1_000_000,
            num_envs=16,
            num_steps=256,
            discount=0.995,
            lam=0.98,
            normalise_observations=True,
            normalise_rewards=True,
        ),
        training={"learning_rate": 5e-4, "update_epochs": 10, "minibatches": 16},
    )


def hopper() -> Preset:
    """A leg that hops; the settings of the first experiments with MuJoCo, as CleanRL and SB3 have them."""
    return Preset(
        env="Hopper-v5",
        collect=ControlConfig(
            steps=300_000,
            num_envs=4,
            num_steps=512,
            discount=0.99,
            lam=0.95,
            normalise_observations=True,
            normalise_rewards=True,
        ),
        training={"update_epochs": 10, "minibatches": 32, "value_coefficient": 1.0},
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    "CartPole-v1": cartpole,
    "Acrobot-v1": acrobot,
    "Pendulum-v1": pendulum,
    "MountainCarContinuous-v0": mountain_car_continuous,
    "LunarLander-v3": lunar_lander,
    "Hopper-v5": hopper,
}
"""By the environment's name."""


def find_preset(words: list[str]) -> Preset | None:
    """The preset of the environment that a command line names, unless it has --no-preset."""
    if "--no-preset" in words:
        return None
    name = ""
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--env":
            name = value if equals else words[place + 1] if place + 1 < len(words) else ""
    build = PRESETS.get(name)
    return None if build is None else build()
