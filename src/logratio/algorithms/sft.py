"""Supervised fine-tuning: maximum likelihood of the answers, given their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logratio.packed_rows import AnswerGroup, PackedRow
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from logratio.training import invariants
from logratio.training.config import TrainingConfig
from logratio.training.layout_check import select_layout
from logratio.training.loop import Session, memory_fault


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig(TrainingConfig):
    """Settings of supervised fine-tuning."""


def train_sft(
    policy: LanguagePolicy, groups: Sequence[AnswerGroup], config: SFTConfig, run: RunDirectory
) -> dict[str, Any]:
    """Move the policy towards the answers by minimising their negative log-likelihood.

    `L = −(1/N) Σ_answers Σ_t log π(y_t | x, y_<t)`, with N the answer tokens of the whole batch, so that a
    batch computed in parts has the gradient of the batch computed at once, and long answers weigh by
    their length. Prompt tokens carry no loss; the end token does.

    Args:
        policy: changed in place.
        groups: prompts with one answer each.
        config: settings.
        run: the run directory, which holds checkpoints to go on from where there are any.

    Returns:
        The run's summary.

    Raises:
        NonFiniteLoss, NonFiniteGradient: before the weights would have taken it.
        Interrupted: on a signal, after a checkpoint.
        OutOfMemory: with the next smaller setting.
    """
    policy.model.eval()
    layout_invariant = select_layout(policy, groups)
    longest = max(group.num_tokens for group in groups)
    with (
        policy.accumulate_in_place(),
        Session(policy.model, config, run, stage="sft", num_examples=len(groups), unit="examples") as session,
    ):
        session.record_invariant(layout_invariant)
        for step in session.steps():
            examples = session.batch(step)
            batch = [groups[index] for index in examples]
            num_tokens = sum(group.num_answer_tokens for group in batch)
            losses, micro_losses = torch.zeros(len(batch), dtype=torch.float64), []
            with memory_fault(step=step, config=config, longest=longest):
                for indices, rows in policy.micro_batches(batch, max_tokens=config.loop.row_tokens):
                    losses[indices], loss = backpropagate(policy, rows, num_tokens=num_tokens)
                    micro_losses.append(loss)
            invariants.check_loss_is_finite(losses, examples, step=step)
            # An example's part in the mean over tokens, as many times as there are examples.
            scaled_losses = losses * (len(batch) / num_tokens)
            session.record_invariant(
                invariants.check_accumulation_equals_batch(micro_losses, scaled_losses, step=step)
            )
            metrics = {"loss": float(losses.sum()) / num_tokens, "tokens": num_tokens}
            session.update(step, examples, metrics)
        return session.finish()


def backpropagate(
    policy: LanguagePolicy, rows: Sequence[PackedRow], *, num_tokens: int
) -> tuple[Tensor, float]:
    """Add the gradients of a micro-batch to those that stand; its graph ends in here.

    Args:
        policy: what is trained.
        rows: prompts with their answers.
        num_tokens: answer tokens of the whole batch.

    Returns:
        `[answers]` the negative log-likelihood of each answer, and their share of the batch's loss.
    """
    negative = -policy.sequence_logprobs(rows)
    loss = negative.sum() / num_tokens
    loss.backward()
    return negative.detach().cpu().double(), float(loss.detach())
