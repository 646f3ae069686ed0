"""KL divergence: values at the ends of the number format, against loops, quadrature and enumeration."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from logratio.objectives import kl

INFINITY = math.inf


def loop_kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=12))
def test_exact_kl_against_a_loop(rows):
    p, q = ([row[side] / math.fsum(r[side] for r in rows) for row in rows] for side in (0, 1))
    # Any constant may be added to logits.
    logits_p = torch.tensor([p], dtype=torch.float64).log() + 3
    logits_q = torch.tensor([q], dtype=torch.float64).log() - 50
    assert kl.exact_kl(logits_p, logits_q).item() == pytest.approx(loop_kl(p, q), rel=1e-9, abs=1e-14)


def test_exact_kl_hand_worked():
    """[1/2, 1/2] to [1/4, 3/4]: ½ ln 2 + ½ ln(2/3) = 0.1438; the other way ¼ ln ½ + ¾ ln(3/2) = 0.1308."""
    even = torch.zeros(1, 2, dtype=torch.float64)
    uneven = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    assert kl.exact_kl(even, uneven).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-14)
    assert kl.exact_kl(uneven, even).item() == pytest.approx(math.log(27 / 16) / 4, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_kl_is_never_negative_and_small_ones_are_right(dtype):
    """Logits δ apart: KL = ½ Var_p(δ) to first order, far below the rounding of a plain sum in float32."""
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(40, 3000, generator=generator, dtype=torch.float64)
    for distance in (1e-2, 1e-4, 1e-6):
        delta = distance * torch.randn(40, 3000, generator=generator, dtype=torch.float64)
        near = (logits + delta).to(dtype)
        value = kl.exact_kl(logits.to(dtype), near)
        assert (value >= 0).all()
        if distance >= 1e-4 or dtype == torch.float64:
            p, moved = logits.softmax(-1), near.double() - logits.to(dtype).double()
            exact = ((p * moved.square()).sum(-1) - (p * moved).sum(-1).square()) / 2
            torch.testing.assert_close(value.double(), exact, rtol=5e-2, atol=0)
    assert not kl.exact_kl(logits.to(dtype), logits.to(dtype)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_apart_logits_give_finite_values_and_gradients(dtype):
    ends = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype)
    rows = torch.cartesian_prod(ends, ends, ends, ends)
    p, q = rows[:, :2].clone().requires_grad_(), rows[:, 2:].clone().requires_grad_()
    value = kl.exact_kl(p, q)
    value.sum().backward()
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()
    opposite = kl.exact_kl(torch.tensor([1e4, -1e4], dtype=dtype), torch.tensor([-1e4, 1e4], dtype=dtype))
    assert opposite.item() == 2e4


def test_what_q_rules_out_and_p_does_not_is_infinitely_far():
    p = torch.tensor([[0.0, 0.0, -INFINITY], [0.0, 0.0, -INFINITY], [0.0, -500.0, 0.0]])
    q = torch.tensor([[0.0, -INFINITY, 0.0], [0.0, 0.0, 0.0], [0.0, -INFINITY, 0.0]])
    assert kl.exact_kl(p, q).tolist() == [INFINITY, pytest.approx(math.log(1.5), rel=1e-6), INFINITY]
    both = torch.tensor([[1.0, -INFINITY, 2.0]], requires_grad=True)
    value = kl.exact_kl(both, torch.tensor([[2.0, -INFINITY, 1.0]]))
    value.sum().backward()
    assert value.isfinite().all()
    assert both.grad.isfinite().all()


def test_exact_kl_gradcheck():
    generator = torch.Generator().manual_seed(1)
    p, q = (torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in "pq")
    assert torch.autograd.gradcheck(kl.exact_kl, (p, 3 * q.detach().requires_grad_()))
    assert torch.autograd.gradcheck(kl.exact_kl, (p, q))


def test_low_precision_logits_are_computed_in_float32():
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.bfloat16)
    other = torch.tensor([[0.0, 1.0, 2.5]], dtype=torch.bfloat16)
    value = kl.exact_kl(logits, other)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, kl.exact_kl(logits.float(), other.float()))


def test_mixed_shapes_are_refused():
    for other in (torch.zeros(1, 5), torch.zeros(4, 1), torch.zeros(5)):
        with pytest.raises(TypeCheckError):
            kl.exact_kl(torch.zeros(4, 5), other)


def test_estimates_hand_worked():
    """π twice as likely as ρ: ln 2; ½ (ln 2)²; ½ − 1 + ln 2."""
    log_ratio = torch.tensor([math.log(2)], dtype=torch.float64)
    assert kl.k1(log_ratio).item() == math.log(2)
    assert kl.k2(log_ratio).item() == pytest.approx(0.2402265070, abs=1e-10)
    assert kl.k3(log_ratio).item() == pytest.approx(0.1931471806, abs=1e-10)
    assert kl.k3(-log_ratio).item() == pytest.approx(0.3068528194, abs=1e-10)


@settings(derandomize=True, deadline=None)
@given(st.floats(-30, 30), st.sampled_from([torch.float32, torch.float64]))
def test_k2_and_k3_are_never_negative(log_ratio, dtype):
    x = torch.tensor([log_ratio], dtype=dtype)
    assert kl.k2(x).item() >= 0
    assert kl.k3(x).item() >= 0


def test_k3_keeps_its_digits_where_the_policies_are_close():
    """k3 = x²/2 − x³/6 + …: at 1e-6 the plain `exp(−x) − 1 + x` has no digit right."""
    for x in (1e-6, -1e-6, 1e-4):
        value = kl.k3(torch.tensor([x], dtype=torch.float64)).item()
        assert value == pytest.approx(x**2 / 2 - x**3 / 6, rel=1e-8, abs=0)


def test_estimates_at_the_ends():
    """Not clamped: where e^10000 is too large for the number format, k3 says inf; it is never NaN."""
    x = torch.tensor([-30.0, 30.0, 1e4], requires_grad=True)
    for estimate in (kl.k1, kl.k2, kl.k3):
        value = estimate(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    assert kl.k3(torch.tensor([-1e4])).item() == INFINITY


def test_estimates_gradcheck():
    x = torch.tensor([-3.0, -1e-3, 0.4, 7.0], dtype=torch.float64, requires_grad=True)
    for estimate in (kl.k1, kl.k2, kl.k3):
        assert torch.autograd.gradcheck(estimate, (x,))


@pytest.mark.parametrize(
    ("mean", "bias_over_kl", "std_over_kl"),
    [
        (0.1, {kl.k1: 0, kl.k2: 0.0025, kl.k3: 0}, {kl.k1: 20, kl.k2: 1.42, kl.k3: 1.42}),
        (1.0, {kl.k1: 0, kl.k2: 0.25, kl.k3: 0}, {kl.k1: 2, kl.k2: 1.73, kl.k3: 1.70}),
    ],
)
def test_two_gaussians_by_quadrature(mean, bias_over_kl, std_over_kl):
    """Samples from N(0, 1) against N(μ, 1): log-ratio μ²/2 − μx, KL μ²/2; Schulman's table."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x = torch.from_numpy(nodes)
    probability = torch.from_numpy(weights / weights.sum())
    divergence = mean**2 / 2
    for estimate, bias in bias_over_kl.items():
        value = estimate(mean**2 / 2 - mean * x)
        expected = (probability * value).sum().item()
        deviation = math.sqrt((probability * (value - expected).square()).sum().item())
        assert (expected - divergence) / divergence == pytest.approx(bias, abs=1e-9)
        assert deviation / divergence == pytest.approx(std_over_kl[estimate], abs=6e-3)


def test_estimates_on_the_enumerated_model(world):
    """E_π of k1, of k3 and of the Rao–Blackwell sum is KL[π, ρ]; k2 misses it by its known bias."""
    log_policy, log_other = world.answer_logprobs(world.policy), world.answer_logprobs(world.other)
    probability = log_policy.exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-14)
    exact = math.fsum(
        math.exp(a) * (a - b) for a, b in zip(log_policy.tolist(), log_other.tolist(), strict=True)
    )
    assert exact > 0.1

    def expected(values):
        return (probability * values).sum().item()

    log_ratio = log_policy - log_other
    assert expected(kl.k1(log_ratio)) == pytest.approx(exact, abs=1e-12)
    assert expected(kl.k3(log_ratio)) == pytest.approx(exact, abs=1e-12)
    per_token = kl.exact_kl(world.policy, world.other)[world.state]
    assert expected(torch.where(world.mask, per_token, 0.0).sum(1)) == pytest.approx(exact, abs=1e-12)
    half_square = math.fsum(
        math.exp(a) * (a - b) ** 2 / 2 for a, b in zip(log_policy.tolist(), log_other.tolist(), strict=True)
    )
    bias = expected(kl.k2(log_ratio)) - exact
    assert bias == pytest.approx(half_square - exact, abs=1e-12)
    assert abs(bias) > 0.01


def test_what_the_gradients_of_the_estimates_are(world):
    """As losses on answers from π: k1 gives nothing, k2 the gradient of KL[π, ρ], k3 that of KL[ρ, π]."""
    logits = world.policy.clone().requires_grad_()
    log_policy, log_other = world.answer_logprobs(logits), world.answer_logprobs(world.other)
    probability = log_policy.detach().exp()

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    forward = gradient((log_policy.exp() * (log_policy - log_other)).sum())
    reverse = gradient((log_other.exp() * (log_other - log_policy)).sum())
    close = {"rtol": 1e-10, "atol": 1e-13}
    as_loss = {k: gradient((probability * k(log_policy - log_other)).sum()) for k in (kl.k1, kl.k2, kl.k3)}
    torch.testing.assert_close(as_loss[kl.k1], torch.zeros_like(forward), **close)
    torch.testing.assert_close(as_loss[kl.k2], forward, **close)
    torch.testing.assert_close(as_loss[kl.k3], reverse, **close)
    in_reward = gradient((probability * kl.k1(log_policy - log_other).detach() * log_policy).sum())
    torch.testing.assert_close(in_reward, forward, **close)
    per_token = torch.where(world.mask, kl.exact_kl(logits, world.other)[world.state], 0.0).sum(1)
    local = gradient((probability * per_token).sum())
    assert (local - forward).norm() > 0.05 * forward.norm()
