"""Strengths, rankings and ties against exact answers: every row of the checks passes."""

import math

import pytest
import torch

from logratio.verify.checks.strengths import CHECKS
from logratio.verify.worlds import ranking


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(True)
    assert rows
    assert [row for row in rows if not row.passed] == []


@pytest.mark.parametrize("iteration", [ranking.hunter, ranking.newman])
def test_two_items_by_iteration(iteration):
    """3 to 1: ± ln(3)/2."""
    half = math.log(3) / 2
    assert iteration([[0, 3], [1, 0]]) == pytest.approx([half, -half], abs=1e-12)


@pytest.mark.parametrize("iteration", [ranking.hunter, ranking.newman])
def test_an_iteration_that_does_not_arrive_says_so(iteration, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_SWEEPS", 2)
    with pytest.raises(ArithmeticError, match="2 sweeps"):
        iteration([[0, 30, 1], [1, 0, 5], [4, 2, 0]])


def test_chances_with_ties_hand_worked():
    """Weights 4 and 1. Davidson, ν = ½: 4, 1 and ½·2 of 6. Rao and Kupper, θ = 2: 4/6, 1/9, the rest."""
    assert ranking.outcome_chances(4.0, 1.0, 0.5, model="davidson") == pytest.approx((4 / 6, 1 / 6, 1 / 6))
    assert ranking.outcome_chances(4.0, 1.0, 2.0, model="rao-kupper") == pytest.approx((2 / 3, 1 / 9, 2 / 9))


def test_climbing_and_curvature_on_a_parabola():
    """−(x − 1)² − 3(y + 2)²: highest at (1, −2), curvatures 2 and 6."""

    def hill(point):
        return -((point - centre).square() * weights).sum()

    centre = torch.tensor([1.0, -2.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    highest = ranking.climb(hill, torch.zeros(2, dtype=torch.float64))
    assert highest.tolist() == pytest.approx(centre.tolist(), abs=1e-10)
    assert ranking.curvature(hill, highest).tolist() == [[2, 0], [0, 6]]


def test_fords_condition_on_three_graphs():
    assert ranking.is_finite_maximum([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert not ranking.is_finite_maximum([[0, 1, 1], [0, 0, 1], [0, 1, 0]])
    assert not ranking.is_finite_maximum([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
