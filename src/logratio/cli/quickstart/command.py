"""The whole way on a small model: answers, labels, fine-tuning, preference optimisation, a report.

    logratio quickstart

A model answers prompts, and a reward says which of two answers is better. The model is fine-tuned on the
better ones (SFT), then optimised on the pairs with the fine-tuned model as reference (DPO). At last it
answers prompts that were kept out of all this, against the model it started from, and a report says what
came of it.

    logratio quickstart --model my-model --prompts prompts.jsonl --reward my_rewards:helpful --out runs/mine

does the same with a model, prompts and a reward of your own. Give the same command again after a stop: what
is complete is reused. After a change of settings, only what depends on it is recomputed.

    logratio quickstart --with ppo

also learns by reward: a reward model is trained on the same comparisons, and PPO moves the fine-tuned model
towards what that likes. The report then has DPO, PPO and best-of-n (the answer that the reward model likes
best of several) on one picture of reward against KL divergence, with the most that any model can have there.
It goes on from a run without PPO.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from logratio import __version__
from logratio.cli.first_use import as_of_beginning, describe_beginning
from logratio.cli.quickstart.checks import check_arguments
from logratio.cli.quickstart.config import Arguments as Arguments
from logratio.cli.quickstart.context import QuickstartContext
from logratio.cli.quickstart.evaluation import write_report
from logratio.cli.quickstart.plan import plan
from logratio.cli.quickstart.stage_cache import run_stages
from logratio.cli.train.preference_options import resolve_model
from logratio.errors import Interrupted, PolicyRunaway
from logratio.rollouts.rewards import load_reward
from logratio.run_directory import REPORT, RunDirectory, describe_machine, write_json


def run(arguments: Arguments) -> int:
    """Do every stage that does not stand, then print the verdict and where the report is."""
    check_arguments(arguments)
    with as_of_beginning(arguments.out, resume=True):
        return run_to_report(settle(arguments))


def run_to_report(arguments: Arguments) -> int:
    """As `run`, with the dates that templates write settled."""
    context = QuickstartContext(
        arguments, source=resolve_model(arguments.model), reward=load_reward(arguments.reward)
    )
    config = describe_run(context)
    with RunDirectory.begin(arguments.out, config, resume=True) as directory:
        write_json(directory.config_path, config)
        try:
            ledger = run_stages(arguments.out, plan(context))
        except Interrupted as fault:
            fault.action = "give the same command again: it goes on from there"
            raise
        except PolicyRunaway as fault:
            fault.action = "give the same command again with a lower --ppo.learning-rate: the rest stands"
            raise
        verdict = write_report(context, ledger)
    print(f"\n{verdict}\n\nreport:  {arguments.out / 'report.html'}\nnumbers: {arguments.out / REPORT}")
    return 0


def settle(arguments: Arguments) -> Arguments:
    """The same with PPO's answers as long as all others."""
    collect = replace(
        arguments.collect, max_new_tokens=arguments.max_new_tokens, decode_batch=arguments.batch_size
    )
    return replace(arguments, collect=collect)


def describe_run(context: QuickstartContext) -> dict[str, Any]:
    """What `config.json` holds."""
    settings = asdict(context.settings)
    return {
        "command": "quickstart",
        "logratio": __version__,
        "model": context.source,
        "reward": context.reward.name,
        "machine": describe_machine(),
        **describe_beginning(device=context.settings.device, threads=context.settings.threads),
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
        },
        "identity": {"command": "quickstart"},
    }
