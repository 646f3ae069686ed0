"""Running moments are those of all rows at once, and stand still where they must."""

import json

import numpy as np
import pytest

from logratio.control.env.normalisation import ObservationNormaliser, RewardNormaliser, RunningMoments


def test_moments_of_parts_are_those_of_the_whole():
    rows = np.random.default_rng(0).normal(3.0, 5.0, size=(1000, 4))
    moments = RunningMoments(4)
    for part in np.split(rows, [1, 7, 300, 300]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0))
    np.testing.assert_allclose(moments.std, rows.std(axis=0), rtol=1e-8)
    again = RunningMoments(4)
    again.load(json.loads(json.dumps(moments.save())))
    again.add(rows)
    moments.add(rows)
    assert again.mean.tolist() == moments.mean.tolist()
    assert again.squares.tolist() == moments.squares.tolist()


def test_moments_keep_their_digits_far_from_zero():
    rows = 1e8 + np.random.default_rng(0).normal(size=(1000, 1))
    moments = RunningMoments(1)
    for part in np.split(rows, 10):
        moments.add(part)
    assert moments.std[0] == pytest.approx(rows.std(), rel=1e-5)


def test_observations_are_scaled_by_what_was_learned_and_nothing_else():
    scale = ObservationNormaliser(2, wanted=True)
    rows = np.random.default_rng(0).normal([5.0, -2.0], [3.0, 0.1], size=(5000, 2)).astype(np.float32)
    assert scale(rows).tolist() == np.clip(rows, -10, 10).tolist()
    scale.learn(rows)
    scaled = scale(rows)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1.0, atol=1e-4)
    assert scale(rows).tolist() == scaled.tolist()
    idle = ObservationNormaliser(2, wanted=False)
    idle.learn(rows)
    assert idle(rows) is rows


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    rewards = np.random.default_rng(0).normal(2.0, 1.0, size=(3, 50))
    over = np.random.default_rng(1).random((3, 50)) < 0.1
    valid = np.random.default_rng(2).random((3, 50)) < 0.9
    scale = RewardNormaliser(3, discount=0.9, wanted=True)
    for part in range(0, 50, 10):
        columns = slice(part, part + 10)
        scale.learn(rewards[:, columns], (over & valid)[:, columns], valid[:, columns])
    seen = []
    for row in range(3):
        total = 0.0
        for time in range(50):
            if valid[row, time]:
                total = 0.9 * total + rewards[row, time]
                seen.append(total)
                total = 0.0 if over[row, time] else total
    np.testing.assert_allclose(scale(rewards), np.clip(rewards / np.std(seen), -10, 10), rtol=1e-6)
    again = RewardNormaliser(3, discount=0.9, wanted=True)
    again.load(json.loads(json.dumps(scale.save())))
    np.testing.assert_array_equal(again(rewards), scale(rewards))
