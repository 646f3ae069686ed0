"""What the preference losses must do whatever the numbers: symmetries, limits, expectations, minimisers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.objectives import dpo

SETTINGS = settings(derandomize=True, deadline=None)
LOGPROB = st.floats(-200, 0)
FOUR = st.tuples(LOGPROB, LOGPROB, LOGPROB, LOGPROB)
BETA = st.floats(0.01, 1)
SMOOTHING = st.floats(0, 0.49)


def column(value):
    return torch.tensor([value], dtype=torch.float64)


def columns(four):
    return tuple(column(value) for value in four)


def swapped(four):
    """The same pair with the label turned round."""
    w, r, ref_w, ref_r = four
    return r, w, ref_r, ref_w


def slope(loss, four):
    """The loss's derivatives by log π of the chosen and of the rejected answer."""
    w, r, ref_w, ref_r = columns(four)
    w.requires_grad_()
    r.requires_grad_()
    by_chosen, by_rejected = torch.autograd.grad(loss(w, r, ref_w, ref_r).sum(), (w, r))
    return by_chosen.item(), by_rejected.item()


@SETTINGS
@given(FOUR, BETA)
def test_the_two_labels_of_a_pair_have_probabilities_that_sum_to_1(four, beta):
    one = dpo.dpo_loss(*columns(four), beta=beta).item()
    other = dpo.dpo_loss(*columns(swapped(four)), beta=beta).item()
    assert math.exp(-one) + math.exp(-other) == pytest.approx(1, abs=1e-12)


@SETTINGS
@given(FOUR)
def test_beta_0_knows_nothing(four):
    assert dpo.dpo_loss(*columns(four), beta=0.0).item() == pytest.approx(math.log(2), abs=1e-15)
    assert dpo.hinge_loss(*columns(four), beta=0.0).item() == 1
    assert dpo.gradient_weight(*columns(four), beta=0.0).item() == 0.5
    small = dpo.dpo_loss(*columns(four), beta=1e-9).item()
    assert small == pytest.approx(math.log(2), abs=1e-6)


@SETTINGS
@given(FOUR, BETA)
def test_the_gradient_is_beta_times_the_gradient_weight(four, beta):
    by_chosen, by_rejected = slope(lambda *x: dpo.dpo_loss(*x, beta=beta), four)
    weight = dpo.gradient_weight(*columns(four), beta=beta).item()
    assert by_chosen == pytest.approx(-beta * weight, rel=1e-9, abs=1e-15)
    assert by_rejected == pytest.approx(beta * weight, rel=1e-9, abs=1e-15)


@SETTINGS
@given(LOGPROB, LOGPROB, BETA)
def test_the_first_gradient_is_half_of_beta(w, r, beta):
    assert slope(lambda *x: dpo.dpo_loss(*x, beta=beta), (w, r, w, r)) == pytest.approx((-beta / 2, beta / 2))


@SETTINGS
@given(FOUR, st.floats(-50, 50), BETA)
def test_only_the_margin_matters(four, shift, beta):
    """Both answers equally much likelier or less likely under the policy: DPO cannot tell."""
    w, r, ref_w, ref_r = four
    before = dpo.dpo_loss(*columns(four), beta=beta).item()
    after = dpo.dpo_loss(*columns((w + shift, r + shift, ref_w, ref_r)), beta=beta).item()
    assert after == pytest.approx(before, abs=1e-9)


def test_dpop_sees_a_displaced_answer_that_dpo_does_not():
    here, displaced = columns((-10.0, -20.0, -10.0, -15.0)), columns((-17.0, -27.0, -10.0, -15.0))
    assert dpo.dpo_loss(*here, beta=0.1).item() == dpo.dpo_loss(*displaced, beta=0.1).item()
    assert dpo.dpop_loss(*displaced, beta=0.1, lam=5.0) > dpo.dpop_loss(*here, beta=0.1, lam=5.0) + 1
    assert dpo.dpop_loss(*here, beta=0.1, lam=5.0) == dpo.dpo_loss(*here, beta=0.1)
    by_chosen, _ = slope(lambda *x: dpo.dpop_loss(*x, beta=0.1, lam=5.0), (-17.0, -27.0, -10.0, -15.0))
    plain, _ = slope(lambda *x: dpo.dpo_loss(*x, beta=0.1), (-17.0, -27.0, -10.0, -15.0))
    assert by_chosen < plain < 0


@SETTINGS
@given(FOUR, BETA, SMOOTHING)
def test_robust_dpo_on_flipped_labels_is_dpo_on_clean_ones(four, beta, flipped):
    def robust(pair):
        return dpo.robust_dpo_loss(*columns(pair), beta=beta, label_smoothing=flipped).item()

    clean = dpo.dpo_loss(*columns(four), beta=beta).item()
    expectation = (1 - flipped) * robust(four) + flipped * robust(swapped(four))
    # Dividing by 1 − 2ε magnifies rounding, so the bound does too.
    assert expectation == pytest.approx(clean, abs=1e-12 * (1 + abs(robust(four))))


@SETTINGS
@given(BETA, st.floats(0.01, 0.49))
def test_conservative_dpo_is_least_where_the_model_is_as_sure_as_the_labels(beta, smoothing):
    def loss(*four):
        return dpo.dpo_loss(*four, beta=beta, label_smoothing=smoothing)

    best = math.log((1 - smoothing) / smoothing) / beta
    at_best, _ = slope(loss, (best, 0.0, 0.0, 0.0))
    assert at_best == pytest.approx(0, abs=1e-12)
    lowest = loss(*columns((best, 0.0, 0.0, 0.0)))
    entropy = -smoothing * math.log(smoothing) - (1 - smoothing) * math.log(1 - smoothing)
    assert lowest.item() == pytest.approx(entropy, abs=1e-12)
    for step in (-0.5, 0.5):
        assert loss(*columns((best + step / beta, 0.0, 0.0, 0.0))) > lowest


@SETTINGS
@given(st.floats(0.01, 2), FOUR)
def test_ipo_is_least_at_half_the_inverse_of_tau(tau, four):
    _, r, ref_w, ref_r = four
    best = ref_w + (r - ref_r) + 1 / (2 * tau)
    assert dpo.ipo_loss(*columns((best, r, ref_w, ref_r)), tau=tau, normalise="sum").item() < 1e-18
    for sign in (-1, 1):
        off = dpo.ipo_loss(*columns((best + sign, r, ref_w, ref_r)), tau=tau, normalise="sum").item()
        assert off == pytest.approx(1, abs=1e-9)


@SETTINGS
@given(FOUR, BETA, st.integers(1, 500))
def test_losses_that_are_one_another_in_a_special_case(four, beta, length):
    pair, one, long = columns(four), torch.tensor([1]), torch.tensor([length])
    plain = dpo.dpo_loss(*pair, beta=beta)
    exact = {"rtol": 1e-12, "atol": 1e-13}
    for same in (
        dpo.robust_dpo_loss(*pair, beta=beta, label_smoothing=0.0),
        dpo.dpop_loss(*pair, beta=beta, lam=0.0),
        dpo.dpo_nll_loss(*pair, chosen_lengths=long, beta=beta, nll_weight=0.0),
        dpo.length_normalised_dpo_loss(*pair, chosen_lengths=one, rejected_lengths=one, beta=beta),
        dpo.length_normalised_dpo_loss(*pair, chosen_lengths=long, rejected_lengths=long, beta=beta * length),
    ):
        torch.testing.assert_close(same, plain, **exact)
    zero = column(0.0)
    torch.testing.assert_close(
        dpo.simpo_loss(*pair[:2], chosen_lengths=one, rejected_lengths=one, beta=beta, margin=0.0),
        dpo.dpo_loss(*pair[:2], zero, zero, beta=beta),
        **exact,
    )
    by_mean = dpo.ipo_loss(*pair, tau=0.1, normalise="mean", chosen_lengths=one, rejected_lengths=one)
    torch.testing.assert_close(by_mean, dpo.ipo_loss(*pair, tau=0.1, normalise="sum"), **exact)


@SETTINGS
@given(LOGPROB, BETA, st.floats(0.5, 2))
def test_simpo_adds_its_margin_outside_beta(logprob, beta, margin):
    """ℓ(β·d − γ): the difference at which the loss is ln 2 is γ/β."""
    one = torch.tensor([1])
    even = dpo.simpo_loss(
        column(logprob + margin / beta),
        column(logprob),
        chosen_lengths=one,
        rejected_lengths=one,
        beta=beta,
        margin=margin,
    )
    assert even.item() == pytest.approx(math.log(2), abs=1e-9)


@SETTINGS
@given(st.lists(FOUR, min_size=2, max_size=6))
def test_every_pair_stands_by_itself(rows):
    """A pair has the loss in a batch that it has alone: nothing is reduced and nothing broadcast."""
    four = torch.tensor(rows, dtype=torch.float64).unbind(1)
    lengths = torch.arange(1, len(rows) + 1)

    def losses(start, end):
        policy, reference = [x[start:end] for x in four[:2]], [x[start:end] for x in four[2:]]
        sizes = {"chosen_lengths": lengths[start:end], "rejected_lengths": lengths.flip(0)[start:end]}
        return torch.stack(
            [
                dpo.dpo_loss(*policy, *reference, beta=0.1),
                dpo.length_normalised_dpo_loss(*policy, *reference, **sizes, beta=5.0),
                dpo.orpo_loss(*policy, **sizes, lam=0.1),
            ]
        )

    alone = torch.cat([losses(i, i + 1) for i in range(len(rows))], dim=1)
    torch.testing.assert_close(losses(0, len(rows)), alone, rtol=1e-13, atol=1e-13)


@SETTINGS
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=8), BETA, st.floats(0, 10))
def test_kto_of_the_two_labels_sums_to_its_weight(log_ratios, beta, point):
    """σ(x) + σ(−x) = 1 at one distance; the likelier, the better for the desirable."""
    policy = torch.tensor(sorted(log_ratios), dtype=torch.float64)
    none, z = torch.zeros_like(policy), torch.tensor(point, dtype=torch.float64)

    def loss(desirable):
        labels = torch.full(policy.shape, desirable)
        return dpo.kto_loss(policy, none, labels, reference_point=z, beta=beta)

    torch.testing.assert_close(loss(True) + loss(False), torch.ones_like(policy), rtol=1e-14, atol=0)
    assert (loss(True).diff() <= 0).all()
    assert (loss(False).diff() >= 0).all()
    inside = torch.tensor([point], dtype=torch.float64)
    at_point = dpo.kto_loss(inside, column(0.0), torch.tensor([True]), reference_point=z, beta=beta)
    assert at_point.item() == 0.5


def test_dpo_on_the_enumerated_model_has_the_gradient_of_finite_differences(world):
    """Loss of all tables' entries: central differences of DPO over answer pairs, h = 1e-5."""
    reference = world.answer_logprobs(world.other)
    chosen, rejected = torch.arange(0, 120, 7), torch.arange(1, 121, 7)[:18]

    def loss(logits):
        policy = world.answer_logprobs(logits)
        return dpo.dpo_loss(
            policy[chosen], policy[rejected], reference[chosen], reference[rejected], beta=0.5
        ).mean()

    logits = world.policy.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    generator, step = torch.Generator().manual_seed(2), 1e-5
    for _ in range(5):
        direction = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
        moved = [loss(world.policy + sign * step * direction).item() for sign in (1, -1)]
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(
            (gradient * direction).sum().item(), rel=1e-7
        )
