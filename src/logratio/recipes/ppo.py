"""Proximal policy optimisation of a language model from a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from logratio.algorithms import ppo
from logratio.algorithms.ppo import PPOConfig
from logratio.data.given_rows import GivenRows, Row
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
class PPOSettings(OnPolicySettings):
    """All that `train_ppo` is told, as `logratio train ppo` takes it."""

    training: Annotated[PPOConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=PPOConfig)
    """Training settings."""


def train_ppo(
    policy: ModelName,
    prompts: Path | str | GivenRows | Sequence[Row],
    rewards: Sequence[RewardSpec | tuple[float, RewardSpec]],
    config: PPOConfig | None = None,
    *,
    out: Path | str,
    rollout: CollectorConfig | None = None,
    options: OnPolicyOptions | None = None,
    resume: bool = False,
) -> Run:
    """Make answers that earn more than the critic expected more probable, in clipped steps (PPO).

    `L = −min(r·A, clip(r, 1 ± ε)·A) + β·KL[θ', θ] + c₁·½(V − R)² − c₂·H` (arXiv 1707.06347,
    equations 7 to 9).

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
    settings = PPOSettings(**values, training=config or PPOConfig())
    return run_ppo(OnPolicyJob("ppo", settings, settings.training, opened, source, found))


def run_ppo(job: OnPolicyJob[PPOConfig]) -> Run:
    """What `logratio train ppo` does."""
    return run_on_policy(job, ppo.train_ppo, critic=True)
