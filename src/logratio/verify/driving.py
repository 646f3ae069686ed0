"""Gymnasium's environments, driven by the collector and learned by the trainers, for the checks of both.

Nothing stands in for a part of the product: `Environments`, `ControlCollector`, `ControlPolicy` and the
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
from logratio.errors import MissingExtra
from logratio.policies.control import ControlActor, ControlPolicy, NetworkConfig
from logratio.rollouts.control import ControlCollector, ControlConfig
from logratio.rollouts.environments import Environments, Step, View
from logratio.rollouts.making import INSTALL
from logratio.runs import RunDirectory
from logratio.verify.rows import Row

STEPS: dict[str, Any] = {
    # One example is one rollout.
    **{"batch_size": 1, "epochs": 1.0, "shuffle": False, "checkpoint_every": 0},
    **{"warmup": 0.0, "schedule": "linear", "adam_epsilon": 1e-5},
}
"""Settings that the trainers have in common here."""
LINEAR = NetworkConfig(widths=())
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
    environments: Environments, networks: NetworkConfig, *, seed: int = 0, expects: float | None = None
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
    environments: Environments,
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
    begins = torch.ones(len(seen), dtype=torch.bool)
    return policy.values(seen, remembered=policy.blank(len(seen)), begins=begins).double()


@torch.no_grad()
def probabilities(
    policy: ControlPolicy, seen: Tensor, num_actions: int, *, allowed: Tensor | None = None
) -> Tensor:
    """`[states, actions]` of one choice among `num_actions`, for `[states, features]`, in float64."""
    every = torch.arange(num_actions).repeat(len(seen))[:, None]
    logprobs, _, _ = policy.evaluate(
        seen.repeat_interleave(num_actions, dim=0),
        every,
        remembered=policy.blank(len(every)),
        begins=torch.ones(len(every), dtype=torch.bool),
        allowed=None if allowed is None else allowed.repeat_interleave(num_actions, dim=0),
    )
    return logprobs.double().exp().unflatten(0, (len(seen), num_actions))


# --- misread on purpose --------------------------------------------------------------------------------

Misreading = Callable[[Step, View], Step]
"""What is made of a step, given what the policy sees next."""


class Misread(Environments):
    """Environments whose steps are misread.

    Args:
        vector: as for `Environments`.
        misreading: how.
    """

    def __init__(self, vector: Any, misreading: Misreading) -> None:
        super().__init__(vector, seed=0, name="an environment that is misread")
        self.misreading = misreading

    def step(self, actions: np.ndarray) -> Step:
        """Act in every environment, and misread what followed."""
        step = super().step(actions)
        return self.misreading(step, self.view)


def cut_is_the_end(step: Step, view: View) -> Step:
    """An episode that was cut off is taken for one that ended."""
    return replace(step, terminated=step.terminated | step.truncated, truncated=np.zeros_like(step.truncated))


def added_rows_are_real(step: Step, view: View) -> Step:
    """A row that an autoreset adds is taken for a step."""
    return replace(step, real=np.ones_like(step.real))


def next_begins(step: Step, view: View) -> Step:
    """What the next episode begins with is taken for what followed the last step of this one."""
    return replace(step, after=view.observations)


class LateMasks(Environments):
    """Environments whose masks come a step late."""

    _late: np.ndarray | None = None

    def _look(self, now: np.ndarray, begins: np.ndarray) -> None:
        super()._look(now, begins)
        view, late = self.view, self._late
        self._late = view.allowed
        if late is not None:
            self._view = replace(view, allowed=late)
