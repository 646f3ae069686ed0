"""Training that must end at the exact optimum: DPO, a reward model with PPO, PPO, REINFORCE.

On an enumerated language `π* ∝ π_ref exp(r/β)` is known, so it is not asked whether a run improved but how
far its policy is from the one best policy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, pairwise

import torch
from torch import Tensor

from logratio.objectives.kl import k3
from logratio.verify.checks.rows import Check, Row, below, control, equal, within, worst_of
from logratio.verify.worlds.training import (
    Problem,
    Training,
    dpo_objective,
    fit_dpo,
    fit_rewards,
    labelled_pairs,
    probabilities,
    sampled_pairs,
    standard_problem,
    total_variation,
    train_by_expectation,
    train_sampled,
)
from logratio.verify.worlds.world import World

SEEDS = (0, 1, 2, 3, 4)
METHODS = {"REINFORCE": (None, 1, 600), "PPO": (0.2, 4, 300)}
"""The clip range, the epochs on each batch and the updates."""


def check_dpo_infinite_pairs(quick: bool) -> list[Row]:
    """Infinitely many pairs that cover everything: DPO's minimum is the optimum."""
    problem = standard_problem(beta=1.0)
    samplers = {
        "drawn evenly": torch.ones_like(problem.rewards),
        "from the reference": problem.reference_logprobs.exp(),
    }
    rows = []
    for name, sampler in samplers.items():
        weights = labelled_pairs(problem, sampler)
        at_optimum = optimal_logits(problem).requires_grad_()
        (gradient,) = torch.autograd.grad(dpo_objective(problem, weights, at_optimum), at_optimum)
        rows.append(below(f"Pairs {name}: gradient at π*", float(gradient.norm()), 1e-12, exact=0.0))
        training = fit_dpo(problem, weights)
        rows.append(below(f"Pairs {name}: TV to π* at the end", training.distances[-1][0], 1e-5, exact=0.0))
        gap = problem.best_objective - problem.objective(training.logits)
        rows.append(below(f"Pairs {name}: objective missed", float(gap.max()), 1e-8, exact=0.0))
    return rows


def check_dpo_sample_error(quick: bool) -> list[Row]:
    """Finitely many pairs: the distance falls as 1/√n, with the constant that their information gives."""
    problem = standard_problem(beta=1.0, world=World(vocabulary=3, horizon=2, prompts=((1,),)))
    weights = labelled_pairs(problem, torch.ones_like(problem.rewards))
    constant = expected_constant(problem, weights)
    rows = []
    for count in (10_000, 100_000, 1_000_000):
        ends = [
            fit_dpo(problem, sampled_pairs(weights, count, seed=seed)).distances[-1][0]
            for seed in range(8 if quick else 32)
        ]
        scaled = math.sqrt(count) * sum(ends) / len(ends)
        what = f"{count:,} pairs, 7 sequences: mean TV times √n, by theory {constant:.3f}"
        rows.append(within(what, scaled, 0.5 * constant, 1.5 * constant))
    return rows


def expected_constant(problem: Problem, weights: Tensor) -> float:
    """The limit of `E[TV] √n` for DPO on n labelled pairs of one prompt.

    The log-ratios that DPO fits are Bradley–Terry's maximum likelihood, normal with covariance `I⁺/(nβ²)`, I
    the Fisher information of a pair; `TV = ½ Σ π* |x − E_π*[x]|` to first order, and E|N(0, v)| = √(2v/π).
    """
    rewards, optimum = problem.rewards[0], problem.optimum[0]
    agree = (rewards[:, None] - rewards[None, :]).sigmoid()
    pairs = (weights[0] + weights[0].T) * agree * (1 - agree)
    covariance = torch.linalg.pinv(torch.diag(pairs.sum(dim=1)) - pairs, hermitian=True) / problem.beta**2
    centre = torch.eye(len(optimum), dtype=optimum.dtype) - optimum[None, :]
    spread = (centre @ covariance @ centre.T).diagonal().sqrt()
    return float((optimum * spread).sum()) / 2 * math.sqrt(2 / math.pi)


def check_dpo_partial_coverage(quick: bool) -> list[Row]:
    """Pairs on half of the sequences: right among them, wrong as a whole, at the least possible loss."""
    problem = standard_problem(beta=1.0)
    generator = torch.Generator().manual_seed(0)
    covered = torch.zeros(problem.rewards.shape[1], dtype=torch.bool)
    covered[torch.randperm(len(covered), generator=generator)[: len(covered) // 2]] = True
    weights = labelled_pairs(problem, covered.to(problem.rewards).expand_as(problem.rewards))
    training = fit_dpo(problem, weights)
    policy = probabilities(problem.world, training.logits)
    excess = dpo_objective(problem, weights, training.logits) - dpo_objective(
        problem, weights, optimal_logits(problem)
    )
    conditional = total_variation(_among(policy, covered), _among(problem.optimum, covered))
    return [
        equal("Pairs on half of the sequences: loss above its minimum", excess, 0.0, tolerance=1e-12),
        below("The same: TV to π* among these sequences", float(conditional), 1e-5, exact=0.0),
        control("The same: TV to π* over all sequences", training.distances[-1][0], at_least=0.1),
    ]


def check_methods_agree(quick: bool) -> list[Row]:
    """Four ways to one policy: no two of their ends are farther apart than 0.01."""
    problem = standard_problem(beta=1.0)
    weights = labelled_pairs(problem, torch.ones_like(problem.rewards))
    learnt = replace(problem, rewards=fit_rewards(problem, weights))
    logits = {
        "DPO": fit_dpo(problem, weights).logits,
        "reward model, then PPO": _train(learnt, "PPO", (5,)).logits[0],
        "PPO": sampled("PPO", 1.0, quick).logits[0],
        "REINFORCE": sampled("REINFORCE", 1.0, quick).logits[0],
    }
    policies = {name: probabilities(problem.world, table) for name, table in logits.items()}
    rows = []
    for first, second in combinations(policies, 2):
        apart = float(total_variation(policies[first], policies[second]))
        rows.append(below(f"{first} and {second}: TV between their policies", apart, 0.01, exact=0.0))
    return rows


def check_exact_ppo(quick: bool) -> list[Row]:
    """PPO with exact advantages and no sampling error: the objective, and the way there."""
    rows = []
    for beta in (1.0, 0.3):
        problem = standard_problem(beta=beta)
        training = train_by_expectation(problem, updates=200)
        gap = problem.best_objective - problem.objective(training.logits)
        rows.append(
            below(f"PPO, exact advantages, β = {beta}: objective missed", float(gap.max()), 1e-2, exact=0.0)
        )
        means = [sum(block) / len(block) for block in _blocks([row[0] for row in training.divergences], 10)]
        rise = max(later - earlier for earlier, later in pairwise(means))
        rows.append(
            below(
                "The same: largest rise of KL[π, π*] from ten updates to the next ten", rise, 1e-9, exact=0.0
            )
        )
    return rows


def check_sampled_policy_gradient(quick: bool) -> list[Row]:
    """REINFORCE and PPO from samples, KL in the reward: each run ends at the optimum."""
    rows = []
    for beta in (1.0, 0.3):
        for method in METHODS:
            ends = sampled(method, beta, quick).distances[-1]
            what = f"{method}, sampled, β = {beta}: TV to π*, {worst_of(len(ends))}"
            rows.append(below(what, max(ends), 0.005, exact=0.0))
    wrong = train_sampled(
        standard_problem(beta=1.0), seeds=(0,), clip_range=None, epochs=1, updates=300, estimator=k3
    )
    rows.append(control("REINFORCE with k3 in the reward: TV to π*", wrong.distances[-1][0], at_least=0.1))
    return rows


@lru_cache
def sampled(method: str, beta: float, quick: bool) -> Training:
    """Five runs of a method on the standard problem, two if quick; kept, since several checks use them."""
    return _train(standard_problem(beta=beta), method, SEEDS[:2] if quick else SEEDS)


def _train(problem: Problem, method: str, seeds: tuple[int, ...]) -> Training:
    clip_range, epochs, updates = METHODS[method]
    return train_sampled(problem, seeds=seeds, clip_range=clip_range, epochs=epochs, updates=updates)


def optimal_logits(problem: Problem) -> Tensor:
    """`[P, N, V]` the optimum as a table of log-probabilities, from sums over sequences."""
    world = problem.world
    mass = torch.zeros(*problem.reference.shape, dtype=problem.reference.dtype).flatten(1)
    cells = (world.states * world.vocabulary + world.tokens)[world.mask]
    owners = torch.arange(len(world.sequences))[:, None].expand_as(world.states)[world.mask]
    mass = mass.index_add(1, cells, problem.optimum[:, owners]).reshape(problem.reference.shape)
    return (mass / mass.sum(dim=-1, keepdim=True)).log()


def _among(policy: Tensor, covered: Tensor) -> Tensor:
    """The policy given that the sequence is a covered one."""
    part = policy * covered
    return part / part.sum(dim=-1, keepdim=True)


def _blocks(values: list[float], size: int) -> list[list[float]]:
    """Consecutive blocks of a list, all of one size."""
    return [values[start : start + size] for start in range(0, len(values) - size + 1, size)]


CHECKS = (
    Check(
        name="D2",
        title="DPO on infinitely many pairs ends at the exact optimum",
        run=check_dpo_infinite_pairs,
    ),
    Check(
        name="D3", title="DPO's error on n pairs falls as one over the root of n", run=check_dpo_sample_error
    ),
    Check(
        name="D4",
        title="DPO on pairs that cover half of the sequences does not find the optimum",
        run=check_dpo_partial_coverage,
    ),
    Check(
        name="D5",
        title="DPO, reward model with PPO, PPO and REINFORCE end at the same policy",
        run=check_methods_agree,
    ),
    Check(name="P4", title="PPO with exact advantages reaches the best objective", run=check_exact_ppo),
    Check(
        name="P6",
        title="REINFORCE and PPO from samples end at the exact optimum",
        run=check_sampled_policy_gradient,
    ),
)
