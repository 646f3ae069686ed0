"""What is settled before the first update."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from logratio.errors import InvariantViolated
from logratio.kernels.precision import ComputeWeights
from logratio.kernels.rounding_error import TOKEN_NOISE
from logratio.models.forward_errors import refuses_input
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy, answer_lengths
from logratio.progress import say
from logratio.training import invariants


@torch.no_grad()
def select_layout(policy: LanguagePolicy, groups: Sequence[AnswerGroup]) -> invariants.InvariantResult:
    """Compare packed log-probabilities with the model's own forward pass; compute apart where they differ.

    A model whose only path between tokens is masked attention gives the same numbers in both layouts. Others
    (recurrence, convolutions, a window shorter than the sequence, a head that is more than a matrix) do not;
    they are told apart by their numbers, not by a list of names.
    """
    probe = policy.probe(groups, lengths=[group.num_tokens for group in groups])
    # What is asked is whether two ways are one, which float32 tells best; the precision comes after.
    packed = copy.copy(policy)
    packed.compute_weights = ComputeWeights("fp32")
    unpacked = copy.copy(packed)
    unpacked.layout = "unpacked"
    unpacked_logprobs = unpacked.sequence_logprobs(unpacked.pack(probe))
    try:
        rows = packed.pack(probe)
        return invariants.check_packed_equals_unpacked(
            packed.sequence_logprobs(rows), unpacked_logprobs, answer_lengths(rows), step=0
        )
    except Exception as error:
        if not (isinstance(error, InvariantViolated) or refuses_input(error)):
            raise
        reason = error.what if isinstance(error, InvariantViolated) else f"{type(error).__name__}: {error}"
        say(
            f"this architecture cannot share a prompt between answers ({reason}); they are computed apart, "
            "which is slower and as exact"
        )
        policy.layout = "unpacked"
        return invariants.InvariantResult(invariant="packed_equals_unpacked", value=0.0, limit=0.0, step=0)


@torch.no_grad()
def recompute_sampled(
    policy: LanguagePolicy, groups: Sequence[AnswerGroup], recorded: Sequence[Sequence[float]]
) -> invariants.InvariantResult:
    """Hold the log-probabilities recorded while sampling against those that training computes.

    Args:
        policy: the model the answers were sampled from, before any update.
        groups: prompts with one answer each, in sampled tokens.
        recorded: for each answer, the log-probability of each token at temperature 1.
    """
    recomputed = [policy.evaluate(row).tolist() for group in groups for row in policy.pack([group])]
    return invariants.check_sampled_logprobs(recorded, recomputed, noise=TOKEN_NOISE[policy.precision])
