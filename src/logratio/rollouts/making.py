"""Environments by name: found or refused with the nearest names, and put side by side."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from logratio.errors import BadConfig, EnvironmentNotFound, MissingExtra
from logratio.rollouts.environments import Environments, Vectorisation
from logratio.rollouts.pool import make_pool

INSTALL = "pip install 'logratio[control]'"


class Raised(Exception):
    """What an environment raised, and which it was; arguments are plain, to pass between processes."""

    @property
    def place(self) -> str:
        """Which environment, and at which step of its episode."""
        return f"environment {self.args[1]}, step {self.args[2]} of its episode"

    def __str__(self) -> str:
        return str(self.args[0])


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
            return self._call(self.env.reset, **settings)

        def step(self, action: Any) -> Any:
            self.steps += 1
            return self._call(self.env.step, action)

        def _call(self, function: Callable[..., Any], *values: Any, **settings: Any) -> Any:
            try:
                return function(*values, **settings)
            except Exception as error:
                raise Raised(f"{type(error).__name__}: {error}", number, self.steps) from error

    return Numbered(environment)


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtra("control needs Gymnasium, which is not installed", action=INSTALL) from error
    return gymnasium


def _find(gymnasium: Any, name: str) -> Any:
    """The environment's specification.

    Raises:
        EnvironmentNotFound: with the nearest names.
    """
    try:
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        near = difflib.get_close_matches(name, list(gymnasium.registry), n=3, cutoff=0.5)
        action = f"perhaps you meant {', '.join(near)}" if near else "give a module with it: module:Name-v0"
        raise EnvironmentNotFound(
            f"there is no environment {name!r}", where="--env", action=action
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
            raise MissingExtra(
                f"{self.name} needs a package that is not installed: {error}", action=INSTALL
            ) from error
