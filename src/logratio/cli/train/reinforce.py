r"""The policy gradient: the model answers, is rewarded, and makes what beat the baseline more probable.

    logratio train reinforce --prompts prompts.jsonl --reward my_rewards:helpful --out runs/reinforce
    logratio train reinforce --prompts prompts.jsonl --reward runs/rm --num-samples 8 --out runs/rl

A reward is a Python function or the directory of a reward model; several are added up. Where --reward only
stands for what is really wanted, --monitor what is wanted. With several answers to a prompt (--num-samples)
each is compared with the others (--baseline leave-one-out), which needs no critic and leaves the gradient
unbiased. Every token is charged for its divergence from the reference (--kl-coefficient, or --target-kl to
steer it). With --minibatches above 1 the later steps are on answers of a policy that has been left behind,
and importance weights make up for it (--weights).

If nothing is learned, take more answers an update (--batch-size, --num-samples). If the reward rises too
well, read the answers, lower --learning-rate, and give --target-kl. A run whose answers leave their limits
(--max-reference-kl and others) stops and keeps its best checkpoint. docs/policy_gradient.md goes through
every choice and every number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from logratio.algorithms.reinforce import GROUP_BASELINES, ReinforceConfig, train_reinforce
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
from logratio.errors import BadConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(PolicyGradientFlags):
    """Flags of `logratio train reinforce`."""

    training: Annotated[ReinforceConfig, tyro.conf.arg(name="")] = field(default_factory=ReinforceConfig)
    """How the weights are moved, and what an answer is compared with."""

    def __post_init__(self) -> None:
        if self.training.baseline in GROUP_BASELINES and self.collect.num_samples < 2:
            raise BadConfig(
                f"the baseline {self.training.baseline!r} compares answers to one prompt; there is one each",
                where="--num-samples",
                action="give 2 or more, or take --baseline batch-mean",
            )


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    with as_of_beginning(arguments.out, resume=arguments.resume):
        return train(arguments)


def train(arguments: Arguments) -> int:
    """As `run`, with the dates that templates write settled."""
    config = arguments.training
    rewards = read_rewards(arguments)
    rows = read_rows(arguments, rewards, seed=config.seed)
    with begin_run(arguments, config, rewards, command="reinforce") as directory:
        prepared = prepare(
            arguments,
            config,
            rewards,
            rows,
            directory,
            critic=config.baseline == "critic",
            greedy=config.baseline == "greedy",
        )
        with best_model_kept(prepared.actor, directory):
            summary = train_reinforce(prepared.actor, prepared.collector, config, directory)
        finish_run(prepared.actor.policy, directory, summary, hints=hints(arguments))
    return 0
