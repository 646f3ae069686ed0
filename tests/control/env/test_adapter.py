"""One meaning of a step in all three autoreset modes, named faults, and ways back to where one stood."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.control.env import env_checkpoint
from logratio.control.env.adapter import VectorEnvAdapter, episode_seed
from logratio.control.env.make_env import make_environments
from logratio.errors import BadConfig, EnvironmentFault, EnvironmentNotFound, UnsupportedSpace
from logratio.verify.worlds.environments import Endless, Narrow
from scripted_environments import Counting, Faulty

MODES = ("NextStep", "SameStep", "Disabled")


def vector(*builds, mode="Disabled"):
    made = SyncVectorEnv(list(builds), autoreset_mode=AutoresetMode(mode))
    return VectorEnvAdapter(made, seed=3, name="Made-v0")


def drive(environments, steps):
    """Rows that were real, as (before, reward, terminated, truncated, after) of each environment."""
    rows = [[] for _ in range(environments.num_envs)]
    for _ in range(steps):
        before = environments.view.observations.copy()
        step = environments.step(np.zeros((environments.num_envs, 1), np.int64))
        for number, row in enumerate(rows):
            if step.valid[number]:
                row.append(
                    (
                        float(before[number, 0]),
                        float(step.rewards[number]),
                        bool(step.terminated[number]),
                        bool(step.truncated[number]),
                        float(step.next_observations[number, 0]),
                    )
                )
    return rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_step_means_the_same_in_every_mode(mode, length):
    builds = [lambda: Counting(length), lambda: Counting(length + 1, ends=False, cut=True)]
    ended, cut = drive(vector(*builds, mode=mode), 30)
    for rows, size, column in ((ended, length, 2), (cut, length + 1, 3)):
        for place, row in enumerate(rows):
            time = place % size
            expected = [float(time), time + 1.0, False, False, time + 1.0]
            expected[column] = time + 1 == size
            assert row == tuple(expected)


@pytest.mark.parametrize("length", [1, 2, 5, 200])
def test_rows_that_an_autoreset_adds_are_not_real(length):
    """At one step an episode every second row of NEXT_STEP never happened; of 200, one in 201."""
    environments = vector(lambda: Counting(length), mode="NextStep")
    valid = [environments.step(np.zeros((1, 1), np.int64)).valid[0] for _ in range(4 * (length + 1))]
    assert np.mean(valid) == pytest.approx(length / (length + 1))
    assert environments.steps == sum(valid)
    assert environments.finished == [(sum(range(1, length + 1)), length)] * 4


@pytest.mark.parametrize("mode", MODES)
def test_an_end_that_is_also_a_cut_is_an_end(mode):
    (rows,) = drive(vector(lambda: Counting(3, ends=True, cut=True), mode=mode), 12)
    assert {row[2:4] for row in rows} == {(False, False), (True, False)}


@pytest.mark.parametrize("mode", MODES)
def test_where_an_episode_begins_is_known(mode):
    environments = vector(lambda: Counting(2), mode=mode)
    for _ in range(12):
        view = environments.view
        if view.episode_start[0]:
            assert view.observations[0, 0] == 0.0
        environments.step(np.zeros((1, 1), np.int64))
    assert environments.view.episode_start.dtype == bool


def test_a_vector_that_does_not_say_its_mode_is_refused():
    made = SyncVectorEnv([lambda: Counting(2)])
    made.metadata = {}
    with pytest.raises(BadConfig, match="autoreset_mode"):
        VectorEnvAdapter(made, seed=0, name="Made-v0")


def test_episodes_are_seeded_by_run_environment_and_number():
    seeds = {
        episode_seed(seed, number, episode)
        for seed in range(3)
        for number in range(3)
        for episode in range(3)
    }
    assert len(seeds) == 27
    assert episode_seed(0, 1, 2) == episode_seed(0, 1, 2)


# --- faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "what"),
    [("observation", "observation that is not"), ("reward", "reward that is not"), ("raises", "no ground")],
)
def test_what_goes_wrong_is_named(how, what):
    environments = vector(lambda: Counting(10), lambda: Faulty(how))
    with pytest.raises(EnvironmentFault, match=what) as caught:
        drive(environments, 5)
    if how != "raises":
        assert caught.value.where == "environment 1, step 3 of its episode"


def test_an_environment_that_raises_is_named_with_its_step():
    gymnasium.register("Faulty-v0", entry_point=lambda: Faulty("raises"))
    try:
        environments = make_environments("Faulty-v0", num_envs=2, seed=0)
        with pytest.raises(EnvironmentFault, match="ZeroDivisionError: no ground") as caught:
            drive(environments, 5)
        assert caught.value.where.startswith("environment 0, step 3 of its episode")
    finally:
        gymnasium.registry.pop("Faulty-v0")


def test_an_unknown_environment_is_named_with_the_nearest():
    with pytest.raises(EnvironmentNotFound, match="CartPole-v7") as caught:
        make_environments("CartPole-v7", num_envs=1, seed=0)
    assert "CartPole-v1" in caught.value.action


def test_a_vector_form_that_is_not_there_is_refused():
    with pytest.raises(BadConfig, match="no vector form"):
        make_environments("Acrobot-v1", num_envs=2, seed=0, vectorisation="own")


def test_spaces_that_nothing_is_made_for_are_refused():
    class Texts(Counting):
        observation_space = spaces.Text(5)

    with pytest.raises(UnsupportedSpace, match="Text"):
        vector(lambda: Texts(2))


# --- action masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_masks_are_those_of_what_is_seen_now(mode):
    environments = vector(Narrow, Narrow, mode=mode)
    for _ in range(40):
        view = environments.view
        # Narrow shows its mask as observation.
        np.testing.assert_array_equal(view.action_mask, view.observations.astype(bool))
        environments.step(view.action_mask.argmax(axis=1)[:, None])


# --- brought back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "CartPole-v1"},
        {"name": "Acrobot-v1"},
        {"name": "CartPole-v1", "vectorisation": "own"},
        {"name": "CartPole-v1", "vectorisation": "async"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_environments_go_on_where_they_stood(settings):
    generator = np.random.default_rng(0)
    actions = generator.integers(0, 2, size=(150, 3, 1))
    whole, stopped, again = (make_environments(num_envs=3, seed=5, **settings) for _ in range(3))
    try:
        for row in actions[:100]:
            whole.step(row)
            stopped.step(row)
        stopped.finished.clear()
        whole.finished.clear()
        assert env_checkpoint.restore(again, env_checkpoint.save(stopped)) == ""
        assert again.steps == whole.steps
        for row in actions[100:]:
            np.testing.assert_array_equal(whole.view.observations, again.view.observations)
            one, other = whole.step(row), again.step(row)
            for name in ("valid", "rewards", "terminated", "truncated", "next_observations"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert whole.finished == again.finished
    finally:
        for environments in (whole, stopped, again):
            environments.close()


def test_what_cannot_be_brought_back_begins_anew_and_says_so():
    class Moody(Counting):
        """Shows another number each time, whatever its seed."""

        moods = iter(range(10_000))

        def step(self, action):
            _, *rest = super().step(action)
            return np.full(1, next(self.moods), np.float32), *rest

    stopped, again = vector(lambda: Moody(50)), vector(lambda: Moody(50))
    drive(stopped, 7)
    assert "begin anew" in env_checkpoint.restore(again, env_checkpoint.save(stopped))
    assert again.view.episode_start.all()
    assert again.steps == 7


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_environments_that_seed_themselves_begin_anew(mode):
    stopped, again = (vector(lambda: Endless(5), mode=mode) for _ in range(2))
    drive(stopped, 7)
    assert "begin anew" in env_checkpoint.restore(again, env_checkpoint.save(stopped))
