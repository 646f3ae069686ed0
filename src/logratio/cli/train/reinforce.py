r"""The policy gradient: the model answers, is rewarded, and makes what beat the baseline more probable.

    logratio train reinforce --prompts prompts.jsonl --reward my_rewards:helpful --out runs/reinforce
    logratio train reinforce --prompts prompts.jsonl --reward runs/rm --num-samples 8 --out runs/rl

A reward is a Python function or the directory of a reward model; several are added up. Where --reward only
stands for what is really wanted, --monitor what is wanted. With several answers to a prompt (--num-samples)
each is compared with the others (--baseline leave-one-out), which needs no critic and leaves the gradient
unbiased. Every token is charged for its divergence from the reference (--kl-coefficient, or --target-kl to
steer it). With --minibatches above 1 the later steps are on answers of a policy that has been left behind,
and importance weights make up for it (--weights).

If nothing is learned, take more answers per update (--batch-size, --num-samples). If the reward rises too
well, read the answers, lower --learning-rate, and give --target-kl. A run whose answers leave their limits
(--max-reference-kl and others) stops and keeps its best checkpoint. docs/policy_gradient.md goes through
every choice and every number.
"""

from __future__ import annotations

from logratio.cli.train.printing import print_on_policy_run
from logratio.recipes.on_policy import OnPolicyJob
from logratio.recipes.reinforce import ReinforceSettings as Arguments
from logratio.recipes.reinforce import run_reinforce

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    job = OnPolicyJob.of_command("reinforce", arguments, arguments.training)
    print_on_policy_run(run_reinforce(job), job)
    return 0
