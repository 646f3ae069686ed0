"""The quickstart's stages: what each builds on, what it writes, and which settings that depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from logratio.cli import quickstart_bench as files
from logratio.cli import quickstart_evaluation as last
from logratio.cli import quickstart_ppo as ppo
from logratio.cli import quickstart_stages as stages
from logratio.cli.ledger import Stage
from logratio.cli.quickstart_bench import Bench, identify

Row = tuple[str, tuple[str, ...], Callable[[Bench, str], str], list[str], dict[str, Any]]
"""A stage: name, what it builds on, work, outputs, settings."""


def plan(bench: Bench) -> list[Stage]:
    """The stages in order, each with what it builds on, what it writes and what that depends on."""
    out = bench.settings.out
    return [
        Stage(
            name=name,
            after=after,
            outputs=tuple(out / output for output in outputs),
            settings=settings,
            work=partial(work, bench),
            wanted=wanted,
        )
        for wanted, rows in (
            (True, first_rows(bench)),
            (bench.settings.with_ppo, ppo_rows(bench)),
            (True, [last_row(bench)]),
        )
        for name, after, work, outputs, settings in rows
    ]


def chosen(bench: Bench, *names: str) -> dict[str, Any]:
    """Settings by name."""
    return {name: getattr(bench.settings, name) for name in names}


def first_rows(bench: Bench) -> list[Row]:
    """The stages up to DPO."""
    settings = bench.settings
    return [
        (
            "prompts",
            (),
            stages.choose_prompts,
            [files.PROMPTS, files.TRAINING_PROMPTS, files.HELD_OUT],
            {"prompts": identify(settings.prompts), "rows": asdict(settings.rows)}
            | chosen(bench, "num_train", "num_held_out", "seed"),
        ),
        (
            "answers",
            ("prompts",),
            stages.draw_answers,
            [files.COMPLETIONS],
            {"model": identify(bench.source)}
            | chosen(bench, "num_samples", "max_new_tokens", "temperature", "seed"),
        ),
        (
            "labels",
            ("answers",),
            stages.label,
            [files.COMPARISONS],
            {"reward": bench.reward_identity}
            | chosen(bench, "pairs", "pairs_per_prompt", "finished_only", "label_temperature", "seed"),
        ),
        ("sft", ("labels",), stages.fine_tune, [files.SFT], settings.sft.identity()),
        ("dpo", ("sft",), stages.optimise, [files.DPO], settings.dpo.identity()),
    ]


def ppo_rows(bench: Bench) -> list[Row]:
    """The stages of --with ppo."""
    settings = bench.settings
    # How many answers are decoded at a time changes none of them.
    collected = {name: value for name, value in asdict(settings.collect).items() if name != "decode_batch"}
    bound = [files.UPPER_BOUND] if settings.bound_prompts else []
    return [
        (
            "reward",
            ("sft",),
            ppo.train_scorer,
            [files.REWARD],
            settings.reward_model.identity() | chosen(bench, "reward_held_out"),
        ),
        (
            "ppo",
            ("reward",),
            ppo.improve,
            [files.PPO],
            settings.ppo.identity() | collected | chosen(bench, "critic"),
        ),
        (
            "candidates",
            ("prompts",),
            ppo.draw_candidates,
            [files.BEST_OF_N, *bound],
            {"model": identify(bench.source)}
            | chosen(bench, "best_of", "bound_prompts", "bound_samples", "max_new_tokens", "seed"),
        ),
        (
            "best-of-n",
            ("candidates", "reward"),
            ppo.judge_candidates,
            [files.JUDGED],
            {
                "reward": bench.reward_identity,
                "cut_off_reward": settings.collect.cut_off_reward,
                "missing_end_penalty": settings.collect.missing_end_penalty,
            },
        ),
    ]


def last_row(bench: Bench) -> Row:
    """The comparison of all that was trained."""
    trained = ("dpo", "ppo", "best-of-n") if bench.settings.with_ppo else ("dpo",)
    return "evaluation", trained, last.evaluate, [files.EVALUATION], chosen(bench, "max_new_tokens", "seed")
