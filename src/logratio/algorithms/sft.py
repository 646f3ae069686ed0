"""Supervised fine-tuning: maximum likelihood of the answers, given their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from logratio.batches import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.runs import RunDirectory
from logratio.training import laws
from logratio.training.session import Session, memory_fault
from logratio.training.settings import TrainingConfig
from logratio.training.start import settle_layout


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
    layout_law = settle_layout(policy, groups)
    longest = max(group.num_tokens for group in groups)
    with Session(
        policy.model, config, run, stage="sft", num_examples=len(groups), unit="examples"
    ) as session:
        session.held(layout_law)
        for step in session.steps():
            examples = session.batch(step)
            batch = [groups[index] for index in examples]
            num_tokens = sum(group.num_answer_tokens for group in batch)
            losses, shares = torch.zeros(len(batch), dtype=torch.float64), []
            with memory_fault(step=step, config=config, longest=longest):
                for part, rows in policy.rows(batch, max_tokens=config.row_tokens):
                    negative = -policy.sequence_logprobs(rows)
                    share = negative.sum() / num_tokens
                    share.backward()
                    losses[part] = negative.detach().cpu().double()
                    shares.append(float(share.detach()))
                    # Or their graph, with memory of its own, stands until the next one has been made.
                    del negative, share
            laws.loss_is_finite(losses, examples, step=step)
            # An example's part in the mean over tokens, as many times as there are examples.
            parts = losses * (len(batch) / num_tokens)
            session.held(laws.accumulation_equals_batch(shares, parts, step=step))
            metrics = {"loss": float(losses.sum()) / num_tokens, "tokens": num_tokens}
            session.update(step, examples, metrics)
        return session.finish()
