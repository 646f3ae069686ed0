"""Direct preference optimisation of a model on a file of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from logratio.algorithms import dpo
from logratio.algorithms.dpo import INDIFFERENT, DPOConfig, group_pairs
from logratio.data.given_rows import GivenRows, Row
from logratio.recipes import preference
from logratio.recipes.dataset import PreferenceDataConfig
from logratio.recipes.policy import ModelName
from logratio.recipes.preference import PreferenceJob, PreferenceSettings, preference_settings
from logratio.recipes.run import Run
from logratio.recipes.run_identity import as_of_beginning, settle_tokens
from logratio.training.export import save_trained


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOSettings(PreferenceSettings):
    """All that `train_dpo` is told, as `logratio train dpo` takes it."""

    training: Annotated[DPOConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=DPOConfig)
    """Training settings."""


def train_dpo(
    policy: ModelName,
    comparisons: Path | str | GivenRows | Sequence[Row],
    config: DPOConfig | None = None,
    *,
    out: Path | str,
    dataset: PreferenceDataConfig | None = None,
    resume: bool = False,
) -> Run:
    """Raise the log-ratio of chosen over rejected answers to the model as it is now (arXiv 2305.18290).

    `L = −log σ(β·(log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)))`, equation 7; `config.loss` has
    others. The reference π_ref is the policy as it comes in.

    Args:
        policy: changed in place, or the name of a model.
        comparisons: a file, or rows as `Comparison` or mappings with `prompt`, `chosen` and `rejected`.
        config: settings of the algorithm, its optimiser and its loop.
        out: the run directory.
        dataset: how the rows are read, and how many prompts are kept out of training.
        resume: go on with the run in `out` from its last checkpoint.

    Returns:
        The run, whose model is in `run.model_path`.

    Raises:
        DataFault: the comparisons cannot be trained on, with the rows.
        RunExists: `out` holds a run, and `resume` is false.
        InvariantViolated: the loss before the first update is not ln 2, among others.
        NonFiniteLoss, NonFiniteGradient, OutOfMemory, Interrupted: nothing that was saved is lost.
    """
    values, opened, source = preference_settings(policy, comparisons, out=out, dataset=dataset, resume=resume)
    settings = DPOSettings(**values, training=config or DPOConfig())
    return run_dpo(PreferenceJob("dpo", settings, settings.training, opened, source))


def run_dpo(job: PreferenceJob[DPOConfig]) -> Run:
    """What `logratio train dpo` does."""
    config = job.training
    with as_of_beginning(job.out, resume=job.settings.resume):
        report = preference.read_pairs(job)
        if config.loss in INDIFFERENT:
            why = f"the loss {config.loss!r} of a tie is constant"
            report = preference.drop_ties(report, job.data, why=why)
        with preference.begin_run(job) as run, job.policy.trained_by(job.out):
            pairs = preference.split_pairs(job, report, run)
            policy = preference.open_policy(job, run)
            groups, preferences = group_pairs(pairs)
            settle_tokens(run, groups)
            preference.check_end_tokens(policy, pairs, groups)
            dpo.train_dpo(policy, groups, config, run, preferences=preferences)
            save_trained(policy.model, policy.tokenizer, run)
    return Run(job.out)
