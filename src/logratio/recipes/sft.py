"""Supervised fine-tuning of a model on the preferred answers of a file of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.algorithms import sft
from logratio.algorithms.sft import SFTConfig
from logratio.data.encoding import EncodedPair
from logratio.data.given_rows import GivenRows, Row
from logratio.data.turns import EncodedTurn, TrainOn, describe_turns, encode_earlier_turns
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.progress import say
from logratio.recipes import preference
from logratio.recipes.dataset import PreferenceDataConfig
from logratio.recipes.policy import ModelName
from logratio.recipes.preference import PreferenceJob, PreferenceSettings, preference_settings
from logratio.recipes.run import Run
from logratio.recipes.run_identity import as_of_beginning, settle_tokens
from logratio.training.end_tokens import check_end_token_carries_loss
from logratio.training.export import save_trained


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTSettings(PreferenceSettings):
    """All that `train_sft` is told, as `logratio train sft` takes it."""

    training: Annotated[SFTConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=SFTConfig)
    """Training settings."""
    train_on: TrainOn = "last-assistant-turn"
    """What carries loss: the chosen answer alone, its reasoning and tool calls included, or each turn of the
    assistant in the conversation."""

    def own_identity(self) -> dict[str, Any]:
        """What carries loss; null, as in runs of old, where it is the answer alone."""
        return {"train_on": None if self.train_on == "last-assistant-turn" else self.train_on}


def train_sft(
    policy: ModelName,
    comparisons: Path | str | GivenRows | Sequence[Row],
    config: SFTConfig | None = None,
    *,
    out: Path | str,
    train_on: TrainOn = "last-assistant-turn",
    dataset: PreferenceDataConfig | None = None,
    resume: bool = False,
) -> Run:
    """Minimise the negative log-likelihood of the chosen answers: the step before DPO on public comparisons.

    `L = −(1/N) Σ_answers Σ_t log π(y_t | x, y_<t)`, N the answer tokens of a batch. Prompts carry no loss.

    Args:
        policy: changed in place, or the name of a model.
        comparisons: a file, or rows as `Comparison` or mappings with `prompt`, `chosen` and `rejected`.
        config: settings of the optimiser and the loop.
        out: the run directory.
        train_on: `last-assistant-turn`, or `all-assistant-turns` for those within the prompt too.
        dataset: how the rows are read, and how many prompts are kept out of training.
        resume: go on with the run in `out` from its last checkpoint.

    Returns:
        The run, whose model is in `run.model_path`.

    Raises:
        DataFault: the comparisons cannot be trained on, with the rows.
        RunExists: `out` holds a run, and `resume` is false.
        InvariantViolated, NonFiniteLoss, NonFiniteGradient, OutOfMemory, Interrupted: nothing that was saved
            is lost.
    """
    values, opened, source = preference_settings(policy, comparisons, out=out, dataset=dataset, resume=resume)
    settings = SFTSettings(**values, training=config or SFTConfig(), train_on=train_on)
    return run_sft(PreferenceJob("sft", settings, settings.training, opened, source), train_on)


def run_sft(job: PreferenceJob[SFTConfig], train_on: TrainOn) -> Run:
    """What `logratio train sft` does."""
    with as_of_beginning(job.out, resume=job.settings.resume):
        report = preference.read_pairs(job)
        report = preference.drop_ties(report, job.data, why="SFT trains on the preferred answer")
        with preference.begin_run(job) as run, job.policy.trained_by(job.out):
            pairs = preference.split_pairs(job, report, run)
            turns = [] if train_on == "last-assistant-turn" else earlier_turns(job, pairs)
            policy = preference.open_policy(job, run)
            groups = [AnswerGroup(pair.prompt_ids, (pair.chosen_ids,)) for pair in pairs]
            settle_tokens(run, groups)
            preference.check_end_tokens(policy, pairs, groups)
            sft.train_sft(policy, groups + check_turns(policy, turns), job.training, run)
            save_trained(policy.model, policy.tokenizer, run)
    return Run(job.out)


def earlier_turns(job: PreferenceJob[SFTConfig], pairs: Sequence[EncodedPair]) -> list[EncodedTurn]:
    """The assistant's turns before the answers; what of them is left out is said.

    Raises:
        UnusableRows: with --strict, a turn cannot be learned.
    """
    dataset, tokenizer, limits = job.settings.dataset, job.policy.tokenizer, job.policy.limits
    encoded = [
        encode_earlier_turns(tokenizer, pair, max_length=dataset.max_length, limits=limits) for pair in pairs
    ]
    turns = [turn for usable, _ in encoded for turn in usable]
    left_out = [row for _, unusable in encoded for row in unusable]
    say(describe_turns(turns, left_out, len(pairs)))
    if dataset.rows.strict:
        dataset.rows.ensure(left_out, len(turns) + len(left_out))
    return turns


def check_turns(policy: LanguagePolicy, turns: Sequence[EncodedTurn]) -> list[AnswerGroup]:
    """Turns as examples; every finished answer must end in one end token that carries loss."""
    from logratio.models.tokenisation import stop_token_ids

    groups = [AnswerGroup(turn.prompt_ids, (turn.answer_ids,)) for turn in turns]
    stop_ids = stop_token_ids(policy.tokenizer, policy.model.generation_config)
    check_end_token_carries_loss(groups, [(not turn.cut,) for turn in turns], stop_ids)
    return groups
