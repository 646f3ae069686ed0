"""What the training commands print at their end."""

from __future__ import annotations

from typing import Any

from logratio.recipes.on_policy import OnPolicyJob
from logratio.recipes.run import Run


def print_run(run: Run, *hints: str) -> None:
    """How long training took, where the model is, and what to do next."""
    summary = run.summary
    work = f"{summary['updates']} updates on {summary['examples']} examples"
    print(
        f"{summary['stage']}: {work} in {summary['seconds']:.0f} s, "
        f"peak memory {summary['peak_memory_bytes'] / 1e9:.1f} GB"
    )
    print(f"model:   {run.model_path}")
    if run.adapter_path.exists():
        print(f"adapter: {run.adapter_path}")
    for hint in hints:
        print(hint)


def print_on_policy_run(run: Run, job: OnPolicyJob[Any]) -> None:
    """The same of training from a reward."""
    print_run(
        run,
        f"report:  logratio report {job.out}",
        f"next:    logratio evaluate --policy {job.out} --reference {job.reference} "
        f"--prompts {run.held_out} --reward {job.rewards.learned[0].name}",
    )
