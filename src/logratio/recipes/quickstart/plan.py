"""The quickstart's stages: what each builds on, what it writes, and which settings that depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from logratio.recipes.quickstart import context as files
from logratio.recipes.quickstart import evaluation as last
from logratio.recipes.quickstart import ppo as ppo
from logratio.recipes.quickstart import stages as stages
from logratio.recipes.quickstart.context import QuickstartContext, identify
from logratio.recipes.quickstart.stage_cache import CachedStage

StageSpec = tuple[str, tuple[str, ...], Callable[[QuickstartContext, str], str], list[str], dict[str, Any]]
"""A stage: name, what it builds on, work, outputs, settings."""


def plan(context: QuickstartContext) -> list[CachedStage]:
    """The stages in order, each with what it builds on, what it writes and what that depends on."""
    out = context.settings.out
    return [
        CachedStage(
            name=name,
            after=after,
            outputs=tuple(out / output for output in outputs),
            settings=settings,
            work=partial(work, context),
            enabled=enabled,
        )
        for enabled, rows in (
            (True, first_rows(context)),
            (context.settings.with_ppo, ppo_rows(context)),
            (True, [last_row(context)]),
        )
        for name, after, work, outputs, settings in rows
    ]


def chosen(context: QuickstartContext, *names: str) -> dict[str, Any]:
    """Settings by name."""
    return {name: getattr(context.settings, name) for name in names}


def first_rows(context: QuickstartContext) -> list[StageSpec]:
    """The stages up to DPO."""
    settings = context.settings
    return [
        (
            "prompts",
            (),
            stages.choose_prompts,
            [files.PROMPTS, files.TRAINING_PROMPTS, files.HELD_OUT],
            {"prompts": identify(settings.prompts), "rows": asdict(settings.rows)}
            | chosen(context, "num_train", "num_held_out", "seed"),
        ),
        (
            "answers",
            ("prompts",),
            stages.draw_answers,
            [files.COMPLETIONS],
            {"model": identify(context.source)}
            | chosen(context, "num_samples", "max_new_tokens", "temperature", "seed"),
        ),
        (
            "labels",
            ("answers",),
            stages.label,
            [files.COMPARISONS],
            {"reward": context.reward_identity}
            | chosen(context, "pairs", "pairs_per_prompt", "finished_only", "label_temperature", "seed"),
        ),
        ("sft", ("labels",), stages.fine_tune, [files.SFT], settings.sft.identity()),
        ("dpo", ("sft",), stages.optimise, [files.DPO], settings.dpo.identity()),
    ]


def ppo_rows(context: QuickstartContext) -> list[StageSpec]:
    """The stages of --with ppo."""
    settings = context.settings
    # How many answers are decoded at a time changes none of them.
    collected = {
        name: value for name, value in asdict(settings.collect).items() if name != "decode_batch_size"
    }
    bound = [files.UPPER_BOUND] if settings.bound_prompts else []
    return [
        (
            "reward",
            ("sft",),
            ppo.train_scorer,
            [files.REWARD],
            settings.reward_model.identity() | chosen(context, "reward_held_out"),
        ),
        (
            "ppo",
            ("reward",),
            ppo.improve,
            [files.PPO],
            settings.ppo.identity() | collected | chosen(context, "critic"),
        ),
        (
            "candidates",
            ("prompts",),
            ppo.draw_candidates,
            [files.BEST_OF_N, *bound],
            {"model": identify(context.source)}
            | chosen(context, "best_of", "bound_prompts", "bound_samples", "max_new_tokens", "seed"),
        ),
        (
            "best-of-n",
            ("candidates", "reward"),
            ppo.judge_candidates,
            [files.JUDGED],
            {
                "reward": context.reward_identity,
                "truncated_reward": settings.collect.truncated_reward,
                "truncation_penalty": settings.collect.truncation_penalty,
            },
        ),
    ]


def last_row(context: QuickstartContext) -> StageSpec:
    """The comparison of all that was trained."""
    trained = ("dpo", "ppo", "best-of-n") if context.settings.with_ppo else ("dpo",)
    return "evaluation", trained, last.evaluate, [files.EVALUATION], chosen(context, "max_new_tokens", "seed")
