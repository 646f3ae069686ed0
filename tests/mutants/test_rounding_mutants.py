"""What would hide behind rounding, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

ROUNDING, INVARIANTS = "logratio.kernels.rounding_error", "logratio.training.invariants"
TESTS = "kernels/test_rounding_error.py::"
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=tuple(TESTS + check for check in checks))
    for name, symbol, old, new, checks in (
        (
            "the reference is computed in rows of its own",
            "logratio.training.reference:compute_logprobs",
            "for batch in [range(len(groups))] if batches is None else batches:",
            "for batch in [[index] for index in range(len(groups))]:",
            ("test_dpo_in_bf16_starts_at_a_log_ratio_of_exactly_0[512]",),
        ),
        (
            "what was collected is read in rows of its own",
            "logratio.policies.actor_critic:LanguageActor.compare",
            "for item_ids in [range(len(items))] if minibatches is None else minibatches:",
            "for item_ids in [[item] for item in range(len(items))]:",
            ("test_what_was_collected_is_what_an_update_reads",),
        ),
        (
            "log-probabilities are compared by products of another shape",
            "logratio.kernels.chunked_kl:compare_tokens",
            "narrow, padded_ids = pad_to_alignment(states, target_ids)",
            "narrow, padded_ids = states, target_ids",
            ("test_rows_that_are_packed_alike_are_equal_to_the_last_bit",),
        ),
        (
            "the limit of a sum grows with its length, not with the root of it",
            f"{ROUNDING}:sum_difference",
            "roots = lengths.to(wide).sqrt()",
            "roots = lengths.to(wide)",
            ("test_the_limits_grow_as_the_error_of_a_sum_does",),
        ),
        (
            "what rows that are packed alike may be off is what bfloat16 may",
            ROUNDING,
            "SAME_ROWS_NOISE = 2.0**-18",
            "SAME_ROWS_NOISE = 2.0**-4",
            ("test_a_wrong_reference_is_noticed_at_every_length[wrong_layer-bf16-8]",),
        ),
        (
            "a fault of all tokens hides below what one token may be off",
            f"{ROUNDING}:LogprobDifference.explained_by",
            "return self.largest <= largest_difference(noise) and self.root_mean_square <= limit",
            "return self.largest <= largest_difference(noise)",
            ("test_a_small_fault_of_all_tokens_shows_in_the_mean_square",),
        ),
        (
            "a NaN is explained by rounding",
            f"{INVARIANTS}:_largest_deviation",
            "worst = int(torch.where(found.isnan(), torch.inf,",
            "worst = int(torch.where(found.isnan(), 0.0,",
            ("test_a_nan_is_not_rounding",),
        ),
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
