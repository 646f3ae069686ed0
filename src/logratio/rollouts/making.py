"""Environments by name: found or refused with the nearest names, and put side by side."""

from __future__ import annotations

import difflib
import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from logratio.errors import BadConfig, EnvironmentNotFound, MissingExtra
from logratio.rollouts.environments import Environments, Vectorisation
from logratio.rollouts.pool import make_pool

INSTALL = "pip install 'logratio[control]'"


class Raised(Exception):
    """What an environment raised, and which it was; arguments are plain, to pass between processes."""

    MARK = re.compile(r"(.*) \[environment (\d+), step (\d+)\]\Z", re.DOTALL)

    @classmethod
    def at(cls, what: str, number: int, step: int) -> Raised:
        """The fault with its place in its text: AsyncVectorEnv passes on the text alone."""
        return cls(f"{what} [environment {number}, step {step}]")

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


def make_environments(
    name: str,
    *,
    num_envs: int,
    seed: int,
    vectorisation: Vectorisation = "sync",
    autoreset: str = "",
    options: Mapping[str, Any] | None = None,
) -> Environments:
    """Copies of a registered environment side by side.

    Args:
        name: as Gymnasium knows it, or `module:Name-v0` where a module must be imported first.
        num_envs: how many.
        seed: of their episodes.
        vectorisation: `sync` steps one after another, `async` in processes, `own` is the environment's own
            vector form, `envpool` is EnvPool's form of the same environment, stepped by threads in C++.
        autoreset: a value of Gymnasium's AutoresetMode; empty takes `Disabled`, where every episode has a
            seed of its own and a stopped run can be brought back to where it was. Not for `own` and
            `envpool`, which have a mode of their own.
        options: for the environment's constructor.

    Raises:
        MissingExtra: Gymnasium, or what the environment needs, is not installed.
        EnvironmentNotFound: no such name, with the nearest ones.
        BadConfig: the environment has no vector form of its own.
        UnsupportedSpace: its observations or actions are not understood.
    """
    gymnasium = _gymnasium()
    if vectorisation == "envpool":
        vector = make_pool(name, num_envs=num_envs, seed=seed, options=dict(options or {}))
        return Environments(vector, seed=seed, name=name)
    known = _find(gymnasium, name)
    build = partial(_single, name, dict(options or {}))
    with _faults(gymnasium, name):
        if vectorisation == "own":
            if known.vector_entry_point is None:
                raise BadConfig(
                    f"{name} has no vector form of its own",
                    where="--vectorisation own",
                    action="take --vectorisation sync, or async where a step is slow",
                )
            vector = gymnasium.make_vec(
                name, num_envs=num_envs, vectorization_mode="vector_entry_point", **(options or {})
            )
        else:
            # What a process raised is told by us, with its place, and without Gymnasium's tracebacks.
            warnings.filterwarnings("ignore", message=r".*ERROR: (Received|Traceback|Raising)")
            kinds = {"sync": gymnasium.vector.SyncVectorEnv, "async": gymnasium.vector.AsyncVectorEnv}
            mode = gymnasium.vector.AutoresetMode(autoreset or "Disabled")
            builds = [partial(build, number) for number in range(num_envs)]
            vector = kinds[vectorisation](builds, autoreset_mode=mode)
    return Environments(vector, seed=seed, name=name)


def _single(name: str, options: dict[str, Any], number: int) -> Any:
    """One environment that says which one it is where it raises."""
    gymnasium = _gymnasium()
    environment = gymnasium.make(name, disable_env_checker=True, **options)

    class Numbered(gymnasium.Wrapper):  # type: ignore[misc, name-defined]
        steps = 0

        def reset(self, **settings: Any) -> Any:
            self.steps = 0
            return self._call(self.env.reset, 2, **settings)

        def step(self, action: Any) -> Any:
            self.steps += 1
            observation, reward, *rest = self._call(self.env.step, 5, action)
            return observation, self._number(reward), *rest

        def _call(self, function: Callable[..., Any], count: int, *values: Any, **settings: Any) -> Any:
            try:
                given = function(*values, **settings)
            except Exception as error:
                raise self._raised(f"raised {type(error).__name__}: {error}") from error
            if fault := _fault_of(given, count, self.observation_space):
                raise self._raised(fault)
            return given

        def _number(self, reward: Any) -> float:
            try:
                return float(reward)
            except (TypeError, ValueError) as error:
                raise self._raised(f"gave a reward that is no number: {reward!r}") from error

        def _raised(self, what: str) -> Raised:
            return Raised.at(what, number, self.steps)

    return Numbered(environment)


def _fault_of(given: Any, count: int, space: Any) -> str:
    """What is wrong with the values that a reset or a step gave, the observation first; empty: nothing."""
    if len(given) != count:
        return f"gave {len(given)} values, not {count}"
    wanted, shape = getattr(space, "shape", None), np.shape(given[0])
    return "" if wanted in (None, shape) else f"gave an observation of shape {shape}, not {wanted}"


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        what = "control needs Gymnasium, which is not installed"
        raise MissingExtra(what, where="--env", action=INSTALL) from error
    return gymnasium


def _find(gymnasium: Any, name: str) -> Any:
    """The environment's specification.

    Raises:
        EnvironmentNotFound: with the nearest names.
    """
    module, _, plain = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentNotFound(
            f"the module {module!r} of {name!r} cannot be imported: {error}",
            where="--env",
            action="install it, or start where Python finds it (PYTHONPATH)",
        ) from error
    try:
        return gymnasium.spec(plain)
    except gymnasium.error.Error as error:
        near = difflib.get_close_matches(plain, list(gymnasium.registry), n=3, cutoff=0.6)
        elsewhere = "one that a package brings is given with it, as in module:Name-v0"
        action = f"perhaps you meant {', '.join(near)}; {elsewhere}" if near else elsewhere
        raise EnvironmentNotFound(
            f"there is no environment {plain!r}", where="--env", action=action
        ) from error


class _faults:
    """Name what an environment's making needs."""

    def __init__(self, gymnasium: Any, name: str) -> None:
        self.gymnasium, self.name = gymnasium, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        missing = (self.gymnasium.error.DependencyNotInstalled, ModuleNotFoundError)
        if isinstance(error, missing):
            # What it needs, only it knows: Gymnasium's words have the command.
            raise MissingExtra(
                f"{self.name} needs a package that is not installed",
                where=f"--env {self.name}",
                action=str(error),
            ) from error
