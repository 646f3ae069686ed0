"""Turn answers into comparisons, by a reward.

    logratio label --completions completions.jsonl --reward my_rewards:brevity --out comparisons.jsonl

reads the answers that `logratio sample` wrote, scores each with the function `brevity` of my_rewards.py in
this directory, and writes pairs of answers to the same prompt, the preferred one first. The function has
the signature of TRL's reward functions:

    def brevity(completions, **kwargs):
        return [-float(len(completion)) for completion in completions]

--reward takes a function, given as module:function, or the directory of a reward model, such as the --out of
`logratio train reward`. A function that comes with logratio is logratio.rollouts.sentiment:sentiment. And
implicit:POLICY,REFERENCE is what a trained policy has come to prefer: by how many nats an answer is more
probable under it than under the model that it was trained from.
"""

from __future__ import annotations

from logratio.recipes.label import LabelSettings as Arguments
from logratio.recipes.label import describe, run_label

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Label, write the comparisons and print what became of every pair."""
    labelled = run_label(arguments)
    print(describe(labelled.counts))
    print(f"judged by {labelled.reward} at temperature {arguments.temperature:g}; written to {arguments.out}")
    return 0
