r"""Train a reward model: a score for every answer, from comparisons of answers.

    logratio train reward --data comparisons.jsonl --out runs/rm
    logratio label --completions completions.jsonl --reward runs/rm --out labelled.jsonl

The loss is Bradley and Terry's: the chance that one answer is preferred is the sigmoid of the difference of
the scores. A row with "tie": true is half a label for each side. A prompt with several pairs is one example,
and all its pairs are in one batch. At the end the model is judged on the prompts kept out of training: how
often it ranks a pair as labelled, whether its probabilities can be believed, and what "the longer answer
wins" would get.
"""

from __future__ import annotations

from logratio.cli.train.printing import print_run
from logratio.evaluation.reward_summary import describe
from logratio.recipes.preference import PreferenceJob
from logratio.recipes.reward_model import RewardModelSettings as Arguments
from logratio.recipes.reward_model import run_reward_model

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Train, save the model, judge it, say where it is."""
    result, held_out = run_reward_model(PreferenceJob.of_command("reward", arguments, arguments.training))
    print_run(
        result,
        f"report:  logratio report {arguments.out}",
        f"next:    logratio label --completions completions.jsonl --reward {arguments.out} --out FILE",
    )
    print("\n" + describe(held_out))
    return 0
