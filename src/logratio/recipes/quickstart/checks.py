"""The quickstart's settings, checked before anything is read or loaded."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, fields
from typing import Any

from logratio.data.label_metadata import parse_margin
from logratio.errors import BadConfig
from logratio.evaluation.upper_bound import LEAST_SAMPLES
from logratio.generation.config import SamplingConfig
from logratio.models.loading import check_device
from logratio.recipes.quickstart.config import QuickstartConfig
from logratio.rollouts.pair_labelling import check_settings

OF_PPO = (
    *("reward_model", "reward_held_out", "ppo", "collect", "critic"),
    *("best_of", "bound_prompts", "bound_samples"),
)
"""The settings that only --with ppo reads."""


def check_arguments(arguments: QuickstartConfig) -> None:
    """Refuse settings out of range before anything is read or loaded.

    Raises:
        BadConfig: with the flag.
    """
    check_settings(arguments.pairs, arguments.label_temperature, arguments.pairs_per_prompt)
    SamplingConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        decode_batch_size=arguments.decode_batch_size,
    )
    check_device(arguments.device)
    check_least(arguments, {"num_train": 1, "num_held_out": 2, "num_samples": 2, "seed": 0})
    if arguments.with_ppo:
        check_ppo(arguments)
    else:
        check_unread(arguments)


def check_least(arguments: QuickstartConfig, least: dict[str, int]) -> None:
    """Raise `BadConfig` where a number is smaller than it may be."""
    for name, wanted in least.items():
        value = getattr(arguments, name)
        if value < wanted:
            raise BadConfig(f"{name} is {value}", where=flag(name), action=f"give {wanted} or more")


def check_ppo(arguments: QuickstartConfig) -> None:
    """Refuse settings of --with ppo that its stages would refuse, minutes later."""
    check_least(arguments, {"best_of": 2, "bound_prompts": 0})
    if arguments.bound_prompts:
        check_least(arguments, {"bound_prompts": 2, "bound_samples": math.ceil(LEAST_SAMPLES)})
    if arguments.bound_prompts > arguments.num_held_out:
        raise BadConfig(
            f"{arguments.bound_prompts} of {arguments.num_held_out} held-out prompts cannot be drawn",
            where=flag("bound_prompts"),
            action="give fewer, or a larger --num-held-out",
        )
    if not 0 <= arguments.reward_held_out < 1:
        raise BadConfig(
            f"reward_held_out is {arguments.reward_held_out}",
            where=flag("reward_held_out"),
            action="give a share of at least 0 and below 1",
        )
    margin = parse_margin(arguments.reward_model.margin)
    if margin is None or margin < 0:
        raise BadConfig(
            f"the margin is {arguments.reward_model.margin!r}",
            where="--reward-model.margin",
            action="give a number of 0 or more: these labels have no column that says how sure they are",
        )
    check_horizon(arguments)


def check_horizon(arguments: QuickstartConfig) -> None:
    """Refuse a horizon so short that an update could turn the KL coefficient negative."""
    horizon, target = arguments.collect.kl_horizon, arguments.collect.target_kl
    num_answers = min(arguments.ppo.loop.batch_size, arguments.num_train) * arguments.collect.num_samples
    if horizon is not None and target is not None and num_answers >= 5 * horizon:
        raise BadConfig(
            f"an update has {num_answers} answers and kl_horizon is {horizon:g}",
            where="--collect.kl-horizon",
            action=f"give more than {num_answers / 5:g}, or leave it out",
        )


def check_unread(arguments: QuickstartConfig) -> None:
    """Refuse a setting of PPO where PPO is not asked for: it would be dropped without a word."""
    for setting in fields(arguments):
        if setting.name in OF_PPO and getattr(arguments, setting.name) != default_of(setting):
            raise BadConfig(
                f"{setting.name} was changed, and nothing reads it",
                where=flag(setting.name),
                action="give --with ppo as well",
            )


def default_of(setting: Field[Any]) -> Any:
    """What a setting is where it is not given."""
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")
