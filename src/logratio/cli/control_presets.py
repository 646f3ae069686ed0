"""Settings for the classic tasks, one function each. CartPole's is tested; the others are where to begin.

What is said to be of the Zoo is from RL Baselines3 Zoo's hyperparams/ppo.yml, whose settings are tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from logratio.policies.control import NetworkConfig
from logratio.rollouts.control import ControlConfig


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
    """Two links that swing up: −1 a step until they are; after the Zoo, with larger minibatches."""
    return Preset(
        env="Acrobot-v1",
        collect=ControlConfig(
            steps=500_000, num_envs=16, num_steps=256, discount=0.99, lam=0.94, normalise_observations=True
        ),
        training={"learning_rate": 1e-3, "update_epochs": 4, "minibatches": 16},
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


PRESETS: dict[str, Callable[[], Preset]] = {
    "CartPole-v1": cartpole,
    "Acrobot-v1": acrobot,
    "Pendulum-v1": pendulum,
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
