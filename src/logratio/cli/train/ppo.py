r"""Proximal policy optimisation: the model answers, is rewarded, and makes better answers more probable.

    logratio train ppo --prompts prompts.jsonl --reward my_rewards:helpful --out runs/ppo
    logratio train ppo --prompts prompts.jsonl --reward runs/rm 0.1*my_rewards:polite --out runs/ppo
    logratio train ppo --prompts prompts.jsonl --reward runs/rm --monitor my_rewards:helpful --out runs/ppo

A reward is a Python function or the directory of a reward model; several are added up. Where --reward only
stands for what is really wanted, --monitor the latter. Each update samples answers from the model as it is,
charges every token for its divergence from the reference (--kl-coefficient, or --target-kl to steer it), lets
a critic (--critic) say what was to be expected, and then makes some optimiser steps that are clipped
(--clip-range), penalised (--kl-penalty), or both. On the first of them every ratio to the policy that sampled
is 1, or the run stops and says why.

If nothing is learned, take more answers an update (--batch-size, --num-samples). If the reward rises too
well, read the answers, lower --learning-rate, and give --target-kl. A run whose answers leave their limits
(--max-reference-kl and others) stops and keeps its best checkpoint. docs/policy_gradient.md goes through
every choice and every number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.cli.first_use import as_of_beginning
from logratio.cli.train.on_policy_options import (
    PolicyGradientFlags,
    begin_run,
    best_model_kept,
    hints,
    prepare,
    read_rewards,
    read_rows,
)
from logratio.cli.train.preference_options import finish_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(PolicyGradientFlags):
    """Flags of `logratio train ppo`."""

    training: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    """How the weights are moved, and how far at a time."""


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    with as_of_beginning(arguments.out, resume=arguments.resume):
        return train(arguments)


def train(arguments: Arguments) -> int:
    """As `run`, with the dates that templates write settled."""
    config = arguments.training
    rewards = read_rewards(arguments)
    rows = read_rows(arguments, rewards, seed=config.seed)
    with begin_run(arguments, config, rewards, command="ppo") as directory:
        prepared = prepare(arguments, config, rewards, rows, directory, critic=True)
        with best_model_kept(prepared.actor, directory):
            summary = train_ppo(prepared.actor, prepared.collector, config, directory)
        finish_run(prepared.actor.policy, directory, summary, hints=hints(arguments))
    return 0
