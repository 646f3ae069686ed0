"""Fine-tune a model on the preferred answers: the step before DPO on public comparisons.

    logratio train sft --data comparisons.jsonl --out runs/sft
    logratio train dpo --data comparisons.jsonl --model runs/sft --out runs/dpo

The loss is the negative log-likelihood of the chosen answer's tokens, its end token included; the prompt
carries none. With --train-on all-assistant-turns the assistant's turns in the prompt are learned too, each as
an example of its own behind the turns before it. Rows that cannot be used are counted by reason and left out,
and so are rows with "tie": true, which have no preferred answer; `logratio check` lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.cli.first_use import as_of_beginning, settle_tokens
from logratio.cli.train.preference_options import (
    TrainingFlags,
    begin_run,
    check_end_tokens,
    drop_ties,
    finish_run,
    load_training_policy,
    read_pairs,
    resolve_model,
    split_pairs,
)
from logratio.data.encoding import EncodedPair
from logratio.data.turns import EncodedTurn, TrainOn, describe_turns, encode_earlier_turns
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.training.invariants import check_end_token_carries_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(TrainingFlags):
    """Flags of `logratio train sft`."""

    training: Annotated[SFTConfig, tyro.conf.arg(name="")] = field(default_factory=SFTConfig)
    """How the weights are moved."""
    train_on: TrainOn = "last-assistant-turn"
    """What carries loss: the chosen answer alone, its reasoning and tool calls included, or each turn of the
    assistant in the conversation."""

    def own_identity(self) -> dict[str, Any]:
        """What carries loss; null, as in runs of old, where it is the answer alone."""
        return {"train_on": None if self.train_on == "last-assistant-turn" else self.train_on}


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    with as_of_beginning(arguments.out, resume=arguments.resume):
        return train(arguments)


def train(arguments: Arguments) -> int:
    """As `run`, with the dates that templates write settled."""
    config = arguments.training
    report = drop_ties(read_pairs(arguments), arguments.data, why="SFT trains on the preferred answer")
    with begin_run(arguments, config, command="sft") as directory:
        pairs = split_pairs(arguments, report, directory, seed=config.seed)
        turns = earlier_turns(arguments, pairs)
        policy = load_training_policy(arguments, directory, seed=config.seed)
        groups = [AnswerGroup(pair.prompt_ids, (pair.chosen_ids,)) for pair in pairs]
        settle_tokens(directory, groups)
        check_end_tokens(policy, pairs, groups)
        groups += check_turns(policy, turns)
        summary = train_sft(policy, groups, config, directory)
        hint = f"next:    logratio train dpo --data {arguments.data} --model {arguments.out} --out RUN"
        finish_run(policy, directory, summary, hints=[hint])
    return 0


def earlier_turns(arguments: Arguments, pairs: Sequence[EncodedPair]) -> list[EncodedTurn]:
    """The assistant's turns before the answers, where they are learned too; what is left out is said.

    Raises:
        UnusableRows: with --strict, a turn cannot be learned.
    """
    if arguments.train_on == "last-assistant-turn":
        return []
    from logratio.models.loading import load_tokenizer, read_limits

    source = resolve_model(arguments.model)
    tokenizer, limits = load_tokenizer(source), read_limits(source)
    found = [
        encode_earlier_turns(tokenizer, pair, max_length=arguments.max_length, limits=limits)
        for pair in pairs
    ]
    turns = [turn for own, _ in found for turn in own]
    left_out = [row for _, own in found for row in own]
    print(describe_turns(turns, left_out, len(pairs)), file=sys.stderr)
    if arguments.rows.strict:
        arguments.rows.ensure(left_out, len(turns) + len(left_out))
    return turns


def check_turns(policy: LanguagePolicy, turns: Sequence[EncodedTurn]) -> list[AnswerGroup]:
    """Turns as examples; every finished answer must end in one end token that carries loss."""
    from logratio.models.tokenisation import stop_token_ids

    groups = [AnswerGroup(turn.prompt_ids, (turn.answer_ids,)) for turn in turns]
    stop_ids = stop_token_ids(policy.tokenizer, policy.model.generation_config)
    check_end_token_carries_loss(groups, [(not turn.cut,) for turn in turns], stop_ids)
    return groups
