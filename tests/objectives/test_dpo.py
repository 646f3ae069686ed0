"""The preference losses: golden values, gradients, the ends of the number format, refusals."""

import math
from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from logratio.objectives import dpo

CHOSEN, REJECTED = (-0.5, -10.0, -1.0, -120.3), (-0.1, -30.0, -21.0, -90.7)
REFERENCE_CHOSEN, REFERENCE_REJECTED = (-0.5, -10.1, -0.1, -118.0), (-0.1, -20.1, -0.1, -95.0)
CHOSEN_LENGTHS, REJECTED_LENGTHS = torch.tensor([1, 5, 2, 40]), torch.tensor([1, 12, 9, 31])

# The losses from log π of both answers (w, r), log π_ref of both (qw, qr) and both lengths (nw, nr).
PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def kto(answers: str) -> PairLoss:
    def loss(w, r, ref_w, ref_r, *_):
        policy, reference = (w, ref_w) if answers == "chosen" else (r, ref_r)
        desirable = torch.full(policy.shape, answers == "chosen")
        point = torch.tensor(0.5, dtype=policy.dtype)
        return dpo.kto_loss(policy, reference, desirable, reference_point=point, beta=0.1)

    return loss


LOSSES: dict[str, PairLoss] = {
    "dpo": lambda w, r, qw, qr, *_: dpo.dpo_loss(w, r, qw, qr, beta=0.1),
    "cdpo": lambda w, r, qw, qr, *_: dpo.dpo_loss(w, r, qw, qr, beta=0.1, label_smoothing=0.1),
    "rdpo": lambda w, r, qw, qr, *_: dpo.robust_dpo_loss(w, r, qw, qr, beta=0.1, label_smoothing=0.1),
    "ipo sum": lambda w, r, qw, qr, *_: dpo.ipo_loss(w, r, qw, qr, tau=0.1, normalise="sum"),
    "ipo mean": lambda w, r, qw, qr, nw, nr: dpo.ipo_loss(
        w, r, qw, qr, tau=0.1, normalise="mean", chosen_lengths=nw, rejected_lengths=nr
    ),
    "hinge": lambda w, r, qw, qr, *_: dpo.hinge_loss(w, r, qw, qr, beta=0.1),
    "length-normalised": lambda w, r, qw, qr, nw, nr: dpo.length_normalised_dpo_loss(
        w, r, qw, qr, chosen_lengths=nw, rejected_lengths=nr, beta=5.0
    ),
    "simpo": lambda w, r, _qw, _qr, nw, nr: dpo.simpo_loss(
        w, r, chosen_lengths=nw, rejected_lengths=nr, beta=2.0, margin=1.0
    ),
    "dpop": lambda w, r, qw, qr, *_: dpo.dpop_loss(w, r, qw, qr, beta=0.1, lam=5.0),
    "dpo-nll": lambda w, r, qw, qr, nw, _: dpo.dpo_nll_loss(
        w, r, qw, qr, chosen_lengths=nw, beta=0.1, nll_weight=1.0
    ),
    "kto desirable": kto("chosen"),
    "kto undesirable": kto("rejected"),
    "orpo odds ratio": lambda w, r, _qw, _qr, nw, nr: dpo.orpo_odds_ratio_loss(
        w, r, chosen_lengths=nw, rejected_lengths=nr
    ),
    "orpo": lambda w, r, _qw, _qr, nw, nr: dpo.orpo_loss(
        w, r, chosen_lengths=nw, rejected_lengths=nr, lam=0.1
    ),
    "apo-zero": lambda w, r, qw, qr, *_: dpo.apo_zero_loss(w, r, qw, qr, beta=0.1),
}

# Computed once with another library, in float64, from the pairs above. The first three pairs have
# h = 0, 10 and 20; DPO's row is ln(1 + e^0), ln(1 + e^−1), ln(1 + e^−2), ln(1 + e^0.66).
GOLDEN = {
    "dpo": (0.6931471806, 0.3132616875, 0.1269280110, 1.0766366959),
    "cdpo": (0.6931471806, 0.4132616875, 0.3269280110, 1.0106366959),
    "rdpo": (0.6931471806, 0.1882616875, -0.1230719890, 1.1591366959),
    "ipo sum": (25.0, 25.0, 225.0, 134.56),
    "ipo mean": (25.0, 17.264025, 9.7829938272, 27.0005950117),
    "hinge": (1.0, 0.0, 0.0, 1.66),
    "length-normalised": (0.6931471806, 0.0145194160, 0.0000860008, 1.2994423591),
    "simpo": (1.9529776105, 0.6931471806, 0.0671757760, 1.4352645585),
    "dpop": (0.6931471806, 0.3132616875, 0.1924764656, 1.9615651718),
    "dpo-nll": (1.1931471806, 2.3132616875, 0.6269280110, 4.0841366959),
    "kto desirable": (0.5124973965, 0.5099986669, 0.5349429452, 0.5695462239),
    "kto undesirable": (0.4875026035, 0.2611499939, 0.1052693895, 0.5938731029),
    "orpo odds ratio": (1.9696625541, 0.4519316040, 0.0673437868, 0.7371383569),
    "apo-zero": (1.0, 0.7684120985, 0.6325573992, 1.1631215230),
}
# The likelihood term is 0.5, 10/5, 1/2 and 120.3/40.
GOLDEN["orpo"] = tuple(
    nll + 0.1 * term for nll, term in zip((0.5, 2.0, 0.5, 3.0075), GOLDEN["orpo odds ratio"], strict=True)
)

# Answers on both sides of every kink (β h = 1 for the hinge, a = 0 for DPOP) and at none of them.
SMOOTH = ((-3.0, -12.5, -0.01), (-5.0, -9.0, -61.0), (-3.7, -11.0, -2.0), (-4.6, -10.2, -42.0))
SMOOTH_LENGTHS = torch.tensor([4, 9, 2]), torch.tensor([3, 11, 30])


def golden_pairs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(
        torch.tensor(values, dtype=dtype)
        for values in (CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_golden_values(name):
    losses = LOSSES[name](*golden_pairs(), CHOSEN_LENGTHS, REJECTED_LENGTHS)
    expected = torch.tensor(GOLDEN[name], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_golden_values_in_float32(name):
    losses = LOSSES[name](*golden_pairs(torch.float32), CHOSEN_LENGTHS, REJECTED_LENGTHS)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.tensor(GOLDEN[name]), rtol=1e-5, atol=1e-6)


def test_golden_slopes():
    """dL/dh of DPO is −β σ(−βh), with σ(−βh) the gradient weight; h is β-scaled in the implicit rewards."""
    w, r, ref_w, ref_r = golden_pairs()
    w.requires_grad_()
    (slope,) = torch.autograd.grad(dpo.dpo_loss(w, r, ref_w, ref_r, beta=0.1).sum(), w)
    expected = torch.tensor([-0.05, -0.0268941421, -0.0119202922, -0.0659260388], dtype=torch.float64)
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-10)
    weight = dpo.gradient_weight(w.detach(), r, ref_w, ref_r, beta=0.1)
    torch.testing.assert_close(-0.1 * weight, expected, rtol=0, atol=1e-10)
    margin = dpo.implicit_rewards(w.detach(), ref_w, beta=0.1) - dpo.implicit_rewards(r, ref_r, beta=0.1)
    h = torch.tensor([0.0, 10.0, 20.0, -6.6], dtype=torch.float64)
    torch.testing.assert_close(margin, 0.1 * h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    four = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in SMOOTH]
    assert torch.autograd.gradcheck(lambda *inputs: LOSSES[name](*inputs, *SMOOTH_LENGTHS), four)


def test_gradcheck_of_rewards_and_weights():
    four = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in SMOOTH]
    assert torch.autograd.gradcheck(lambda *inputs: dpo.gradient_weight(*inputs, beta=0.1), four)
    assert torch.autograd.gradcheck(lambda x, y: dpo.implicit_rewards(x, y, beta=0.1), four[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_finite_at_the_ends(name, dtype):
    ends = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype)
    four = [column.clone().requires_grad_() for column in torch.cartesian_prod(*[ends] * 4).unbind(1)]
    lengths = torch.ones(len(four[0]), dtype=torch.long)
    losses = LOSSES[name](*four, lengths, lengths)
    losses.sum().backward()
    assert losses.isfinite().all()
    for column in four:
        assert column.grad is None or column.grad.isfinite().all()


def test_saturated_losses_keep_their_digits():
    """At βh = ∓1000 the loss is 1000 and e^−1000 ≈ 0; KTO's 1 − σ(40) is e^−40, not 0."""
    zero, far = torch.zeros(2, dtype=torch.float64), torch.tensor([1e4, -1e4], dtype=torch.float64)
    assert dpo.dpo_loss(far, zero, zero, zero, beta=0.1).tolist() == [0, 1000]
    near = dpo.dpo_loss(far[:1] / 25, zero[:1], zero[:1], zero[:1], beta=0.1)
    assert near.item() == pytest.approx(math.exp(-40), rel=1e-12, abs=0)
    kto_loss = dpo.kto_loss(far / 25, zero, torch.tensor([True, False]), reference_point=zero.sum(), beta=0.1)
    assert kto_loss.tolist() == pytest.approx([math.exp(-40)] * 2, rel=1e-12, abs=0)
    apo = dpo.apo_zero_loss(far[:1] / 25, far[1:] / 25, zero[:1], zero[:1], beta=0.1)
    assert apo.item() == pytest.approx(2 * math.exp(-40), rel=1e-12, abs=0)


def test_orpo_keeps_its_digits_at_both_ends():
    """With x = −log p the odds are 1/(e^x − 1): about 1/x near p = 1, about e^−x far from it."""
    one, even = torch.ones(1, dtype=torch.long), math.log(0.5)

    def loss(chosen):
        pair = torch.tensor([chosen], dtype=torch.float64), torch.tensor([even], dtype=torch.float64)
        return dpo.orpo_odds_ratio_loss(*pair, chosen_lengths=one, rejected_lengths=one).item()

    # Even odds have logarithm 0, so the loss is ln(1 + e^−(log odds)) and e^−(log odds) = e^x' − 1.
    for distance in (1e-9, 1e-5, 0.3, 1.0):
        assert loss(-distance) == pytest.approx(math.log1p(math.expm1(distance)), rel=1e-9, abs=0)
    assert loss(-50.0) == pytest.approx(50.0, rel=1e-14)


def test_step_0():
    """While policy and reference agree: ln 2, 25, 1, λ/2; rewards 0 and weights ½."""
    w, r, _, _ = golden_pairs()
    at_start = {name: loss(w, r, w, r, CHOSEN_LENGTHS, REJECTED_LENGTHS) for name, loss in LOSSES.items()}
    for name in ("dpo", "cdpo", "rdpo", "length-normalised", "dpop"):
        torch.testing.assert_close(at_start[name], torch.full_like(w, math.log(2)), rtol=1e-14, atol=0)
    for name in ("ipo sum", "ipo mean"):
        assert at_start[name].tolist() == [25.0] * 4
    for name in ("hinge", "apo-zero"):
        assert at_start[name].tolist() == [1.0] * 4
    assert not dpo.implicit_rewards(w, w, beta=0.1).any()
    assert dpo.gradient_weight(w, r, w, r, beta=0.1).tolist() == [0.5] * 4
    point = dpo.kto_reference_point(r, r)
    assert point == 0
    for desirable in (True, False):
        labels = torch.full((4,), desirable)
        weights = {"desirable_weight": 1.5, "undesirable_weight": 3.0}
        losses = dpo.kto_loss(w, w, labels, reference_point=point, beta=0.1, **weights)
        assert losses.tolist() == [0.75 if desirable else 1.5] * 4


def test_kto_reference_point():
    """max(0, mean) of mismatched log-ratios: (1 + 3)/2 = 2, and (1 − 3)/2 is held at 0."""
    policy, reference = torch.tensor([1.0, 3.0], requires_grad=True), torch.zeros(2)
    point = dpo.kto_reference_point(policy, reference)
    assert point == 2
    assert not point.requires_grad
    assert dpo.kto_reference_point(torch.tensor([1.0, -3.0]), reference) == 0
    with pytest.raises(ValueError, match="at least one mismatched"):
        dpo.kto_reference_point(torch.zeros(0), torch.zeros(0))


def test_kto_sends_no_gradient_into_its_reference_point():
    point = torch.tensor(0.5, requires_grad=True)
    policy = torch.tensor([1.0, -1.0], requires_grad=True)
    losses = dpo.kto_loss(
        policy, torch.zeros(2), torch.tensor([True, False]), reference_point=point, beta=0.1
    )
    losses.sum().backward()
    assert policy.grad.abs().min() > 0
    assert point.grad is None


PAIRED = (
    "dpo",
    "cdpo",
    "rdpo",
    "ipo sum",
    "ipo mean",
    "hinge",
    "length-normalised",
    "dpop",
    "dpo-nll",
    "apo-zero",
)
WITH_LENGTHS = ("ipo mean", "length-normalised", "simpo", "orpo", "orpo odds ratio")


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("shape", [(1,), (5,), (4, 1), ()])
def test_mixed_shapes_are_refused(name, place, shape):
    four = list(golden_pairs())
    four[place] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(TypeCheckError):
        LOSSES[name](*four, CHOSEN_LENGTHS, REJECTED_LENGTHS)


@pytest.mark.parametrize("name", WITH_LENGTHS)
def test_lengths_must_fit_the_pairs(name):
    four = golden_pairs()
    for lengths in (torch.tensor([3]), CHOSEN_LENGTHS[:, None], CHOSEN_LENGTHS.double()):
        with pytest.raises(TypeCheckError):
            LOSSES[name](*four, lengths, REJECTED_LENGTHS)
        with pytest.raises(TypeCheckError):
            LOSSES[name](*four, CHOSEN_LENGTHS, lengths)


def test_kto_refuses_mixed_shapes():
    point, labels = torch.tensor(0.0), torch.tensor([True, False, True])
    with pytest.raises(TypeCheckError):
        dpo.kto_loss(torch.zeros(3), torch.zeros(3, 1), labels, reference_point=point, beta=0.1)
    with pytest.raises(TypeCheckError):
        dpo.kto_loss(torch.zeros(3), torch.zeros(3), labels[:1], reference_point=point, beta=0.1)
    with pytest.raises(TypeCheckError):
        dpo.kto_loss(torch.zeros(3), torch.zeros(3), labels, reference_point=torch.zeros(3), beta=0.1)


@pytest.mark.parametrize("name", [*WITH_LENGTHS, "dpo-nll"])
def test_an_answer_without_tokens_is_refused(name):
    with pytest.raises(ValueError, match="a length is 0"):
        LOSSES[name](*golden_pairs(), torch.tensor([1, 0, 2, 40]), REJECTED_LENGTHS)


def test_constants_out_of_range_are_refused():
    four = golden_pairs()
    for smoothing in (-0.1, 0.5, 1.0):
        with pytest.raises(ValueError, match="label_smoothing is"):
            dpo.dpo_loss(*four, beta=0.1, label_smoothing=smoothing)
        with pytest.raises(ValueError, match="label_smoothing is"):
            dpo.robust_dpo_loss(*four, beta=0.1, label_smoothing=smoothing)
    with pytest.raises(ValueError, match="tau is 0"):
        dpo.ipo_loss(*four, tau=0.0, normalise="sum")
    with pytest.raises(ValueError, match="needs chosen_lengths"):
        dpo.ipo_loss(*four, tau=0.1, normalise="mean")
    with pytest.raises(ValueError, match="needs chosen_lengths"):
        dpo.ipo_loss(*four, tau=0.1, normalise="mean", chosen_lengths=CHOSEN_LENGTHS)
