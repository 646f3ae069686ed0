"""Environments that were written for the old gym, and others of another form, are told by name."""

import re
import sys
import warnings
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from logratio.control.env.make_env import make_environments
from logratio.control.env.sync_vector import EnvProtocolError, checked_reset, checked_step
from logratio.errors import EnvironmentFault, EnvironmentNotFound

SEEN = np.zeros(2, np.float32)


class New(gymnasium.Env):
    """As it should be."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return SEEN, {}

    def step(self, action):
        return SEEN, 0.0, False, False, {}


class NoSeed(New):
    """Its episodes are seeded by `seed`."""

    def reset(self):
        return SEEN

    def seed(self, seed=None):
        return [seed]


class NoOptions(New):
    """As gym's between the two."""

    def reset(self, seed=None):
        return SEEN, {}


class Alone(New):
    """Shows an observation alone at reset."""

    def reset(self, *, seed=None, options=None):
        return SEEN


class Four(New):
    """Tells of an end by one word."""

    def step(self, action):
        return SEEN, 0.0, False, {}


class Wrong(New):
    """Has a fault of its own that reads the same."""

    def step(self, action):
        _, _, _, _, _ = range(4)

    def reset(self, *, seed=None, options=None):
        return SEEN, {}


@pytest.fixture(params=["sync", "sync in the same step", "async"])
def made(request):
    """Make an environment and step it once, with a limit on its steps and without."""

    def make(build, *, limit=None):
        gymnasium.register("Old-v0", entry_point=build, max_episode_steps=limit)
        kind, _, same = request.param.partition(" ")
        environments = make_environments(
            "Old-v0", num_envs=2, seed=0, vectorisation=kind, autoreset="SameStep" if same else ""
        )
        try:
            environments.step(np.zeros((2, 1), np.int64))
        finally:
            environments.close()

    yield make
    gymnasium.registry.pop("Old-v0", None)


@pytest.mark.parametrize(
    ("build", "limit", "said"),
    [
        (NoSeed, None, "has a reset that takes no seed, as environments of the old gym package do"),
        (NoSeed, 7, "has a reset that takes no (seed|options), as environments of the old gym package do"),
        (NoOptions, 7, "has a reset that takes no options, as environments of the old gym package do"),
        (Alone, 7, "gave an observation alone at reset, as environments of the old gym package do"),
        (Four, None, "gave 4 values, not 5, in a step, as environments of the old gym package do"),
        (Four, 7, "gave 4 values, not 5, in a step, as environments of the old gym package do"),
    ],
)
def test_old_signatures_are_told_by_name(made, build, limit, said):
    with pytest.raises(EnvironmentFault, match=said) as caught:
        made(build, limit=limit)
    assert "let reset(*, seed=None, options=None) give (observation, info)" in caught.value.action
    assert "GymV21CompatibilityV0" in caught.value.action
    assert re.match("environment [01], step [01] of its episode", caught.value.where)


def test_what_an_environment_raises_itself_is_not_laid_to_its_form(made):
    with pytest.raises(EnvironmentFault, match="raised ValueError: not enough values") as caught:
        made(Wrong)
    assert "go on with --resume" in caught.value.action


def test_a_class_of_the_old_gym_is_told(made):
    class Old:
        observation_space, action_space = New.observation_space, New.action_space

    with pytest.raises(EnvironmentFault, match="none of Gymnasium's environments") as caught:
        made(Old)
    assert "gymnasium.Env" in caught.value.action


def test_a_name_that_the_old_gym_knows_is_told(monkeypatch):
    registry = SimpleNamespace(env_specs={"Ancient-v0": object()})
    monkeypatch.setitem(sys.modules, "gym", SimpleNamespace(envs=SimpleNamespace(registry=registry)))
    with pytest.raises(EnvironmentNotFound, match="registered with the old gym package") as caught:
        make_environments("Ancient-v0", num_envs=1, seed=0)
    assert "gymnasium.register" in caught.value.action


# --- the form of what is given ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (SEEN, "an observation alone"),
        (3, "an observation alone"),
        (None, "an observation alone"),
        ({"a": SEEN}, "an observation alone"),
        ((1, 0), "an observation alone"),
        ((SEEN, {}, {}), "3 values, not 2"),
        ((np.zeros(3), {}), r"shape \(3,\), not \(2,\)"),
    ],
)
def test_what_a_reset_gives_is_an_observation_and_infos(given, said):
    with pytest.raises(EnvProtocolError, match=said):
        checked_reset(given, (2,))
    assert checked_reset((SEEN, {}), (2,)) == (SEEN, {})


@pytest.mark.parametrize(
    "reward",
    [1.5, np.float32(1.5), np.array(1.5), np.array([1.5]), np.array([[1.5]]), [1.5], np.float64(1.5)],
    ids=repr,
)
def test_a_reward_may_be_an_array_of_one_number(reward):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checked_step((SEEN, reward, False, False, {}), (2,))[1]
    assert type(found) in (float, np.float64)
    assert found == 1.5


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (1, np.array([1.0, 2.0]), r"a reward of shape \(2,\), not one number"),
        (1, [], r"a reward of shape \(0,\), not one number"),
        (1, "1.0", "a reward that is no number: '1.0'"),
        (1, None, "a reward that is no number: None"),
        (1, 1j, "a reward that is no number"),
        (2, None, "terminated that is neither true nor false: None"),
        (2, "no", "terminated that is neither true nor false: 'no'"),
        (3, {}, "truncated that is neither true nor false: {}"),
        (3, np.array([True, False]), "truncated that is neither true nor false"),
        (3, 0.5, "truncated that is neither true nor false: 0.5"),
        (4, [1], "an info that is no dictionary"),
    ],
)
def test_what_a_step_gives_is_told_where_it_is_something_else(place, value, said):
    given = [SEEN, 1.0, False, False, {}]
    given[place] = value
    with pytest.raises(EnvProtocolError, match=said):
        checked_step(given, (2,))


@pytest.mark.parametrize("over", [True, np.True_, 1, np.array([True]), np.array(1)], ids=repr)
def test_an_end_may_be_told_in_any_form_of_true(over):
    for given in ((SEEN, 1.0, over, False, {}), (SEEN, 1.0, False, over, None)):
        _, _, terminated, truncated, _ = checked_step(given, (2,))
        assert (terminated, truncated) == ((True, False) if given[4] == {} else (False, True))
