r"""Proximal policy optimisation in a Gymnasium environment: the trainer of `train ppo`, unchanged.

    logratio control ppo --env CartPole-v1 --out runs/cartpole
    logratio control ppo --env Pendulum-v1 --seeds 5 --out runs/pendulum
    logratio control ppo --env CartPole-v1 --clip-range 0 --kl-penalty 1 --target-update-kl 0.01

Any environment of Gymnasium is driven whose observations are numbers or images and whose actions are choices
or numbers. Copies of it (--num-envs) are stepped side by side, --num-steps each; then the policy is moved
some steps towards the actions that turned out better than the critic expected, and is held near where it was
by the clip (--clip-range), by a penalty (--kl-penalty), or by both. At the end it is judged by whole episodes
that training never had, by its most probable actions and by drawn ones; report.html in --out shows how it
went.

For the classic tasks there are settings here, which docs/control.md lists: with --env they are what --help
shows, and flags that are given hold all the same. Without them: --no-preset.

If nothing is learned: is an episode far longer than --num-steps? Are observations of very different sizes, or
rewards far from 1? Then give --normalise-observations, or --normalise-rewards. docs/control.md says more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from logratio.algorithms.ppo import train_ppo
from logratio.control.presets import find_preset
from logratio.recipes.control import run_control
from logratio.recipes.control_config import ControlPPOConfig, ControlSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(ControlSettings):
    """Flags of `logratio control ppo`."""

    training: Annotated[ControlPPOConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=ControlPPOConfig)
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
        training=ControlPPOConfig.of(**found.training),
    )


def run(arguments: Arguments) -> int:
    """Train, evaluate and print the results."""
    return run_control(arguments, arguments.training, train_ppo, command="ppo")
