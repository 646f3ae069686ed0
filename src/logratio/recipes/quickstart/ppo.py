"""The stages that `--with ppo` adds: a reward model, PPO against it, and best-of-n to measure both by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import count, takewhile
from typing import Any

import torch

from logratio.algorithms.ppo import train_ppo
from logratio.data.jsonl import read_prompts
from logratio.evaluation.best_of_n import best_of_n_curve, pick_best
from logratio.evaluation.method_comparison import describe_frontier, describe_methods
from logratio.evaluation.model_comparison import EvaluationResult
from logratio.evaluation.reward_calibration import RewardModelReport
from logratio.evaluation.upper_bound import BoundPoint, upper_bound
from logratio.evaluation.verdict import as_percent
from logratio.progress import Progress
from logratio.recipes import on_policy, preference, reward_model
from logratio.recipes.compute import ComputeConfig
from logratio.recipes.dataset import PreferenceDataConfig, PromptDataConfig
from logratio.recipes.on_policy import OnPolicyOptions
from logratio.recipes.policy import Policy
from logratio.recipes.ppo import PPOSettings
from logratio.recipes.preference import PreferenceJob
from logratio.recipes.quickstart.context import (
    BEST_OF_N,
    COMPARISONS,
    HELD_OUT,
    JUDGED,
    PPO,
    PROMPTS,
    REWARD,
    SFT,
    START,
    UPPER_BOUND,
    QuickstartContext,
)
from logratio.recipes.quickstart.stages import draw, keep, read_drawn
from logratio.recipes.rewards import Rewards
from logratio.records import Sample
from logratio.report.collect import read_object
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.reward_shaping import WeightedReward, penalise_truncated
from logratio.rollouts.rewards import Reward, load_reward
from logratio.run_directory import write_json

CANDIDATES_AT_A_TIME = 4
"""How many times --decode-batch-size candidates are decoded together: the model is alone in memory then, and
wide batches of answers to few prompts take two thirds of the time."""
JUDGED_AT_A_TIME = 8
"""Prompts whose answers are judged before progress is shown."""


# --- training ---------------------------------------------------------------------------------------


def train_scorer(context: QuickstartContext, key: str) -> str:
    """A reward model from the comparisons that DPO trains on; some prompts are kept to judge it by."""
    settings, config = context.settings, context.settings.reward_model
    context.release()
    job = PreferenceJob.of_command(
        REWARD,
        reward_model.RewardModelSettings(
            data=settings.out / COMPARISONS,
            out=settings.out / REWARD,
            model=context.sources[SFT],
            training=config,
            dataset=PreferenceDataConfig(held_out=settings.reward_held_out),
            compute=ComputeConfig(device=settings.device),
            resume=True,
        ),
        config,
    )
    labels = reward_model.read_labels(job)
    with preference.begin_run(job) as run:
        trained = reward_model.train_and_judge(job, labels, run)
        keep(trained.scorer, run)
    summary = trained.summary
    work = f"{summary['updates']} updates on {summary['examples']} prompts"
    return f"{work}, {describe_scorer(trained.held_out)}"


def describe_scorer(result: RewardModelReport | None) -> str:
    """What became of the reward model, in a few words."""
    if result is None:
        return "and no pair was kept out to judge it by"
    accuracy, longer = result.accuracy, result.longer_wins
    return (
        f"ranks {as_percent(accuracy.value)} of {accuracy.n} held-out pairs as labelled "
        f"({as_percent(accuracy.low)} to {as_percent(accuracy.high)}; by length alone "
        f"{as_percent(longer.value)})"
    )


def improve(context: QuickstartContext, key: str) -> str:
    """PPO against the reward model, from the fine-tuned model; the reward that labelled is only monitored.

    The KL divergence is that to the model that everything starts from, as in the evaluation.
    """
    settings = context.settings
    context.release()
    proxy = load_proxy(context)
    rewards = Rewards(
        learned=[WeightedReward(name=proxy.name, reward=proxy)],
        monitored=[WeightedReward(name=settings.reward, reward=context.reward)],
    )
    critic = context.sources[REWARD] if settings.critic == REWARD else settings.critic
    flags = PPOSettings(
        prompts=settings.out / PROMPTS,
        reward=(proxy.name,),
        out=settings.out / PPO,
        model=context.sources[SFT],
        compute=ComputeConfig(device=settings.device),
        collect=CollectorConfig(**asdict(settings.collect)),
        options=OnPolicyOptions(
            reference=context.sources[START],
            critic=critic,
            monitor=(settings.reward,),
            dataset=PromptDataConfig(held_out=0.0),
        ),
        training=settings.ppo,
        resume=True,
    )
    policy = Policy(flags.model, compute=flags.compute)
    job = on_policy.OnPolicyJob(PPO, flags, settings.ppo, policy, flags.prompts, rewards)
    rows = on_policy.Prompts(
        train=read_prompts(settings.out / PROMPTS).usable,
        held_out=read_prompts(settings.out / HELD_OUT).usable,
    )
    with on_policy.begin_run(job) as run:
        prepared = on_policy.prepare(job, rows, run, critic=True)
        summary = train_ppo(prepared.actor, prepared.collector, settings.ppo, run)
        keep(prepared.actor.policy, run)
        return f"{summary['updates']} updates, {describe_course(run.metrics, settings.reward)}"


def describe_course(metrics: Sequence[dict[str, Any]], monitored: str) -> str:
    """The rewards of the first and the last update, and how far the policy has gone."""
    first, last = metrics[0], metrics[-1]
    rewards = {"the reward model's reward": "reward", monitored: f"monitored/{monitored}"}
    changes = [f"{label} {first[name]:.3f} to {last[name]:.3f}" for label, name in rewards.items()]
    return f"{', '.join(changes)}, KL to the start {last['reference_kl']:.1f} nats per answer"


def load_proxy(context: QuickstartContext) -> Reward:
    """The reward model that the run has trained."""
    return load_reward(context.sources[REWARD], device=context.settings.device)


# --- best-of-n --------------------------------------------------------------------------------------


def draw_candidates(context: QuickstartContext, key: str) -> str:
    """Let the starting model answer each held-out prompt several times, and a few of them very often."""
    settings = context.settings
    rows = read_prompts(settings.out / HELD_OUT).usable
    # Answers of their own: those that the evaluation draws with the same seed are what these compete with.
    seed = settings.seed + 1
    drawing = partial(
        draw, key=key, seed=seed, decode_batch_size=CANDIDATES_AT_A_TIME * settings.decode_batch_size
    )
    drawing(context, BEST_OF_N, rows, num_samples=settings.best_of)
    few = rows[: settings.bound_prompts]
    if few:
        drawing(context, UPPER_BOUND, few, num_samples=settings.bound_samples)
    return (
        f"{settings.best_of} answers to each of {len(rows)} held-out prompts, "
        f"{settings.bound_samples} to each of {len(few)}"
    )


def judge_candidates(context: QuickstartContext, key: str) -> str:
    """Judge the candidates: by what pays PPO, which chooses, and by the reward that says what that is worth.

    Those that are there for the upper bound are judged by the reward alone: it bounds what that can be.
    """
    settings = context.settings
    context.release()
    samples = read_drawn(context, BEST_OF_N)
    proxy = shaped_rewards(judge_in_batches(load_proxy(context), samples), samples, settings.collect)
    judged = {"gold": context.reward.require_all(samples), "proxy": proxy}
    dense = read_drawn(context, UPPER_BOUND) if settings.bound_prompts else []
    write_json(settings.out / JUDGED, judged | {"dense": context.reward.require_all(dense)})
    n, seed = settings.best_of, settings.seed
    chosen, ideal = (
        best_of_n_curve(judged["gold"], judged[judge], sizes=[n], seed=seed)[0] for judge in ("proxy", "gold")
    )
    one = best_of_n_curve(judged["gold"], judged["proxy"], sizes=[1], seed=seed)[0]
    return (
        f"of {n} answers the one that the reward model likes best has reward {chosen.reward.value:.3f}, "
        f"the best {ideal.reward.value:.3f}, any {one.reward.value:.3f}"
    )


def judge_in_batches(reward: Reward, samples: Sequence[Sample]) -> list[list[float]]:
    """The rewards of all answers, some prompts at a time, so that one sees how far it is."""
    values: list[list[float]] = []
    with Progress("judging", len(samples), unit="prompts") as progress:
        for start in range(0, len(samples), JUDGED_AT_A_TIME):
            part = samples[start : start + JUDGED_AT_A_TIME]
            values += reward.require_all(part)
            progress.advance(len(part))
    return values


def shaped_rewards(
    scores: Sequence[Sequence[float]], samples: Sequence[Sample], config: CollectorConfig
) -> list[list[float]]:
    """The scores of all answers, those that were cut off charged for it as PPO is, prompt by prompt."""
    paid = []
    for own, sample in zip(scores, samples, strict=True):
        truncated = torch.tensor([answer.finish_reason == "length" for answer in sample.completions])
        earned = torch.tensor(own, dtype=torch.float64)
        worst = config.truncated_reward == "worst"
        charged = penalise_truncated(
            earned, truncated, worst=worst, truncation_penalty=config.truncation_penalty
        )
        paid.append(charged.tolist())
    return paid


# --- side by side -----------------------------------------------------------------------------------


def find_bound(context: QuickstartContext, evaluation: EvaluationResult) -> list[BoundPoint]:
    """The most reward that any policy can have at a KL, as far as the dense answers carry it."""
    dense = read_object(context.settings.out / JUDGED)["dense"]
    mean = evaluation.stages[0].reward.value
    return upper_bound(dense, reference_mean=mean, seed=context.settings.seed) if dense else []


def compare_methods(
    context: QuickstartContext, evaluation: EvaluationResult, bound: Sequence[BoundPoint]
) -> dict[str, Any]:
    """`methods` and `frontier` of report.json: DPO, PPO and best-of-n beside what is possible."""
    settings = context.settings
    judged = read_object(settings.out / JUDGED)
    sizes = sizes_to(settings.best_of)
    curve = best_of_n_curve(judged["gold"], judged["proxy"], sizes=sizes, seed=settings.seed)
    picked = pick_best(read_drawn(context, BEST_OF_N), judged["proxy"], n=settings.best_of)
    rewards = [values[0] for values in context.reward.require_all(picked)]
    prompts = len(judged["dense"])
    frontier = describe_frontier(
        curve, bound, prompts=prompts, samples_a_prompt=settings.bound_samples if prompts else 0
    )
    return {"methods": describe_methods(evaluation, curve[-1], rewards), "frontier": frontier}


def sizes_to(largest: int) -> list[int]:
    """1, 2, 4 and so on, and the largest."""
    return [*takewhile(lambda size: size < largest, (2**power for power in count())), largest]
