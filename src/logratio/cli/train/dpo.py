r"""Direct preference optimisation: raise the log-ratio of chosen over rejected answers to the reference.

    logratio train dpo --data comparisons.jsonl --model runs/sft --out runs/dpo
    logratio evaluate --policy runs/dpo --reference runs/sft --prompts runs/dpo/held_out.jsonl \
        --reward my_rewards:helpful

The reference is the model that training starts from: its log-probabilities are computed once, before the
first update. The first loss is ln 2 = 0.6931, or the run stops and says why. Public comparisons whose answers
the model would not write itself need `logratio train sft` first. A row with "tie": true is half a label for
each side: its loss is the mean of the losses of both orders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from logratio.algorithms.dpo import INDIFFERENT, DPOConfig, group_pairs, train_dpo
from logratio.cli.first_use import as_of_beginning, settle_tokens
from logratio.cli.train.preference_options import (
    TrainingFlags,
    begin_run,
    check_end_tokens,
    drop_ties,
    finish_run,
    load_training_policy,
    read_pairs,
    split_pairs,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(TrainingFlags):
    """Flags of `logratio train dpo`."""

    training: Annotated[DPOConfig, tyro.conf.arg(name="")] = field(default_factory=DPOConfig)
    """Training settings."""


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    with as_of_beginning(arguments.out, resume=arguments.resume):
        return train(arguments)


def train(arguments: Arguments) -> int:
    """As `run`, with the dates that templates write settled."""
    config = arguments.training
    report = read_pairs(arguments)
    if config.loss in INDIFFERENT:
        why = f"the loss {config.loss!r} of a tie is constant"
        report = drop_ties(report, arguments.data, why=why)
    with begin_run(arguments, config, command="dpo") as directory:
        pairs = split_pairs(arguments, report, directory, seed=config.seed)
        policy = load_training_policy(arguments, directory, seed=config.seed)
        groups, preferences = group_pairs(pairs)
        settle_tokens(directory, groups)
        check_end_tokens(policy, pairs, groups)
        summary = train_dpo(policy, groups, config, directory, preferences=preferences)
        hints = [
            f"report:  logratio report {arguments.out}",
            f"next:    logratio evaluate --policy {arguments.out} --reference {arguments.model} "
            f"--prompts {arguments.out / 'held_out.jsonl'} --reward module:function",
        ]
        finish_run(policy, directory, summary, hints=hints)
    return 0
