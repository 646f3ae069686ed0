"""A policy drives environments: trajectories of steps, in the same rows as those of tokens."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logratio.control.env import env_checkpoint
from logratio.control.env.adapter import EnvStep, VectorEnvAdapter, View
from logratio.control.env.normalisation import ObservationNormaliser, RewardNormaliser
from logratio.control.env.reachable_actions import reach
from logratio.control.policy import ControlActor, ControlRollout
from logratio.errors import BadConfig
from logratio.legacy_names import current_states
from logratio.policies.protocols import Controller, Partition
from logratio.progress import say
from logratio.trajectories import Rollout, Trajectories

RECENT = 100
"""Episodes over which the return is averaged for the metrics."""
Row = tuple[View, np.ndarray, Tensor, Tensor, EnvStep]
"""What is seen, the same as the policy sees it, its actions, their log-probabilities, and what followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """How an environment is driven and what its rewards count."""

    steps: int = 100_000
    """Steps of all environments together; the last update may go a little past them."""
    num_envs: int = 8
    """Environments side by side."""
    num_steps: int = 128
    """Steps of each between two updates."""
    discount: float = 0.99
    """γ."""
    lam: float = 0.95
    """λ of the generalised advantages."""
    normalise_observations: bool = False
    """Subtract the running mean of the observations and divide by their deviation."""
    normalise_rewards: bool = False
    """Divide the rewards by the running deviation of the discounted return."""
    noise_correlation: float = 0.0
    """Where actions are numbers: how much of a step's noise is that of the step before, from 0 to below 1.
    Noise that lasts carries an environment farther than noise that cancels itself (Hollenstein et al., 2024,
    arXiv:2312.11091); each action is scored as if it had been drawn alone."""

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "num_steps"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("discount", "lam"):
            self._require(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        self._require("noise_correlation", 0 <= self.noise_correlation < 1, "from 0 to below 1")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            raise BadConfig(f"{name} is {getattr(self, name)}, it must be {wanted}", where=flag)

    @property
    def rows(self) -> int:
        """Rows of an update."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Updates that take these steps."""
        return -(-self.steps // self.rows)


class EnvironmentState:
    """Where the environments and the collector stand, for checkpoints.

    Args:
        environments: whose state it is.
    """

    def __init__(self, environments: VectorEnvAdapter) -> None:
        self.environments = environments
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        """Return and length of the last episodes."""
        self.hidden_state: Tensor | None = None
        """`[n, width]` what the policy remembers; `None` before the first step."""
        self.noise: Tensor | None = None
        """`[n, columns]` the noise of the last step, where it is to last."""
        self.partial = False
        """A rollout was begun and not brought to its end: an environment raised."""

    def save(self) -> dict[str, Any]:
        """The state, as JSON takes it; in the midst of a rollout, only how far everything is."""
        own: dict[str, Any] = {"recent": list(self.recent), "hidden_state": None, "noise": None}
        if self.partial:
            return env_checkpoint.save_counts(self.environments) | own
        for name in ("hidden_state", "noise"):
            now = getattr(self, name)
            own[name] = None if now is None else now.tolist()
        return env_checkpoint.save(self.environments) | own

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state; says on the terminal where an environment cannot be brought back."""
        if note := env_checkpoint.restore(self.environments, saved):
            say(note)
        self.recent.extend((float(total), int(length)) for total, length in saved["recent"])
        saved = current_states(saved)
        for name in ("hidden_state", "noise"):
            if saved[name] is not None:
                setattr(self, name, torch.tensor(saved[name]).reshape(self.environments.num_envs, -1))


class ControlCollector:
    """Steps of environments as trajectories; see `Collector`.

    Args:
        actor: who acts.
        environments: what it drives; its faults leave a checkpoint of everything up to the last update.
        config: how.
        seed: of the draws of actions.
    """

    unit = "rollouts"

    def __init__(
        self, actor: ControlActor, environments: VectorEnvAdapter, config: ControlConfig, *, seed: int
    ) -> None:
        self.actor, self.environments, self.config, self.seed = actor, environments, config, seed
        self.state = EnvironmentState(environments)
        size = 1 if environments.observation.is_image else environments.observation.shape[0]
        wanted = config.normalise_observations and not environments.observation.is_image
        self.observation_scale = ObservationNormaliser(size, wanted=wanted)
        self.reward_scale = RewardNormaliser(
            config.num_envs, discount=config.discount, wanted=config.normalise_rewards
        )

    @property
    def num_examples(self) -> int:
        """An example is a rollout: so many updates are made."""
        return self.config.num_updates

    @property
    def controllers(self) -> dict[str, Controller]:
        """What a checkpoint holds beside the weights."""
        return {
            "environments": self.state,
            "observation_scale": self.observation_scale,
            "reward_scale": self.reward_scale,
        }

    def reference_fingerprint(self) -> str:
        """Nothing: no reference."""
        return ""

    @torch.no_grad()
    def collect(self, step: int, examples: Sequence[int], partition: Partition | None = None) -> Rollout:
        """Drive the environments for `num_steps`, from where they stand.

        Raises:
            EnvironmentFault: one raised, or gave what is not a number.
        """
        policy = self.actor.policy
        generator = torch.Generator().manual_seed(action_seed(self.seed, step))
        if self.state.hidden_state is None:
            self.state.hidden_state = policy.initial_state(self.environments.num_envs)
        hidden_state = first = self.state.hidden_state
        rows: list[Row] = []
        self.state.partial = True
        for noise in self._noise(generator):
            view = self.environments.view
            seen = self.observation_scale(view.observations)
            actions, logprobs, hidden_state = policy.act(
                torch.from_numpy(seen),
                hidden_state,
                torch.from_numpy(view.episode_start),
                noise=noise,
                action_mask=None if view.action_mask is None else torch.from_numpy(view.action_mask),
            )
            rows.append((view, seen, actions, logprobs, self.environments.step(actions.numpy())))
        self.state.hidden_state, self.state.partial = hidden_state, False
        if self.observation_scale.wanted:
            self._seen = np.concatenate([view.observations[step.valid] for view, *_, step in rows])
        return self._to_rollout(rows, first)

    def update_controllers(self, rollout: Rollout) -> dict[str, float]:
        """Move the means and deviations, now that the update has been made with those that were."""
        if self.observation_scale.wanted:
            self.observation_scale.learn(self._seen)
        self.reward_scale.learn(*self._earned)
        return {}

    def _noise(self, generator: torch.Generator) -> Sequence[Tensor]:
        """`[n, columns]` for each step, what actions are made of: ρ of the last step's and √(1 − ρ²) new."""
        length, count = self.config.num_steps, self.environments.num_envs
        new = self.actor.policy.head.noise(length * count, generator=generator).unflatten(0, (length, count))
        rho = self.config.noise_correlation
        if not rho or self.environments.action.sizes:
            return new.unbind()
        correlated, last = [], self.state.noise
        for noise in new:
            last = noise if last is None else rho * last + math.sqrt(1.0 - rho * rho) * noise
            correlated.append(last)
        self.state.noise = last
        return correlated

    def _to_rollout(
        self, rows: list[tuple[View, np.ndarray, Tensor, Tensor, EnvStep]], first: Tensor
    ) -> ControlRollout:
        """Steps side by side: `[environments, time]`."""
        views, seen, actions, logprobs, steps = zip(*rows, strict=True)
        observations = _stack_time(seen)
        episode_start = _stack_time([view.episode_start for view in views])
        valid = _stack_time([step.valid for step in steps])
        terminated = _stack_time([step.terminated for step in steps])
        over = terminated | _stack_time([step.truncated for step in steps])
        rewards = _stack_time([step.rewards for step in steps]).numpy()
        self._earned = rewards, over.numpy(), valid.numpy()
        values, next_values = self._values(observations, episode_start, over, steps, first)
        bootstraps = (valid & ~terminated).float()
        return ControlRollout(
            trajectories=Trajectories(
                mask=valid,
                logprobs=torch.stack(logprobs, dim=1),
                rewards=torch.from_numpy(self.reward_scale(rewards)).float() * valid,
                values=values * valid,
                next_values=next_values * bootstraps,
                discounts=self.config.discount * bootstraps,
                traces=self.config.lam * (valid & ~over).float(),
            ),
            items=range(len(valid) if self.actor.policy.is_recurrent else int(valid.sum())),
            item_of_row=self._items(valid),
            metrics=self._describe(valid) | self._reach(rows),
            observations=observations.flatten(0, 1),
            actions=torch.stack(actions, dim=1).flatten(0, 1),
            episode_start=episode_start.flatten(),
            action_mask=_masks([view.action_mask for view in views]),
            hidden_state=first,
            all_valid=bool(valid.all()),
        )

    def _values(
        self,
        observations: Tensor,
        episode_start: Tensor,
        over: Tensor,
        steps: Sequence[EnvStep],
        first: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the critic expects of every row, and of what truly followed it."""
        policy = self.actor.policy
        values = policy.values(observations, hidden_state=first, episode_start=episode_start)
        hidden_states = policy.hidden_states(observations, hidden_state=first, episode_start=episode_start)
        next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
        # The next row shows what followed, but where the episode was over or the rollout is.
        elsewhere = over.clone()
        elsewhere[:, -1] = True
        next_observations = _stack_time([step.next_observations for step in steps])[elsewhere].numpy()
        no_episode_start = torch.zeros(len(next_observations), 1, dtype=torch.bool)
        next_values[elsewhere] = policy.values(
            torch.from_numpy(self.observation_scale(next_observations))[:, None],
            hidden_state=hidden_states[elsewhere],
            episode_start=no_episode_start,
        )[:, 0]
        return values, next_values

    def _items(self, valid: Tensor) -> Tensor:
        """`[n, time]` the sequence of each row where there is a memory; else real rows in their order."""
        if self.actor.policy.is_recurrent:
            return torch.arange(len(valid))[:, None].expand(valid.shape)
        return (valid.flatten().cumsum(0) - 1).clamp(min=0).reshape(valid.shape)

    def _reach(self, rows: Sequence[Row]) -> dict[str, float]:
        """How much of what was drawn and seen lay outside of the environment's spaces."""
        views, _, actions, _, steps = zip(*rows, strict=True)
        return reach(
            self.environments,
            [one.numpy() for one in actions],
            [view.observations for view in views],
            [step.valid for step in steps],
        )

    def _describe(self, valid: Tensor) -> dict[str, float]:
        """Steps so far, and return and length of the last episodes."""
        self.state.recent.extend(self.environments.finished)
        self.environments.finished.clear()
        metrics = {"env_steps": float(self.environments.steps), "tokens": float(valid.sum())}
        if not self.state.recent:
            return metrics
        totals, lengths = zip(*self.state.recent, strict=True)
        mean = float(np.mean(totals))
        return metrics | {
            "episode_return": mean,
            "episode_length": float(np.mean(lengths)),
            "objective": mean,
        }


def _masks(action_mask: Sequence[np.ndarray | None]) -> Tensor | None:
    """`[n · time, Σ sizes]` what was allowed; before the first mask of all, everything was."""
    first = next((mask for mask in action_mask if mask is not None), None)
    if first is None:
        return None
    everything = np.ones_like(first)
    return _stack_time([everything if mask is None else mask for mask in action_mask]).flatten(0, 1)


def action_seed(seed: int, step: int) -> int:
    """The seed of an update's draws: a function of the run's seed and the update."""
    return int.from_bytes(hashlib.sha256(f"actions:{seed}:{step}".encode()).digest()[:7], "big")


def _stack_time(columns: Sequence[np.ndarray]) -> Tensor:
    """`[n, time, ...]` of what was seen at each time."""
    # As np.stack does, in a third of its time.
    joined = np.concatenate(columns).reshape(len(columns), *columns[0].shape)
    return torch.from_numpy(np.ascontiguousarray(joined.swapaxes(0, 1)))
