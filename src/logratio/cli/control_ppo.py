r"""Proximal policy optimisation in a Gymnasium environment: the trainer of `train ppo`, unchanged.

    logratio control ppo --env CartPole-v1 --out runs/cartpole
    logratio control ppo --env Pendulum-v1 --seeds 5 --out runs/pendulum
    logratio control ppo --env CartPole-v1 --clip-range 0 --penalty 1 --target-update-kl 0.01

A step of an environment is the same row as a token of a language model. For some classic tasks there are
settings here (--no-preset begins from the general ones); every flag that is given holds. At the end the
policy is judged by whole episodes on seeds of their own, by its most probable actions and by drawn ones.

If nothing is learned: does an episode end within --num-steps? Are observations of very different sizes
(--normalise-observations)? Are rewards far from 1 (--normalise-rewards)? docs/control.md has the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.cli.control import ControlFlags, run_control
from logratio.cli.control_presets import find_preset


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPPOConfig(PPOConfig):
    """Settings of PPO as they suit small networks; an update is one rollout of all environments."""

    learning_rate: float = 3e-4
    """Peak learning rate of AdamW."""
    adam_epsilon: float = 1e-5
    """Added to the square root of the second moment after its bias correction."""
    warmup: float = 0.0
    """Share of the updates in which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """What the learning rate does: stays, or falls to zero."""
    max_gradient_norm: float = 0.5
    """The gradient's norm is cut to this; 0 turns clipping off."""
    update_epochs: int = 10
    """Passes over a rollout, before the policy collects again."""
    stop_at: float = 0.0
    """An update ends early where KL[old, new] passes this many times the target; 0: it never does."""
    # One example is one rollout, in the order in which they are made; and no text is written.
    epochs: tyro.conf.Suppress[float] = 1.0
    batch_size: tyro.conf.Suppress[int] = 1
    shuffle: tyro.conf.Suppress[bool] = False
    row_tokens: tyro.conf.Suppress[int] = 512
    seed: tyro.conf.Suppress[int] = 0
    local_kl: tyro.conf.Suppress[float] = 0.0
    max_reference_kl: tyro.conf.Suppress[float] = 0.0
    max_repetition: tyro.conf.Suppress[float] = 0.0
    max_length_change: tyro.conf.Suppress[float] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(ControlFlags):
    """Flags of `logratio control ppo`."""

    training: Annotated[ControlPPOConfig, tyro.conf.arg(name="")] = field(default_factory=ControlPPOConfig)
    """How the weights are moved, and how far at a time."""


def default(words: list[str]) -> Arguments | None:
    """What flags that are not given are taken from: the preset of the environment that `words` name."""
    found = find_preset(words)
    if found is None:
        return None
    return Arguments(
        env=found.env,
        collect=found.collect,
        networks=found.networks,
        training=ControlPPOConfig(**found.training),
    )


def run(arguments: Arguments) -> int:
    """Train, judge, say what came of it."""
    return run_control(arguments, arguments.training, train_ppo, command="ppo")
