"""The quickstart from its first stage to its report."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from logratio.config_file import write_settings
from logratio.errors import Interrupted, PolicyRunaway
from logratio.recipes.policy import resolve_model
from logratio.recipes.quickstart.checks import check_arguments
from logratio.recipes.quickstart.config import QuickstartConfig
from logratio.recipes.quickstart.context import QuickstartContext
from logratio.recipes.quickstart.evaluation import write_report
from logratio.recipes.quickstart.plan import plan
from logratio.recipes.quickstart.stage_cache import run_stages
from logratio.recipes.run_identity import as_of_beginning, describe_beginning
from logratio.rollouts.rewards import load_reward
from logratio.run_directory import CONFIG_FILE, RunDirectory, describe_machine, write_json
from logratio.version import __version__


def run_quickstart(settings: QuickstartConfig) -> str:
    """Do every stage that is not done yet, and write the report.

    Returns:
        The verdict, a few lines.

    Raises:
        BadConfig: a setting cannot be.
        LogratioError: a stage fails; those before it are kept.
    """
    check_arguments(settings)
    with as_of_beginning(settings.out, resume=True):
        return run_to_report(settle(settings))


def run_to_report(settings: QuickstartConfig) -> str:
    """As `run_quickstart`, with the dates that templates write settled."""
    context = QuickstartContext(
        settings, source=resolve_model(settings.model), reward=load_reward(settings.reward)
    )
    config = describe_run(context)
    with RunDirectory.begin(settings.out, config, resume=True) as directory:
        write_json(directory.config_path, config)
        write_settings(directory.path / CONFIG_FILE, "quickstart", settings)
        try:
            ledger = run_stages(settings.out, plan(context))
        except Interrupted as fault:
            fault.action = "give the same command again: it goes on from there"
            raise
        except PolicyRunaway as fault:
            fault.action = "give the same command again with a lower --ppo.learning-rate: the rest stands"
            raise
        verdict = write_report(context, ledger)
    return verdict


def settle(settings: QuickstartConfig) -> QuickstartConfig:
    """The same with PPO's answers as long as all others."""
    collect = replace(
        settings.collect, max_new_tokens=settings.max_new_tokens, decode_batch_size=settings.decode_batch_size
    )
    return replace(settings, collect=collect)


def describe_run(context: QuickstartContext) -> dict[str, Any]:
    """What `config.json` holds."""
    values = asdict(context.settings)
    return {
        "command": "quickstart",
        "logratio": __version__,
        "model": context.source,
        "reward": context.reward.name,
        "machine": describe_machine(),
        **describe_beginning(device=context.settings.device, threads=context.settings.threads),
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        },
        "identity": {"command": "quickstart"},
    }
