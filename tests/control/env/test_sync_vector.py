"""Environments in turn show what Gymnasium's vector of them shows, and say which one raised."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.sync_vector import EnvStepError, FastSyncVectorEnv, speed_up_discrete_contains
from logratio.verify.worlds.environments import Identity, Narrow


class Parts(gymnasium.Env[Any, int]):
    """Observations of several parts; masks now and then."""

    observation_space = spaces.Dict({"place": spaces.Box(-9, 9, (2,)), "kind": spaces.Discrete(3)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.show(), {"action_mask": np.array([1, 0])}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        drawn = self.np_random.random()
        info = {"action_mask": np.array([drawn < 0.5, True])} if drawn < 0.7 else {}
        return self.show(), drawn, drawn > 0.8, drawn < 0.1, info

    def show(self) -> dict[str, Any]:
        place = self.np_random.normal(size=2).astype(np.float32)
        return {"place": place, "kind": int(self.np_random.integers(3))}


MAKES: dict[str, Callable[[], Any]] = {
    "CartPole": lambda: gymnasium.make("CartPole-v1", disable_env_checker=True),
    "Pendulum": lambda: gymnasium.make("Pendulum-v1", disable_env_checker=True),
    "masks": lambda: Narrow(strict=False),
    "parts": Parts,
    "choices": lambda: Identity(spaces.MultiDiscrete([2, 3])),
    "flags": lambda: Identity(spaces.MultiBinary(3)),
    "discrete": lambda: Identity(spaces.Discrete(4)),
}


@pytest.mark.parametrize("name", MAKES)
def test_what_is_shown_is_what_gymnasium_s_vector_shows(name: str) -> None:
    build = MAKES[name]
    ours = VectorEnvAdapter(FastSyncVectorEnv([build() for _ in range(3)]), seed=5, name=name)
    vector = SyncVectorEnv([build] * 3, autoreset_mode=AutoresetMode.DISABLED)
    theirs = VectorEnvAdapter(vector, seed=5, name=name)
    drawn = np.random.default_rng(1)
    for _ in range(300):
        for field in ("observations", "episode_start", "action_mask"):
            one, other = getattr(ours.view, field), getattr(theirs.view, field)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
        if ours.action.sizes:
            actions = np.stack([drawn.integers(size, size=3) for size in ours.action.sizes], axis=1)
        else:
            actions = drawn.normal(size=(3, ours.action.num_numbers)).astype(np.float32)
        one, other = ours.step(actions), theirs.step(actions)
        for field in ("valid", "rewards", "terminated", "truncated", "next_observations"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert ours.finished == theirs.finished
    assert ours.finished


def test_what_was_shown_is_not_changed_by_what_comes_next() -> None:
    """An environment may write each observation into the same array."""

    class Reused(Narrow):
        def __init__(self) -> None:
            super().__init__(strict=False)
            self.seen = np.zeros(self.observation_space.shape, dtype=np.float32)

        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            self.seen[:] = observation
            return self.seen, *rest

    vector = FastSyncVectorEnv([Reused(), Reused()])
    vector.reset(seed=[0, 1])
    first = vector.step([0, 0])[0]
    kept = first.copy()
    for _ in range(3):
        vector.step([0, 0])
    np.testing.assert_array_equal(first, kept)


class EnvProtocolError(gymnasium.Env[Any, int]):
    """Gives something of another form at its second step."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, given: Any) -> None:
        self.given, self.times = given, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: int) -> Any:
        self.times += 1
        return self.given if self.times == 2 else (np.zeros(2, dtype=np.float32), 0.0, False, False, {})


SEEN = np.zeros(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((SEEN, 0.0, False, {}), r"gave 4 values, not 5"),
        ((np.zeros(3), 0.0, False, False, {}), r"gave an observation of shape \(3,\), not \(2,\)"),
        ((SEEN, "much", False, False, {}), r"gave a reward that is no number: 'much'"),
        ((SEEN, None, False, False, {}), r"gave a reward that is no number: None"),
    ],
)
def test_what_has_another_form_is_named_with_environment_and_step(given: Any, said: str) -> None:
    vector = FastSyncVectorEnv([EnvProtocolError((SEEN, 0.0, False, False, {})), EnvProtocolError(given)])
    vector.reset(seed=[0, 1])
    vector.step([0, 0])
    with pytest.raises(EnvStepError, match=said) as caught:
        vector.step([0, 0])
    assert caught.value.location == "environment 1, step 2 of its episode"


ELEMENTS = (
    -2,
    -1,
    0,
    1,
    3,
    4,
    2**70,
    True,
    1.0,
    "a",
    np.int64(1),
    np.int32(4),
    np.uint8(2),
    np.array(1),
    None,
)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Discrete(3, start=-1)])
def test_what_a_space_says_at_once_is_what_it_said(space: spaces.Discrete) -> None:
    quick = copy.deepcopy(space)
    speed_up_discrete_contains(quick)
    speed_up_discrete_contains(quick)
    for same in (quick, copy.deepcopy(quick), pickle.loads(pickle.dumps(quick))):
        assert same == space
        for element in ELEMENTS:
            assert same.contains(element) == (element in same) == space.contains(element), element


def test_a_space_of_another_kind_answers_for_itself() -> None:
    class Even(spaces.Discrete):
        def contains(self, x: Any) -> bool:
            return super().contains(x) and x % 2 == 0

    space = Even(4)
    speed_up_discrete_contains(space)
    assert [element in space for element in range(5)] == [True, False, True, False, False]
