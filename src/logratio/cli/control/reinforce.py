r"""The policy gradient in a Gymnasium environment: the trainer of `train reinforce`, unchanged.

    logratio control reinforce --env CartPole-v1 --out runs/cartpole
    logratio control reinforce --env CartPole-v1 --baseline none --seeds 5 --out runs/bare

Any environment of Gymnasium is driven whose observations are numbers or images and whose actions are choices
or numbers. Copies of it (--num-envs) are stepped side by side, --num-steps each; then one step of the
optimiser makes the actions more probable that brought more than the baseline. With --minibatches there are
more steps, with importance weights. The baseline is what a critic expects, or none: what is credited with a
return must then end within a rollout, so take a --num-steps that is long. PPO (`logratio control ppo`) learns
more from the same steps.

At the end the policy is judged by whole episodes that training never had, by its most probable actions and by
drawn ones; report.html in --out shows how it went.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from logratio.algorithms.reinforce import train_reinforce
from logratio.control.presets import find_preset
from logratio.recipes.control import run_control
from logratio.recipes.control_config import ControlReinforceConfig, ControlSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(ControlSettings):
    """Flags of `logratio control reinforce`."""

    training: Annotated[ControlReinforceConfig, tyro.conf.OmitArgPrefixes] = field(
        default_factory=ControlReinforceConfig
    )
    """How the weights are moved."""


def default(words: list[str]) -> Arguments | None:
    """What flags that are not given are taken from: the preset's environment, steps and networks."""
    found = find_preset(words)
    if found is None:
        return None
    return Arguments(env=found.env, collect=found.collect, networks=found.networks)


def run(arguments: Arguments) -> int:
    """Train, evaluate and print the results."""
    return run_control(arguments, arguments.training, train_reinforce, command="reinforce")
