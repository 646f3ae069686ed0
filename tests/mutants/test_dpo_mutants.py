"""The pitfalls of the preference losses, each built in on purpose: the suite must notice every one."""

import pytest

from mutants.harness import Mutant, survivors, unsound

MODULE = "logratio.objectives.dpo"
# What tells DPO's two terms from robust DPO's, which are written alike.
CDPO = "    return (1 - label_smoothing) * agree +"


def golden(name: str) -> str:
    return f"objectives/test_dpo.py::test_golden_values[{name}]"


def shapes(name: str) -> str:
    return f"objectives/test_dpo.py::test_mixed_shapes_are_refused[shape0-2-{name}]"


def dpo(test: str) -> str:
    return f"objectives/test_dpo.py::{test}"


def identity(test: str) -> str:
    return f"objectives/test_dpo_identities.py::{test}"


# What is wrong | symbol | text | what stands there instead | tests that must fail
PITFALLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "h has the wrong sign",
        f"{MODULE}:_margin",
        "return (chosen - reference_chosen) - (rejected - reference_rejected)",
        "return (rejected - reference_rejected) - (chosen - reference_chosen)",
        (golden("dpo"), golden("ipo sum"), golden("dpop"), dpo("test_golden_slopes")),
    ),
    (
        "the reference is left out",
        f"{MODULE}:_margin",
        "return (chosen - reference_chosen) - (rejected - reference_rejected)",
        "return chosen - rejected",
        (golden("dpo"), golden("hinge"), dpo("test_step_0")),
    ),
    (
        "beta stands outside the sigmoid",
        f"{MODULE}:dpo_loss",
        "agree, disagree = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)\n" + CDPO,
        "agree, disagree = -beta * F.logsigmoid(h), -beta * F.logsigmoid(-h)\n" + CDPO,
        (golden("dpo"), identity("test_beta_0_knows_nothing"), dpo("test_golden_slopes")),
    ),
    (
        "label smoothing is ignored",
        f"{MODULE}:dpo_loss",
        "return (1 - label_smoothing) * agree + label_smoothing * disagree",
        "return agree",
        (golden("cdpo"),),
    ),
    (
        "label smoothing is turned round",
        f"{MODULE}:dpo_loss",
        "return (1 - label_smoothing) * agree + label_smoothing * disagree",
        "return label_smoothing * agree + (1 - label_smoothing) * disagree",
        (golden("dpo"), golden("cdpo")),
    ),
    (
        "robust DPO is not rescaled",
        f"{MODULE}:robust_dpo_loss",
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
        f"{MODULE}:robust_dpo_loss",
        "agree - label_smoothing * disagree) / (1",
        "agree + label_smoothing * disagree) / (1",
        (golden("rdpo"),),
    ),
    (
        "the logarithm of a sigmoid overflows",
        f"{MODULE}:dpo_loss",
        "agree, disagree = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)\n" + CDPO,
        "agree, disagree = -torch.log(torch.sigmoid(beta * h)), -torch.log(torch.sigmoid(-beta * h))\n"
        + CDPO,
        (
            dpo("test_values_and_gradients_are_finite_at_the_ends[dpo-dtype1]"),
            dpo("test_saturated_losses_keep_their_digits"),
        ),
    ),
    (
        "IPO by sums and by means are exchanged",
        f"{MODULE}:ipo_loss",
        'if normalise == "sum":',
        'if normalise == "mean":',
        (golden("ipo sum"), golden("ipo mean")),
    ),
    (
        "IPO's means are sums",
        f"{MODULE}:ipo_loss",
        "h = _per_token(chosen - reference_chosen, chosen_lengths) - _per_token(\n"
        "            rejected - reference_rejected, rejected_lengths\n        )",
        "h = _margin(chosen, rejected, reference_chosen, reference_rejected)",
        (golden("ipo mean"),),
    ),
    (
        "IPO's target is 1/τ",
        f"{MODULE}:ipo_loss",
        "1 / (2 * tau)",
        "1 / tau",
        (golden("ipo sum"), golden("ipo mean"), identity("test_ipo_is_least_at_half_the_inverse_of_tau")),
    ),
    (
        "the hinge has no flat side",
        f"{MODULE}:hinge_loss",
        "return F.relu(1 - beta *",
        "return (1 - beta *",
        (golden("hinge"),),
    ),
    (
        "the length leaves out the end token",
        f"{MODULE}:_per_token",
        "return total / lengths",
        "return total / (lengths - 1).clamp(min=1)",
        (golden("ipo mean"), golden("length-normalised"), golden("simpo"), golden("orpo"), golden("dpo-nll")),
    ),
    (
        "the lengths of the two answers are exchanged",
        f"{MODULE}:length_normalised_dpo_loss",
        "c = _per_token(rejected - reference_rejected, rejected_lengths)",
        "c = _per_token(rejected - reference_rejected, chosen_lengths)",
        (golden("length-normalised"),),
    ),
    (
        "SimPO's margin stands inside beta",
        f"{MODULE}:simpo_loss",
        "beta * difference - margin",
        "beta * (difference - margin)",
        (golden("simpo"), identity("test_simpo_adds_its_margin_outside_beta")),
    ),
    (
        "log(1 − exp) is computed as it is written",
        f"{MODULE}:_log1mexp",
        "torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))",
        "torch.log(1 - torch.exp(x))",
        (dpo("test_orpo_keeps_its_digits_at_both_ends"),),
    ),
    (
        "an answer of probability 1 has infinite odds",
        f"{MODULE}:_log_odds",
        "log_p = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)",
        "log_p = mean_logprob",
        (
            dpo("test_values_and_gradients_are_finite_at_the_ends[orpo-dtype0]"),
            dpo("test_values_and_gradients_are_finite_at_the_ends[orpo odds ratio-dtype1]"),
        ),
    ),
    (
        "ORPO's odds are likelihoods",
        f"{MODULE}:_log_odds",
        "return log_p - _log1mexp(log_p)",
        "return log_p",
        (golden("orpo odds ratio"), golden("orpo")),
    ),
    (
        "ORPO forgets the likelihood of the chosen",
        f"{MODULE}:orpo_loss",
        "return -_per_token(chosen, chosen_lengths) + lam * odds_ratio_term",
        "return lam * odds_ratio_term",
        (golden("orpo"),),
    ),
    (
        "KTO's reference point carries a gradient into the loss",
        f"{MODULE}:kto_loss",
        "reference_point.detach()",
        "reference_point",
        (dpo("test_kto_sends_no_gradient_into_its_reference_point"),),
    ),
    (
        "KTO's reference point is computed with a gradient and may be negative",
        f"{MODULE}:kto_reference_point",
        "(logprobs - reference_logprobs).detach().mean().clamp(min=0)",
        "(logprobs - reference_logprobs).mean()",
        (dpo("test_kto_reference_point"),),
    ),
    (
        "KTO takes the undesirable for desirable",
        f"{MODULE}:kto_loss",
        "undesirable_weight * torch.sigmoid(distance)",
        "undesirable_weight * torch.sigmoid(-distance)",
        (golden("kto undesirable"), identity("test_kto_of_the_two_labels_sums_to_its_weight")),
    ),
    (
        "KTO computes 1 − σ as it is written",
        f"{MODULE}:kto_loss",
        "desirable_weight * torch.sigmoid(-distance),",
        "desirable_weight * (1 - torch.sigmoid(distance)),",
        (dpo("test_saturated_losses_keep_their_digits"),),
    ),
    (
        "DPOP rewards what it should charge",
        f"{MODULE}:dpop_loss",
        "F.relu(reference_chosen - chosen)",
        "F.relu(chosen - reference_chosen)",
        (golden("dpop"), identity("test_dpop_sees_a_displaced_answer_that_dpo_does_not")),
    ),
    (
        "DPOP watches the rejected answer",
        f"{MODULE}:dpop_loss",
        "F.relu(reference_chosen - chosen)",
        "F.relu(reference_rejected - rejected)",
        (golden("dpop"),),
    ),
    (
        "the likelihood term has the wrong sign",
        f"{MODULE}:dpo_nll_loss",
        "return preference - nll_weight *",
        "return preference + nll_weight *",
        (golden("dpo-nll"),),
    ),
    (
        "APO does not push the rejected down",
        f"{MODULE}:apo_zero_loss",
        "+ torch.sigmoid(beta * c)",
        "+ torch.sigmoid(-beta * c)",
        (golden("apo-zero"),),
    ),
    (
        "implicit rewards lack beta",
        f"{MODULE}:implicit_rewards",
        "return beta * (logprobs - reference_logprobs)",
        "return logprobs - reference_logprobs",
        (dpo("test_golden_slopes"),),
    ),
    (
        "the gradient weight is that of a pair already won",
        f"{MODULE}:gradient_weight",
        "return torch.sigmoid(-beta * _margin",
        "return torch.sigmoid(beta * _margin",
        (dpo("test_golden_slopes"), identity("test_the_gradient_is_beta_times_the_gradient_weight")),
    ),
    (
        "a loss is averaged over the batch",
        f"{MODULE}:dpo_loss",
        "return (1 - label_smoothing) * agree + label_smoothing * disagree",
        "return ((1 - label_smoothing) * agree + label_smoothing * disagree).mean().expand(len(h))",
        (golden("dpo"), identity("test_every_pair_stands_by_itself")),
    ),
    (
        "one log-probability is broadcast over all pairs",
        MODULE,
        'Logprobs = Float[Tensor, " pairs"]',
        'Logprobs = Float[Tensor, "..."]',
        (shapes("dpo"), shapes("ipo sum"), shapes("dpop")),
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
