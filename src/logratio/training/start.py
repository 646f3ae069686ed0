"""What is settled before the first update."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence

import torch

from logratio.batches import AnswerGroup
from logratio.errors import LawBroken
from logratio.models.precision import Copies
from logratio.models.refusals import refuses_input
from logratio.models.rounding import TOKEN_NOISE
from logratio.policies.language import LanguagePolicy, answer_lengths
from logratio.training import laws


@torch.no_grad()
def settle_layout(policy: LanguagePolicy, groups: Sequence[AnswerGroup]) -> laws.LawHeld:
    """Compare packed log-probabilities with the model's own forward pass; compute apart where they differ.

    A model whose only path between tokens is masked attention gives the same numbers in both layouts. Others
    (recurrence, convolutions, a window shorter than the sequence, a head that is more than a matrix) do not;
    they are told apart by their numbers, not by a list of names.
    """
    probe = policy.probe(groups, lengths=[group.num_tokens for group in groups])
    # What is asked is whether two ways are one, which float32 tells best; the precision comes after.
    packed = copy.copy(policy)
    packed.copies = Copies("fp32")
    apart = copy.copy(packed)
    apart.layout = "apart"
    alone = apart.sequence_logprobs(apart.lay(probe))
    try:
        rows = packed.lay(probe)
        return laws.layouts_agree(packed.sequence_logprobs(rows), alone, answer_lengths(rows), step=0)
    except Exception as error:
        if not (isinstance(error, LawBroken) or refuses_input(error)):
            raise
        reason = error.what if isinstance(error, LawBroken) else f"{type(error).__name__}: {error}"
        print(
            f"this architecture cannot share a prompt between answers ({reason}); they are computed apart, "
            "which is slower and as exact",
            file=sys.stderr,
        )
        policy.layout = "apart"
        return laws.LawHeld(law="packed_equals_apart", value=0.0, limit=0.0, step=0)


@torch.no_grad()
def recompute_sampled(
    policy: LanguagePolicy, groups: Sequence[AnswerGroup], recorded: Sequence[Sequence[float]]
) -> laws.LawHeld:
    """Hold the log-probabilities recorded while sampling against those that training computes.

    Args:
        policy: the model the answers were sampled from, before any update.
        groups: prompts with one answer each, in sampled tokens.
        recorded: for each answer, the log-probability of each token at temperature 1.
    """
    recomputed = [policy.evaluate(row).tolist() for group in groups for row in policy.lay([group])]
    return laws.sampled_logprobs_are_recomputed(recorded, recomputed, noise=TOKEN_NOISE[policy.precision])
