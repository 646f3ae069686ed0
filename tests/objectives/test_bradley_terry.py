"""Preference probabilities, the loss of a comparison, the loss of a whole ranking."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from logratio.objectives import bradley_terry

FLOATS = st.floats(-50, 50)


def scalars(*values):
    return tuple(torch.tensor([value], dtype=torch.float64) for value in values)


def test_hand_worked():
    """Strengths ln 3 and 0: odds 3 to 1, so 3/4, and a loss of ln(4/3); with a margin of ln 3, even: ln 2."""
    a, b = scalars(math.log(3), 0.0)
    assert bradley_terry.preference_probability(a, b).item() == pytest.approx(0.75, rel=1e-14)
    assert bradley_terry.comparison_loss(a, b).item() == pytest.approx(math.log(4 / 3), rel=1e-14)
    margin = bradley_terry.comparison_loss(a, b, margin=math.log(3))
    assert margin.item() == pytest.approx(math.log(2), rel=1e-14)


@settings(derandomize=True, deadline=None)
@given(FLOATS, FLOATS, FLOATS)
def test_identities(a, b, shift):
    first, second, moved_first, moved_second = scalars(a, b, a + shift, b + shift)
    probability = bradley_terry.preference_probability(first, second)
    swapped = bradley_terry.preference_probability(second, first)
    assert (probability + swapped).item() == pytest.approx(1, abs=1e-15)
    loss = bradley_terry.comparison_loss(first, second)
    assert math.exp(-loss.item()) == pytest.approx(probability.item(), rel=1e-12)
    moved = bradley_terry.comparison_loss(moved_first, moved_second)
    assert moved.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-12)


def test_margins_may_differ_between_pairs():
    chosen, rejected = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    margins = torch.tensor([0.0, 1.0])
    each = bradley_terry.comparison_loss(chosen, rejected, margin=margins)
    assert each[0] == bradley_terry.comparison_loss(chosen, rejected)[0]
    assert each[1] == bradley_terry.comparison_loss(chosen, rejected, margin=1.0)[1]
    assert each[1] > each[0]


def test_centring_hand_worked():
    """Rewards 3 and 1: −log σ(2) + 0.01·4². It leaves differences alone, and holds the sum at 0."""
    chosen, rejected = scalars(3.0, 1.0)
    plain = bradley_terry.comparison_loss(chosen, rejected)
    centred = bradley_terry.comparison_loss(chosen, rejected, centring=0.01)
    assert (centred - plain).item() == pytest.approx(0.16, rel=1e-13)
    with pytest.raises(ValueError, match=r"centring is -0\.1; it must not be negative"):
        bradley_terry.comparison_loss(chosen, rejected, centring=-0.1)


def test_a_tie_is_half_a_label_each_way():
    """And any label p is p of the one loss and 1 − p of the other, least where σ(d) = p."""
    a, b = scalars(0.7, -0.4)
    one, other = bradley_terry.comparison_loss(a, b), bradley_terry.comparison_loss(b, a)
    tie = bradley_terry.comparison_loss(a, b, preference=0.5)
    assert tie.item() == pytest.approx((one + other).item() / 2, rel=1e-14)
    mixed = bradley_terry.comparison_loss(a, b, preference=torch.tensor([0.8], dtype=torch.float64))
    assert mixed.item() == pytest.approx((0.8 * one + 0.2 * other).item(), rel=1e-14)
    best = torch.tensor([math.log(4)], dtype=torch.float64, requires_grad=True)
    bradley_terry.comparison_loss(best, torch.zeros_like(best), preference=0.8).backward()
    assert best.grad.abs().item() < 1e-16


@settings(derandomize=True, deadline=None)
@given(FLOATS, FLOATS, st.floats(0, 1), st.floats(-3, 3))
def test_exchanging_the_two_exchanges_the_label(a, b, label, margin):
    """The margin is asked of whichever is preferred."""
    first, second = scalars(a, b)
    one = bradley_terry.comparison_loss(first, second, preference=label, margin=margin)
    other = bradley_terry.comparison_loss(second, first, preference=1 - label, margin=margin)
    assert one.item() == pytest.approx(other.item(), rel=1e-9, abs=1e-9)


def test_a_ranking_hand_worked():
    """Weights 3, 2, 1: the best first with ½, the next of the rest with ⅔."""
    best_first = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64).log()
    assert bradley_terry.plackett_luce_loss(best_first).item() == pytest.approx(math.log(3), rel=1e-14)
    assert bradley_terry.plackett_luce_loss(best_first.flip(1)).item() == pytest.approx(
        math.log(6 * 5 / 2), rel=1e-14
    )


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=4), FLOATS)
def test_chances_of_all_rankings(strengths, shift):
    """They sum to 1, and adding one number to all strengths changes none of them."""
    orders = torch.tensor(list(permutations(strengths)), dtype=torch.float64)
    losses = bradley_terry.plackett_luce_loss(orders)
    assert (-losses).exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(bradley_terry.plackett_luce_loss(orders + shift), losses, rtol=1e-9, atol=1e-9)


@settings(derandomize=True, deadline=None)
@given(FLOATS, FLOATS)
def test_a_ranking_of_two_is_a_comparison(a, b):
    first, second = scalars(a, b)
    ranking = bradley_terry.plackett_luce_loss(torch.stack([first, second], dim=1))
    assert ranking.item() == pytest.approx(
        bradley_terry.comparison_loss(first, second).item(), rel=1e-12, abs=1e-14
    )


def test_a_shorter_ranking_is_the_same_beside_a_longer_one():
    strengths = torch.tensor([[0.3, -1.0, 2.0, 0.5], [1.2, 0.1, 7.0, -9.0]], dtype=torch.float64)
    strengths[1, 2:] = torch.tensor([torch.nan, torch.inf])
    strengths.requires_grad_()
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    losses = bradley_terry.plackett_luce_loss(strengths, mask)
    for row, length in enumerate((4, 2)):
        alone = bradley_terry.plackett_luce_loss(strengths[row : row + 1, :length].detach())
        assert losses[row].item() == pytest.approx(alone.item(), rel=1e-15)
    losses.sum().backward()
    assert strengths.grad.isfinite().all()
    assert not strengths.grad[1, 2:].any()
    nobody = bradley_terry.plackett_luce_loss(strengths, torch.zeros_like(mask))
    assert not nobody.any()
    assert not torch.autograd.grad(nobody.sum(), strengths)[0].any()
    with pytest.raises(ValueError, match="behind a gap"):
        bradley_terry.plackett_luce_loss(strengths.detach(), mask.flip(1))


def test_gradcheck():
    a = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.1, -2.5, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bradley_terry.preference_probability, (a, b))
    assert torch.autograd.gradcheck(lambda x, y: bradley_terry.comparison_loss(x, y, margin=0.3), (a, b))
    assert torch.autograd.gradcheck(
        lambda x, y: bradley_terry.comparison_loss(x, y, centring=0.2, preference=0.7), (a, b)
    )
    assert torch.autograd.gradcheck(lambda x: bradley_terry.plackett_luce_loss(x), (torch.stack([a, b]),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_apart_strengths_give_finite_losses_and_gradients(dtype):
    ends = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype)
    chosen, rejected = (x.clone().requires_grad_() for x in torch.cartesian_prod(ends, ends).unbind(1))
    loss = bradley_terry.comparison_loss(chosen, rejected)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad.isfinite().all()
    assert rejected.grad.isfinite().all()
    assert bradley_terry.comparison_loss(*scalars(-1e4, 1e4)).item() == 2e4
    rankings = torch.stack([ends, ends.flip(0)]).requires_grad_()
    whole = bradley_terry.plackett_luce_loss(rankings)
    whole.sum().backward()
    assert whole.isfinite().all()
    assert rankings.grad.isfinite().all()


def test_mixed_shapes_are_refused():
    with pytest.raises(TypeCheckError):
        bradley_terry.comparison_loss(torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(TypeCheckError):
        bradley_terry.comparison_loss(torch.ones(3), torch.ones(2))
    with pytest.raises(TypeCheckError):
        bradley_terry.comparison_loss(torch.ones(3), torch.ones(3), margin=torch.ones(1))
    with pytest.raises(TypeCheckError):
        bradley_terry.preference_probability(torch.ones(3), torch.ones(3, 1))
