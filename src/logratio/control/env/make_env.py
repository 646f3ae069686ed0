"""Environments by name: found or refused with the nearest names, and put side by side."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from logratio.control.env.adapter import VectorEnvAdapter, Vectorisation
from logratio.control.env.envpool import make_envpool
from logratio.control.env.legacy_gym import WRAP, is_registered_in_old_gym
from logratio.control.env.sync_vector import (
    FastSyncVectorEnv,
    checked_reset,
    checked_step,
    locating_errors,
    space_shape,
)
from logratio.errors import BadConfig, EnvironmentFault, EnvironmentNotFound, MissingExtra

INSTALL = "pip install 'logratio[control]'"


def make_environments(
    name: str,
    *,
    num_envs: int,
    seed: int,
    vectorisation: Vectorisation = "sync",
    autoreset: str = "",
    options: Mapping[str, Any] | None = None,
) -> VectorEnvAdapter:
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
        vector = make_envpool(name, num_envs=num_envs, seed=seed, options=dict(options or {}))
        return VectorEnvAdapter(vector, seed=seed, name=name)
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
            vector = _vectorise(gymnasium, build, num_envs, vectorisation, autoreset or "Disabled")
    return VectorEnvAdapter(vector, seed=seed, name=name)


def _vectorise(
    gymnasium: Any, build: Callable[[], Any], num_envs: int, vectorisation: Vectorisation, autoreset: str
) -> Any:
    """Copies in one vector, in turn or in processes."""
    mode = gymnasium.vector.AutoresetMode(autoreset)
    if vectorisation == "sync" and mode is gymnasium.vector.AutoresetMode.DISABLED:
        return FastSyncVectorEnv([build() for _ in range(num_envs)])
    # What a process raised is told by us, with its place, and without Gymnasium's tracebacks.
    warnings.filterwarnings("ignore", message=r".*ERROR: (Received|Traceback|Raising)")
    kinds = {"sync": gymnasium.vector.SyncVectorEnv, "async": gymnasium.vector.AsyncVectorEnv}
    builds = [partial(_numbered, build, number) for number in range(num_envs)]
    return kinds[vectorisation](builds, autoreset_mode=mode)


def _single(name: str, options: dict[str, Any]) -> Any:
    return _gymnasium().make(name, disable_env_checker=True, **options)


def _numbered(build: Callable[[], Any], number: int) -> Any:
    """One environment that says which one it is where it raises."""
    gymnasium, environment = _gymnasium(), build()
    expected_shape = space_shape(environment.observation_space)

    class Numbered(gymnasium.Wrapper):  # type: ignore[misc, name-defined]
        steps = 0

        def reset(self, **settings: Any) -> Any:
            self.steps = 0
            with locating_errors(number, self.steps):
                return checked_reset(self.env.reset(**settings), expected_shape)

        def step(self, action: Any) -> Any:
            self.steps += 1
            with locating_errors(number, self.steps):
                return checked_step(self.env.step(action), expected_shape)

    return Numbered(environment)


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
        if is_registered_in_old_gym(plain):
            raise EnvironmentNotFound(
                f"{plain!r} is registered with the old gym package, not with Gymnasium",
                where="--env",
                action=f"register it with gymnasium.register; {WRAP}",
            ) from error
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
        if isinstance(error, TypeError) and "gymnasium.Env" in str(error):
            raise EnvironmentFault(
                f"{self.name} is none of Gymnasium's environments: {error}",
                where=f"--env {self.name}",
                action=f"let its class be one of gymnasium.Env; {WRAP}",
            ) from error
