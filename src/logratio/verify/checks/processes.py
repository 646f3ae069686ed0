"""Decision processes behind Gymnasium's interface, learned by the trainers to the value that is known.

The collector drives Gymnasium's own FrozenLake, and a chain and a bandit that are made here; the trainers are
those of language models. What a trained policy earns is not played but computed, as is the best that can be
earned: both by dynamic programming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from logratio.algorithms.ppo import PPOConfig
from logratio.algorithms.reinforce import ReinforceConfig
from logratio.control.collector import ControlConfig
from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.make_env import make_environments
from logratio.verify.checks.gym_harness import (
    LINEAR,
    STEPS,
    needs_gymnasium,
    new_policy,
    probabilities,
    train,
)
from logratio.verify.checks.rows import Check, Row, control, equal, reaches, worst_of
from logratio.verify.worlds.mdp import (
    DecisionProcess,
    chain,
    frozen_lake,
    optimal_values,
    policy_values,
    two_step_bandit,
)

GAMMA = 0.99
RATES: dict[str, Any] = {"learning_rate": 0.1, "critic_learning_rate": 0.02, "max_gradient_norm": 0.0}
CONFIGS: dict[str, PPOConfig | ReinforceConfig] = {
    "train_ppo": PPOConfig.of(update_epochs=4, minibatches=2, early_stop_factor=0.0, **RATES, **STEPS),
    "train_reinforce": ReinforceConfig.of(
        baseline="critic", reduction="tokens", weights="token", whiten_advantages=True, **RATES, **STEPS
    ),
}
NUM_ENVS = 32


@dataclass(frozen=True, kw_only=True)
class ControlProblem:
    """A decision process behind Gymnasium's interface."""

    name: str
    process: DecisionProcess
    limit: int
    """Steps after which an episode is cut off."""
    rollouts: dict[str, tuple[int, int]]
    """For each trainer, how many rollouts there are, and how many steps of each environment one has: on a
    rollout REINFORCE makes one step of the optimiser, PPO eight."""
    environment: str = ""
    """Gymnasium's own name of it, where it has one."""

    def open(self, *, seed: int) -> VectorEnvAdapter:
        """Copies of it side by side."""
        from logratio.verify.worlds.environments import Process, make_vector_env

        if self.environment:
            return make_environments(self.environment, num_envs=NUM_ENVS, seed=seed)
        vector = make_vector_env(lambda: Process(self.process, self.limit), NUM_ENVS, autoreset="Disabled")
        return VectorEnvAdapter(vector, seed=seed, name=self.name)


BANDIT = ControlProblem(
    name="two-step bandit",
    process=two_step_bandit(),
    limit=2,
    rollouts={"train_ppo": (40, 8), "train_reinforce": (200, 4)},
)
PROBLEMS = (
    BANDIT,
    ControlProblem(
        name="five-state chain",
        process=chain(),
        limit=100,
        rollouts={"train_ppo": (20, 32), "train_reinforce": (60, 16)},
    ),
    ControlProblem(
        name="FrozenLake-v1",
        process=frozen_lake(),
        limit=100,
        rollouts={"train_ppo": (75, 64), "train_reinforce": (500, 32)},
        environment="FrozenLake-v1",
    ),
)
SEEDS = (0, 1)


@needs_gymnasium
def check_decision_processes(quick: bool) -> list[Row]:
    """Decision processes behind Gymnasium's interface, to the value that dynamic programming gives."""
    rows = [*_as_written_down()]
    seeds = SEEDS[:1] if quick else SEEDS
    for problem in PROBLEMS:
        best = float(optimal_values(problem.process, gamma=GAMMA)[problem.process.start])
        for trainer in CONFIGS:
            worst = min(solve(problem, trainer, seed=seed) for seed in seeds)
            of = f"{problem.name}, {trainer}, {worst_of(len(seeds))}"
            rows.append(reaches(f"{of}: exact value of the policy, against V*", worst, best, missed=0.02))
    best = float(optimal_values(BANDIT.process, gamma=GAMMA)[BANDIT.process.start])
    near = solve(BANDIT, "train_ppo", seed=0, gamma=0.0)
    what = "two-step bandit, trained to look one step ahead: share of V* missed"
    return [*rows, control(what, 1.0 - near / best, at_least=0.2)]


def _as_written_down() -> list[Row]:
    """Gymnasium's lake is the one whose best value is known."""
    import gymnasium

    from logratio.verify.worlds.environments import process_of_env

    theirs, ours = process_of_env(gymnasium.make("FrozenLake-v1")), frozen_lake()
    same = equal(
        "FrozenLake-v1: chances in Gymnasium's table", theirs.transitions, ours.transitions, tolerance=1e-12
    )
    best = [float(optimal_values(process, gamma=GAMMA)[process.start]) for process in (theirs, ours)]
    return [same, equal("FrozenLake-v1: V* by Gymnasium's table", *best, tolerance=1e-9)]


def solve(problem: ControlProblem, trainer: str, *, seed: int, gamma: float = GAMMA) -> float:
    """The exact value of a policy that was trained.

    Args:
        problem: what is learned.
        trainer: `train_ppo` or `train_reinforce`.
        seed: of weights, actions and episodes.
        gamma: γ of the training; the value is that at `GAMMA`.
    """
    environments = problem.open(seed=seed)
    # 1 is the most that can be earned in each of them.
    policy = new_policy(environments, LINEAR, seed=seed, expects=1.0)
    rollouts, num_steps = problem.rollouts[trainer]
    collect = ControlConfig(
        steps=rollouts * NUM_ENVS * num_steps,
        num_envs=NUM_ENVS,
        num_steps=num_steps,
        discount=gamma,
        lam=0.5,
    )
    train(policy, environments, collect, CONFIGS[trainer], seed=seed)
    num_states, num_actions, _ = problem.process.transitions.shape
    table = probabilities(policy, torch.eye(num_states), num_actions)
    table = table / table.sum(dim=1, keepdim=True)
    return float(policy_values(problem.process, table, gamma=GAMMA)[problem.process.start])


CHECKS = (
    Check(
        name="C4",
        title="through Gymnasium, PPO and REINFORCE find the best value of processes solved exactly",
        run=check_decision_processes,
    ),
)
