"""Gymnasium's environments, driven by the collector and learned by the trainers, for the checks of both.

Nothing stands in for a part of the product: `VectorEnvAdapter`, `ControlCollector`, `ControlPolicy` and the
trainers run whole, in a run directory that is thrown away. For negative controls there are environments whose
steps are misread on purpose, in ways in which libraries have misread them.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.control.collector import ControlCollector, ControlConfig
from logratio.control.env.adapter import EnvStep, VectorEnvAdapter, View
from logratio.control.env.make_env import INSTALL
from logratio.control.policy import ControlActor, ControlPolicy, NetworkConfig
from logratio.errors import MissingExtra
from logratio.run_directory import RunDirectory
from logratio.verify.checks.rows import Row

STEPS: dict[str, Any] = {
    # One example is one rollout.
    **{"batch_size": 1, "epochs": 1.0, "shuffle": False, "checkpoint_every": 0},
    **{"warmup": 0.0, "schedule": "linear", "adam_epsilon": 1e-5},
}
"""Settings that the trainers have in common here."""
LINEAR = NetworkConfig(hidden_sizes=())
"""No hidden layer: where what is seen is one of several states, policy and critic are tables."""


def needs_gymnasium(run: Callable[[bool], list[Row]]) -> Callable[[bool], list[Row]]:
    """A check that is only for those who have Gymnasium, which is an optional extra."""

    @wraps(run)
    def guarded(quick: bool) -> list[Row]:
        if find_spec("gymnasium") is None:
            raise MissingExtra("Gymnasium is not installed", action=INSTALL)
        return run(quick)

    return guarded


def new_policy(
    environments: VectorEnvAdapter, networks: NetworkConfig, *, seed: int = 0, expects: float | None = None
) -> ControlPolicy:
    """A policy for these environments with its critic; with `expects`, this is what the critic says at first.

    A critic that begins with the most that can be earned keeps what is seldom tried looking good.
    """
    policy = ControlPolicy(
        shape=environments.observation.shape,
        sizes=environments.action.sizes,
        num_numbers=environments.action.num_numbers,
        config=networks,
        critic=True,
        seed=seed,
    )
    if expects is not None:
        assert policy.value_layer is not None
        torch.nn.init.zeros_(policy.value_layer.weight)
        torch.nn.init.constant_(policy.value_layer.bias, expects)
    return policy


def train(
    policy: ControlPolicy,
    environments: VectorEnvAdapter,
    collect: ControlConfig,
    config: PPOConfig | ReinforceConfig,
    *,
    seed: int = 0,
) -> None:
    """Train to the end; the environments are closed then."""
    actor = ControlActor(policy)
    collector = ControlCollector(actor, environments, collect, seed=seed)
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.redirect_stderr(io.StringIO()),
        RunDirectory.begin(Path(directory) / "run", {"identity": config.identity()}) as run,
    ):
        if isinstance(config, PPOConfig):
            train_ppo(actor, collector, config, run)
        else:
            train_reinforce(actor, collector, config, run)
    environments.close()


# --- what a policy says, exactly -----------------------------------------------------------------------


@torch.no_grad()
def values(policy: ControlPolicy, seen: Tensor) -> Tensor:
    """`[states]` what the critic says of `[states, features]`, in float64."""
    episode_start = torch.ones(len(seen), dtype=torch.bool)
    return policy.values(
        seen, hidden_state=policy.initial_state(len(seen)), episode_start=episode_start
    ).double()


@torch.no_grad()
def probabilities(
    policy: ControlPolicy, seen: Tensor, num_actions: int, *, action_mask: Tensor | None = None
) -> Tensor:
    """`[states, actions]` of one choice among `num_actions`, for `[states, features]`, in float64."""
    every = torch.arange(num_actions).repeat(len(seen))[:, None]
    logprobs, _, _ = policy.evaluate(
        seen.repeat_interleave(num_actions, dim=0),
        every,
        hidden_state=policy.initial_state(len(every)),
        episode_start=torch.ones(len(every), dtype=torch.bool),
        action_mask=None if action_mask is None else action_mask.repeat_interleave(num_actions, dim=0),
    )
    return logprobs.double().exp().unflatten(0, (len(seen), num_actions))


# --- misread on purpose --------------------------------------------------------------------------------

Misreading = Callable[[EnvStep, View], EnvStep]
"""What is made of a step, given what the policy sees next."""


class MisreadAdapter(VectorEnvAdapter):
    """Environments whose steps are misread.

    Args:
        vector: as for `VectorEnvAdapter`.
        misreading: how.
    """

    def __init__(self, vector: Any, misreading: Misreading) -> None:
        super().__init__(vector, seed=0, name="an environment that is misread")
        self.misreading = misreading

    def step(self, actions: np.ndarray) -> EnvStep:
        """Act in every environment, and misread what followed."""
        step = super().step(actions)
        return self.misreading(step, self.view)


def truncation_as_termination(step: EnvStep, view: View) -> EnvStep:
    """An episode that was cut off is taken for one that ended."""
    return replace(step, terminated=step.terminated | step.truncated, truncated=np.zeros_like(step.truncated))


def reset_rows_as_valid(step: EnvStep, view: View) -> EnvStep:
    """A row that an autoreset adds is taken for a step."""
    return replace(step, valid=np.ones_like(step.valid))


def reset_observation_as_final(step: EnvStep, view: View) -> EnvStep:
    """What the next episode begins with is taken for what followed the last step of this one."""
    return replace(step, next_observations=view.observations)


class LateMaskAdapter(VectorEnvAdapter):
    """Environments whose masks come a step late."""

    _late: np.ndarray | None = None

    def _set_view(self, now: np.ndarray, episode_start: np.ndarray) -> None:
        super()._set_view(now, episode_start)
        view, late = self.view, self._late
        self._late = view.action_mask
        if late is not None:
            self._view = replace(view, action_mask=late)
