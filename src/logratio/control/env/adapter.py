"""Gymnasium environments side by side, with one meaning of a step in all three autoreset modes.

A vector environment begins an episode anew in the step after its end (NEXT_STEP), in the same step
(SAME_STEP), or when it is told to (DISABLED). Code that is written for one of them learns from what never
happened in another. Here a step always says what truly followed an action, whether the row is real at all,
and what the policy sees next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from logratio.control.env.action_masks import ActionMasks
from logratio.control.env.history import History
from logratio.control.env.spaces import (
    ActionLayout,
    ObservationLayout,
    action_layout,
    as_batch,
    observation_layout,
)
from logratio.control.env.sync_vector import FastSyncVectorEnv
from logratio.errors import BadConfig, EnvironmentFault, LogratioError

Vectorisation = Literal["sync", "async", "own", "envpool"]
SEED_SPACE = 2**31 - 1
RESUME_HINT = "fix the environment and go on with --resume: everything up to the last update is kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvStep:
    """What followed one action in each of `n` environments."""

    valid: np.ndarray
    """`[n]` false where an autoreset took the place of a step: the action was not looked at."""
    rewards: np.ndarray
    """`[n]` as the environment gave them."""
    terminated: np.ndarray
    """`[n]` the episode came to its end."""
    truncated: np.ndarray
    """`[n]` the episode was cut off before its end; never together with `terminated`."""
    next_observations: np.ndarray
    """`[n, ...]` the true next observation: the final one where the episode is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a policy sees before it acts."""

    observations: np.ndarray
    """`[n, ...]` as arrays."""
    episode_start: np.ndarray
    """`[n]` true where it is the first of an episode."""
    action_mask: np.ndarray | None
    """`[n, Σ sizes]` which actions are allowed, where the environment says so."""


class VectorEnvAdapter:
    """Copies of an environment that are stepped together.

    Args:
        vector: Gymnasium's vector environment.
        seed: of the episodes: each is seeded by (seed, environment, episode).
        name: as faults name it.

    Raises:
        BadConfig: the vector environment does not say how it begins episodes anew.
        UnsupportedSpace: its observations or actions are not understood.
    """

    def __init__(self, vector: Any, *, seed: int, name: str) -> None:
        from gymnasium.spaces import Discrete
        from gymnasium.vector import AutoresetMode

        mode = vector.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise BadConfig(
                f"{name} does not say when an episode begins anew (metadata['autoreset_mode'] is {mode!r})",
                where="--env",
                action="set it to a gymnasium.vector.AutoresetMode: what a step means depends on it",
            )
        self.vector, self.seed, self.name, self.mode = vector, seed, name, mode
        self.num_envs: int = vector.num_envs
        self.observation: ObservationLayout = observation_layout(vector.single_observation_space)
        self.action: ActionLayout = action_layout(vector.single_action_space)
        self.history = History(self.num_envs, self.action.num_columns)
        self.steps = 0
        """Real steps so far, of all environments."""
        self.finished: list[tuple[float, int]] = []
        """Return and length of the episodes that came to their end since this was last emptied."""
        self._disabled = mode is AutoresetMode.DISABLED
        self._next_step = mode is AutoresetMode.NEXT_STEP
        # Whether a number is an action takes Gymnasium far longer to say of NumPy's numbers than of Python's.
        one_choice = isinstance(vector.single_action_space, Discrete)
        self._plain = one_choice and isinstance(vector, FastSyncVectorEnv)
        self.seeds_each_episode = self._disabled
        """Whether every episode has a seed of its own: where environments begin anew by themselves, they do
        not ask for one."""
        self._everywhere = np.ones(self.num_envs, dtype=bool)
        self._nowhere = np.zeros(self.num_envs, dtype=bool)
        self._over = self._nowhere
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._returns = np.zeros(self.num_envs)
        self.masks = ActionMasks(self.action.sizes, self.num_envs, name=name)
        self._view: View | None = None

    @property
    def view(self) -> View:
        """What the policy sees now; begins the first episodes where there was none.

        Raises:
            EnvironmentFault: an environment raised, or gave what is not a number.
        """
        if self._view is None:
            self.begin()
        assert self._view is not None
        return self._view

    def begin(self) -> None:
        """Begin an episode in every environment."""
        self.history.begin(self._everywhere)
        seeds = self._seeds(self._everywhere)
        raw, infos = self._guarded(
            lambda: self.vector.reset(seed=seeds if self.seeds_each_episode else seeds[0])
        )
        self._over = self._nowhere
        self._lengths[:], self._returns[:] = 0, 0.0
        self._update_masks(infos, where=self._everywhere, episode_start=self._everywhere)
        self._set_view(self._flat(raw), self._everywhere)

    def step(self, actions: np.ndarray) -> EnvStep:
        """Act in every environment.

        Args:
            actions: `[n, columns]` as the policy gives them.

        Raises:
            EnvironmentFault: as for `view`.
        """
        if self._view is None:
            self.begin()
        given = self.action.to_env(actions)
        if self._plain:
            given = given.tolist()
        raw, rewards, terminated, truncated, infos = self._guarded(lambda: self.vector.step(given))
        valid = ~self._over if self._next_step else self._everywhere
        rewards = np.asarray(rewards, dtype=np.float64)
        self._check_numbers(rewards[:, None], "a reward")
        terminated, truncated, over = self._ends(terminated, truncated, valid)
        next_observations = now = self._flat(raw)
        self.history.add(actions)
        self._count(rewards, valid, over)
        episode_start = ~valid if self._next_step else over
        if self._disabled:
            # Of what is over only the next episode says what is allowed.
            self._update_masks(infos, where=~over, episode_start=self._nowhere)
        else:
            self._update_masks(infos, where=self._everywhere, episode_start=episode_start)
        if not self._next_step and np.count_nonzero(over):
            self.history.begin(over)
            if self._disabled:
                # Gymnasium's vectors take the mask out of the options that they are given.
                mask = {"reset_mask": over.copy()}
                raw, infos = self._guarded(lambda: self.vector.reset(seed=self._seeds(over), options=mask))
                now = self._flat(raw)
                self._update_masks(infos, where=over, episode_start=over)
            else:
                next_observations = self._with_final(now, infos, over)
        self._over = over
        self._set_view(now, episode_start)
        return EnvStep(
            valid=valid,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            next_observations=next_observations,
        )

    def reset_where(self, where: np.ndarray, episodes: np.ndarray) -> None:
        """Begin the episodes of these numbers, where this is true, instead of those under way."""
        self.history.episodes[where] = episodes[where] - 1
        self.history.begin(where)
        mask = {"reset_mask": where.copy()}
        raw, infos = self._guarded(lambda: self.vector.reset(seed=self._seeds(where), options=mask))
        self._over = self._over & ~where
        self._lengths[where], self._returns[where] = 0, 0.0
        self._update_masks(infos, where=where, episode_start=where)
        self._set_view(self._flat(raw), where)

    def restore_observations(self, observations: np.ndarray, *, over: np.ndarray) -> None:
        """Go on from what the vector was made to hold; `over` is true where an episode has just ended."""
        self._over = over
        self._set_view(observations, self._nowhere)

    @property
    def under_way(self) -> dict[str, list[float]]:
        """Returns and lengths of the episodes under way."""
        return {"returns": self._returns.tolist(), "lengths": self._lengths.tolist()}

    @under_way.setter
    def under_way(self, saved: Mapping[str, list[float]]) -> None:
        self._returns[:], self._lengths[:] = saved["returns"], saved["lengths"]

    def idle(self) -> np.ndarray:
        """`[n, columns]` an action that is allowed everywhere now."""
        assert self._view is not None
        if not self.action.sizes:
            return np.zeros((self.num_envs, self.action.num_columns), dtype=np.float32)
        if self._view.action_mask is None:
            return np.zeros((self.num_envs, self.action.num_columns), dtype=np.int64)
        parts = np.split(self._view.action_mask, np.cumsum(self.action.sizes)[:-1], axis=1)
        return np.stack([part.argmax(axis=1) for part in parts], axis=1)

    def close(self) -> None:
        """Let go of the environments."""
        self.vector.close()

    # --- what a step needs ---

    def _seeds(self, wanted: np.ndarray) -> list[int | None]:
        """The seeds of the episodes that begin: functions of the run's seed, the environment, the episode."""
        return [
            episode_seed(self.seed, number, int(self.history.episodes[number])) if wanted[number] else None
            for number in range(self.num_envs)
        ]

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except LogratioError:
            raise
        except Exception as error:
            # One of ours says what and where; others are of the vector itself.
            what = getattr(error, "what", f"raised {type(error).__name__}: {error}")
            raise EnvironmentFault(
                f"{self.name} {what}",
                where=f"{getattr(error, 'location', 'an environment')}, after {self.steps} steps of all",
                action=getattr(error, "action", "") or RESUME_HINT,
            ) from error

    def _flat(self, raw: Any) -> np.ndarray:
        try:
            flat = self.observation.flatten(raw)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise EnvironmentFault(
                f"{self.name} gave observations of another form than its space has: {error}",
                where=f"after {self.steps} steps of all environments",
                action=RESUME_HINT,
            ) from error
        if flat.shape != (self.num_envs, *self.observation.shape):
            raise EnvironmentFault(
                f"{self.name} gave observations of shape {flat.shape[1:]}, not {self.observation.shape}",
                where=f"after {self.steps} steps of all environments",
                action=RESUME_HINT,
            )
        if not self.observation.is_image:
            self._check_numbers(flat, "an observation")
        return flat

    def _check_numbers(self, values: np.ndarray, what: str) -> None:
        finite = np.isfinite(values)
        # A count takes a fifth of the time of `all`.
        if np.count_nonzero(finite) == finite.size:
            return
        number = int(np.argmin(finite.all(axis=1)))
        raise EnvironmentFault(
            f"{self.name} gave {what} that is not a finite number: {values[number].tolist()}",
            where=f"environment {number}, step {int(self._lengths[number]) + 1} of its episode",
            action=RESUME_HINT,
        )

    def _update_masks(
        self, infos: Mapping[str, Any], *, where: np.ndarray, episode_start: np.ndarray
    ) -> None:
        """Take over what is said of the allowed actions."""
        if np.count_nonzero(episode_start):
            self.masks.begin(episode_start)
        self.masks.update(infos, where=where, episode_start=episode_start)

    def _set_view(self, now: np.ndarray, episode_start: np.ndarray) -> None:
        if self.masks.action_mask is not None:
            self._check_choice()
        self._view = View(observations=now, episode_start=episode_start, action_mask=self.masks.action_mask)

    def _ends(self, terminated: Any, truncated: Any, valid: np.ndarray) -> tuple[np.ndarray, ...]:
        """`[n]` each: which episodes came to their end, which were cut off, and which are over."""
        if True not in terminated and True not in truncated:
            return (self._nowhere,) * 3
        terminated = np.asarray(terminated, dtype=bool) & valid
        # What ended did not go on, whatever a time limit says of the same step.
        truncated = np.asarray(truncated, dtype=bool) & valid & ~terminated
        return terminated, truncated, terminated | truncated

    def _check_choice(self) -> None:
        """Raise `EnvironmentFault` where nothing is allowed, and an action will be looked at."""
        nothing = self.masks.nothing_allowed()
        if self._next_step:
            self.masks.lift(nothing & self._over)
            nothing = nothing & ~self._over
        if nothing.any():
            number = int(np.argmax(nothing))
            raise EnvironmentFault(
                f"{self.name} allows no action at all",
                where=f"environment {number}, step {int(self._lengths[number]) + 1} of its episode",
                action="let the episode end where nothing can be done",
            )

    def _with_final(self, now: np.ndarray, infos: Mapping[str, Any], over: np.ndarray) -> np.ndarray:
        """The observations with the final ones in the places of those that an episode began with."""
        next_observations = now.copy()
        final = infos["final_obs"]
        for number in np.flatnonzero(over):
            one = (
                {key: value[number] for key, value in final.items()}
                if isinstance(final, dict)
                else final[number]
            )
            next_observations[number] = self.observation.flatten(as_batch(one))[0]
        return next_observations

    def _count(self, rewards: np.ndarray, valid: np.ndarray, over: np.ndarray) -> None:
        """Keep the returns and lengths of the episodes; an autoreset's row counts nowhere."""
        self.steps += int(np.count_nonzero(valid))
        self._returns += rewards * valid
        self._lengths += valid
        if np.count_nonzero(over):
            for number in np.flatnonzero(over):
                self.finished.append((float(self._returns[number]), int(self._lengths[number])))
            self._returns[over], self._lengths[over] = 0.0, 0


def episode_seed(seed: int, environment: int, episode: int) -> int:
    """The seed of an episode: a function of the run's seed, the environment's number and the episode's."""
    digest = hashlib.sha256(f"{seed}:{environment}:{episode}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEED_SPACE
