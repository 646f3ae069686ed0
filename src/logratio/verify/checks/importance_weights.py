"""Importance sampling on a language that is enumerated, V-trace on a chain, and the tail of the weights.

The exact side is written with plain numbers: the chance of a sequence is a product of softmaxes computed one
token at a time, an expectation is a sum over all sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.objectives import importance
from logratio.stats.pareto import pareto_k
from logratio.verify.checks.rows import Check, Row, below, control, equal, within
from logratio.verify.checks.traces import check_vtrace
from logratio.verify.worlds.world import World, token_logprobs

CEILINGS = (0.5, 2.0, 10.0)
SAMPLES = 500
"""Samples of one estimate in the statistical checks."""


@dataclass(frozen=True, kw_only=True)
class OffPolicyProblem:
    """A prompt: two policies over all sequences, and what the sequences are worth."""

    world: World
    target: Tensor
    """`[S, H]` log π of every token, as the product sees it."""
    behaviour: Tensor
    """`[S, H]` log μ."""
    rewards: Tensor
    """`[S]`."""
    steps: Tensor
    """`[S, H]` a reward for every token."""
    pi: list[float]
    """The chance of each sequence under π, by plain products."""
    mu: list[float]
    """The same under μ."""

    def log_weights(self, level: importance.Level) -> Tensor:
        """What the product says of every sequence."""
        return importance.log_weights(self.target, self.behaviour, self.world.mask, level=level)

    def expected(self, estimates: Sequence[float]) -> float:
        """E_μ of what is estimated from each sequence alone."""
        return math.fsum(m * e for m, e in zip(self.mu, estimates, strict=True))

    @property
    def value(self) -> float:
        """J = E_π of the rewards."""
        return math.fsum(p * r for p, r in zip(self.pi, self.rewards.tolist(), strict=True))

    @property
    def chi_square(self) -> float:
        """χ²(π, μ) = Σ π²/μ − 1."""
        return math.fsum(p * p / m for p, m in zip(self.pi, self.mu, strict=True)) - 1


def problems() -> list[OffPolicyProblem]:
    """Both prompts of the world, with a behaviour policy some way from the target."""
    world = World()
    target = world.random_logits(seed=11)
    behaviour = target + world.random_logits(seed=12, scale=0.4)
    rewards, step_table = world.rewards(seed=13), world.random_logits(seed=14)
    steps = torch.where(world.mask, step_table[:, world.states, world.tokens], 0.0)
    pi, mu = token_logprobs(world, target), token_logprobs(world, behaviour)
    return [
        OffPolicyProblem(
            world=world,
            target=pi[prompt],
            behaviour=mu[prompt],
            rewards=rewards[prompt],
            steps=steps[prompt],
            pi=chances(world, target[prompt]),
            mu=chances(world, behaviour[prompt]),
        )
        for prompt in range(len(world.prompts))
    ]


def chances(world: World, logits: Tensor) -> list[float]:
    """The probability of every sequence under one prompt's table `[N, V]`, token by token."""
    table = dict(zip(world.prefixes, logits.tolist(), strict=True))

    def chance(prefix: tuple[int, ...], token: int) -> float:
        weights = [math.exp(logit) for logit in table[prefix]]
        return weights[token] / math.fsum(weights)

    return [
        math.prod(chance(sequence[:t], token) for t, token in enumerate(sequence))
        for sequence in world.sequences
    ]


def alone(estimate: Callable[..., Tensor], *columns: Tensor) -> list[float]:
    """The product's estimate from each sequence as a sample of one."""
    return [float(estimate(*(column[i : i + 1] for column in columns))) for i in range(len(columns[0]))]


def check_ordinary_importance_sampling(quick: bool) -> list[Row]:
    """The ordinary estimate has the right mean and the variance that its formula gives."""
    rows = []
    for index, p in enumerate(problems()):
        log_weights = p.log_weights("sequence")
        estimates = alone(importance.ordinary_estimate, p.rewards, log_weights)
        rewards = p.rewards.tolist()
        second = math.fsum(a * a / m * r * r for a, m, r in zip(p.pi, p.mu, rewards, strict=True))
        single = second - p.value**2
        centred = [e - p.value for e in estimates]
        kurtosis = p.expected([c**4 for c in centred]) / single**2
        repeats = 2_000 if quick else 20_000
        sampled = _replicate(importance.ordinary_estimate, p, repeats=repeats, seed=20 + index)
        slack = 5 * math.sqrt((2 + (kurtosis - 3) / SAMPLES) / repeats)
        name = f"prompt {index + 1}"
        rows += [
            equal(
                f"expectation of the ordinary estimate, {name}",
                p.expected(estimates),
                p.value,
                tolerance=1e-12,
            ),
            equal(
                f"variance of one sample, {name}",
                p.expected([c * c for c in centred]),
                single,
                tolerance=1e-12,
            ),
            within(
                f"sampled variance over (E[w²R²] − J²)/n, n = {SAMPLES}, {name}",
                float(sampled.var()) * SAMPLES / single,
                1 - slack,
                1 + slack,
            ),
            below(
                f"the variance over its bound max|R|² (1 + χ²) / n, {name}",
                single / (max(map(abs, rewards)) ** 2 * (1 + p.chi_square)),
                1.0,
            ),
        ]
    return rows


def check_self_normalised(quick: bool) -> list[Row]:
    """The self-normalised estimate of two samples, over all pairs of sequences."""
    rows = []
    for index, p in enumerate(problems()):
        log_weights, rewards = p.log_weights("sequence"), p.rewards.tolist()
        ratios = [a / m for a, m in zip(p.pi, p.mu, strict=True)]
        ours, exact = [], []
        for j in range(len(ratios)):
            for i in range(j + 1):
                twice = (1 if i == j else 2) * p.mu[i] * p.mu[j]
                pair = torch.tensor([i, j])
                estimate = importance.self_normalised_estimate(p.rewards[pair], log_weights[pair])
                ours.append(twice * float(estimate))
                weighted = ratios[i] * rewards[i] + ratios[j] * rewards[j]
                exact.append(twice * weighted / (ratios[i] + ratios[j]))
        bias = math.fsum(exact) - p.value
        every = importance.self_normalised_estimate(
            p.rewards, log_weights + torch.tensor(p.mu, dtype=torch.float64).log()
        )
        rows += [
            equal(
                f"bias of the self-normalised estimate of two, all 121² pairs, prompt {index + 1}",
                math.fsum(ours) - p.value,
                bias,
                tolerance=1e-12,
            ),
            control(f"that bias, were it taken for 0, prompt {index + 1}", abs(bias), at_least=1e-3),
            equal(f"all sequences with weights μw, prompt {index + 1}", every, p.value, tolerance=1e-12),
        ]
    return rows


def check_truncated_weights(quick: bool) -> list[Row]:
    """Per-decision and truncated weights, the effective sample size, the χ² divergence."""
    rows = []
    for index, p in enumerate(problems()):
        name = f"prompt {index + 1}"
        by_step, by_token = (
            alone(importance.ordinary_estimate, p.steps, p.log_weights(level))
            for level in ("per_decision", "token")
        )
        truth = _value_of_prefix(p)
        log_weights = p.log_weights("sequence")
        rows += [
            equal(
                f"per-decision estimate and the value by recursion over prefixes, {name}",
                p.expected(by_step),
                truth,
                tolerance=1e-12,
            ),
            control(
                f"token ratios without those before them, {name}",
                abs(p.expected(by_token) - truth),
                at_least=1e-2,
            ),
            equal(
                f"χ² divergence in expectation, {name}",
                p.expected(alone(importance.chi_square, log_weights)),
                p.chi_square,
                tolerance=1e-12,
            ),
        ]
        rows += [_truncation_row(p, ceiling, name) for ceiling in CEILINGS]
        repeats = 500 if quick else 4_000
        sizes = _replicate(
            lambda values, weights: importance.effective_sample_size(weights),
            p,
            repeats=repeats,
            seed=40 + index,
        )
        share = float(sizes.mean()) / SAMPLES * (1 + p.chi_square)
        rows.append(
            within(f"effective sample size over n/(1 + χ²), n = {SAMPLES}, {name}", share, 0.97, 1.03)
        )
    return rows


def check_on_policy_weights(quick: bool) -> list[Row]:
    """On-policy every weight is 1, exactly, and every estimate is the mean."""
    p = problems()[0]
    mean = p.rewards.mean()
    rows = []
    levels: tuple[importance.Level, ...] = ("token", "sequence", "per_decision")
    for level in levels:
        weights = importance.log_weights(p.target, p.target, p.world.mask, level=level).exp()
        rows.append(equal(f"weights by {level}", weights, torch.ones_like(weights), tolerance=0.0))
    none = torch.zeros_like(p.rewards)
    bounded = importance.truncate_weights(none, ceiling=1.0)
    rows += [
        equal("effective sample size", importance.effective_sample_size(none), len(none), tolerance=0.0),
        equal(
            "self-normalised estimate",
            importance.self_normalised_estimate(p.rewards, none),
            mean,
            tolerance=0.0,
        ),
        equal("ordinary estimate", importance.ordinary_estimate(p.rewards, none), mean, tolerance=0.0),
        equal("weights under a ceiling of 1", bounded, none, tolerance=0.0),
        equal("χ² divergence", importance.chi_square(none), 0.0, tolerance=1e-14),
        below("Pareto k̂ of equal weights", float(pareto_k(none)), -math.inf),
    ]
    return rows


def check_pareto_k(quick: bool) -> list[Row]:
    """The shape of the tail, of weights whose shape is known."""
    rows = []
    count = 200_000 if quick else 1_000_000
    tail = math.ceil(3 * math.sqrt(count))
    for index, shape in enumerate((0.3, 0.7, 1.2)):
        generator = torch.Generator().manual_seed(60 + index)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64).clamp(min=1e-300)
        ours = float(pareto_k(-shape * uniform.log()))
        slack = 5 * (1 + shape) / math.sqrt(tail)
        rows.append(
            within(
                f"k̂ of weights with chance w^(−1/k) to exceed w, k = {shape}",
                ours,
                shape - slack,
                shape + slack,
            )
        )
    generator = torch.Generator().manual_seed(70)
    bounded = torch.rand(count, generator=generator, dtype=torch.float64).log()
    rows.append(below("k̂ of weights that are uniform between 0 and 1", float(pareto_k(bounded)), 0.0))
    return rows


def _replicate(
    estimate: Callable[[Tensor, Tensor], Tensor], p: OffPolicyProblem, *, repeats: int, seed: int
) -> Tensor:
    """The estimate from `repeats` samples of μ, each of SAMPLES sequences."""
    generator = torch.Generator().manual_seed(seed)
    chance, log_weights = torch.tensor(p.mu, dtype=torch.float64), p.log_weights("sequence")
    estimates = []
    for _ in range(repeats):
        drawn = torch.multinomial(chance, SAMPLES, replacement=True, generator=generator)
        estimates.append(estimate(p.rewards[drawn], log_weights[drawn]))
    return torch.stack(estimates)


def _truncation_row(p: OffPolicyProblem, ceiling: float, name: str) -> Row:
    bounded = importance.truncate_weights(p.log_weights("sequence"), ceiling=ceiling)
    bias = p.expected(alone(importance.ordinary_estimate, p.rewards, bounded)) - p.value
    exact = math.fsum(
        m * (min(a / m, ceiling) - a / m) * r for a, m, r in zip(p.pi, p.mu, p.rewards.tolist(), strict=True)
    )
    return equal(f"bias of weights cut at {ceiling:g}, {name}", bias, exact, tolerance=1e-12)


def _value_of_prefix(p: OffPolicyProblem) -> float:
    """E_π of the step rewards by recursion: the chances of prefixes are sums of those of their sequences."""
    reach: dict[tuple[int, ...], float] = {}
    worth: dict[tuple[int, ...], float] = {}
    for row, (sequence, chance) in enumerate(zip(p.world.sequences, p.pi, strict=True)):
        for t in range(len(sequence)):
            prefix = sequence[: t + 1]
            reach[prefix] = reach.get(prefix, 0.0) + chance
            worth[prefix] = float(p.steps[row, t])

    def value(prefix: tuple[int, ...]) -> float:
        longer = [(*prefix, token) for token in range(p.world.vocabulary) if (*prefix, token) in reach]
        whole = reach.get(prefix, 1.0)
        return math.fsum(reach[each] / whole * (worth[each] + value(each)) for each in longer)

    return value(())


CHECKS: tuple[Check, ...] = (
    Check(
        name="I1",
        title="Importance sampling is unbiased, with the variance of its formula",
        run=check_ordinary_importance_sampling,
    ),
    Check(
        name="I2",
        title="Self-normalised importance sampling has exactly its known bias",
        run=check_self_normalised,
    ),
    Check(
        name="I3",
        title="Per-decision and truncated weights, effective sample size, χ²",
        run=check_truncated_weights,
    ),
    Check(
        name="I4",
        title="On-policy all weights are 1 and all estimates are the mean",
        run=check_on_policy_weights,
    ),
    Check(name="I5", title="V-trace: published numbers, its definition, its fixed point", run=check_vtrace),
    Check(name="I6", title="Pareto k̂ finds the shape of a tail that is known", run=check_pareto_k),
)
