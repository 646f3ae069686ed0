r"""The policy gradient in a Gymnasium environment: the trainer of `train reinforce`, unchanged.

    logratio control reinforce --env CartPole-v1 --out runs/cartpole
    logratio control reinforce --env CartPole-v1 --baseline none --seeds 5 --out runs/bare

A step of an environment is the same row as a token of a language model. One step of the optimiser is made on
what was collected (--minibatches for more, with importance weights). The baseline is a critic's expectation,
or none: what is credited with a return must then end within a rollout, so take a --num-steps that is long.
PPO (`logratio control ppo`) learns more from the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.cli.control import ControlFlags, run_control
from logratio.cli.control_presets import find_preset


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReinforceConfig(ReinforceConfig):
    """Settings of the policy gradient as they suit small networks; an update is one rollout."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    adam_epsilon: float = 1e-5
    """Added to the square root of the second moment after its bias correction."""
    warmup: float = 0.0
    """Share of the updates in which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """What the learning rate does: stays, or falls to zero."""
    max_gradient_norm: float = 0.5
    """The gradient's norm is cut to this; 0 turns clipping off."""
    baseline: Literal["none", "batch-mean", "critic"] = "critic"
    """What is taken off the return: nothing, the mean of the environments, or what a critic expects (then
    with generalised advantages)."""
    whiten_advantages: bool = True
    """Scale the advantages of a rollout to mean 0 and deviation 1."""
    reduction: Literal["tokens", "sequences", "sums"] = "tokens"
    """Mean over all steps, over environments of their means, or over environments of their sums."""
    weights: Literal["none", "token", "sequence"] = "token"
    """Importance weights where the policy has moved: of the step alone, of all that an environment did in the
    rollout, or none."""
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
    """Flags of `logratio control reinforce`."""

    training: Annotated[ControlReinforceConfig, tyro.conf.arg(name="")] = field(
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
    """Train, judge, say what came of it."""
    return run_control(arguments, arguments.training, train_reinforce, command="reinforce")
