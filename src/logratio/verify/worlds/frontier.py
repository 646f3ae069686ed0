"""Reward against KL where every answer has a known probability: best-of-n, and the edge that none exceeds.

Plain loops, as in the oracle: an expectation over subsets visits every subset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from logratio.verify.worlds import oracle
from logratio.verify.worlds.optimum import optimal_probabilities
from logratio.verify.worlds.world import World

EIGHTHS = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
"""Probabilities of four tokens whose products are all multiples of one power of 2."""


def best_of_n(probabilities: Sequence[float], proxy: Sequence[float], *, n: int) -> list[float]:
    """How probable each answer is as the one that the proxy likes best among n draws.

    `F(y)^n − F(<y)^n`, with F(y) the probability of an answer liked no more than y; answers liked alike have
    that of their group together, each in proportion to its own.

    Args:
        probabilities: `[S]` of one draw.
        proxy: `[S]` what is liked.
        n: draws.

    Returns:
        `[S]` probabilities.
    """
    chosen = [0.0] * len(probabilities)
    for value in set(proxy):
        group = [index for index, liked in enumerate(proxy) if liked == value]
        mass = math.fsum(probabilities[index] for index in group)
        less = math.fsum(p for p, liked in zip(probabilities, proxy, strict=True) if liked < value)
        together = (less + mass) ** n - less**n
        for index in group:
            chosen[index] = together * probabilities[index] / mass
    return chosen


def mean_over_subsets(gold: Sequence[float], proxy: Sequence[float], *, n: int) -> float:
    """The gold reward of the best by proxy of a subset of n, averaged over all subsets and over ties."""
    means = []
    for subset in combinations(range(len(gold)), n):
        most = max(proxy[index] for index in subset)
        best = [gold[index] for index in subset if proxy[index] == most]
        means.append(math.fsum(best) / len(best))
    return math.fsum(means) / len(means)


def expectation(probabilities: Sequence[float], values: Sequence[float]) -> float:
    """`Σ p v`."""
    return math.fsum(p * value for p, value in zip(probabilities, values, strict=True))


def divergence(p: Sequence[float], q: Sequence[float]) -> float:
    """`KL[p, q] = Σ p log(p/q)` in nats."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def edge(world: World, reference: Tensor, rewards: Tensor, *, beta: float) -> tuple[float, float]:
    """Reward and KL of the policy that is best at β, averaged over the prompts: no policy has more at its KL.

    Args:
        world: the sequences.
        reference: `[P, N, V]` logits of π_ref.
        rewards: `[P, S]` the reward of each sequence.
        beta: β, above 0.
    """
    best, _ = optimal_probabilities(world, reference, rewards, beta=beta)
    before = oracle.sequence_probabilities(world, reference)
    gained = [
        expectation(column, prompt_rewards)
        for column, prompt_rewards in zip(best, rewards.tolist(), strict=True)
    ]
    spent = [
        divergence(column, reference_column) for column, reference_column in zip(best, before, strict=True)
    ]
    return math.fsum(gained) / len(gained), math.fsum(spent) / len(spent)


def dyadic_logits(world: World, *, seed: int) -> Tensor:
    """`[P, N, 4]` logits of a policy under which every sequence's probability is a multiple of `8^−H`.

    In each state one token has probability 1/2, one 1/4, two 1/8. So there is a finite list in which each
    sequence stands exactly as often as it is probable.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(world.prompts), len(world.prefixes))
    order = torch.rand(*shape, world.vocabulary, generator=generator).argsort(dim=-1)
    return torch.tensor(EIGHTHS, dtype=torch.float64)[order].log()


def written_out(world: World, reference: Tensor, values: Tensor) -> list[list[float]]:
    """Of each prompt the values `[P, S]` of all sequences, each as often as `dyadic_logits` has it: `8^H`."""
    size = 8**world.horizon
    return [
        [value for p, value in zip(column, prompt_values, strict=True) for _ in range(round(p * size))]
        for column, prompt_values in zip(
            oracle.sequence_probabilities(world, reference), values.tolist(), strict=True
        )
    ]
