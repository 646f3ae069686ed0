"""A reward model from a file of comparisons, judged on the prompts kept out of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.algorithms.reward import RewardConfig, group_pairs, train_reward
from logratio.data.encoding import EncodedPair
from logratio.data.given_rows import GivenRows, Row
from logratio.data.label_metadata import REWARDS, Grade, read_grades
from logratio.data.preference_formats import COLUMNS, read_comparisons
from logratio.data.unusable_rows import refuse_rows
from logratio.data.validation import CheckReport, check_comparisons
from logratio.evaluation.reward_calibration import (
    JudgedPair,
    RewardModelReport,
    Share,
    evaluate_reward_model,
    label_agreement,
)
from logratio.models.tokenisation import stop_token_ids
from logratio.packed_rows import AnswerGroup
from logratio.policies.reward_scorer import RewardModel, drop_foreign_tokens, group_answers
from logratio.progress import say
from logratio.recipes import preference
from logratio.recipes.dataset import PreferenceDataConfig
from logratio.recipes.policy import ModelName
from logratio.recipes.preference import PreferenceJob, PreferenceSettings, preference_settings
from logratio.recipes.run import HELD_OUT, Run
from logratio.recipes.run_identity import as_of_beginning, settle_tokens
from logratio.run_directory import RunDirectory, write_json, write_json_lines
from logratio.training.end_tokens import check_end_token_carries_loss
from logratio.training.export import save_trained

REWARD_MODEL = "reward_model.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSettings(PreferenceSettings):
    """All that `train_reward_model` is told, as `logratio train reward` takes it."""

    training: Annotated[RewardConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=RewardConfig)
    """Training settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The comparisons of a file with what their rows say beside the preference."""

    report: CheckReport
    """What became of every row, ties among them."""
    grades: Mapping[str, Grade]
    """By a row's place."""
    agreement: Share | None
    """How often two labels of one pair agree, over all rows that were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRewardModel:
    """A reward model with what it is worth on prompts that it was not trained on."""

    scorer: RewardModel
    """The model."""
    summary: dict[str, Any]
    """The run's summary."""
    held_out: RewardModelReport | None
    """How it ranks held-out pairs; `None` where none was kept out."""


def train_reward_model(
    model: ModelName,
    comparisons: Path | str | GivenRows | Sequence[Row],
    config: RewardConfig | None = None,
    *,
    out: Path | str,
    dataset: PreferenceDataConfig | None = None,
    resume: bool = False,
) -> Run:
    """Learn a score r for every answer, of which preferences are `σ(r_chosen − r_rejected)` (Bradley, Terry).

    `L = −log σ(r(x, y_w) − r(x, y_l) − m)`, m the margin (arXiv 1706.03741; 2307.09288, equation 2). A row
    with `tie` is half a label for each side. How the model ranks held-out pairs is in `reward_model.json`.

    Args:
        model: what training starts from: a language model, which gets a score head, or a reward model.
        comparisons: a file, or rows as `Comparison` or mappings with `prompt`, `chosen` and `rejected`.
        config: settings of the algorithm, its optimiser and its loop.
        out: the run directory.
        dataset: how the rows are read, and how many prompts are kept out of training.
        resume: go on with the run in `out` from its last checkpoint.

    Returns:
        The run; `load_reward(run.path)` is the model as a reward.

    Raises:
        DataFault: the comparisons cannot be trained on, with the rows.
        RunExists: `out` holds a run, and `resume` is false.
        InvariantViolated, NonFiniteLoss, NonFiniteGradient, OutOfMemory, Interrupted: nothing that was saved
            is lost.
    """
    values, opened, source = preference_settings(model, comparisons, out=out, dataset=dataset, resume=resume)
    settings = RewardModelSettings(**values, training=config or RewardConfig())
    run, _ = run_reward_model(PreferenceJob("reward", settings, settings.training, opened, source))
    return run


def run_reward_model(job: PreferenceJob[RewardConfig]) -> tuple[Run, RewardModelReport | None]:
    """What `logratio train reward` does: the run, and what the model is worth on held-out prompts."""
    with as_of_beginning(job.out, resume=job.settings.resume):
        labels = read_labels(job)
        with preference.begin_run(job) as run:
            trained = train_and_judge(job, labels, run)
            save_trained(trained.scorer.model, trained.scorer.tokenizer, run)
    return Run(job.out), trained.held_out


def train_and_judge(
    job: PreferenceJob[RewardConfig], labels: Labels, run: RunDirectory
) -> TrainedRewardModel:
    """Train on most prompts and judge on the others; the model is not saved."""
    config = job.training
    train = preference.split_pairs(job, labels.report, run)
    trained = {pair.comparison.source for pair in train}
    held_out = [pair for pair in labels.report.usable if pair.comparison.source not in trained]
    write_held_out(run, held_out, labels.grades, margin=config.margin)
    scorer = open_scorer(job, run)
    check_ends(scorer, train)
    groups = group_pairs(train, labels.grades)
    settle_tokens(run, [group.answers for group in groups])
    summary = train_reward(scorer, groups, config, run)
    pairs = judge_pairs(scorer, held_out, labels.grades, max_tokens=config.loop.row_tokens)
    result = evaluate_reward_model(pairs, agreement=labels.agreement)
    if result is not None:
        write_json(run.path / REWARD_MODEL, result.to_json())
    return TrainedRewardModel(scorer=scorer, summary=summary, held_out=result)


def read_labels(job: PreferenceJob[RewardConfig]) -> Labels:
    """Read, check and tokenise the comparisons.

    Raises:
        DataFault: the file cannot be trained on, with the reasons.
    """
    dataset, margin = job.settings.dataset, job.training.margin
    grades, ungraded = read_grades(job.data, margin=margin, limit=dataset.limit)
    form = dataset.prompt_format.prompt_format
    read = read_comparisons(job.data, limit=dataset.limit, prompt_format=form)
    result = read.without(ungraded)
    if ungraded and not result.comparisons:
        raise refuse_rows(ungraded, result.num_rows)
    tokenizer = job.policy.tokenizer
    dataset.prompt_format.ensure_possible(tokenizer)
    readable = [
        replace(
            comparison,
            chosen=drop_foreign_tokens(tokenizer, comparison.chosen),
            rejected=drop_foreign_tokens(tokenizer, comparison.rejected),
        )
        for comparison in result.comparisons
    ]
    report = check_comparisons(
        replace(result, comparisons=readable),
        tokenizer,
        max_length=dataset.max_length,
        max_unusable_share=dataset.rows.max_unusable_share,
        limits=job.policy.limits,
        used=(*COLUMNS, *REWARDS, margin),
    )
    preference.settle_report(report, job)
    votes = [comparison for comparison in readable if not comparison.tie]
    return Labels(report=report, grades=grades, agreement=label_agreement(votes))


def write_held_out(
    run: RunDirectory, pairs: Sequence[EncodedPair], grades: Mapping[str, Grade], *, margin: str
) -> None:
    """Write the rows kept out of training once more, with the columns that only a reward model reads."""
    rows = (pair.comparison.to_json() | grades[pair.comparison.source].to_json(margin) for pair in pairs)
    write_json_lines(run.path / HELD_OUT, rows)


def open_scorer(job: PreferenceJob[RewardConfig], run: RunDirectory) -> RewardModel:
    """Load what training starts from and make its hash part of the run's identity."""
    from logratio.models.reward_model import load_for_training

    policy, seed = job.policy, job.training.loop.seed
    policy.compute.set_threads()
    loaded = load_for_training(policy.source, seed=seed, device=policy.compute.device)
    for note in loaded.notes:
        say(note)
    run.add_identity(model_fingerprint=loaded.fingerprint)
    policy.lora.attach(loaded.model, source=policy.source, seed=seed)
    # The head is new: it is trained whole.
    loaded.model.score.requires_grad_(True)
    scorer = RewardModel(loaded.model, loaded.tokenizer)
    policy.compute.apply(scorer)
    return scorer


def check_ends(scorer: RewardModel, pairs: Sequence[EncodedPair]) -> None:
    """Hold the data to the invariant that every finished answer ends in one end token, where it is scored."""
    groups = [AnswerGroup(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in pairs]
    stop_ids = stop_token_ids(scorer.tokenizer, scorer.model.generation_config)
    check_end_token_carries_loss(groups, [preference.finished_answers(pair) for pair in pairs], stop_ids)


def judge_pairs(
    scorer: RewardModel, pairs: Sequence[EncodedPair], grades: Mapping[str, Grade], *, max_tokens: int
) -> list[JudgedPair]:
    """The comparisons with their scores."""
    sequences = [
        (pair.prompt_ids, answer) for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)
    ]
    groups, places = group_answers(sequences)
    scores = scorer.score_groups(groups, max_tokens=max_tokens)
    values = [scores[group][answer] for group, answer in places]
    return [
        JudgedPair(
            prompt=pair.comparison.prompt.key,
            chosen=chosen,
            rejected=rejected,
            chosen_length=len(pair.chosen_ids),
            rejected_length=len(pair.rejected_ids),
            tie=grades[pair.comparison.source].tie,
            rewards=grades[pair.comparison.source].rewards,
        )
        for pair, chosen, rejected in zip(pairs, values[::2], values[1::2], strict=True)
    ]
