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

If nothing is learned, take more answers per update (--batch-size, --num-samples). If the reward rises too
well, read the answers, lower --learning-rate, and give --target-kl. A run whose answers leave their limits
(--max-reference-kl and others) stops and keeps its best checkpoint. docs/policy_gradient.md goes through
every choice and every number.
"""

from __future__ import annotations

from logratio.cli.train.printing import print_on_policy_run
from logratio.recipes.on_policy import OnPolicyJob
from logratio.recipes.ppo import PPOSettings as Arguments
from logratio.recipes.ppo import run_ppo

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    job = OnPolicyJob.of_command("ppo", arguments, arguments.training)
    print_on_policy_run(run_ppo(job), job)
    return 0
