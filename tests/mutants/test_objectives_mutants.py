"""The pitfalls of the other objectives, each built in on purpose: the suite must notice every one."""

import pytest

from mutants.harness import Mutant, survivors, unsound

KL, IMPORTANCE = "logratio.objectives.kl", "logratio.objectives.importance"
MASKED, BRADLEY_TERRY = "logratio.objectives.masked", "logratio.objectives.bradley_terry"


def of(module: str, test: str) -> str:
    return f"objectives/test_{module}.py::{test}"


# What is wrong | symbol | text | what stands there instead | tests that must fail
PITFALLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "k1 has the wrong sign",
        f"{KL}:k1",
        "    return log_ratio\n",
        "    return -log_ratio\n",
        (of("kl", "test_two_gaussians_by_quadrature"), of("kl", "test_estimates_on_the_enumerated_model")),
    ),
    (
        "k2 is not halved",
        f"{KL}:k2",
        "log_ratio.square() / 2",
        "log_ratio.square()",
        (
            of("kl", "test_two_gaussians_by_quadrature"),
            of("kl", "test_what_the_gradients_of_the_estimates_are"),
        ),
    ),
    (
        "k3 has the ratio upside down",
        f"{KL}:k3",
        "return torch.expm1(-log_ratio) + log_ratio",
        "return torch.expm1(log_ratio) - log_ratio",
        (
            of("kl", "test_estimates_hand_worked"),
            of("kl", "test_two_gaussians_by_quadrature"),
            of("kl", "test_estimates_on_the_enumerated_model"),
        ),
    ),
    (
        "k3 loses its digits",
        f"{KL}:k3",
        "return torch.expm1(-log_ratio) + log_ratio",
        "return torch.exp(-log_ratio) - 1 + log_ratio",
        (of("kl", "test_k3_keeps_its_digits_where_the_policies_are_close"),),
    ),
    (
        "k3 is clamped",
        f"{KL}:k3",
        "return torch.expm1(-log_ratio) + log_ratio",
        "return (torch.expm1(-log_ratio) + log_ratio).clamp(max=10)",
        (of("kl", "test_estimates_at_the_ends"),),
    ),
    (
        "the KL is of q to p",
        f"{KL}:exact_kl",
        "log_p = torch.log_softmax(logits_p, dim=-1, dtype=dtype)\n    log_q = torch.log_softmax(logits_q,",
        "log_p = torch.log_softmax(logits_q, dim=-1, dtype=dtype)\n    log_q = torch.log_softmax(logits_p,",
        (
            of("kl", "test_exact_kl_hand_worked"),
            of("kl", "test_estimates_on_the_enumerated_model"),
            of("kl", "test_what_q_rules_out_and_p_does_not_is_infinitely_far"),
        ),
    ),
    (
        "the KL is the plain sum, which rounds below 0",
        f"{KL}:exact_kl",
        "terms = torch.where(far, q - p * (1 - log_ratio), p * k3(log_ratio.clamp(min=-1)))",
        "terms = p * log_ratio",
        (of("kl", "test_exact_kl_is_never_negative_and_small_ones_are_right"),),
    ),
    (
        "the KL overflows where p vanishes",
        f"{KL}:exact_kl",
        "terms = torch.where(far, q - p * (1 - log_ratio), p * k3(log_ratio.clamp(min=-1)))",
        "terms = p * k3(log_ratio)",
        (of("kl", "test_far_apart_logits_give_finite_values_and_gradients"),),
    ),
    (
        "the KL skips what q rules out",
        f"{KL}:exact_kl",
        ".masked_fill(impossible, torch.inf)",
        "",
        (of("kl", "test_what_q_rules_out_and_p_does_not_is_infinitely_far"),),
    ),
    (
        "token ratios pass for per-decision weights",
        f"{IMPORTANCE}:log_weights",
        "log_ratio.cumsum(dim=1)",
        "log_ratio",
        (
            of("importance", "test_per_decision_weights_are_unbiased_and_token_weights_are_not"),
            of("importance", "test_log_weights_hand_worked"),
        ),
    ),
    (
        "padding counts in a sequence's weight",
        f"{IMPORTANCE}:log_weights",
        "log_ratio = torch.where(mask, logprobs - behaviour_logprobs, zero)",
        "log_ratio = logprobs - behaviour_logprobs",
        (of("importance", "test_log_weights_hand_worked"),),
    ),
    (
        "importance weights are upside down",
        f"{IMPORTANCE}:log_weights",
        "logprobs - behaviour_logprobs, zero",
        "behaviour_logprobs - logprobs, zero",
        (of("importance", "test_the_sequence_weight_is_the_ratio_of_probabilities"),),
    ),
    (
        "the ordinary estimate is normalised",
        f"{IMPORTANCE}:ordinary_estimate",
        "return (log_weights.exp() * values).sum() / len(values)",
        "return (log_weights.exp() * values).sum() / log_weights.exp().sum()",
        (of("importance", "test_the_ordinary_estimate_is_unbiased"),),
    ),
    (
        "the ceiling is taken for a logarithm",
        f"{IMPORTANCE}:truncate_weights",
        "clamp(max=math.log(ceiling))",
        "clamp(max=ceiling)",
        (of("importance", "test_truncation_has_exactly_its_known_bias"),),
    ),
    (
        "weights overflow before they are normalised",
        f"{IMPORTANCE}:_relative_weights",
        "return (log_weights - largest).exp()",
        "return log_weights.exp()",
        (of("importance", "test_far_apart_policies_give_finite_values_and_gradients"),),
    ),
    (
        "the sample size forgets a square",
        f"{IMPORTANCE}:effective_sample_size",
        "weights.sum().square() / weights.square().sum()",
        "weights.sum() / weights.square().sum()",
        (of("importance", "test_effective_sample_size"),),
    ),
    (
        "a mask multiplies, so that NaN comes through",
        f"{MASKED}:masked_sum",
        "real = torch.where(mask, x, torch.zeros_like(x))",
        "real = x * mask",
        (of("masked", "test_hand_worked"),),
    ),
    (
        "a mean counts the padding",
        f"{MASKED}:masked_mean",
        "count = mask.sum() if dim is None else mask.sum(dim)",
        "count = mask.sum() * 0 + mask.numel() if dim is None else mask.sum(dim) * 0 + mask.shape[dim]",
        (of("masked", "test_hand_worked"), of("masked", "test_masked_entries_have_exactly_no_gradient")),
    ),
    (
        "whitening divides by n − 1",
        f"{MASKED}:masked_whiten",
        "variance = masked_mean(deviation.square(), mask)",
        "variance = masked_sum(deviation.square(), mask) / (mask.sum() - 1)",
        (
            of("masked", "test_whiten_hand_worked"),
            of("masked", "test_whitened_entries_have_mean_0_and_variance_1_whatever_the_padding"),
        ),
    ),
    (
        "whitening magnifies the rounding of equal entries",
        f"{MASKED}:masked_whiten",
        "unit = (x - low) / spread",
        "unit = x",
        (of("masked", "test_equal_entries_are_whitened_to_0_not_to_rounding_noise"),),
    ),
)
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PITFALLS
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_pitfall_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


def test_the_same_tests_pass_on_an_unchanged_copy(tmp_path):
    assert unsound(MUTANTS, tmp_path) == []
