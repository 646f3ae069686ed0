"""Preference probabilities and the loss of a comparison."""

import math

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


def test_gradcheck():
    a = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.1, -2.5, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bradley_terry.preference_probability, (a, b))
    assert torch.autograd.gradcheck(lambda x, y: bradley_terry.comparison_loss(x, y, margin=0.3), (a, b))


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


def test_mixed_shapes_are_refused():
    with pytest.raises(TypeCheckError):
        bradley_terry.comparison_loss(torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(TypeCheckError):
        bradley_terry.comparison_loss(torch.ones(3), torch.ones(2))
    with pytest.raises(TypeCheckError):
        bradley_terry.comparison_loss(torch.ones(3), torch.ones(3), margin=torch.ones(1))
    with pytest.raises(TypeCheckError):
        bradley_terry.preference_probability(torch.ones(3), torch.ones(3, 1))
