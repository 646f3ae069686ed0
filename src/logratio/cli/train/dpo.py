r"""Direct preference optimisation: raise the log-ratio of chosen over rejected answers to the reference.

    logratio train dpo --data comparisons.jsonl --model runs/sft --out runs/dpo
    logratio evaluate --policy runs/dpo --reference runs/sft --prompts runs/dpo/held_out.jsonl \
        --reward my_rewards:helpful

The reference is the model that training starts from: its log-probabilities are computed once, before the
first update. The first loss is ln 2 = 0.6931, or the run stops and says why. Public comparisons whose answers
the model would not write itself need `logratio train sft` first. A row with "tie": true is half a label for
each side: its loss is the mean of the losses of both orders.
"""

from __future__ import annotations

from logratio.cli.train.printing import print_run
from logratio.recipes.dpo import DPOSettings as Arguments
from logratio.recipes.dpo import run_dpo
from logratio.recipes.preference import PreferenceJob

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    result = run_dpo(PreferenceJob.of_command("dpo", arguments, arguments.training))
    out = arguments.out
    print_run(
        result,
        f"report:  logratio report {out}",
        f"next:    logratio evaluate --policy {out} --reference {arguments.model} "
        f"--prompts {result.held_out} --reward MODULE:FUNCTION",
    )
    return 0
