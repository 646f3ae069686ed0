"""A policy drives environments: trajectories of steps, in the same rows as those of tokens."""

from __future__ import annotations

import hashlib
import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logratio.batches import Rollout, Trajectories
from logratio.errors import BadConfig
from logratio.policies.actor import Partition
from logratio.policies.control import ControlActor, ControlRollout
from logratio.rollouts import replay
from logratio.rollouts.environments import Environments, Step, View
from logratio.rollouts.normalisation import ObservationScale, RewardScale
from logratio.rollouts.reach import reach

RECENT = 100
"""Episodes over which the return is averaged for the metrics."""
Row = tuple[View, np.ndarray, Tensor, Tensor, Step]
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

    def __init__(self, environments: Environments) -> None:
        self.environments = environments
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        """Return and length of the last episodes."""
        self.remembered: Tensor | None = None
        """`[n, width]` what the policy remembers; `None` before the first step."""
        self.noise: Tensor | None = None
        """`[n, columns]` the noise of the last step, where it is to last."""
        self.in_between = False
        """A rollout was begun and not brought to its end: an environment raised."""

    def save(self) -> dict[str, Any]:
        """The state, as JSON takes it; in the midst of a rollout, only how far everything is."""
        own: dict[str, Any] = {"recent": list(self.recent), "remembered": None, "noise": None}
        if self.in_between:
            return replay.save_counts(self.environments) | own
        for name in ("remembered", "noise"):
            now = getattr(self, name)
            own[name] = None if now is None else now.tolist()
        return replay.save(self.environments) | own

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state; says on the terminal where an environment cannot be brought back."""
        if note := replay.restore(self.environments, saved):
            print(note, file=sys.stderr)
        self.recent.extend((float(total), int(length)) for total, length in saved["recent"])
        for name in ("remembered", "noise"):
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
        self, actor: ControlActor, environments: Environments, config: ControlConfig, *, seed: int
    ) -> None:
        self.actor, self.environments, self.config, self.seed = actor, environments, config, seed
        self.state = EnvironmentState(environments)
        size = 1 if environments.observation.is_image else environments.observation.shape[0]
        wanted = config.normalise_observations and not environments.observation.is_image
        self.observation_scale = ObservationScale(size, wanted=wanted)
        self.reward_scale = RewardScale(
            config.num_envs, discount=config.discount, wanted=config.normalise_rewards
        )

    @property
    def num_examples(self) -> int:
        """An example is a rollout: so many updates are made."""
        return self.config.num_updates

    @property
    def controllers(self) -> dict[str, Any]:
        """What a checkpoint holds beside the weights."""
        return {
            "environments": self.state,
            "observation_scale": self.observation_scale,
            "reward_scale": self.reward_scale,
        }

    def frozen(self) -> str:
        """Nothing: no reference."""
        return ""

    @torch.no_grad()
    def collect(self, step: int, examples: Sequence[int], partition: Partition | None = None) -> Rollout:
        """Drive the environments for `num_steps`, from where they stand.

        Raises:
            EnvironmentFault: one raised, or gave what is not a number.
        """
        policy = self.actor.policy
        generator = torch.Generator().manual_seed(draw_seed(self.seed, step))
        if self.state.remembered is None:
            self.state.remembered = policy.blank(self.environments.num_envs)
        remembered = first = self.state.remembered
        rows: list[Row] = []
        self.state.in_between = True
        for noise in self._noise(generator):
            view = self.environments.view
            seen = self.observation_scale(view.observations)
            actions, logprobs, remembered = policy.act(
                torch.from_numpy(seen),
                remembered,
                torch.from_numpy(view.begins),
                noise=noise,
                allowed=None if view.allowed is None else torch.from_numpy(view.allowed),
            )
            rows.append((view, seen, actions, logprobs, self.environments.step(actions.numpy())))
        self.state.remembered, self.state.in_between = remembered, False
        if self.observation_scale.wanted:
            self._seen = np.concatenate([view.observations[step.real] for view, *_, step in rows])
        return self._lay(rows, first)

    def learn(self, rollout: Rollout) -> dict[str, float]:
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
        lasting, last = [], self.state.noise
        for noise in new:
            last = noise if last is None else rho * last + math.sqrt(1.0 - rho * rho) * noise
            lasting.append(last)
        self.state.noise = last
        return lasting

    def _lay(
        self, rows: list[tuple[View, np.ndarray, Tensor, Tensor, Step]], first: Tensor
    ) -> ControlRollout:
        """Steps side by side: `[environments, time]`."""
        views, seen, actions, logprobs, steps = zip(*rows, strict=True)
        observations = _side_by_side(seen)
        begins = _side_by_side([view.begins for view in views])
        real = _side_by_side([step.real for step in steps])
        terminated = _side_by_side([step.terminated for step in steps])
        over = terminated | _side_by_side([step.truncated for step in steps])
        rewards = _side_by_side([step.rewards for step in steps]).numpy()
        self._earned = rewards, over.numpy(), real.numpy()
        values, next_values = self._values(observations, begins, over, steps, first)
        goes_on = (real & ~terminated).float()
        return ControlRollout(
            trajectories=Trajectories(
                mask=real,
                logprobs=torch.stack(logprobs, dim=1),
                rewards=torch.from_numpy(self.reward_scale(rewards)).float() * real,
                values=values * real,
                next_values=next_values * goes_on,
                discounts=self.config.discount * goes_on,
                traces=self.config.lam * (real & ~over).float(),
            ),
            items=range(len(real) if self.actor.policy.has_memory else int(real.sum())),
            item_of_row=self._items(real),
            metrics=self._describe(real) | self._reach(rows),
            observations=observations.flatten(0, 1),
            actions=torch.stack(actions, dim=1).flatten(0, 1),
            begins=begins.flatten(),
            allowed=_masks([view.allowed for view in views]),
            remembered=first,
            all_real=bool(real.all()),
        )

    def _values(
        self, observations: Tensor, begins: Tensor, over: Tensor, steps: Sequence[Step], first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the critic expects of every row, and of what truly followed it."""
        policy = self.actor.policy
        values = policy.values(observations, remembered=first, begins=begins)
        memories = policy.memories(observations, remembered=first, begins=begins)
        next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
        # The next row shows what followed, but where the episode was over or the rollout is.
        elsewhere = over.clone()
        elsewhere[:, -1] = True
        after = _side_by_side([step.after for step in steps])[elsewhere].numpy()
        none_begins = torch.zeros(len(after), 1, dtype=torch.bool)
        next_values[elsewhere] = policy.values(
            torch.from_numpy(self.observation_scale(after))[:, None],
            remembered=memories[elsewhere],
            begins=none_begins,
        )[:, 0]
        return values, next_values

    def _items(self, real: Tensor) -> Tensor:
        """`[n, time]` the sequence of each row where there is a memory; else real rows in their order."""
        if self.actor.policy.has_memory:
            return torch.arange(len(real))[:, None].expand(real.shape)
        return (real.flatten().cumsum(0) - 1).clamp(min=0).reshape(real.shape)

    def _reach(self, rows: Sequence[Row]) -> dict[str, float]:
        """How much of what was drawn and seen lay outside of the environment's spaces."""
        views, _, actions, _, steps = zip(*rows, strict=True)
        return reach(
            self.environments,
            [one.numpy() for one in actions],
            [view.observations for view in views],
            [step.real for step in steps],
        )

    def _describe(self, real: Tensor) -> dict[str, float]:
        """Steps so far, and return and length of the last episodes."""
        self.state.recent.extend(self.environments.finished)
        self.environments.finished.clear()
        metrics = {"env_steps": float(self.environments.steps), "tokens": float(real.sum())}
        if not self.state.recent:
            return metrics
        totals, lengths = zip(*self.state.recent, strict=True)
        mean = float(np.mean(totals))
        return metrics | {
            "episode_return": mean,
            "episode_length": float(np.mean(lengths)),
            "objective": mean,
        }


def _masks(allowed: Sequence[np.ndarray | None]) -> Tensor | None:
    """`[n · time, Σ sizes]` what was allowed; before the first mask of all, everything was."""
    first = next((mask for mask in allowed if mask is not None), None)
    if first is None:
        return None
    everything = np.ones_like(first)
    return _side_by_side([everything if mask is None else mask for mask in allowed]).flatten(0, 1)


def draw_seed(seed: int, step: int) -> int:
    """The seed of an update's draws: a function of the run's seed and the update."""
    return int.from_bytes(hashlib.sha256(f"actions:{seed}:{step}".encode()).digest()[:7], "big")


def _side_by_side(columns: Sequence[np.ndarray]) -> Tensor:
    """`[n, time, ...]` of what was seen at each time."""
    # As np.stack does, in a third of its time.
    joined = np.concatenate(columns).reshape(len(columns), *columns[0].shape)
    return torch.from_numpy(np.ascontiguousarray(joined.swapaxes(0, 1)))
