"""Episodes that judge: as many of each environment, on seeds of their own, with nothing learned from them."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.evaluation.episodes import interquartile_interval, interquartile_mean, play_episodes
from logratio.policies.control import ControlPolicy, NetworkConfig
from logratio.rollouts.environments import Environments
from logratio.rollouts.normalisation import ObservationScale
from made_environments import Counting

MODES = ("NextStep", "SameStep", "Disabled")


def play(*builds, mode="Disabled", episodes=6):
    vector = SyncVectorEnv(list(builds), autoreset_mode=AutoresetMode(mode))
    environments = Environments(vector, seed=0, name="Made-v0")
    policy = ControlPolicy(
        shape=(1,), sizes=(2,), num_numbers=0, config=NetworkConfig(widths=(4,)), critic=False, seed=0
    )
    scale = ObservationScale(1, wanted=True)
    scale.learn(np.array([[1.0], [3.0]], np.float32))
    before = scale.save()
    found = play_episodes(policy, environments, scale, episodes=episodes, deterministic=True, seed=0)
    assert scale.save() == before
    return found


@pytest.mark.parametrize("mode", MODES)
def test_every_environment_plays_as_many_episodes(mode):
    """The first six to end would be five short ones and one long."""
    found = play(lambda: Counting(1), lambda: Counting(9), mode=mode)
    assert sorted(found.lengths) == [1, 1, 1, 9, 9, 9]
    assert sorted(found.returns) == [1.0, 1.0, 1.0, 45.0, 45.0, 45.0]


def test_what_is_reported_is_of_all_episodes():
    report = play(lambda: Counting(1), lambda: Counting(3), episodes=3).to_json()
    assert report["episodes"] == 4
    assert report["mean_return"] == pytest.approx((1 + 1 + 6 + 6) / 4)
    assert report["std_return"] == pytest.approx(2.5)
    assert report["mean_length"] == 2.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], 5.0),
        ([1.0, 3.0], 2.0),
        ([0.0, 1.0, 2.0, 100.0], 1.5),
        # Of five, the outer ones count for nothing, the next for three quarters each: (.75 + 2 + 2.25) / 2.5.
        ([-50.0, 1.0, 2.0, 3.0, 100.0], 2.0),
        ([0.0, 1.0, 4.0, 6.0, 100.0], (0.75 * 1 + 4 + 0.75 * 6) / 2.5),
        ([8, 1, 2, 3, 4, 5, 6, 7], 4.5),
    ],
)
def test_the_interquartile_mean_is_of_the_middle_half(values, expected):
    assert interquartile_mean(values) == pytest.approx(expected)
    low, high = interquartile_interval(values, resamples=500)
    assert min(values) <= low <= high <= max(values)


def test_an_interval_of_equal_runs_has_no_width():
    assert interquartile_interval([3.0] * 5, resamples=50) == (3.0, 3.0)


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing"):
        interquartile_mean([])
