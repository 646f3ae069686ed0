"""Clip, penalty, value loss and controllers: every region by hand, gradients, the ends, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from logratio.objectives import advantages, importance, kl, masked, policy_gradient, ppo


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


# r, A, min(rA, clip(r, 0.8, 1.2)A) and its derivative by r.
REGIONS = (
    (0.5, 1.0, 0.5, 1.0),
    (0.5, -1.0, -0.8, 0.0),
    (0.9, 1.0, 0.9, 1.0),
    (0.9, -1.0, -0.9, -1.0),
    (1.1, 1.0, 1.1, 1.0),
    (1.1, -1.0, -1.1, -1.0),
    (1.5, 1.0, 1.2, 0.0),
    (1.5, -1.0, -1.5, -1.0),
    (4.0, 1.0, 1.2, 0.0),
    (4.0, -1.0, -4.0, -1.0),
    (4.0, 0.0, 0.0, 0.0),
)
DUAL = {(4.0, -1.0): (-3.0, 0.0)}
ASYMMETRIC = {(1.5, 1.0): (1.28, 0.0), (4.0, 1.0): (1.28, 0.0)}


@pytest.mark.parametrize(
    ("options", "different"),
    [({}, {}), ({"dual_clip": 3.0}, DUAL), ({"clip_range_high": 0.28}, ASYMMETRIC)],
    ids=["clip", "dual clip", "asymmetric clip"],
)
def test_clip_in_every_region(options, different):
    for ratio, advantage, objective, slope in REGIONS:
        objective, slope = different.get((ratio, advantage), (objective, slope))
        log_ratio = column(ratio).log().requires_grad_()
        loss = ppo.clip_loss(log_ratio, column(advantage), clip_range=0.2, **options)
        assert -loss.item() == pytest.approx(objective, rel=1e-14)
        (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
        assert -gradient.item() == pytest.approx(ratio * slope, rel=1e-14)
        active = ppo.clip_active(log_ratio, column(advantage), clip_range=0.2, **options)
        assert active.item() == (slope == 0 and advantage != 0)
        assert (gradient.item() == 0) == (slope == 0)


def test_the_clip_gives_the_numbers_of_rlax():
    """The mean over three states, as rlax prints it; its third ratio, e⁻², is right to five digits."""
    logits = torch.tensor([[1.0, 1, 1], [2, 0, 0], [-1, -2, -3]], dtype=torch.float64).log_softmax(1)
    old = torch.tensor([[1.0, 1, 1], [2, 0, 0], [-3, -2, -1]], dtype=torch.float64).log_softmax(1)
    log_ratio = (logits - old).diagonal()
    for sign, expected in ((1, -0.17117467), (-1, 0.19333333)):
        losses = ppo.clip_loss(log_ratio, sign * column(0.3, 0.2, 0.1), clip_range=0.2)
        assert losses.mean().item() == pytest.approx(expected, abs=1e-5)


@settings(derandomize=True, deadline=None)
@given(st.floats(-3, 3), st.floats(-5, 5), st.floats(0.05, 0.5), st.floats(0.05, 0.9), st.floats(1.5, 5))
def test_the_clip_is_a_lower_bound_with_a_gradient_or_none(log_ratio, advantage, low, high, dual):
    x, a = column(log_ratio).requires_grad_(), column(advantage)
    options = {"clip_range": low, "clip_range_high": high}
    loss = ppo.clip_loss(x, a, **options)
    surrogate = math.exp(log_ratio) * advantage
    assert -loss.item() <= surrogate + 1e-12
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    active = ppo.clip_active(x, a, **options).item()
    assert gradient.item() == (0 if active else pytest.approx(-surrogate, rel=1e-12))
    both = ppo.clip_loss(x, a, dual_clip=dual, **options)
    assert both.item() <= loss.item()
    if advantage < 0:
        assert both.item() <= -dual * advantage * (1 + 1e-15)
    else:
        assert both.item() == loss.item()


@settings(derandomize=True, deadline=None)
@given(st.floats(-1, 1), st.floats(-5, 5))
def test_the_clip_is_a_penalty_of_each_samples_own_strength(log_ratio, advantage):
    """−r·A where the clip binds and 0 elsewhere, on the estimate −log r of KL[θ', θ]."""
    x, a = column(log_ratio).requires_grad_(), column(advantage)
    active = ppo.clip_active(x, a, clip_range=0.2).item()
    strength = -math.exp(log_ratio) * advantage if active else 0.0
    penalty = ppo.penalty_loss(x, a, -x, beta=strength)
    clip = ppo.clip_loss(x, a, clip_range=0.2)
    one, other = (torch.autograd.grad(loss.sum(), x)[0].item() for loss in (penalty, clip))
    assert one == pytest.approx(other, abs=1e-13)


def test_at_ratio_1_the_clip_is_the_policy_gradient():
    logprobs = column(-0.5, -2.0, -7.0).requires_grad_()
    a = column(1.0, -3.0, 0.2)
    log_ratio = logprobs - logprobs.detach()
    (clipped,) = torch.autograd.grad(ppo.clip_loss(log_ratio, a, clip_range=0.2).sum(), logprobs)
    (plain,) = torch.autograd.grad(policy_gradient.reinforce_loss(logprobs, a).sum(), logprobs)
    assert torch.equal(clipped, plain)
    assert not ppo.clip_active(log_ratio, a, clip_range=0.2, dual_clip=3.0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clipped_ratio_beyond_the_number_format_has_no_gradient(dtype):
    log_ratio = torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=dtype, requires_grad=True)
    a = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=dtype)
    loss = ppo.clip_loss(log_ratio, a, clip_range=0.2, dual_clip=3.0)
    assert loss.tolist() == pytest.approx([-1.2, 3, 0, 0.8])
    (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
    assert gradient.tolist() == [0, 0, 0, 0]


def test_no_gradient_flows_through_advantages_returns_and_old_values():
    x, a, old = (column(number).requires_grad_() for number in (0.1, 2.0, 0.3))
    losses = (
        ppo.clip_loss(x, a, clip_range=0.2)
        + ppo.penalty_loss(x, a, x.square(), beta=1.0)
        + ppo.value_loss(x, a, old_values=old, clip_range=0.2)
    )
    losses.sum().backward()
    assert x.grad.item() != 0
    assert a.grad is None
    assert old.grad is None


def test_penalty_hand_worked():
    """3·0.02 − 2·0.5 = −0.94, and its slope by log r is −rA, by the divergence β."""
    log_ratio, divergence = column(2.0).log().requires_grad_(), column(0.02).requires_grad_()
    loss = ppo.penalty_loss(log_ratio, column(0.5), divergence, beta=3.0)
    assert loss.item() == pytest.approx(-0.94)
    slopes = torch.autograd.grad(loss.sum(), (log_ratio, divergence))
    assert [slope.item() for slope in slopes] == pytest.approx([-1, 3])


def test_the_penalty_holds_the_policy_near(world):
    """At the minimum of the penalised loss of one state π is θ' moved by less the larger β is."""
    old, a = world.policy[0], column(1.0, 0.0, -1.0, 0.5)
    moved = []
    for beta in (0.5, 2.0, 8.0):
        logits = old.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

        def closure(logits=logits, beta=beta, optimiser=optimiser):
            optimiser.zero_grad()
            log_ratio = logits.log_softmax(0) - old.log_softmax(0)
            divergence = kl.exact_kl(old, logits).expand(4)
            losses = ppo.penalty_loss(log_ratio, a, divergence, beta=beta)
            loss = (old.softmax(0) * losses).sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        moved.append(kl.exact_kl(old, logits.detach()).item())
    assert moved[0] > moved[1] > moved[2] > 0


# V − V_old, ½ max((V − R)², (V_old + clip(V − V_old, ±0.2) − R)²) for R = V_old + 1, and its slope.
VALUES = (
    (0.1, 0.405, -0.9),
    (0.5, 0.32, 0.0),
    (1.5, 0.32, 0.0),
    (3.0, 2.0, 2.0),
    (-0.1, 0.605, -1.1),
    (-0.5, 1.125, -1.5),
)


@pytest.mark.parametrize(("value", "clipped", "slope"), VALUES)
def test_value_loss_in_every_region(value, clipped, slope):
    v, returns, old = column(value + 2).requires_grad_(), column(3.0), column(2.0)
    loss = ppo.value_loss(v, returns, old_values=old, clip_range=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), v)
    assert (loss.item(), gradient.item()) == (pytest.approx(clipped), pytest.approx(slope))
    plain = ppo.value_loss(v, returns)
    (gradient,) = torch.autograd.grad(plain.sum(), v)
    expected = (pytest.approx((value - 1) ** 2 / 2), pytest.approx(value - 1))
    assert (plain.item(), gradient.item()) == expected
    assert loss.item() >= plain.item()


def test_gradcheck():
    """Away from the corners; with advantages, returns and old values held constant."""
    x = column(-0.7, -0.1, 0.1, 0.7, 1.6, 0.05).requires_grad_()
    a, old = column(-1.0, 2.0, 1.0, 1.5, -2.0, -1.0), column(-0.3, 0.0, 0.0, 0.2, 1.0, 0.0)
    for options in ({}, {"dual_clip": 3.0}, {"clip_range_high": 0.28}):
        loss = lambda y, o=options: ppo.clip_loss(y, a, clip_range=0.2, **o)  # noqa: E731
        assert torch.autograd.gradcheck(loss, (x,))
    divergence = x.detach().square().requires_grad_()
    assert torch.autograd.gradcheck(lambda y, d: ppo.penalty_loss(y, a, d, beta=0.7), (x, divergence))
    assert torch.autograd.gradcheck(lambda y: ppo.value_loss(y, a), (x,))
    assert torch.autograd.gradcheck(lambda y: ppo.value_loss(y, a, old_values=old, clip_range=0.2), (x,))


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_padding_reaches_neither_loss_nor_gradient(garbage):
    """From rewards to the loss, as an algorithm puts the pieces together."""

    def learn(num_padded):
        generator = torch.Generator().manual_seed(4)
        names = ("rewards", "values", "next_values", "logprobs", "behaviour")
        tail = torch.full((2, num_padded), garbage, dtype=torch.float64)
        columns = {
            name: torch.cat([torch.randn(2, 4, generator=generator, dtype=torch.float64), tail], dim=1)
            for name in names
        }
        mask = torch.arange(4 + num_padded).expand(2, -1) < 4
        discounts = torch.where(torch.arange(4 + num_padded) == 3, 0.0, 0.9).double().expand(2, -1)
        raw = advantages.gae(
            columns["rewards"], columns["values"], columns["next_values"], discounts, 0.5 * discounts
        )
        white = masked.masked_whiten(raw, mask)
        logprobs = columns["logprobs"].requires_grad_()
        log_ratio = importance.log_weights(logprobs, columns["behaviour"], mask, level="token")
        loss = masked.masked_mean(ppo.clip_loss(log_ratio, white, clip_range=0.2), mask)
        (gradient,) = torch.autograd.grad(loss, logprobs)
        return loss.item(), gradient

    loss, gradient = learn(0)
    other, padded = learn(3)
    assert other == pytest.approx(loss, rel=1e-14)
    torch.testing.assert_close(padded[:, :4], gradient, rtol=1e-13, atol=1e-16)
    assert padded[:, 4:].tolist() == [[0, 0, 0]] * 2


def test_adaptive_penalty():
    """Target 1: doubled above 1.5, halved below 2/3, still between; never beyond its bounds."""
    penalty = ppo.AdaptivePenalty(beta=1.0, target=1.0, floor=0.25, ceiling=4.0)
    divergences = (1.6, 1.5, 9.0, math.inf, 1.0, 0.7, 0.6, 0.0, 0.0, 0.0, 0.0)
    expected = [2, 2, 4, 4, 4, 4, 2, 1, 0.5, 0.25, 0.25]
    assert [penalty.update(divergence) for divergence in divergences] == expected
    assert penalty.beta == 0.25


def test_an_adaptive_penalty_is_not_lost_to_small_updates():
    penalty = ppo.AdaptivePenalty(beta=1.0, target=0.01)
    for _ in range(2000):
        penalty.update(0.0)
    assert penalty.beta == 1e-6
    for _ in range(40):
        penalty.update(1.0)
    assert penalty.beta == 1e6


def test_reference_controller():
    """6 nats wanted, 256 sequences of 10,000: at most 0.2·0.0256 = 0.512 % a batch."""
    controller = ppo.ReferenceKLController(coefficient=0.2, target=6.0)
    factors = (
        (12.0, 1.00512),
        (6.0, 1.0),
        (6.6, 1.00256),
        (5.7, 0.99872),
        (0.0, 0.99488),
        (-1.0, 0.99488),
        (math.inf, 1.00512),
    )
    expected = 0.2
    for divergence, factor in factors:
        expected *= factor
        assert controller.update(divergence, num_sequences=256) == pytest.approx(expected, rel=1e-13)
    assert controller.coefficient == pytest.approx(expected, rel=1e-13)


def test_controllers_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="target is 0"):
        ppo.AdaptivePenalty(beta=1.0, target=0.0)
    for beta in (0.0, -1.0, 1e-7, 1e7, math.nan):
        with pytest.raises(ValueError, match="it must be within"):
            ppo.AdaptivePenalty(beta=beta, target=0.01)
    with pytest.raises(ValueError, match="is NaN"):
        ppo.AdaptivePenalty(beta=1.0, target=0.01).update(math.nan)
    for name in ("coefficient", "target", "horizon"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            ppo.ReferenceKLController(**{"coefficient": 0.2, "target": 6.0, "horizon": 10.0, name: 0.0})
    controller = ppo.ReferenceKLController(coefficient=0.2, target=6.0, horizon=100.0)
    with pytest.raises(ValueError, match="is NaN"):
        controller.update(math.nan, num_sequences=8)
    for num_sequences in (0, 500):
        with pytest.raises(ValueError, match="num_sequences is"):
            controller.update(6.0, num_sequences=num_sequences)
    assert controller.update(0.0, num_sequences=499) > 0


def test_clips_out_of_range_are_refused():
    x = column(0.1)
    for function in (ppo.clip_loss, ppo.clip_active):
        for low, high in ((0.0, None), (1.0, None), (-0.2, 0.2), (0.2, 0.0), (0.2, -0.1)):
            with pytest.raises(ValueError, match="the clip is"):
                function(x, x, clip_range=low, clip_range_high=high)
        for dual in (1.0, 0.5, math.nan):
            with pytest.raises(ValueError, match="dual_clip is"):
                function(x, x, clip_range=0.2, dual_clip=dual)
    with pytest.raises(ValueError, match="both or neither"):
        ppo.value_loss(x, x, old_values=x)
    with pytest.raises(ValueError, match="both or neither"):
        ppo.value_loss(x, x, clip_range=0.2)
    with pytest.raises(ValueError, match="clip_range is 0"):
        ppo.value_loss(x, x, old_values=x, clip_range=0.0)


def test_mixed_shapes_are_refused():
    x = torch.zeros(4, 3)
    for wrong in (torch.zeros(4, 1), torch.zeros(1, 3), torch.zeros(4), torch.zeros(3)):
        for function in (ppo.clip_loss, ppo.clip_active):
            with pytest.raises(TypeCheckError):
                function(x, wrong, clip_range=0.2)
        with pytest.raises(TypeCheckError):
            ppo.penalty_loss(x, wrong, x, beta=1.0)
        with pytest.raises(TypeCheckError):
            ppo.penalty_loss(x, x, wrong, beta=1.0)
        with pytest.raises(TypeCheckError):
            ppo.value_loss(x, wrong)
        with pytest.raises(TypeCheckError):
            ppo.value_loss(x, x, old_values=wrong, clip_range=0.2)
