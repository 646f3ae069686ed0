"""Environments stepped one after another, each begun anew when it is told, and what one of them raised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class Raised(Exception):
    """What an environment raised, and which it was; arguments are plain, to pass between processes."""

    MARK = re.compile(r"(.*) \[environment (\d+), step (\d+)\]\Z", re.DOTALL)

    @classmethod
    def at(cls, what: str, number: int, step: int) -> Raised:
        """The fault with its place in its text: AsyncVectorEnv passes on the text alone."""
        return cls(f"{what} [environment {number}, step {step}]")

    @classmethod
    def by(cls, error: Exception, number: int, step: int) -> Raised:
        """What was raised, or what was odd, as a fault with its place."""
        what = str(error) if isinstance(error, Odd) else f"raised {type(error).__name__}: {error}"
        return cls.at(what, number, step)

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


class Odd(Exception):
    """What an environment gave is of another form than it must be."""


def checked_reset(given: Any, wanted: Shape | None) -> Any:
    """What a reset gave, an observation of this shape and infos; raises `Odd` where it is something else."""
    if len(given) != 2:
        raise Odd(f"gave {len(given)} values, not 2")
    _check_shape(given[0], wanted)
    return given


def checked_step(given: Any, wanted: Shape | None) -> Any:
    """What a step gave, its reward as a float; raises `Odd` where it is something else."""
    if len(given) != 5:
        raise Odd(f"gave {len(given)} values, not 5")
    observation, reward, terminated, truncated, info = given
    # Asked here as well, which spares most observations a call.
    if getattr(observation, "shape", None) != wanted:
        _check_shape(observation, wanted)
    try:
        return observation, float(reward), terminated, truncated, info
    except (TypeError, ValueError) as error:
        raise Odd(f"gave a reward that is no number: {reward!r}") from error


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
    if not any(infos) or not any("action_mask" in info for info in infos):
        return {}
    said = np.array(["action_mask" in info for info in infos])
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
