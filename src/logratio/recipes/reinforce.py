"""The policy gradient of a language model from a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from logratio.algorithms import reinforce
from logratio.algorithms.reinforce import GROUP_BASELINES, ReinforceConfig
from logratio.data.given_rows import GivenRows, Row
from logratio.errors import BadConfig
from logratio.recipes.on_policy import (
    OnPolicyJob,
    OnPolicyOptions,
    OnPolicySettings,
    on_policy_settings,
    run_on_policy,
)
from logratio.recipes.policy import ModelName
from logratio.recipes.rewards import RewardSpec
from logratio.recipes.run import Run
from logratio.rollouts.collector_config import CollectorConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforceSettings(OnPolicySettings):
    """All that `train_reinforce` is told, as `logratio train reinforce` takes it."""

    training: Annotated[ReinforceConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=ReinforceConfig)
    """Training settings."""

    def __post_init__(self) -> None:
        ensure_group(self.training, self.collect)


def train_reinforce(
    policy: ModelName,
    prompts: Path | str | GivenRows | Sequence[Row],
    rewards: Sequence[RewardSpec | tuple[float, RewardSpec]],
    config: ReinforceConfig | None = None,
    *,
    out: Path | str,
    rollout: CollectorConfig | None = None,
    options: OnPolicyOptions | None = None,
    resume: bool = False,
) -> Run:
    """Make answers that earn more than the baseline more probable (REINFORCE, Williams 1992).

    `∇J = E[Σ_t ∇log π(y_t | x, y_<t) · (G_t − b)]`; with several answers to a
    prompt b is the mean of the others.

    Args:
        policy: changed in place, or the name of a model.
        prompts: a file, or rows as texts, `Prompt` or mappings with `prompt`; further columns go to rewards.
        rewards: what is added up: functions `f(prompts, completions, **columns)` that return a number per
            answer, names `module:function`, directories of reward models; `(0.5, reward)` weighs one.
        config: settings of the algorithm, its optimiser and its loop.
        out: the run directory.
        rollout: how answers are sampled, and the KL penalty in their reward.
        options: reference, critic, rewards that are only monitored, how the prompts are read.
        resume: go on with the run in `out` from its last checkpoint.

    Returns:
        The run, whose model is in `run.model_path`.

    Raises:
        BadReward: a reward is not found, raises, or does not return a finite number or None per answer.
        DataFault, RunExists: before a model is loaded.
        InvariantViolated: the sampler is not the policy, or a ratio is not 1 at first, among others.
        PolicyRunaway: KL, repetition or length left their limits; the best checkpoint is kept.
        NonFiniteLoss, NonFiniteGradient, OutOfMemory, Interrupted: nothing that was saved is lost.
    """
    values, opened, source, found = on_policy_settings(
        policy, prompts, rewards, out=out, rollout=rollout, options=options, resume=resume
    )
    settings = ReinforceSettings(**values, training=config or ReinforceConfig())
    return run_reinforce(OnPolicyJob("reinforce", settings, settings.training, opened, source, found))


def run_reinforce(job: OnPolicyJob[ReinforceConfig]) -> Run:
    """What `logratio train reinforce` does."""
    baseline = job.training.baseline
    return run_on_policy(
        job, reinforce.train_reinforce, critic=baseline == "critic", greedy=baseline == "greedy"
    )


def ensure_group(training: ReinforceConfig, collect: CollectorConfig) -> None:
    """Raise `BadConfig` where answers to one prompt are to be compared and there is one of each."""
    if training.baseline in GROUP_BASELINES and collect.num_samples < 2:
        raise BadConfig(
            f"the baseline {training.baseline!r} compares answers to one prompt; there is one each",
            where="--num-samples",
            action="give 2 or more, or take --baseline batch-mean",
        )
