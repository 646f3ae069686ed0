"""Every row of the checks of expectations, divergences and their gradients."""

import pytest
import torch

from logratio.verify.checks import expectations
from logratio.verify.checks.enumerated import OTHER, POLICY, WORLD, column, misdirection
from logratio.verify.worlds import oracle


@pytest.mark.parametrize("check", expectations.CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(False)
    assert rows
    assert [row for row in rows if not row.passed] == []


def test_each_check_has_a_name_of_its_own():
    names = [check.name for check in expectations.CHECKS]
    assert names == ["E2", "E3", "E4", "E5", "E6", "E7", "R1"]


def test_sampled_sequences_come_as_often_as_they_are_probable():
    count = 10_000
    drawn = expectations.sample_sequences(POLICY, count=count, seed=1)
    assert drawn.shape == (2, count)
    expected = column(oracle.sequence_probabilities(WORLD, POLICY)).view(2, -1)
    for prompt in range(2):
        found = torch.bincount(drawn[prompt], minlength=121) / count
        error = (expected[prompt] * (1 - expected[prompt]) / count).sqrt()
        often = expected[prompt] > 1e-3
        assert ((found - expected[prompt]) / error)[often].abs().max() < 4.5
    other = expectations.sample_sequences(OTHER, count=count, seed=1)
    assert (torch.bincount(other[0], minlength=121) / count - expected[0]).abs().max() > 0.01


def test_z_scores_of_a_planted_bias():
    """Losses with gradient g_i = x_i·v: the mean's distance from the truth in standard errors."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, generator=generator, dtype=torch.float64)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    away = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for bias, low, high in ((0.0, 0.0, 4.0), (1.0, 55.0, 70.0)):
        losses = -(noise + 3.0 + bias) * (theta @ away)
        assert low <= expectations.largest_z(losses, [theta], 3.0 * away) <= high


def test_misdirection_does_not_see_the_scale():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert misdirection(0.1 * exact, exact) == pytest.approx(0.0, abs=1e-15)
    assert misdirection(torch.tensor([4.0, 3.0], dtype=torch.float64), exact) == pytest.approx(0.28)
