"""EnvPool's environments (Weng et al., 2022, arXiv:2206.10558): copies of one, stepped by threads in C++."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from logratio.errors import EnvironmentNotFound, MissingExtra

INSTALL = "pip install 'logratio[envpool]', or take --vectorisation sync"


class EnvPoolAdapter:
    """EnvPool's vector as one of Gymnasium's: it is seeded where it is made, and its `reset` takes no seed.

    Args:
        pool: what `envpool.make_gymnasium` gives.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.metadata: Mapping[str, Any] = pool.metadata
        self.num_envs: int = pool.config["num_envs"]
        self.single_observation_space = pool.observation_space
        self.single_action_space = pool.action_space

    def reset(self, *, seed: int | None = None) -> tuple[Any, Mapping[str, Any]]:
        """Begin everywhere; the seed is the one that the pool was made with."""
        observations, infos = self._pool.reset()
        return observations, infos

    def step(self, actions: Any) -> Any:
        """Observations, rewards, terminated, truncated and infos, as Gymnasium has them."""
        return self._pool.step(actions)

    def close(self) -> None:
        """Let go of the environments."""
        self._pool.close()


def make_envpool(name: str, *, num_envs: int, seed: int, options: Mapping[str, Any]) -> EnvPoolAdapter:
    """Copies of an environment that EnvPool has.

    Args:
        name: as EnvPool knows it, which for most is Gymnasium's name.
        num_envs: how many.
        seed: of all of them.
        options: further settings of EnvPool's, such as `num_threads`.

    Raises:
        MissingExtra: EnvPool is not installed.
        EnvironmentNotFound: EnvPool does not have it, with the nearest names that it has.
    """
    try:
        import envpool
    except ImportError as error:
        raise MissingExtra(
            "EnvPool is not installed", where="--vectorisation envpool", action=INSTALL
        ) from error
    known = envpool.list_all_envs()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise EnvironmentNotFound(
            f"EnvPool has no environment {name!r}",
            where="--env",
            action=(f"it has {', '.join(near)}; " if near else "") + "or take --vectorisation sync",
        )
    return EnvPoolAdapter(envpool.make_gymnasium(name, num_envs=num_envs, seed=seed, **options))
