"""Environments stepped one after another, each begun anew when it is told, and what one of them raised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from logratio.rollouts.old_gym import NEW_FORM, OLD_FORM, Odd, of_the_old_gym

Shape = tuple[int, ...]


class Raised(Exception):
    """What an environment raised, and which it was; arguments are plain, to pass between processes."""

    MARK = re.compile(r"(.*) \[environment (\d+), step (\d+)\](?: do: (.*))?\Z", re.DOTALL)

    @classmethod
    def at(cls, what: str, number: int, step: int, *, action: str = "") -> Raised:
        """The fault with its place in its text: AsyncVectorEnv passes on the text alone."""
        return cls(f"{what} [environment {number}, step {step}]" + (f" do: {action}" if action else ""))

    @classmethod
    def by(cls, error: Exception, number: int, step: int) -> Raised:
        """What was raised, or what was odd, as a fault with its place."""
        odd = error if isinstance(error, Odd) else of_the_old_gym(error)
        if odd is not None:
            return cls.at(str(odd), number, step, action=odd.action)
        return cls.at(f"raised {type(error).__name__}: {error}", number, step)

    @property
    def what(self) -> str:
        """What was raised."""
        found = self.MARK.match(str(self))
        return found[1] if found else str(self)

    @property
    def place(self) -> str:
        """Which environment, and at which step of its episode."""
        found = self.MARK.match(str(self))
        return f"environment {found[2]}, step {found[3]} of its episode" if found else "an environment"

    @property
    def action(self) -> str:
        """What can be done about it; empty where that is not known."""
        found = self.MARK.match(str(self))
        return (found[4] or "") if found else ""


class InTurn:
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
            tell_choices_at_once(environment.action_space)
        self.metadata: Mapping[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self._wanted = shape_of(self.single_observation_space)
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
            with placed(number, 0):
                given = self.envs[number].reset(seed=seed[number])
                self._seen[number], infos[number] = checked_reset(given, self._wanted)
        return self._batch(), _masks(infos)

    def step(self, actions: Iterable[Any]) -> tuple[Any, list[float], list[bool], list[bool], dict[str, Any]]:
        """Act in every environment.

        Raises:
            Raised: as `reset`.
        """
        rewards, terminated, truncated, infos = [], [], [], []
        number, seen, steps, wanted = 0, self._seen, self._steps, self._wanted
        try:
            for number, (environment, action) in enumerate(zip(self.envs, actions, strict=True)):
                steps[number] += 1
                seen[number], reward, ended, cut, info = checked_step(environment.step(action), wanted)
                rewards.append(reward)
                terminated.append(ended)
                truncated.append(cut)
                infos.append(info)
        except Exception as error:
            raise Raised.by(error, number, steps[number]) from error
        return self._batch(), rewards, terminated, truncated, _masks(infos)

    def close(self) -> None:
        """Let go of the environments."""
        for environment in self.envs:
            environment.close()

    def _batch(self) -> Any:
        """What all of them show, in arrays of its own."""
        if self._wanted is not None:
            return np.array(self._seen)
        from gymnasium.vector.utils import concatenate, create_empty_array

        space = self.single_observation_space
        empty: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, self._seen, empty)


def checked_reset(given: Any, wanted: Shape | None) -> Any:
    """What a reset gave, an observation of this shape and infos; raises `Odd` where it is something else."""
    if not isinstance(given, tuple | list) or (len(given) == 2 and not _is_info(given[1])):
        raise Odd(f"gave an observation alone at reset, {OLD_FORM}", action=NEW_FORM)
    if len(given) != 2:
        raise Odd(f"gave {len(given)} values, not 2, at reset", action=NEW_FORM)
    _check_shape(given[0], wanted)
    return given


def checked_step(given: Any, wanted: Shape | None) -> Any:
    """What a step gave: its reward as a float, what it says of an end as true or false.

    Raises:
        Odd: it is something else.
    """
    if not isinstance(given, tuple | list):
        raise Odd(f"gave {type(given).__name__} in a step, not 5 values", action=NEW_FORM)
    if len(given) != 5:
        old = f", {OLD_FORM}" if len(given) == 4 else ""
        raise Odd(f"gave {len(given)} values, not 5, in a step{old}", action=NEW_FORM)
    observation, reward, terminated, truncated, info = given
    # Asked here as well, which spares most observations a call.
    if getattr(observation, "shape", None) != wanted:
        _check_shape(observation, wanted)
    if not isinstance(reward, float):
        reward = number_of(reward)
    if terminated.__class__ is not bool or truncated.__class__ is not bool:
        terminated, truncated = truth_of(terminated, "terminated"), truth_of(truncated, "truncated")
    if not _is_info(info):
        raise Odd(f"gave an info that is no dictionary: {info!r:.60}", action=NEW_FORM)
    return observation, float(reward), terminated, truncated, info


def number_of(reward: Any) -> float:
    """A reward as a float, also where it is an array of one number; raises `Odd` where it is none."""
    try:
        if isinstance(reward, str | bytes):
            raise TypeError
        if np.size(reward) == 1:
            return float(np.asarray(reward).item())
    except (TypeError, ValueError) as error:
        raise Odd(f"gave a reward that is no number: {reward!r:.60}") from error
    raise Odd(f"gave a reward of shape {np.shape(reward)}, not one number: {reward!r:.60}")


def truth_of(value: Any, name: str) -> bool:
    """What a step says of an end; raises `Odd` where it is neither true nor false."""
    one = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    if isinstance(one, int) and one in (0, 1):
        return bool(one)
    raise Odd(f"gave {name} that is neither true nor false: {value!r:.60}", action=NEW_FORM)


def _is_info(info: Any) -> bool:
    return info.__class__ is dict or info is None or isinstance(info, Mapping)


def shape_of(space: Any) -> Shape | None:
    """The shape of a space's elements where they are arrays or numbers."""
    return getattr(space, "shape", None)


def _check_shape(observation: Any, wanted: Shape | None) -> None:
    # np.shape looks up twice what an array says at once.
    if wanted is None or getattr(observation, "shape", None) == wanted:
        return
    if np.shape(observation) != wanted:
        raise Odd(f"gave an observation of shape {np.shape(observation)}, not {wanted}")


def _masks(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the environments say of the actions that there are, in Gymnasium's form."""
    if not any(infos) or not any(info and "action_mask" in info for info in infos):
        return {}
    said = np.array([bool(info) and "action_mask" in info for info in infos])
    masks = np.empty(len(infos), dtype=object)
    for number in np.flatnonzero(said).tolist():
        masks[number] = infos[number]["action_mask"]
    return {"action_mask": masks, "_action_mask": said}


def tell_choices_at_once(space: Any) -> None:
    """Let a Discrete space say of a Python integer by two comparisons whether it is one of its elements.

    Gymnasium looks up the limits of NumPy's integers for it; where a step asks, as most of the small ones
    do, that is a third of the step.
    """
    from gymnasium.spaces import Discrete

    if type(space) is Discrete and "contains" not in vars(space):
        low = int(space.start)
        space.contains = partial(_is_choice, space.contains, low, low + int(space.n))  # type: ignore[method-assign]


def _is_choice(otherwise: Callable[[Any], bool], low: int, high: int, element: Any) -> bool:
    return low <= element < high if type(element) is int else otherwise(element)


@contextmanager
def placed(number: int, step: int) -> Iterator[None]:
    """Say of what is raised which environment raised it, and when."""
    try:
        yield
    except Exception as error:
        raise Raised.by(error, number, step) from error
