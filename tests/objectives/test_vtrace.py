"""V-trace: hand-worked and published numbers, its definition, endings, ceilings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.objectives.advantages import gae
from logratio.objectives.vtrace import vtrace

FREE = {"rho_ceiling": math.inf, "c_ceiling": math.inf}


def rows(*values):
    return torch.tensor([values], dtype=torch.float64)


def random_columns(seed, *, sequences=6, time=9):
    """log_ratio, rewards, values, next_values, discounts, traces: endings of both kinds inside."""
    generator = torch.Generator().manual_seed(seed)
    log_ratio, rewards, values, after = torch.randn(
        4, sequences, time, generator=generator, dtype=torch.float64
    )
    ending = torch.rand(sequences, time, generator=generator)
    discounts = torch.where(ending < 0.15, 0.0, 0.9).double()
    traces = torch.where(ending < 0.3, 0.0, 0.8).double()
    following = torch.cat([values[:, 1:], after[:, -1:]], dim=1)
    return log_ratio, rewards, values, torch.where(traces > 0, following, after), discounts, traces


def by_definition(column_lists, rho, c):
    """`v_t = V_t + Σ_k γ^(k−t) (Π c) δ_k`, every t by itself."""
    x, r, v, n, g, w = column_lists
    targets = []
    for t in range(len(x)):
        terms = [v[t]]
        for k in range(t, len(x)):
            weight = math.prod(g[i] * w[i] * min(c, math.exp(x[i])) for i in range(t, k))
            terms.append(weight * min(rho, math.exp(x[k])) * (r[k] + g[k] * n[k] - v[k]))
        targets.append(math.fsum(terms))
    return targets


def test_hand_worked():
    """Ratios 2 and ½, ceilings 1: δ = 1·(1 + ½·4 − 2) = 1 and ½·(3 + ½·6 − 4) = 1.

    Targets: 4 + 1 = 5, then 2 + 1 + ½·1·1 = 3.5. Advantages: ½·(3 + ½·6 − 4) = 1, 1·(1 + ½·5 − 2) = 1.5.
    """
    ours = vtrace(
        rows(math.log(2), math.log(0.5)),
        rows(1.0, 3.0),
        rows(2.0, 4.0),
        rows(4.0, 6.0),
        rows(0.5, 0.5),
        rows(1.0, 1.0),
    )
    assert ours.targets.tolist() == [[3.5, 5.0]]
    assert ours.advantages.tolist() == [[1.5, 1.0]]


def test_published_numbers():
    """rlax/_src/vtrace_test.py, computed in float32 and held there to 1e-3."""
    behaviour = torch.tensor(
        [
            [[8.9, 0.7], [5.0, 1.0], [0.6, 0.1], [-0.9, -0.1]],
            [[0.3, -5.0], [1.0, -8.0], [0.3, 1.7], [4.7, 3.3]],
        ]
    ).double()
    target = torch.tensor(
        [[[0.4, 0.5], [9.2, 8.8], [0.7, 4.4], [7.9, 1.4]], [[1.0, 0.9], [1.0, -1.0], [-4.3, 8.7], [0.8, 0.3]]]
    ).double()
    actions = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]])[..., None]
    log_ratio = (target.log_softmax(-1) - behaviour.log_softmax(-1)).gather(2, actions)[..., 0]
    values = torch.tensor([[2.1, 1.1, -3.1, 0.0, 8.4], [3.1, 0.1, -1.1, 7.4, -1.2]]).double()
    ours = vtrace(
        log_ratio,
        torch.tensor([[-1.3, -1.3, 2.3, 42.0], [1.3, 5.3, -3.3, -5.0]]).double(),
        values[:, :-1],
        values[:, 1:],
        torch.tensor([[0.0, 0.89, 0.85, 0.99], [0.88, 1.0, 0.83, 0.95]]).double(),
        torch.ones(2, 4).double(),
    )
    errors = torch.tensor(
        [[-1.6155143, -3.4973226, 1.8670533, 50.316002], [1.4662437, 3.6116405, -8.3327293e-5, -13.54]]
    )
    torch.testing.assert_close((ours.targets - values[:, :-1]).float(), errors, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(ours.advantages.float(), errors, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(("rho_ceiling", "c_ceiling"), [(1.0, 1.0), (1.2, 0.7), (math.inf, 2.0), (0.4, 0.1)])
def test_targets_are_their_definition(rho_ceiling, c_ceiling):
    columns = random_columns(1)
    ours = vtrace(*columns, rho_ceiling=rho_ceiling, c_ceiling=c_ceiling).targets.tolist()
    for row, got in enumerate(ours):
        assert got == pytest.approx(
            by_definition([column[row].tolist() for column in columns], rho_ceiling, c_ceiling), abs=1e-12
        )


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_on_policy_without_ceilings_it_is_gae(trace):
    log_ratio, rewards, values, next_values, discounts, traces = random_columns(2)
    traces = torch.where(traces > 0, trace, 0.0).double()
    columns = rewards, values, next_values, discounts, traces
    ours = vtrace(torch.zeros_like(log_ratio), *columns, **FREE)
    expected = gae(*columns)
    torch.testing.assert_close(ours.advantages, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.targets, values + expected, rtol=1e-12, atol=1e-12)


def test_without_traces_it_is_one_step():
    log_ratio, rewards, values, next_values, discounts, traces = random_columns(3)
    ours = vtrace(log_ratio, rewards, values, next_values, discounts, torch.zeros_like(traces))
    weighed = log_ratio.exp().clamp(max=1.0) * (rewards + discounts * next_values - values)
    torch.testing.assert_close(ours.targets, values + weighed, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.advantages, weighed, rtol=1e-13, atol=1e-13)


def test_what_an_ending_cuts_off_may_hold_anything():
    """Terminated: nothing follows. Cut off: the value of the last state does, the next row does not."""
    ratio = rows(0.3, -0.2, math.nan)
    rewards, values = rows(1.0, 2.0, math.nan), rows(0.5, 0.25, math.nan)
    ended = vtrace(
        ratio,
        rewards,
        values,
        rows(0.25, math.nan, math.nan),
        rows(0.9, 0.0, 0.0),
        rows(1.0, 0.0, 0.0),
        **FREE,
    )
    cut = vtrace(
        ratio, rewards, values, rows(0.25, 7.0, math.nan), rows(0.9, 0.9, 0.0), rows(1.0, 0.0, 0.0), **FREE
    )
    last = math.exp(-0.2)
    assert ended.targets[0, 1].item() == pytest.approx(0.25 + last * (2 - 0.25), rel=1e-14)
    assert cut.targets[0, 1].item() == pytest.approx(0.25 + last * (2 + 0.9 * 7 - 0.25), rel=1e-14)
    for whole in (ended, cut):
        assert whole.advantages[0, 1].item() == pytest.approx(whole.targets[0, 1].item() - 0.25, rel=1e-14)
        first = whole.targets[0, 1].item()
        expected = 0.5 + math.exp(0.3) * (1 + 0.9 * first - 0.5)
        assert whole.targets[0, 0].item() == pytest.approx(expected, rel=1e-14)
        assert whole.advantages[0, 0].item() == pytest.approx(expected - 0.5, rel=1e-14)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.1, 5.0), st.floats(0.05, 1.0))
def test_an_advantage_is_the_bounded_weight_of_reward_and_next_target(seed, rho_ceiling, share):
    """`min(ρ̄, ρ)(r + γ v' − V)` with v' the next row's target: λ = 1, no ending inside."""
    log_ratio, rewards, values, _, _, _ = random_columns(seed)
    next_values = torch.cat([values[:, 1:], rewards[:, :1]], dim=1)
    discounts, traces = torch.full_like(values, 0.9), torch.ones_like(values)
    ours = vtrace(
        log_ratio,
        rewards,
        values,
        next_values,
        discounts,
        traces,
        rho_ceiling=rho_ceiling,
        c_ceiling=share * rho_ceiling,
    )
    following = torch.cat([ours.targets[:, 1:], next_values[:, -1:]], dim=1)
    weight = log_ratio.exp().clamp(max=rho_ceiling)
    torch.testing.assert_close(
        ours.advantages, weight * (rewards + 0.9 * following - values), rtol=1e-12, atol=1e-12
    )


def test_no_gradient_flows():
    """A target that moved with its critic would leave the loss (V − target)² without a gradient."""
    columns = [column.requires_grad_() for column in random_columns(4)]
    ours = vtrace(*columns)
    assert not ours.targets.requires_grad
    assert not ours.advantages.requires_grad


@pytest.mark.parametrize(("rho_ceiling", "c_ceiling"), [(1.0, 0.0), (1.0, -1.0), (0.5, 1.0), (math.nan, 1.0)])
def test_impossible_ceilings_are_refused(rho_ceiling, c_ceiling):
    with pytest.raises(ValueError, match="0 < c ≤ rho"):
        vtrace(*random_columns(5), rho_ceiling=rho_ceiling, c_ceiling=c_ceiling)
