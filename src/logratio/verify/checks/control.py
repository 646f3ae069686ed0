"""Small decision processes: what the policy gradient and PPO earn against what can be earned."""

from __future__ import annotations

from dataclasses import replace

import torch

from logratio.verify.checks.rows import Check, Row, below, control, equal
from logratio.verify.worlds.mdp import (
    DecisionProcess,
    TabularConfig,
    advantages_and_targets,
    chain,
    endless,
    frozen_lake,
    optimal_values,
    play,
    policy_values,
    train_control,
    two_step_bandit,
)

SEEDS = (0, 1, 2, 3, 4)
GAMMA = 0.99


def check_dynamic_programming(quick: bool) -> list[Row]:
    """Values by dynamic programming, and training on them; quick or not, it is always five runs."""
    return [*_known_values(), *_cut_off(), *_training()]


def _known_values() -> list[Row]:
    lake = frozen_lake()
    return [
        equal(
            "FrozenLake 4×4, best chance of reaching the goal, 14/17",
            optimal_values(lake, gamma=1.0)[0],
            14 / 17,
            tolerance=1e-9,
        ),
        equal(
            "FrozenLake 4×4, the same within 100 steps",
            optimal_values(lake, gamma=1.0, steps=100)[0],
            0.744190,
            tolerance=5e-7,
        ),
        equal(
            "FrozenLake 4×4, best value at γ = 0.99",
            optimal_values(lake, gamma=0.99)[0],
            0.542026,
            tolerance=5e-7,
        ),
    ]


def _cut_off() -> list[Row]:
    """A reward of 1 for ever is worth 1/(1 − γ), wherever the time limit cuts the episode."""
    rows = []
    for limit in (1, 2, 5):
        value = critic_of_endless(limit, cut_off_is_the_end=False)
        rows.append(
            equal(f"A reward of 1 for ever, cut off after {limit}: the critic", value, 50.0, tolerance=1e-6)
        )
    lost = abs(critic_of_endless(5, cut_off_is_the_end=True) - 50.0)
    rows.append(control("The same with the cut taken for the end, off by", lost, at_least=40.0))
    return rows


def critic_of_endless(limit: int, *, cut_off_is_the_end: bool) -> float:
    """What a critic that always moves to its targets comes to say of a reward of 1 for ever, at γ = 0.98."""
    process, policy = endless(), torch.ones(1, 1, 1, dtype=torch.float64)
    episodes = play(process, policy, count=1, limit=limit, generators=[torch.Generator().manual_seed(0)])
    if cut_off_is_the_end:
        episodes = replace(episodes, terminated=~episodes.continued())
    values = torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(1_000):
        _, targets = advantages_and_targets(episodes, values, gamma=0.98, trace=0.95)
        values = targets.mean().reshape(1, 1)
    return float(values)


def _training() -> list[Row]:
    rows = []
    for name, process, limit, updates in (
        ("Five-state chain", chain(), 100, 100),
        ("Two-step bandit", two_step_bandit(), 2, 200),
        ("FrozenLake 4×4", frozen_lake(), 100, 300),
    ):
        for method, clip_range, epochs, share in (("policy gradient", None, 1, 1.0), ("PPO", 0.2, 4, 0.4)):
            config = TabularConfig(
                gamma=GAMMA,
                limit=limit,
                clip_range=clip_range,
                epochs=epochs,
                updates=round(updates * share),
            )
            policies = train_control(process, config, seeds=SEEDS)
            gap = worst_gap(process, policies)
            rows.append(
                below(f"{name}, {method}: share of V* missed, worst of 5 seeds", gap, 0.02, exact=0.0)
            )
    return rows


def worst_gap(process: DecisionProcess, policies: torch.Tensor) -> float:
    """The largest share of the best value that one of the policies misses at the start."""
    best = optimal_values(process, gamma=GAMMA)[process.start]
    earned = policy_values(process, policies, gamma=GAMMA)[:, process.start]
    return float((1 - earned / best).max())


CHECKS = (
    Check(
        name="P5",
        title="On decision processes solved exactly, policy gradient and PPO find the best value",
        run=check_dynamic_programming,
    ),
)
