"""Shares of what a policy draws and sees that lie outside of an environment's spaces."""

import numpy as np
from gymnasium import spaces

from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.reachable_actions import reach
from logratio.control.env.sync_vector import FastSyncVectorEnv
from logratio.verify.worlds.environments import Identity


def of(space):
    return VectorEnvAdapter(FastSyncVectorEnv([Identity(space), Identity(space)]), seed=0, name="Identity")


REAL = np.array([True, True])


def test_draws_beyond_a_bound_are_counted_in_each_dimension():
    environments = of(spaces.Box(np.array([5.0, -1.0, 2.0]), np.array([35.0, 1.0, 2.0]), dtype=np.float64))
    actions = [np.array([[1.1, 0.0, 9.0], [-1.1, 1.0, 9.0]]), np.array([[0.9, -1.5, 9.0], [-1.0, 0.2, 0.0]])]
    seen = [np.array([[20.0, 0.0, 2.0], [36.0, 0.0, 2.0]]), np.array([[5.0, 1.0, 2.0], [35.0001, 0.0, 2.0]])]
    assert reach(environments, actions, seen, [REAL, REAL]) == {
        "action_clip_fraction": 0.5,
        "action_clip_fraction_0": 0.5,
        "action_clip_fraction_1": 0.25,
        "action_clip_fraction_2": 0.0,
        "observation_outside_fraction": 0.25,
    }
    # What an autoreset put in place of a step is no draw.
    assert reach(environments, actions[:1], seen[:1], [np.array([False, True])]) == {
        "action_clip_fraction": 1.0,
        "action_clip_fraction_0": 1.0,
        "action_clip_fraction_1": 0.0,
        "action_clip_fraction_2": 0.0,
        "observation_outside_fraction": 1.0,
    }


def test_an_action_of_one_number_has_one_share():
    environments = of(spaces.Box(-2.0, 2.0, (1,)))
    found = reach(environments, [np.array([[1.0], [2.5]])], [np.zeros((2, 1))], [REAL])
    assert found == {"action_clip_fraction": 0.5, "observation_outside_fraction": 0.0}


def test_what_has_no_bounds_has_no_share():
    environments = of(spaces.Box(-np.inf, np.inf, (1,)))
    assert reach(environments, [np.array([[1.0], [2.5]])], [np.zeros((2, 1))], [REAL]) == {}


def test_choices_are_never_cut():
    environments = of(spaces.Discrete(2))
    found = reach(environments, [np.array([[1], [0]])], [np.array([[1.0, 0.0], [0.0, 1.0]])], [REAL])
    assert found == {"observation_outside_fraction": 0.0}
