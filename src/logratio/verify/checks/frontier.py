"""Best-of-n and the upper bound of reward at a KL, against languages in which both are exact sums.

Under a policy whose probabilities are all multiples of one number there is a list of answers in which each
stands as often as it is probable: on it the sampled bound must be the exact one, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor

from logratio.evaluation.best_of_n import best_of_n_kl_bound, expected_best
from logratio.evaluation.upper_bound import BoundPoint, bound_at, tilt, upper_bound
from logratio.verify.checks.rows import Check, Row, below, control, equal
from logratio.verify.worlds import frontier, oracle
from logratio.verify.worlds.optimum import optimal_logits
from logratio.verify.worlds.training import Problem, standard_problem
from logratio.verify.worlds.world import World

SMALL = World(vocabulary=3, horizon=2, prompts=((1,),))
"""7 sequences: every way to draw a few answers can be written down."""
WORLD = World()
REFERENCE = frontier.dyadic_logits(WORLD, seed=1)
REWARDS = WORLD.rewards(seed=7)
BETAS = (3.0, 1.0, 0.5, 0.2, 0.1)
NUM_DRAWN, NUM_SAMPLES = 4, 1024


def check_best_of_n(quick: bool) -> list[Row]:
    """The estimate from N answers against all subsets and all draws, the bound against exact divergences."""
    return [*_subsets(), *_draws(), *_divergences()]


def _subsets() -> list[Row]:
    generator = torch.Generator().manual_seed(5)
    gold, likes = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    rows = []
    for name, proxy in (("12 answers", likes), ("12 answers, many liked alike", likes.round())):
        for n in (1, 5, 12):
            ours = expected_best(gold.tolist(), proxy.tolist(), n=n)
            exact = frontier.mean_over_subsets(gold.tolist(), proxy.tolist(), n=n)
            rows.append(equal(f"{name}: best of {n}, mean over all subsets", ours, exact, tolerance=1e-12))
    return rows


def _draws() -> list[Row]:
    """Every way to draw N answers, with its probability: the expectation of the estimate."""
    probabilities = oracle.sequence_probabilities(SMALL, SMALL.random_logits(seed=11))[0]
    gold = SMALL.rewards(seed=7)[0].tolist()
    likes = SMALL.rewards(seed=3)[0]
    rows = []
    for name, proxy in (("distinct", likes.tolist()), ("tied", likes.round().tolist())):
        for n in (2, 3):
            exact = frontier.expectation(frontier.best_of_n(probabilities, proxy, n=n), gold)
            ours, replaced = _mean_estimates(probabilities, gold, proxy, n)
            what = f"{name} proxies, {NUM_DRAWN} answers drawn: expected estimate of best of {n}"
            rows.append(equal(what, ours, exact, tolerance=1e-12))
            if name == "distinct":
                what = f"the same, choosing from the {NUM_DRAWN} with replacement"
                rows.append(control(what, abs(replaced - exact), at_least=0.01))
    return rows


def _mean_estimates(
    probabilities: Sequence[float], gold: Sequence[float], proxy: Sequence[float], n: int
) -> tuple[float, float]:
    """The expectation of the estimate, and of the one that draws with replacement from those drawn."""
    ours, replaced = [], []
    even = [1 / NUM_DRAWN] * NUM_DRAWN
    for drawn in product(range(len(gold)), repeat=NUM_DRAWN):
        chance = math.prod(probabilities[index] for index in drawn)
        true_rewards, proxy_rewards = [gold[index] for index in drawn], [proxy[index] for index in drawn]
        ours.append(chance * expected_best(true_rewards, proxy_rewards, n=n))
        replaced.append(
            chance * frontier.expectation(frontier.best_of_n(even, proxy_rewards, n=n), true_rewards)
        )
    return math.fsum(ours), math.fsum(replaced)


def _divergences() -> list[Row]:
    problem = standard_problem(beta=1.0)
    rows = []
    for n in (2, 16, 64):
        exact = max(_divergence_of_best(problem, n))
        what = f"121 sequences: exact KL of best of {n}, the larger of two prompts'"
        rows.append(below(what, exact, best_of_n_kl_bound(n)))
    slack = best_of_n_kl_bound(64) - min(_divergence_of_best(problem, 64))
    rows.append(control("the bound taken for the KL of best of 64", slack, at_least=0.1))
    many = 1_000
    even = [1 / many] * many
    exact = frontier.divergence(frontier.best_of_n(even, range(many), n=16), even)
    what = f"{many:,} equally probable answers: the KL of best of 16 is the bound"
    rows.append(equal(what, best_of_n_kl_bound(16), exact, tolerance=1e-4))
    return rows


def _divergence_of_best(problem: Problem, n: int) -> list[float]:
    """The exact KL of best-of-n by the gold reward at each prompt."""
    columns = oracle.sequence_probabilities(problem.world, problem.reference)
    pairs = zip(columns, problem.rewards.tolist(), strict=True)
    return [
        frontier.divergence(frontier.best_of_n(column, rewards, n=n), column) for column, rewards in pairs
    ]


def check_reward_kl_bound(quick: bool) -> list[Row]:
    """The bound from answers as often as they are probable, what duality makes of it, and from samples."""
    return [*_exact_points(), *_policies_below(), *_sampled(200 if quick else 1000)]


@cache
def exact_points() -> tuple[BoundPoint, ...]:
    """The bound of the dyadic reference at `BETAS`, from answers that stand as often as they are probable."""
    answers = frontier.written_out(WORLD, REFERENCE, REWARDS)
    return tuple(upper_bound(answers, betas=BETAS, least_samples=0.0, seed=0, resamples=2))


def _exact_points() -> list[Row]:
    rows = []
    for point in exact_points():
        reward, kl = frontier.edge(WORLD, REFERENCE, REWARDS, beta=point.beta)
        what = f"answers as often as probable, β = {point.beta:g}"
        rows.append(equal(f"{what}: reward", point.reward.value, reward, tolerance=1e-12))
        rows.append(equal(f"{what}: KL", point.kl, kl, tolerance=1e-12))
    return rows


def _policies_below() -> list[Row]:
    """No policy is above the bound, near the optimum or far; best-of-n is not; one with half its KL is."""
    noise = [WORLD.random_logits(seed=seed, scale=0.05 * 2 ** (seed % 7)) for seed in range(56)]
    best = [optimal_logits(WORLD, REFERENCE, REWARDS, beta=beta) for beta in (2.0, 0.7, 0.3)]
    policies = [start + way for start in (REFERENCE, *best) for way in noise]
    placed = [_place(policy) for policy in policies]
    what = f"{len(placed)} policies: the largest reward above the bound"
    rows = [below(what, max(_above(kl, reward) for kl, reward in placed), 1e-12)]
    bests = [_place_best(n) for n in (2, 4, 16, 64)]
    rows.append(below("best of 2, 4, 16, 64: the same", max(_above(*point) for point in bests), 1e-12))
    touching = [_above(point.kl, point.reward.value) for point in exact_points()]
    rows.append(
        equal("the best policies: their rewards above the bound", max(touching), 0.0, tolerance=1e-12)
    )
    kl, reward = _place(best[1])
    rows.append(control("a policy whose KL is taken for half of it", _above(kl / 2, reward), at_least=0.1))
    return rows


def _place(logits: Tensor) -> tuple[float, float]:
    """KL and reward of a table, by the oracle."""
    kl = oracle.sequence_kl(WORLD, logits, REFERENCE)
    return kl, oracle.expected(WORLD, logits, REWARDS.tolist())


def _place_best(n: int) -> tuple[float, float]:
    """The KL that best-of-n has at most, and its exact reward."""
    columns = oracle.sequence_probabilities(WORLD, REFERENCE)
    rewards = [
        frontier.expectation(frontier.best_of_n(column, prompt_rewards, n=n), prompt_rewards)
        for column, prompt_rewards in zip(columns, REWARDS.tolist(), strict=True)
    ]
    return best_of_n_kl_bound(n), math.fsum(rewards) / len(rewards)


def _above(kl: float, reward: float) -> float:
    return reward - bound_at(exact_points(), kl).value


def _sampled(repeats: int) -> list[Row]:
    """1,024 samples a prompt, many times: how far off they are, and how far off on average."""
    problem = standard_problem(beta=1.0)
    rows = []
    for beta, limit in ((1.0, 0.025), (0.6, 0.08)):
        reward, kl = frontier.edge(problem.world, problem.reference, problem.rewards, beta=beta)
        points = sampled_points(problem, beta=beta, repeats=repeats)
        errors = points[:, :2] - torch.tensor([kl, reward], dtype=points.dtype)
        what = f"{NUM_SAMPLES:,} samples, β = {beta:g}, {points[:, 2].mean():.0f} effective"
        spread = float(errors[:, 0].square().mean().sqrt())
        rows.append(below(f"{what}: root mean square error of a KL of {kl:.3f}", spread, limit, exact=0.0))
        depths = beta * errors[:, 0] - errors[:, 1]
        bias = float((beta / points[:, 2] - beta / NUM_SAMPLES).mean()) / 2
        z = abs(float(depths.mean()) - bias) / (float(depths.std()) / math.sqrt(repeats))
        rows.append(below(f"{what}: mean depth below the edge is β(1/ESS − 1/N)/2, |z|", z, 4.0))
    few = sampled_points(problem, beta=0.3, repeats=repeats, num_samples=128)
    _, kl = frontier.edge(problem.world, problem.reference, problem.rewards, beta=0.3)
    what = f"128 samples, {few[:, 2].mean():.0f} effective: mean error of a KL of {kl:.2f}"
    rows.append(control(what, kl - float(few[:, 0].mean()), at_least=0.1))
    return rows


def sampled_points(problem: Problem, *, beta: float, repeats: int, num_samples: int = NUM_SAMPLES) -> Tensor:
    """`[repeats, 3]` KL, reward and effective samples of the bound at β, from samples of the reference."""
    generator = torch.Generator().manual_seed(17)
    probabilities = problem.reference_logprobs.exp()
    points = []
    for _ in range(repeats):
        drawn = torch.multinomial(probabilities, num_samples, replacement=True, generator=generator)
        rewards = problem.rewards.gather(1, drawn)
        tilts = [tilt(prompt_rewards, beta=beta) for prompt_rewards in rewards]
        kl, gain = (math.fsum(getattr(each, key) for each in tilts) / len(tilts) for key in ("kl", "gain"))
        worth = len(tilts) / math.fsum(1 / each.effective_samples for each in tilts)
        points.append([kl, gain + float(rewards.mean()), worth])
    return torch.tensor(points, dtype=torch.float64)


CHECKS = (
    Check(
        name="F1",
        title="best-of-n is estimated without bias, and its KL is below the bound",
        run=check_best_of_n,
    ),
    Check(
        name="F2",
        title="weighted samples of the reference give the most reward at a KL",
        run=check_reward_kl_bound,
    ),
)
