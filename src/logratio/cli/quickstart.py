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

from logratio.recipes.quickstart.config import QuickstartConfig as Arguments
from logratio.recipes.quickstart.run import run_quickstart
from logratio.run_directory import REPORT

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Do every stage that is not done yet, then print the verdict and where the report is."""
    verdict = run_quickstart(arguments)
    print(f"\n{verdict}\n\nreport:  {arguments.out / 'report.html'}\nnumbers: {arguments.out / REPORT}")
    return 0
