"""Action masks that come late, are missing, are of another episode, or of another form than the actions."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.control.collector import ControlCollector, ControlConfig
from logratio.control.env.action_masks import flat_mask
from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.sync_vector import FastSyncVectorEnv
from logratio.control.policy import ControlActor, ControlPolicy, NetworkConfig
from logratio.errors import EnvironmentFault

MODES = ("NextStep", "SameStep", "Disabled")


class Told(gymnasium.Env):
    """Shows its time, and gives the masks that it was told: `masks[time]`, none where that is `None`."""

    observation_space = spaces.Box(-9.0, 99.0, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, masks):
        self.masks, self.time = masks, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._show()

    def step(self, action):
        self.time += 1
        observation, info = self._show()
        return observation, 1.0, self.time + 1 >= len(self.masks), False, info

    def _show(self):
        mask = self.masks[self.time]
        return np.full(1, self.time, np.float32), {} if mask is None else {"action_mask": mask}


def told(*masks, mode="Disabled"):
    if mode == "Disabled":
        return VectorEnvAdapter(FastSyncVectorEnv([Told(own) for own in masks]), seed=0, name="Told")
    builds = [lambda own=own: Told(own) for own in masks]
    return VectorEnvAdapter(SyncVectorEnv(builds, autoreset_mode=AutoresetMode(mode)), seed=0, name="Told")


def bits(*words):
    return [np.array([int(one) for one in word], np.int8) for word in words]


def action_mask(environments):
    view = environments.view
    if view.action_mask is None:
        return None
    return ["".join(str(int(one)) for one in row) for row in view.action_mask]


def idle(environments):
    """Do something that is allowed."""
    environments.view  # noqa: B018 - begins the first episodes
    environments.step(environments.idle())


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_holds_though_another_environment_begins_anew(mode):
    """Reset's infos, of those that begin, once took the place of what the others had said in the step."""
    environments = told(bits("100", "010", "001", "110", "011"), bits("111", "101"), mode=mode)
    found = []
    for _ in range(4):
        found.append(action_mask(environments)[0])
        idle(environments)
    assert found == ["100", "010", "001", "110"]


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_does_not_hold_beyond_its_episode(mode):
    environments = told([None, *bits("010", "001")], [None, *bits("100", "100", "100")], mode=mode)
    seen = {0.0: set(), 1.0: set()}
    for _ in range(12):
        for number in range(2):
            place = float(environments.view.observations[number, 0])
            if place in seen:
                row = action_mask(environments)
                seen[place].add("none" if row is None else row[number])
        idle(environments)
    assert seen == {0.0: {"none", "111"}, 1.0: {"010", "100"}}
    assert environments.masks.missing > 2


def test_episodes_that_begin_with_a_mask_are_not_counted():
    environments = told(bits("010", "001"), bits("010", "001", "111"))
    for _ in range(7):
        idle(environments)
    assert environments.masks.missing == 0


def test_where_no_mask_ever_comes_none_is_missing():
    environments = told([None, None], [None, None])
    for _ in range(5):
        idle(environments)
    assert environments.view.action_mask is None
    assert environments.masks.missing == 0


@pytest.mark.parametrize("mode", MODES)
def test_nothing_need_be_allowed_where_an_episode_is_over(mode):
    environments = told(bits("100", "010", "000"), bits("100", "000"), mode=mode)
    for _ in range(9):
        assert environments.view.action_mask.any(axis=1).all()
        idle(environments)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_allowed_within_an_episode_is_named_with_its_place(mode):
    environments = told(bits("100", "010", "001", "111"), bits("100", "000", "100", "111"), mode=mode)
    with pytest.raises(EnvironmentFault, match="allows no action at all") as caught:
        idle(environments)
    assert caught.value.where == "environment 1, step 2 of its episode"


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones(4, np.int8), "an action mask of 4 entries, its actions are 3"),
        (np.ones(2, np.int8), "an action mask of 2 entries, its actions are 3"),
        (np.array([0.2, 0.5, 0.3]), "not made of 1 and 0"),
        (np.array([1, 2, 0]), "not made of 1 and 0"),
        (np.array([1.0, np.nan, 0.0]), "not made of 1 and 0"),
        ("yes", "not made of 1 and 0"),
        ([1, [1, 0]], "an action mask that is none"),
    ],
)
def test_masks_of_another_form_are_named_with_their_environment(mask, said):
    """Also where only one of several changes its form."""
    environments = told(bits("111", "111", "111"), [*bits("111"), mask, *bits("111")])
    assert action_mask(environments) == ["111", "111"]
    with pytest.raises(EnvironmentFault, match=said) as caught:
        idle(environments)
    assert caught.value.where == "info['action_mask'] of environment 1"


def test_actions_that_are_numbers_have_no_mask():
    class ItemIds(Told):
        action_space = spaces.Box(-1.0, 1.0, (2,))

    environments = VectorEnvAdapter(FastSyncVectorEnv([ItemIds(bits("11", "11"))]), seed=0, name="Numbers")
    with pytest.raises(EnvironmentFault, match="its actions are numbers, not choices"):
        environments.begin()


def test_masks_of_several_choices_stand_side_by_side():
    given = (np.array([1, 0]), np.array([0, 1, 1]))
    assert flat_mask(given).tolist() == flat_mask(np.concatenate(given)).tolist() == [1, 0, 0, 1, 1]


def test_a_mask_that_comes_in_the_midst_of_a_rollout_is_trained_with():
    """The trainer sees the probabilities that actions were drawn with: all were allowed before."""
    environments = told([None, *bits("010", "001", "100", "110")])
    policy = ControlPolicy(
        shape=(1,), sizes=(3,), num_numbers=0, config=NetworkConfig(hidden_sizes=(4,)), critic=True, seed=0
    )
    config = ControlConfig(steps=6, num_envs=1, num_steps=6)
    rollout = ControlCollector(ControlActor(policy), environments, config, seed=0).collect(0, [0])
    assert rollout.action_mask is not None
    assert rollout.action_mask.int().tolist() == [
        [1, 1, 1],
        [0, 1, 0],
        [0, 0, 1],
        [1, 0, 0],
        [1, 1, 1],
        [0, 1, 0],
    ]
    logprobs, _, _ = policy.evaluate(
        rollout.observations,
        rollout.actions,
        hidden_state=rollout.hidden_state,
        episode_start=rollout.episode_start,
        action_mask=rollout.action_mask,
    )
    torch.testing.assert_close(logprobs, rollout.trajectories.logprobs.flatten(), rtol=0, atol=0)
    assert rollout.metrics["episodes_without_mask"] == 2
