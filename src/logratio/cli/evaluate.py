r"""Compare a policy with a reference: the same prompts, the same seeds, a judge, and what it shows.

    logratio evaluate --policy runs/dpo --reference runs/sft --prompts held_out.jsonl \
        --reward my_rewards:helpful --out runs/dpo/evaluation

Both models answer every prompt once; the judge, a reward function given as module:function or the directory
of a reward model, gives each answer a number. What comes out: the win rate (ties half) with its interval, the
same at equal length, mean rewards, the exact KL divergence to the reference in nats per sequence, lengths,
how many answers end, how varied they are. The verdict is better, worse or not shown, and never more than the
interval allows.

report.json in --out holds every number, samples.jsonl every answer side by side; `logratio report` makes a
page of them. Models between the two are shown beside them: --also sft=runs/sft. Prompts that the policy was
trained on are refused; where the judge is a reward model that was trained on some of them, the report warns
of it. The same command gives the same numbers.
"""

from __future__ import annotations

from logratio.evaluation.summary import describe
from logratio.recipes.evaluate import run_evaluate
from logratio.recipes.evaluation_config import EvaluateSettings as Arguments
from logratio.run_directory import REPORT

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Evaluate, print the verdict, write the report."""
    print(describe(run_evaluate(arguments)))
    print(f"\nreport: {arguments.out / REPORT}\npage:   logratio report {arguments.out}")
    return 0
