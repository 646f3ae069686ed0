"""The bootstrap against what is known of the mean."""

from __future__ import annotations

import numpy as np
import pytest

from logratio.stats import bootstrap
from logratio.stats.bootstrap import difference_interval, mean_interval, resampled_means


def test_the_interval_is_that_of_the_normal_mean():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=400)
    found = mean_interval(values.tolist(), seed=1)
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_it_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for trial in range(400):
        found = mean_interval(generator.exponential(1.0, size=128).tolist(), resamples=1000, seed=trial)
        covered += found.low <= 1.0 <= found.high
    assert 0.91 <= covered / 400 <= 0.98


def test_a_constant_shift_has_an_exact_paired_difference():
    values = np.random.default_rng(0).normal(0, 10, size=50).tolist()
    found = difference_interval([value + 0.25 for value in values], values)
    assert (found.low, found.value, found.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-12)


def test_exchanging_the_sides_mirrors_the_difference():
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=40).tolist(), generator.normal(size=40).tolist()
    one, other = difference_interval(a, b), difference_interval(b, a)
    assert (one.low, one.value, one.high) == pytest.approx((-other.high, -other.value, -other.low), abs=1e-12)


def test_columns_are_resampled_together():
    values = np.arange(20.0)
    draws = resampled_means([values, values + 1.5], resamples=200)
    assert draws.shape == (200, 2)
    assert np.allclose(draws[:, 1] - draws[:, 0], 1.5)
    assert draws[:, 0].std() > 0.5


def test_the_seed_decides(monkeypatch):
    values = [[1.0, 5.0, 2.0, 8.0]]
    assert np.array_equal(resampled_means(values, seed=3), resampled_means(values, seed=3))
    assert not np.array_equal(resampled_means(values, seed=3), resampled_means(values, seed=4))
    monkeypatch.setattr(bootstrap, "BLOCK_NUMBERS", 12)
    assert resampled_means(values, resamples=10).shape == (10, 1)


def test_nothing_cannot_be_resampled():
    with pytest.raises(ValueError, match="nothing"):
        mean_interval([])
    with pytest.raises(ValueError, match="zip"):
        difference_interval([1.0], [1.0, 2.0])
