"""The pitfalls of the objectives, each built in on purpose: the suite must notice every one."""

import pytest

from mutants.harness import Mutant, belonging, plant, run_checks, survivors

DPO, KL, IMPORTANCE = "logratio.objectives.dpo", "logratio.objectives.kl", "logratio.objectives.importance"
MASKED, BRADLEY_TERRY = "logratio.objectives.masked", "logratio.objectives.bradley_terry"


def golden(name: str) -> str:
    return f"objectives/test_dpo.py::test_golden_values[{name}]"


def shapes(name: str) -> str:
    return f"objectives/test_dpo.py::test_mixed_shapes_are_refused[shape0-2-{name}]"


def dpo(test: str) -> str:
    return f"objectives/test_dpo.py::{test}"


def identity(test: str) -> str:
    return f"objectives/test_dpo_identities.py::{test}"


def of(module: str, test: str) -> str:
    return f"objectives/test_{module}.py::{test}"


# What is wrong | module | text | what stands there instead | tests that must fail
PITFALLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "h has the wrong sign",
        DPO,
        "return (chosen - reference_chosen) - (rejected - reference_rejected)",
        "return (rejected - reference_rejected) - (chosen - reference_chosen)",
        (golden("dpo"), golden("ipo sum"), golden("dpop"), dpo("test_golden_slopes")),
    ),
    (
        "the reference is left out",
        DPO,
        "return (chosen - reference_chosen) - (rejected - reference_rejected)",
        "return chosen - rejected",
        (golden("dpo"), golden("hinge"), dpo("test_step_0")),
    ),
    (
        "beta stands outside the sigmoid",
        DPO,
        "agree, disagree = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)\n    return (1 - label_smoothing) * agree +",
        "agree, disagree = -beta * F.logsigmoid(h), -beta * F.logsigmoid(-h)\n    return (1 - label_smoothing) * agree +",
        (golden("dpo"), identity("test_beta_0_knows_nothing"), dpo("test_golden_slopes")),
    ),
    (
        "label smoothing is ignored",
        DPO,
        "return (1 - label_smoothing) * agree + label_smoothing * disagree",
        "return agree",
        (golden("cdpo"),),
    ),
    (
        "label smoothing is turned round",
        DPO,
        "return (1 - label_smoothing) * agree + label_smoothing * disagree",
        "return label_smoothing * agree + (1 - label_smoothing) * disagree",
        (golden("dpo"), golden("cdpo")),
    ),
    (
        "robust DPO is not rescaled",
        DPO,
        " - label_smoothing * disagree) / (1 - 2 * label_smoothing)",
        " - label_smoothing * disagree) / 1",
        (
            golden("rdpo"),
            dpo("test_step_0"),
            identity("test_robust_dpo_on_flipped_labels_is_dpo_on_clean_ones"),
        ),
    ),
    (
        "robust DPO adds what it should take away",
        DPO,
        "agree - label_smoothing * disagree) / (1",
        "agree + label_smoothing * disagree) / (1",
        (golden("rdpo"),),
    ),
    (
        "the logarithm of a sigmoid overflows",
        DPO,
        "agree, disagree = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)\n    return (1 - label_smoothing) * agree +",
        "agree, disagree = -torch.log(torch.sigmoid(beta * h)), -torch.log(torch.sigmoid(-beta * h))\n"
        "    return (1 - label_smoothing) * agree +",
        (
            dpo("test_values_and_gradients_are_finite_at_the_ends[dpo-dtype1]"),
            dpo("test_saturated_losses_keep_their_digits"),
        ),
    ),
    (
        "IPO by sums and by means are exchanged",
        DPO,
        'if normalise == "sum":',
        'if normalise == "mean":',
        (golden("ipo sum"), golden("ipo mean")),
    ),
    (
        "IPO's means are sums",
        DPO,
        "h = _per_token(chosen - reference_chosen, chosen_lengths) - _per_token(\n"
        "            rejected - reference_rejected, rejected_lengths\n        )",
        "h = _margin(chosen, rejected, reference_chosen, reference_rejected)",
        (golden("ipo mean"),),
    ),
    (
        "IPO's target is 1/τ",
        DPO,
        "1 / (2 * tau)",
        "1 / tau",
        (golden("ipo sum"), golden("ipo mean"), identity("test_ipo_is_least_at_half_the_inverse_of_tau")),
    ),
    (
        "the hinge has no flat side",
        DPO,
        "return F.relu(1 - beta *",
        "return (1 - beta *",
        (golden("hinge"),),
    ),
    (
        "the length leaves out the end token",
        DPO,
        "return total / lengths",
        "return total / (lengths - 1).clamp(min=1)",
        (golden("ipo mean"), golden("length-normalised"), golden("simpo"), golden("orpo"), golden("dpo-nll")),
    ),
    (
        "the lengths of the two answers are exchanged",
        DPO,
        "c = _per_token(rejected - reference_rejected, rejected_lengths)",
        "c = _per_token(rejected - reference_rejected, chosen_lengths)",
        (golden("length-normalised"),),
    ),
    (
        "SimPO's margin stands inside beta",
        DPO,
        "beta * difference - margin",
        "beta * (difference - margin)",
        (golden("simpo"), identity("test_simpo_adds_its_margin_outside_beta")),
    ),
    (
        "log(1 − exp) is computed as it is written",
        DPO,
        "torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))",
        "torch.log(1 - torch.exp(x))",
        (dpo("test_orpo_keeps_its_digits_at_both_ends"),),
    ),
    (
        "an answer of probability 1 has infinite odds",
        DPO,
        "log_p = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)",
        "log_p = mean_logprob",
        (
            dpo("test_values_and_gradients_are_finite_at_the_ends[orpo-dtype0]"),
            dpo("test_values_and_gradients_are_finite_at_the_ends[orpo odds ratio-dtype1]"),
        ),
    ),
    (
        "ORPO's odds are likelihoods",
        DPO,
        "return log_p - _log1mexp(log_p)",
        "return log_p",
        (golden("orpo odds ratio"), golden("orpo")),
    ),
    (
        "ORPO forgets the likelihood of the chosen",
        DPO,
        "return -_per_token(chosen, chosen_lengths) + lam * odds_ratio_term",
        "return lam * odds_ratio_term",
        (golden("orpo"),),
    ),
    (
        "KTO's reference point carries a gradient into the loss",
        DPO,
        "reference_point.detach()",
        "reference_point",
        (dpo("test_kto_sends_no_gradient_into_its_reference_point"),),
    ),
    (
        "KTO's reference point is computed with a gradient and may be negative",
        DPO,
        "(logprobs - reference_logprobs).detach().mean().clamp(min=0)",
        "(logprobs - reference_logprobs).mean()",
        (dpo("test_kto_reference_point"),),
    ),
    (
        "KTO takes the undesirable for desirable",
        DPO,
        "undesirable_weight * torch.sigmoid(distance)",
        "undesirable_weight * torch.sigmoid(-distance)",
        (golden("kto undesirable"), identity("test_kto_of_the_two_labels_sums_to_its_weight")),
    ),
    (
        "KTO computes 1 − σ as it is written",
        DPO,
        "desirable_weight * torch.sigmoid(-distance),",
        "desirable_weight * (1 - torch.sigmoid(distance)),",
        (dpo("test_saturated_losses_keep_their_digits"),),
    ),
    (
        "DPOP rewards what it should charge",
        DPO,
        "F.relu(reference_chosen - chosen)",
        "F.relu(chosen - reference_chosen)",
        (golden("dpop"), identity("test_dpop_sees_a_displaced_answer_that_dpo_does_not")),
    ),
    (
        "DPOP watches the rejected answer",
        DPO,
        "F.relu(reference_chosen - chosen)",
        "F.relu(reference_rejected - rejected)",
        (golden("dpop"),),
    ),
    (
        "the likelihood term has the wrong sign",
        DPO,
        "return preference - nll_weight *",
        "return preference + nll_weight *",
        (golden("dpo-nll"),),
    ),
    (
        "APO does not push the rejected down",
        DPO,
        "+ torch.sigmoid(beta * c)",
        "+ torch.sigmoid(-beta * c)",
        (golden("apo-zero"),),
    ),
    (
        "implicit rewards lack beta",
        DPO,
        "return beta * (logprobs - reference_logprobs)",
        "return logprobs - reference_logprobs",
        (dpo("test_golden_slopes"),),
    ),
    (
        "the gradient weight is that of a pair already won",
        DPO,
        "return torch.sigmoid(-beta * _margin",
        "return torch.sigmoid(beta * _margin",
        (dpo("test_golden_slopes"), identity("test_the_gradient_is_beta_times_the_gradient_weight")),
    ),
    (
        "a loss is averaged over the batch",
        DPO,
        "return (1 - label_smoothing) * agree + label_smoothing * disagree",
        "return ((1 - label_smoothing) * agree + label_smoothing * disagree).mean().expand(len(h))",
        (golden("dpo"), identity("test_every_pair_stands_by_itself")),
    ),
    (
        "one log-probability is broadcast over all pairs",
        DPO,
        'Logprobs = Float[Tensor, " pairs"]',
        'Logprobs = Float[Tensor, "..."]',
        (shapes("dpo"), shapes("ipo sum"), shapes("dpop")),
    ),
    (
        "k1 has the wrong sign",
        KL,
        "    return log_ratio\n",
        "    return -log_ratio\n",
        (of("kl", "test_two_gaussians_by_quadrature"), of("kl", "test_estimates_on_the_enumerated_model")),
    ),
    (
        "k2 is not halved",
        KL,
        "log_ratio.square() / 2",
        "log_ratio.square()",
        (
            of("kl", "test_two_gaussians_by_quadrature"),
            of("kl", "test_what_the_gradients_of_the_estimates_are"),
        ),
    ),
    (
        "k3 has the ratio upside down",
        KL,
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
        KL,
        "return torch.expm1(-log_ratio) + log_ratio",
        "return torch.exp(-log_ratio) - 1 + log_ratio",
        (of("kl", "test_k3_keeps_its_digits_where_the_policies_are_close"),),
    ),
    (
        "k3 is clamped",
        KL,
        "return torch.expm1(-log_ratio) + log_ratio",
        "return (torch.expm1(-log_ratio) + log_ratio).clamp(max=10)",
        (of("kl", "test_estimates_gradcheck"), of("kl", "test_estimates_at_the_ends")),
    ),
    (
        "the KL is of q to p",
        KL,
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
        KL,
        "terms = torch.where(far, q - p * (1 - log_ratio), p * k3(log_ratio.clamp(min=-1)))",
        "terms = p * log_ratio",
        (of("kl", "test_exact_kl_is_never_negative_and_small_ones_are_right"),),
    ),
    (
        "the KL overflows where p vanishes",
        KL,
        "terms = torch.where(far, q - p * (1 - log_ratio), p * k3(log_ratio.clamp(min=-1)))",
        "terms = p * k3(log_ratio)",
        (of("kl", "test_far_apart_logits_give_finite_values_and_gradients"),),
    ),
    (
        "the KL skips what q rules out",
        KL,
        ".masked_fill(impossible, torch.inf)",
        "",
        (of("kl", "test_what_q_rules_out_and_p_does_not_is_infinitely_far"),),
    ),
    (
        "token ratios pass for per-decision weights",
        IMPORTANCE,
        "log_ratio.cumsum(dim=1)",
        "log_ratio",
        (
            of("importance", "test_per_decision_weights_are_unbiased_and_token_weights_are_not"),
            of("importance", "test_log_weights_hand_worked"),
        ),
    ),
    (
        "padding counts in a sequence's weight",
        IMPORTANCE,
        "log_ratio = torch.where(mask, logprobs - behaviour_logprobs, zero)",
        "log_ratio = logprobs - behaviour_logprobs",
        (of("importance", "test_log_weights_hand_worked"),),
    ),
    (
        "importance weights are upside down",
        IMPORTANCE,
        "logprobs - behaviour_logprobs, zero",
        "behaviour_logprobs - logprobs, zero",
        (of("importance", "test_the_sequence_weight_is_the_ratio_of_probabilities"),),
    ),
    (
        "the ordinary estimate is normalised",
        IMPORTANCE,
        "return (log_weights.exp() * values).sum() / len(values)",
        "return (log_weights.exp() * values).sum() / log_weights.exp().sum()",
        (of("importance", "test_the_ordinary_estimate_is_unbiased"),),
    ),
    (
        "the ceiling is taken for a logarithm",
        IMPORTANCE,
        "clamp(max=math.log(ceiling))",
        "clamp(max=ceiling)",
        (of("importance", "test_truncation_has_exactly_its_known_bias"),),
    ),
    (
        "weights overflow before they are normalised",
        IMPORTANCE,
        "return (log_weights - largest).exp()",
        "return log_weights.exp()",
        (of("importance", "test_far_apart_policies_give_finite_values_and_gradients"),),
    ),
    (
        "the sample size forgets a square",
        IMPORTANCE,
        "weights.sum().square() / weights.square().sum()",
        "weights.sum() / weights.square().sum()",
        (of("importance", "test_effective_sample_size"),),
    ),
    (
        "a mask multiplies, so that NaN comes through",
        MASKED,
        "real = torch.where(mask, x, torch.zeros_like(x))",
        "real = x * mask",
        (of("masked", "test_hand_worked"),),
    ),
    (
        "a mean counts the padding",
        MASKED,
        "count = mask.sum() if dim is None else mask.sum(dim)",
        "count = mask.sum() * 0 + mask.numel() if dim is None else mask.sum(dim) * 0 + mask.shape[dim]",
        (of("masked", "test_hand_worked"), of("masked", "test_masked_entries_have_exactly_no_gradient")),
    ),
    (
        "whitening divides by n − 1",
        MASKED,
        "variance = masked_mean(deviation.square(), mask)",
        "variance = masked_sum(deviation.square(), mask) / (mask.sum() - 1)",
        (
            of("masked", "test_whiten_hand_worked"),
            of("masked", "test_whitened_entries_have_mean_0_and_variance_1_whatever_the_padding"),
        ),
    ),
    (
        "whitening magnifies the rounding of equal entries",
        MASKED,
        "unit = (x - low) / spread",
        "unit = x",
        (of("masked", "test_equal_entries_are_whitened_to_0_not_to_rounding_noise"),),
    ),
    (
        "the margin helps the chosen",
        BRADLEY_TERRY,
        "chosen - rejected - margin",
        "chosen - rejected + margin",
        (
            of("bradley_terry", "test_hand_worked"),
            of("bradley_terry", "test_margins_may_differ_between_pairs"),
        ),
    ),
    (
        "a comparison's loss overflows",
        BRADLEY_TERRY,
        "return -F.logsigmoid(chosen - rejected - margin)",
        "return -(chosen - rejected - margin).sigmoid().log()",
        (of("bradley_terry", "test_far_apart_strengths_give_finite_losses_and_gradients"),),
    ),
)
MUTANTS = tuple(
    Mutant(name=name, module=module, old=old, new=new, checks=checks)
    for name, module, old, new, checks in PITFALLS
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_pitfall_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


def test_the_same_tests_pass_on_an_unchanged_copy(tmp_path):
    checks = tuple(dict.fromkeys(check for mutant in MUTANTS for check in mutant.checks))
    outcomes = run_checks(checks, plant(None, tmp_path))
    assert not outcomes.failed
    assert not outcomes.broken
    assert all(belonging(check, outcomes.passed) for check in checks)
