"""EnvPool's vectors, by a stand-in with its interface: NEXT_STEP, a seed where they are made alone."""

import sys
from types import ModuleType

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.control.env.envpool import make_envpool
from logratio.control.env.make_env import make_environments
from logratio.errors import EnvironmentNotFound, MissingExtra
from scripted_environments import Counting


class StandIn:
    """What EnvPool 1.2 gives, as far as it is used."""

    def __init__(self, name, num_envs, seed, **options):
        self.vector = SyncVectorEnv([lambda: Counting(3)] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.config = {"num_envs": num_envs, "seed": seed, **options}
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.closed = False

    def reset(self):
        return self.vector.reset()

    def step(self, actions):
        return self.vector.step(actions)

    def close(self):
        self.closed = True


@pytest.fixture
def envpool(monkeypatch):
    module = ModuleType("envpool")
    module.made = []

    def make_gymnasium(name, **settings):
        module.made.append(StandIn(name, **settings))
        return module.made[-1]

    module.list_all_envs = lambda: ["Counting-v0", "Counting-v1", "Other-v0"]
    module.make_gymnasium = make_gymnasium
    monkeypatch.setitem(sys.modules, "envpool", module)
    return module


def test_steps_of_a_pool_mean_what_all_steps_mean(envpool):
    environments = make_environments("Counting-v0", num_envs=2, seed=5, vectorisation="envpool")
    assert envpool.made[0].config == {"num_envs": 2, "seed": 5}
    assert environments.mode is AutoresetMode.NEXT_STEP
    valid, over = [], []
    for _ in range(8):
        step = environments.step(np.zeros((2, 1), dtype=np.int64))
        valid.append(step.valid.tolist())
        over.append((step.terminated | step.truncated).tolist())
    # Every fourth row is the autoreset's, and the third is where the episode ends.
    assert valid == [[True, True], [True, True], [True, True], [False, False]] * 2
    assert over == [[False, False], [False, False], [True, True], [False, False]] * 2
    assert environments.steps == 12
    environments.close()
    assert envpool.made[0].closed


def test_options_go_to_the_pool(envpool):
    make_envpool("Counting-v0", num_envs=2, seed=1, options={"num_threads": 3})
    assert envpool.made[0].config["num_threads"] == 3


def test_a_name_that_the_pool_has_not_is_refused_with_the_nearest(envpool):
    with pytest.raises(EnvironmentNotFound, match="Counting-v7") as caught:
        make_environments("Counting-v7", num_envs=2, seed=5, vectorisation="envpool")
    assert "Counting-v1" in caught.value.action
    assert not envpool.made


def test_without_the_extra_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(MissingExtra) as caught:
        make_environments("CartPole-v1", num_envs=2, seed=5, vectorisation="envpool")
    assert "logratio[envpool]" in caught.value.action
