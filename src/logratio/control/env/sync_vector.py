"""Environments stepped one after another, each begun anew when it is told, and what one of them raised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from logratio.control.env.legacy_gym import NEW_FORM, OLD_FORM, EnvProtocolError, as_old_gym_error

Shape = tuple[int, ...]


class EnvStepError(Exception):
    """What an environment raised, and which it was; arguments are plain, to pass between processes."""

    MARK = re.compile(r"(.*) \[environment (\d+), step (\d+)\](?: do: (.*))?\Z", re.DOTALL)

    @classmethod
    def with_location(cls, what: str, number: int, step: int, *, action: str = "") -> EnvStepError:
        """The fault with its place in its text: AsyncVectorEnv passes on the text alone."""
        return cls(f"{what} [environment {number}, step {step}]" + (f" do: {action}" if action else ""))

    @classmethod
    def from_error(cls, error: Exception, number: int, step: int) -> EnvStepError:
        """What was raised, or what was odd, as a fault with its place."""
        odd = error if isinstance(error, EnvProtocolError) else as_old_gym_error(error)
        if odd is not None:
            return cls.with_location(str(odd), number, step, action=odd.action)
        return cls.with_location(f"raised {type(error).__name__}: {error}", number, step)

    @property
    def what(self) -> str:
        """What was raised."""
        match = self.MARK.match(str(self))
        return match[1] if match else str(self)

    @property
    def location(self) -> str:
        """Which environment, and at which step of its episode."""
        match = self.MARK.match(str(self))
        return f"environment {match[2]}, step {match[3]} of its episode" if match else "an environment"

    @property
    def action(self) -> str:
        """What can be done about it; empty where that is not known."""
        match = self.MARK.match(str(self))
        return (match[4] or "") if match else ""


class FastSyncVectorEnv:
    """A vector of environments in the autoreset mode DISABLED, as Gymnasium's SyncVectorEnv is.

    What that one does beside stepping, for every info, for any mode and with copies of copies, takes as long
    as the steps of a small environment.

    Args:
        environments: copies of one.
    """

    def __init__(self, environments: Sequence[Any]) -> None:
        from gymnasium.vector import AutoresetMode

        self.envs, self.num_envs = list(environments), len(environments)
        for environment in environments:
            speed_up_discrete_contains(environment.action_space)
        self.metadata: Mapping[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self._expected_shape = space_shape(self.single_observation_space)
        self._seen: list[Any] = [None] * self.num_envs
        self._steps = [0] * self.num_envs

    def reset(
        self, *, seed: Sequence[int | None], options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode everywhere, or where `options["reset_mask"]` is true.

        Raises:
            Raised: an environment raised, or gave something of another form.
        """
        where = range(self.num_envs) if options is None else np.flatnonzero(options["reset_mask"]).tolist()
        infos: list[Mapping[str, Any]] = [{}] * self.num_envs
        for number in where:
            self._steps[number] = 0
            with locating_errors(number, 0):
                result = self.envs[number].reset(seed=seed[number])
                self._seen[number], infos[number] = checked_reset(result, self._expected_shape)
        return self._batch(), _masks(infos)

    def step(self, actions: Iterable[Any]) -> tuple[Any, list[float], list[bool], list[bool], dict[str, Any]]:
        """Act in every environment.

        Raises:
            Raised: as `reset`.
        """
        rewards, terminated, truncated, infos = [], [], [], []
        number, seen, steps, expected_shape = 0, self._seen, self._steps, self._expected_shape
        try:
            for number, (environment, action) in enumerate(zip(self.envs, actions, strict=True)):
                steps[number] += 1
                seen[number], reward, ended, cut, info = checked_step(
                    environment.step(action), expected_shape
                )
                rewards.append(reward)
                terminated.append(ended)
                truncated.append(cut)
                infos.append(info)
        except Exception as error:
            raise EnvStepError.from_error(error, number, steps[number]) from error
        return self._batch(), rewards, terminated, truncated, _masks(infos)

    def close(self) -> None:
        """Let go of the environments."""
        for environment in self.envs:
            environment.close()

    def _batch(self) -> Any:
        """What all of them show, in arrays of its own."""
        if self._expected_shape is not None:
            return np.array(self._seen)
        from gymnasium.vector.utils import concatenate, create_empty_array

        space = self.single_observation_space
        empty: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, self._seen, empty)


def checked_reset(result: Any, expected_shape: Shape | None) -> Any:
    """What a reset gave, an observation of this shape and infos; raises `EnvProtocolError` otherwise."""
    if not isinstance(result, tuple | list) or (len(result) == 2 and not _is_info(result[1])):
        raise EnvProtocolError(f"gave an observation alone at reset, {OLD_FORM}", action=NEW_FORM)
    if len(result) != 2:
        raise EnvProtocolError(f"gave {len(result)} values, not 2, at reset", action=NEW_FORM)
    _check_shape(result[0], expected_shape)
    return result


def checked_step(result: Any, expected_shape: Shape | None) -> Any:
    """What a step gave: its reward as a float, what it says of an end as true or false.

    Raises:
        Odd: it is something else.
    """
    if not isinstance(result, tuple | list):
        raise EnvProtocolError(f"gave {type(result).__name__} in a step, not 5 values", action=NEW_FORM)
    if len(result) != 5:
        old = f", {OLD_FORM}" if len(result) == 4 else ""
        raise EnvProtocolError(f"gave {len(result)} values, not 5, in a step{old}", action=NEW_FORM)
    observation, reward, terminated, truncated, info = result
    # Asked here as well, which spares most observations a call.
    if getattr(observation, "shape", None) != expected_shape:
        _check_shape(observation, expected_shape)
    if not isinstance(reward, float):
        reward = to_float(reward)
    if terminated.__class__ is not bool or truncated.__class__ is not bool:
        terminated, truncated = to_bool(terminated, "terminated"), to_bool(truncated, "truncated")
    if not _is_info(info):
        raise EnvProtocolError(f"gave an info that is no dictionary: {info!r:.60}", action=NEW_FORM)
    return observation, float(reward), terminated, truncated, info


def to_float(reward: Any) -> float:
    """A reward as a float, also of an array of one number; raises `EnvProtocolError` where it is none."""
    try:
        if isinstance(reward, str | bytes):
            raise TypeError
        if np.size(reward) == 1:
            return float(np.asarray(reward).item())
    except (TypeError, ValueError) as error:
        raise EnvProtocolError(f"gave a reward that is no number: {reward!r:.60}") from error
    raise EnvProtocolError(f"gave a reward of shape {np.shape(reward)}, not one number: {reward!r:.60}")


def to_bool(value: Any, name: str) -> bool:
    """What a step says of an end; raises `EnvProtocolError` where it is neither true nor false."""
    one = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    if isinstance(one, int) and one in (0, 1):
        return bool(one)
    raise EnvProtocolError(f"gave {name} that is neither true nor false: {value!r:.60}", action=NEW_FORM)


def _is_info(info: Any) -> bool:
    return info.__class__ is dict or info is None or isinstance(info, Mapping)


def space_shape(space: Any) -> Shape | None:
    """The shape of a space's elements where they are arrays or numbers."""
    return getattr(space, "shape", None)


def _check_shape(observation: Any, expected_shape: Shape | None) -> None:
    # np.shape looks up twice what an array says at once.
    if expected_shape is None or getattr(observation, "shape", None) == expected_shape:
        return
    if np.shape(observation) != expected_shape:
        raise EnvProtocolError(f"gave an observation of shape {np.shape(observation)}, not {expected_shape}")


def _masks(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the environments say of the actions that there are, in Gymnasium's form."""
    if not any(infos) or not any(info and "action_mask" in info for info in infos):
        return {}
    has_mask = np.array([bool(info) and "action_mask" in info for info in infos])
    masks = np.empty(len(infos), dtype=object)
    for number in np.flatnonzero(has_mask).tolist():
        masks[number] = infos[number]["action_mask"]
    return {"action_mask": masks, "_action_mask": has_mask}


def speed_up_discrete_contains(space: Any) -> None:
    """Let a Discrete space say of a Python integer by two comparisons whether it is one of its elements.

    Gymnasium looks up the limits of NumPy's integers for it; where a step asks, as most of the small ones
    do, that is a third of the step.
    """
    from gymnasium.spaces import Discrete

    if type(space) is Discrete and "contains" not in vars(space):
        low = int(space.start)
        space.contains = partial(_discrete_contains, space.contains, low, low + int(space.n))  # type: ignore[method-assign]


def _discrete_contains(otherwise: Callable[[Any], bool], low: int, high: int, element: Any) -> bool:
    return low <= element < high if type(element) is int else otherwise(element)


@contextmanager
def locating_errors(number: int, step: int) -> Iterator[None]:
    """Say of what is raised which environment raised it, and when."""
    try:
        yield
    except Exception as error:
        raise EnvStepError.from_error(error, number, step) from error
