"""A policy's numbers in a bounded space: 0 in its middle, ±1 at its bounds; and where nothing is done."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from logratio.control.env.action_scaling import ActionScaling, action_scaling, drawn_bounds
from logratio.control.env.spaces import action_layout, observation_layout
from logratio.control.gaussian import GaussianHead
from logratio.errors import UnsupportedSpace

LARGEST = float(np.finfo(np.float32).max)
INFINITE = math.inf


def scaling(low, high):
    found = action_scaling(np.array([low]), np.array([high]))
    return None if found is None else (*found.centre, *found.scale)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (5.0, 35.0, (20.0, 15.0)),
        (-35.0, -5.0, (-20.0, 15.0)),
        (0.0, 1.0, (0.5, 0.5)),
        (-0.4, 0.4, (0.0, 0.4)),
        (-100.0, 100.0, (0.0, 100.0)),
        (1e6, 1e6 + 2, (1e6 + 1, 1.0)),
        (-1.0, 1.0, None),
        (-2.0, 2.0, None),
        (-1.5, 1.5, None),
        (-1.0, 2.0, (0.5, 1.5)),
        (3.0, 3.0, (3.0, 0.0)),
        (0.0, 0.0, (0.0, 0.0)),
        (-INFINITE, INFINITE, None),
        (-LARGEST, LARGEST, None),
        (5.0, INFINITE, (6.0, 1.0)),
        (5.0, LARGEST, (6.0, 1.0)),
        (0.0, INFINITE, (1.0, 1.0)),
        (-7.0, INFINITE, None),
        (-INFINITE, -5.0, (-6.0, 1.0)),
        (-LARGEST, 7.0, None),
    ],
)
def test_the_map_is_that_of_the_bounds(low, high, found):
    assert scaling(low, high) == found


def test_each_dimension_has_a_map_of_its_own_in_the_form_of_the_space():
    low = np.array([[-1.0, 5.0], [0.0, -INFINITE]])
    high = np.array([[1.0, 35.0], [INFINITE, INFINITE]])
    layout = action_layout(spaces.Box(low, high, dtype=np.float64))
    assert layout.scaling == ActionScaling(centre=(0.0, 20.0, 1.0, 0.0), scale=(1.0, 15.0, 1.0, 1.0))
    assert ActionScaling.from_json(layout.scaling.to_json()) == layout.scaling
    given = layout.to_env(np.array([[0.0, 0.0, 0.0, 0.0], [0.25, 0.2, 9.0, -9.0], [3.0, -1.5, -2.0, 0.0]]))
    assert given.dtype == np.float64
    np.testing.assert_array_equal(
        given, [[[0.0, 20.0], [1.0, 0.0]], [[0.25, 23.0], [10.0, -9.0]], [[1.0, 5.0], [0.0, 0.0]]]
    )
    np.testing.assert_array_equal(layout.low, [-1.0, -1.0, -1.0, -INFINITE])
    np.testing.assert_array_equal(layout.high, [1.0, 1.0, INFINITE, INFINITE])


@pytest.mark.parametrize("bound", [1.0, 1.5, 2.0, LARGEST, INFINITE])
def test_what_needs_no_map_is_given_bit_for_bit(bound):
    """Results that were published with these spaces stay what they are."""
    drawn = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    layout = action_layout(spaces.Box(-bound, bound, (3,), np.float32))
    assert layout.scaling is None
    np.testing.assert_array_equal(layout.to_env(drawn), np.clip(drawn, -np.float32(bound), np.float32(bound)))


def test_a_far_and_narrow_space_has_all_its_numbers():
    layout = action_layout(spaces.Box(1e6, 1e6 + 0.5, (1,), np.float64))
    given = layout.to_env(np.linspace(-1, 1, 101, dtype=np.float32)[:, None])
    np.testing.assert_allclose(given[:, 0], np.linspace(1e6, 1e6 + 0.5, 101), rtol=0, atol=1e-7)


def test_a_dimension_with_nothing_to_choose_is_never_cut():
    low, high = drawn_bounds(np.array([3.0, 5.0]), np.array([3.0, 35.0]), None)
    assert (low.tolist(), high.tolist()) == ([-INFINITE, 5.0], [INFINITE, 35.0])


def test_a_policy_that_was_trained_without_a_map_acts_as_it_did():
    """Files of earlier versions say nothing of one."""
    drawn = np.array([[0.0], [7.0], [40.0]], dtype=np.float32)
    layout = action_layout(spaces.Box(5.0, 35.0, (1,), np.float32), scaling=None)
    assert layout.to_env(drawn).tolist() == [[5.0], [7.0], [35.0]]


def test_densities_of_actions_are_those_of_draws_less_the_logarithm_of_the_scale():
    head = GaussianHead(
        4, 2, std="parameter", initial=0.3, generator=torch.Generator().manual_seed(0)
    ).double()
    features = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn, logprobs = head.sample(features, noise=noise)
    centre, scale = torch.tensor([20.0, 0.5]).double(), torch.tensor([15.0, 0.5]).double()
    mean, log_std = head.distribution(features)
    of_actions = torch.distributions.Normal(centre + scale * mean, scale * log_std.exp())
    expected = of_actions.log_prob(centre + scale * drawn).sum(dim=-1)
    torch.testing.assert_close(logprobs - scale.log().sum(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Box(0, 5, (2,), np.int64), "actions of Box"),
        (spaces.Box(0, 255, (2,), np.uint8), "actions of Box"),
        (spaces.Box(-1, 1, (0,), np.float32), r"Box of shape \(0,\)"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "actions of Dict"),
        (spaces.Tuple([spaces.Discrete(2)]), "actions of Tuple"),
    ],
)
def test_actions_that_no_policy_gives_are_refused_by_name(space, said):
    with pytest.raises(UnsupportedSpace, match=said) as caught:
        action_layout(space)
    assert "wrap the environment" in caught.value.action


def test_choices_that_begin_elsewhere_are_given_from_there():
    assert action_layout(spaces.Discrete(3, start=-1)).to_env(np.array([[0], [2]])).tolist() == [-1, 1]
    many = action_layout(spaces.MultiDiscrete([2, 3], start=[4, -7]))
    assert many.to_env(np.array([[0, 0], [1, 2]])).tolist() == [[4, -7], [5, -5]]


def test_spaces_of_the_old_gym_are_named():
    class Box:
        """Not Gymnasium's."""

    Box.__module__ = "gym.spaces.box"
    for layout in (action_layout, observation_layout):
        with pytest.raises(UnsupportedSpace, match="the old gym package's Box"):
            layout(Box())


# --- observations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (spaces.Discrete(3), [3]),
        (spaces.Discrete(3), [-1]),
        (spaces.Discrete(3, start=1), [0]),
        (spaces.Discrete(3), [1.5]),
        (spaces.MultiDiscrete([2, 5]), [[2, 0]]),
        (spaces.MultiDiscrete([2, 5]), [[0, -1]]),
        (spaces.MultiBinary(2), [[0, 2]]),
    ],
)
def test_what_a_space_does_not_have_is_no_observation(space, shown):
    """A place beyond a part would be one of the next part."""
    with pytest.raises(ValueError, match=r"all there is|neither 0 nor 1"):
        observation_layout(space).flatten(np.array(shown))


def test_a_picture_is_of_bytes():
    layout = observation_layout(spaces.Box(0, 255, (3, 40, 40), np.uint8))
    assert layout.is_image
    with pytest.raises(ValueError, match="float32, not of bytes"):
        layout.flatten(np.zeros((2, 3, 40, 40), np.float32))


def test_bounds_of_observations_stand_where_their_features_do():
    space = spaces.Dict({"kind": spaces.Discrete(2), "place": spaces.Box(-3.0, INFINITE, (2,))})
    layout = observation_layout(space)
    assert layout.low.tolist() == [0.0, 0.0, -3.0, -3.0]
    assert layout.high.tolist() == [1.0, 1.0, INFINITE, INFINITE]


def test_observations_of_nothing_are_refused():
    for space in (spaces.Box(-1, 1, (0,)), spaces.Dict({})):
        with pytest.raises(UnsupportedSpace):
            observation_layout(space)
