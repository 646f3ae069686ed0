"""Returns, advantages and baselines: hand-worked rows, other libraries' printed numbers, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from logratio.objectives import advantages

NAN = math.nan


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def constant(value, size):
    return torch.full((1, size), value, dtype=torch.float64)


def test_returns_hand_worked():
    """Backwards with γ = ½: 8, 4 + 4 = 8, 2 + 4 = 6; the second episode starts anew."""
    rewards = row(2.0, 4.0, 8.0, 1.0, 1.0, NAN)
    discounts = row(0.5, 0.5, 0.0, 0.5, 0.0, 0.5)
    returns = advantages.discounted_returns(rewards, discounts)
    assert returns[:, :5].tolist() == [[6, 8, 8, 1.5, 1]]


def test_gae_hand_worked():
    """δ = 1 + ½·4 − 2 = 1 and 3 + 0 − 4 = −1; A₀ = 1 + ½·½·(−1) = 0.75."""
    ended = advantages.gae(row(1.0, 3.0), row(2.0, 4.0), row(4.0, NAN), row(0.5, 0.0), row(0.5, 0.0))
    assert ended.tolist() == [[0.75, -1]]
    # Cut off at a state worth 6: δ₁ = 3 + ½·6 − 4 = 2, A₀ = 1 + ¼·2.
    cut = advantages.gae(row(1.0, 3.0), row(2.0, 4.0), row(4.0, 6.0), row(0.5, 0.5), row(0.5, 0.0))
    assert cut.tolist() == [[1.5, 2]]


def test_terminated_and_cut_off_at_once_is_terminated():
    both = advantages.gae(row(3.0), row(4.0), row(6.0), row(0.0), row(0.0))
    assert both.tolist() == [[-1]]


# Test vectors of rlax (Apache-2.0), which prints three to six digits and itself allows 1e-3.
@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (1.0, (-1.45118, -4.4557, 2.5396, 0.5249, -0.49)),
        (0.7, (-0.676979, -5.248167, 2.4846, 0.6704, -0.49)),
        (0.4, (0.56731, -6.042, 2.3431, 0.815, -0.49)),
    ],
)
def test_gae_gives_the_numbers_of_rlax(lam, expected):
    values = row(1.0, 4.0, -3.0, -2.0, -1.0, -1.0)
    ours = advantages.gae(
        row(0.0, 0.0, 1.0, 0.0, -0.5), values[:, :-1], values[:, 1:], constant(0.99, 5), constant(lam, 5)
    )
    torch.testing.assert_close(ours, row(*expected), rtol=0, atol=1e-3)


def test_an_episode_that_ends_inside_gives_the_numbers_of_rlax():
    values = row(-3.0, -2.0, -1.0, 0.0, 5.0, -1.0)
    discounts = row(0.9, 0.9, 0.9, 0.0, 0.9)
    ours = advantages.gae(
        row(0.0, 0.0, 0.0, 0.0, 1.0), values[:, :-1], values[:, 1:], discounts, constant(1.0, 5)
    )
    torch.testing.assert_close(ours, row(3.0, 2.0, 1.0, 0.0, -4.9), rtol=0, atol=1e-12)


def test_lambda_returns_are_those_of_rlax():
    """`G_t = r_t + γ_t ((1 − λ) V_{t+1} + λ G_{t+1})` is the advantage and the value together."""
    next_values = row(3.0, 1.0, 5.0, -5.0, 3.0)
    values = row(0.0, 3.0, 1.0, 5.0, -5.0)
    ours = advantages.gae(
        row(1.0, 0.0, -1.0, 0.0, 1.0), values, next_values, row(0.5, 0.9, 1.0, 0.5, 0.8), constant(0.75, 5)
    )
    expected = row(1.6460547, 0.72281253, 0.7375001, 0.6500001, 3.4)
    torch.testing.assert_close(ours + values, expected, rtol=0, atol=1e-6)


def test_cut_off_episodes_give_the_numbers_of_tianshou():
    """Three episodes of four rows: two cut off and one terminated, then all three terminated."""
    rewards = row(101.0, 102.0, 103.0, 200.0, 104.0, 105.0, 106.0, 201.0, 107.0, 108.0, 109.0, 202.0)
    next_values = row(2.0, 3.0, 4.0, -1.0, 5.0, 6.0, 7.0, -2.0, 8.0, 9.0, 10.0, -3.0)
    values = next_values.roll(1, dims=1)
    last = torch.arange(12)[None] % 4 == 3
    traces = constant(0.95, 12).masked_fill(last, 0.0)
    cut = constant(0.99, 12)
    cut[0, 11] = 0
    expected = row(
        *(454.0109, 375.2386, 290.3669, 199.01),
        *(462.9138, 381.3571, 293.5248, 199.02),
        *(474.2876, 390.1027, 299.476, 202.0),
    )
    ours = advantages.gae(rewards, values, next_values, cut, traces) + values
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    ended = constant(0.99, 12).masked_fill(last, 0.0)
    expected = row(
        *(454.8344, 376.1143, 291.298, 200.0),
        *(464.5610, 383.1085, 295.387, 201.0),
        *(474.2876, 390.1027, 299.476, 202.0),
    )
    ours = advantages.gae(rewards, values, next_values, ended, traces) + values
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


NUMBERS = st.floats(-10, 10)
STEPS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=12)


@settings(derandomize=True, deadline=None)
@given(STEPS, st.floats(0, 1), st.floats(0, 1))
def test_the_ends_of_lambda_and_a_shift_of_the_critic(steps, gamma, lam):
    rewards, values, next_values = (column[None] for column in torch.tensor(steps, dtype=torch.float64).T)
    discounts, traces = constant(gamma, len(steps)), constant(lam, len(steps))
    one_step = advantages.gae(rewards, values, next_values, discounts, 0 * traces)
    assert torch.equal(one_step, rewards + discounts * next_values - values)
    # λ = 1: the values in between cancel where each is the next row's own.
    chained = torch.cat([values[:, 1:], torch.zeros(1, 1, dtype=torch.float64)], dim=1)
    returns = advantages.discounted_returns(rewards, discounts)
    telescoped = advantages.gae(rewards, values, chained, discounts, torch.ones_like(traces))
    torch.testing.assert_close(telescoped + values, returns, rtol=1e-9, atol=1e-9)
    # Rewards c(1 − γ) more and values c more: no action is better than it was.
    moved = advantages.gae(rewards + 3 * (1 - gamma), values + 3, next_values + 3, discounts, traces)
    before = advantages.gae(rewards, values, next_values, discounts, traces)
    torch.testing.assert_close(moved, before, rtol=1e-9, atol=1e-9)


def test_episodes_side_by_side_are_as_each_alone_whatever_stands_behind():
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(1, 9, generator=generator, dtype=torch.float64) for _ in range(3)]
    discounts = row(0.9, 0.9, 0.0, 0.9, 0.9, 0.9, 0.9, 0.0, 0.9)
    traces = row(0.8, 0.8, 0.0, 0.8, 0.0, 0.8, 0.8, 0.0, 0.8)
    for garbage in (NAN, math.inf, 1e300):
        dirty = [torch.cat([column[:, :8], constant(garbage, 1)], dim=1) for column in columns]
        together = advantages.gae(*dirty, discounts, traces)
        alone = [
            advantages.gae(*(column[:, part] for column in (*columns, discounts, traces)))
            for part in (slice(0, 3), slice(3, 5), slice(5, 8))
        ]
        assert torch.equal(together[:, :8], torch.cat(alone, dim=1))


def test_no_gradient_comes_back_from_behind_the_end():
    rewards = row(1.0, 2.0, NAN).requires_grad_()
    returns = advantages.discounted_returns(rewards, row(0.5, 0.0, 0.5))
    (gradient,) = torch.autograd.grad(returns[0, :2].sum(), rewards)
    assert gradient.tolist() == [[1, 1.5, 0]]


def test_gradcheck():
    generator = torch.Generator().manual_seed(1)
    five = [torch.rand(2, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(5)]
    assert torch.autograd.gradcheck(advantages.gae, five)
    assert torch.autograd.gradcheck(advantages.discounted_returns, five[:2])


def test_rows_of_no_length():
    nothing = torch.zeros(3, 0)
    assert advantages.gae(*[nothing] * 5).shape == (3, 0)
    assert advantages.discounted_returns(nothing, nothing).shape == (3, 0)


def test_leave_one_out_hand_worked():
    """1 − (2 + 6)/2, 2 − (1 + 6)/2, 6 − (1 + 2)/2; a pair gets its difference."""
    three = advantages.leave_one_out(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64), group_size=3)
    assert three.tolist() == [-3, -1.5, 4.5]
    pairs = advantages.leave_one_out(torch.tensor([1.0, 4.0, 0.0, -2.0]), group_size=2)
    assert pairs.tolist() == [-3, 3, 2, -2]


def test_group_centred_hand_worked():
    """1, 2, 6 less 3; their variance over 3 is (4 + 1 + 9)/3."""
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    plain = advantages.group_centred(rewards, group_size=3)
    assert plain.tolist() == pytest.approx([-2, -1, 3, 0, 0, 0], rel=1e-15)
    scaled = advantages.group_centred(rewards, group_size=3, divide_by_std=True)
    std = math.sqrt(14 / 3)
    assert scaled.tolist() == pytest.approx([-2 / std, -1 / std, 3 / std, 0, 0, 0], rel=1e-14)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4), st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_baselines_from_siblings_whatever_the_rewards(rewards, shift, scale):
    r = torch.tensor(rewards, dtype=torch.float64)
    ours = advantages.leave_one_out(r, group_size=4)
    others = [(sum(rewards) - reward) / 3 for reward in rewards]
    assert ours.tolist() == pytest.approx([a - b for a, b in zip(rewards, others, strict=True)], abs=1e-9)
    assert ours.sum().item() == pytest.approx(0, abs=1e-9)
    moved = advantages.leave_one_out(r + shift, group_size=4)
    torch.testing.assert_close(moved, ours, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(advantages.group_centred(r, group_size=4), 0.75 * ours, rtol=1e-12, atol=1e-12)
    if max(rewards) - min(rewards) > 1e-3:
        scaled = advantages.group_centred(r * scale, group_size=4, divide_by_std=True)
        assert scaled.square().mean().item() == pytest.approx(1, abs=1e-9)
        plain = advantages.group_centred(r, group_size=4, divide_by_std=True)
        torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, -7.3, 1e30, 1e-40, 0.0])
def test_equal_rewards_get_exactly_0(value, dtype):
    """Not rounding noise, which whitening over the batch would make as large as any other advantage."""
    rewards = torch.full((21,), value, dtype=dtype)
    for group_size in (3, 7):
        assert not advantages.leave_one_out(rewards, group_size=group_size).any()
        assert not advantages.group_centred(rewards, group_size=group_size).any()
        assert not advantages.group_centred(rewards, group_size=group_size, divide_by_std=True).any()


def test_groups_do_not_mix():
    rewards = torch.tensor([0.0, 1.0, 10.0, 30.0])
    for baseline in (advantages.leave_one_out, advantages.group_centred):
        together = baseline(rewards, group_size=2)
        apart = torch.cat([baseline(rewards[:2], group_size=2), baseline(rewards[2:], group_size=2)])
        assert torch.equal(together, apart)


def test_groups_that_are_none_are_refused():
    for baseline in (advantages.leave_one_out, advantages.group_centred):
        with pytest.raises(ValueError, match="group_size is 1"):
            baseline(torch.zeros(4), group_size=1)
        with pytest.raises(ValueError, match="5 rewards do not divide into groups of 2"):
            baseline(torch.zeros(5), group_size=2)


def test_mixed_shapes_are_refused():
    five = [torch.zeros(2, 3)] * 5
    for place in range(5):
        for wrong in (torch.zeros(2, 1), torch.zeros(1, 3), torch.zeros(3), torch.zeros(2, 4)):
            with pytest.raises(TypeCheckError):
                advantages.gae(*five[:place], wrong, *five[place + 1 :])
    with pytest.raises(TypeCheckError):
        advantages.discounted_returns(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(TypeCheckError):
        advantages.leave_one_out(torch.zeros(2, 2), group_size=2)
