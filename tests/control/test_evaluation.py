"""Episodes that judge: as many of each environment, on seeds of their own, with nothing learned from them."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.normalisation import ObservationNormaliser
from logratio.control.evaluation import interquartile_interval, interquartile_mean, play_episodes
from logratio.control.policy import ControlPolicy, NetworkConfig
from logratio.errors import EnvironmentFault
from scripted_environments import Counting

MODES = ("NextStep", "SameStep", "Disabled")


def play(*builds, mode="Disabled", episodes=6, longest=100):
    vector = SyncVectorEnv(list(builds), autoreset_mode=AutoresetMode(mode))
    environments = VectorEnvAdapter(vector, seed=0, name="Made-v0")
    policy = ControlPolicy(
        shape=(1,), sizes=(2,), num_numbers=0, config=NetworkConfig(hidden_sizes=(4,)), critic=False, seed=0
    )
    scale = ObservationNormaliser(1, wanted=True)
    scale.learn(np.array([[1.0], [3.0]], np.float32))
    before = scale.save()
    settings = {"episodes": episodes, "deterministic": True, "seed": 0, "longest": longest}
    found = play_episodes(policy, environments, scale, **settings)
    assert scale.save() == before
    return found


@pytest.mark.parametrize("mode", MODES)
def test_every_environment_plays_as_many_episodes(mode):
    """The first six to end would be five short ones and one long."""
    found = play(lambda: Counting(1), lambda: Counting(9), mode=mode)
    assert sorted(found.lengths) == [1, 1, 1, 9, 9, 9]
    assert sorted(found.returns) == [1.0, 1.0, 1.0, 45.0, 45.0, 45.0]


def test_what_is_reported_is_of_all_episodes():
    """Three by two environments: two of the first, one of the second, whatever more the first finishes."""
    report = play(lambda: Counting(1), lambda: Counting(3), episodes=3).to_json()
    assert report["returns"] == [1.0, 1.0, 6.0]
    assert report["episodes"] == 3
    assert report["mean_return"] == pytest.approx(8 / 3)
    assert report["std_return"] == pytest.approx((((5 / 3) ** 2 * 2 + (10 / 3) ** 2) / 3) ** 0.5)
    assert report["mean_length"] == pytest.approx(5 / 3)
    assert report["unended"] == 0


def test_an_episode_that_does_not_end_is_left_and_counted_as_it_stands():
    """The second ends in none of its first 7 steps: 1 + 2 + ... + 7 is what it has earned by then."""
    found = play(lambda: Counting(2), lambda: Counting(1000), episodes=4, longest=7)
    assert found.returns == (3.0, 3.0, 28.0, 28.0)
    assert found.lengths == (2, 2, 7, 7)
    assert found.num_unended == found.to_json()["unended"] == 2


def test_an_episode_as_long_as_may_be_is_not_left():
    found = play(lambda: Counting(7), episodes=2, longest=7)
    assert found.lengths == (7, 7)
    assert found.num_unended == 0


def test_what_is_left_but_not_counted_is_not_reported():
    found = play(lambda: Counting(1000), lambda: Counting(40), episodes=3, longest=15)
    assert found.lengths == (15, 15, 15)
    assert found.num_unended == 3


class Watching:
    """A policy that remembers which episodes it was told have begun."""

    def __init__(self):
        self.episode_start = []

    def initial_state(self, sequences):
        return torch.zeros(sequences, 0)

    def act(self, observations, hidden_state, episode_start, **_):
        self.episode_start.append(episode_start.tolist())
        return torch.zeros(len(observations), 1, dtype=torch.int64), None, hidden_state


def test_a_policy_is_told_of_every_beginning_where_one_episode_ends_and_another_is_left():
    vector = SyncVectorEnv(
        [lambda: Counting(3), lambda: Counting(1000)], autoreset_mode=AutoresetMode.DISABLED
    )
    environments, policy = VectorEnvAdapter(vector, seed=0, name="Made-v0"), Watching()
    scale = ObservationNormaliser(1, wanted=False)
    play_episodes(policy, environments, scale, episodes=4, deterministic=True, seed=0, longest=3)
    assert policy.episode_start == [[True, True], [False, False], [False, False]] * 2


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_an_environment_that_begins_anew_by_itself_alone_must_end(mode):
    with pytest.raises(EnvironmentFault, match="not ended an episode after 7 steps") as caught:
        play(lambda: Counting(2), lambda: Counting(1000), mode=mode, longest=7)
    assert "environment 1" in caught.value.where
    assert "TimeLimit" in caught.value.action


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
