"""Fine-tune a model on the preferred answers: the step before DPO on public comparisons.

    logratio train sft --data comparisons.jsonl --out runs/sft
    logratio train dpo --data comparisons.jsonl --model runs/sft --out runs/dpo

The loss is the negative log-likelihood of the chosen answer's tokens, its end token included; the prompt
carries none. Rows that cannot be used are counted by reason and left out, and so are rows with "tie": true,
which have no preferred answer; `logratio check` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.batches import AnswerGroup
from logratio.cli.training import (
    TrainingFlags,
    begin_run,
    check_end_tokens,
    finish_run,
    leave_out_ties,
    load_policy,
    read_pairs,
    split_pairs,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(TrainingFlags):
    """Flags of `logratio train sft`."""

    training: Annotated[SFTConfig, tyro.conf.arg(name="")] = field(default_factory=SFTConfig)
    """How the weights are moved."""


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    config = arguments.training
    report = leave_out_ties(read_pairs(arguments), arguments.data, why="SFT trains on the preferred answer")
    with begin_run(arguments, config, command="sft") as directory:
        pairs = split_pairs(arguments, report, directory, seed=config.seed)
        policy = load_policy(arguments, directory, seed=config.seed)
        groups = [AnswerGroup(pair.prompt_ids, (pair.chosen_ids,)) for pair in pairs]
        check_end_tokens(policy, pairs, groups)
        summary = train_sft(policy, groups, config, directory)
        hint = f"next:    logratio train dpo --data {arguments.data} --model {arguments.out} --out RUN"
        finish_run(policy, directory, summary, hints=[hint])
    return 0
