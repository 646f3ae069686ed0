"""The length-controlled win rate: its symmetries, and that it removes what length explains."""

from __future__ import annotations

import numpy as np
import pytest

from logratio.evaluation.length_control import (
    fit_logistic,
    length_controlled_win_rate,
    length_feature,
    longer_share_of_wins,
)
from logratio.evaluation.win_rate import win_rate


def simulate(n, quality, length_effect, *, seed, ties=0.0):
    """Rewards and lengths whose outcomes follow σ(quality + length_effect · tanh(Δ / std Δ))."""
    generator = np.random.default_rng(seed)
    policy_lengths = generator.integers(20, 90, size=n)
    reference_lengths = generator.integers(10, 70, size=n)
    logits = quality + length_effect * length_feature((policy_lengths - reference_lengths).tolist())
    won = generator.random(n) < 1 / (1 + np.exp(-logits))
    tied = generator.random(n) < ties
    rewards = np.where(tied, 0.0, np.where(won, 1.0, -1.0))
    return rewards.tolist(), [0.0] * n, policy_lengths.tolist(), reference_lengths.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_exchanging_the_models_gives_one_minus_it(seed):
    a, b, long, short = simulate(90, 0.4, 1.0, seed=seed, ties=0.2)
    one = length_controlled_win_rate(a, b, long, short)
    other = length_controlled_win_rate(b, a, short, long)
    assert one.value == pytest.approx(1 - other.value, abs=1e-9)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)


def test_a_model_against_itself_has_one_half():
    rewards, _, lengths, _ = simulate(60, 1.0, 0.0, seed=0)
    found = length_controlled_win_rate(rewards, rewards, lengths, lengths)
    assert found.value == 0.5
    assert found.low < 0.5 < found.high


def test_wins_that_length_explains_are_not_counted():
    rewards = simulate(4000, 0.0, 3.0, seed=1)
    assert win_rate(*rewards[:2]).value > 0.65
    assert length_controlled_win_rate(*rewards).value == pytest.approx(0.5, abs=0.03)


def test_wins_that_length_does_not_explain_stay():
    rewards = simulate(4000, 0.8, 0.0, seed=2)
    assert length_controlled_win_rate(*rewards).value == pytest.approx(1 / (1 + np.exp(-0.8)), abs=0.03)


def test_without_differences_of_length_it_is_the_win_rate():
    rewards, zeros, lengths, _ = simulate(300, 0.5, 0.0, seed=3)
    found = length_controlled_win_rate(rewards, zeros, lengths, lengths)
    assert found.value == pytest.approx(win_rate(rewards, zeros).value, abs=1e-4)
    longer = [length + 7 for length in lengths]
    assert length_controlled_win_rate(rewards, zeros, longer, lengths) == found


def test_the_interval_covers_the_true_rate():
    covered = 0
    for seed in range(400):
        found = length_controlled_win_rate(*simulate(128, 0.4, 1.2, seed=seed))
        covered += found.low <= 1 / (1 + np.exp(-0.4)) <= found.high
    assert 0.93 <= covered / 400 <= 0.975


def test_the_interval_covers_one_half_with_many_ties():
    covered = 0
    for seed in range(400):
        found = length_controlled_win_rate(*simulate(128, 0.0, 0.0, seed=seed, ties=0.4))
        covered += found.low <= 0.5 <= found.high
    assert 0.93 <= covered / 400 <= 0.975


def test_winning_every_prompt_gives_finite_numbers_inside_zero_and_one():
    lengths = list(range(20))
    found = length_controlled_win_rate([1.0] * 20, [0.0] * 20, lengths, [10] * 20)
    assert 0.9 < found.value < 1
    assert 0 < found.low < found.value < found.high <= 1


def test_the_fit_has_no_gradient_left_and_is_the_minimum():
    generator = np.random.default_rng(5)
    design = np.stack([np.ones(50), generator.normal(size=50)], axis=1)
    won = (generator.random(50) < 0.7).astype(float)
    weights, covariance = fit_logistic(design, won, ridge=0.01)
    chance = 1 / (1 + np.exp(-design @ weights))
    assert np.abs(design.T @ (chance - won) + 0.01 * weights).max() < 1e-9
    hessian = (design.T * (chance * (1 - chance))) @ design + 0.01 * np.eye(2)
    assert np.allclose(covariance @ hessian, np.eye(2), atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_fit_survives_separation(scale):
    feature = np.linspace(-1, 1, 40) * scale
    weights, covariance = fit_logistic(np.stack([np.ones(40), feature], axis=1), (feature > 0).astype(float))
    assert np.isfinite(weights).all()
    assert np.isfinite(covariance).all()
    assert weights[1] > 0


def test_the_longer_share_is_among_the_wins_only():
    rewards = ([1.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0])
    assert longer_share_of_wins(*rewards, [9, 9, 5, 9, 9], [5, 5, 5, 5, 5]) == pytest.approx(2 / 3)
    assert longer_share_of_wins([0.0], [1.0], [3], [2]) is None


def test_lengths_must_match_the_rewards():
    with pytest.raises(ValueError, match="outcomes"):
        length_controlled_win_rate([1.0], [0.0], [3, 4], [5, 6])
