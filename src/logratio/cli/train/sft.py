"""Fine-tune a model on the preferred answers: the step before DPO on public comparisons.

    logratio train sft --data comparisons.jsonl --out runs/sft
    logratio train dpo --data comparisons.jsonl --model runs/sft --out runs/dpo

The loss is the negative log-likelihood of the chosen answer's tokens, its end token included; the prompt
carries none. With --train-on all-assistant-turns the assistant's turns in the prompt are learned too, each as
an example of its own behind the turns before it. Rows that cannot be used are counted by reason and left out,
and so are rows with "tie": true, which have no preferred answer; `logratio check` lists them.
"""

from __future__ import annotations

from logratio.cli.train.printing import print_run
from logratio.recipes.preference import PreferenceJob
from logratio.recipes.sft import SFTSettings as Arguments
from logratio.recipes.sft import run_sft

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Train, save the model, say where it is."""
    job = PreferenceJob.of_command("sft", arguments, arguments.training)
    result = run_sft(job, arguments.train_on)
    print_run(
        result, f"next:    logratio train dpo --data {arguments.data} --model {arguments.out} --out RUN"
    )
    return 0
