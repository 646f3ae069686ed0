"""The policy that is best under a reward and a KL divergence to a reference, found in three ways.

`max_π E_π[r] − β KL[π, π_ref]` is solved by `π*(y|x) = π_ref(y|x) exp(r(x, y)/β) / Z(x)` (Rafailov et al.,
2023, arXiv:2305.18290, eq. 3–5), and the value reached is β log Z. Here π* is written down by enumerating the
sequences, found token by token from a soft Bellman backup that never sees a whole sequence's probability, and
taken apart into a table of logits. Plain loops, as in the oracle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logratio.verify.worlds import oracle
from logratio.verify.worlds.world import World


def optimal_probabilities(
    world: World, reference: Tensor, rewards: Tensor, *, beta: float
) -> tuple[oracle.Columns, list[float]]:
    """π* by enumeration, and log Z of each prompt.

    `π*(y) = π_ref(y) exp(r(y)/β) / Z`, `Z = Σ_y π_ref(y) exp(r(y)/β)`.

    Args:
        world: the sequences.
        reference: `[P, N, V]` logits of π_ref.
        rewards: `[P, S]` the reward of each sequence.
        beta: β, above 0.

    Returns:
        `[P][S]` probabilities and `[P]` log Z in nats.
    """
    columns, normalisers = [], []
    for probabilities, prompt_rewards in zip(
        oracle.sequence_probabilities(world, reference), rewards.tolist(), strict=True
    ):
        exponents = [
            math.log(p) + reward / beta for p, reward in zip(probabilities, prompt_rewards, strict=True)
        ]
        log_z = _log_sum(exponents)
        columns.append([math.exp(exponent - log_z) for exponent in exponents])
        normalisers.append(log_z)
    return columns, normalisers


def soft_values(world: World, reference: Tensor, rewards: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """The soft values of states and tokens, from the last token to the first.

    `V(s) = β log Σ_a π_ref(a|s) exp(Q(s, a)/β)`, with Q(s, a) the reward where a ends the sequence or fills
    it, else V of the state it leads to.

    Args:
        world: the sequences.
        reference: `[P, N, V]` logits of π_ref.
        rewards: `[P, S]` the reward of each sequence.
        beta: β, above 0.

    Returns:
        V as `[P, N]`, Q as `[P, N, V]`; V of the empty prefix is β log Z.
    """
    index_of = {sequence: index for index, sequence in enumerate(world.sequences)}
    all_values, all_actions = [], []
    for rows, prompt_rewards in zip(reference.tolist(), rewards.tolist(), strict=True):
        values: dict[tuple[int, ...], float] = {}
        actions: list[list[float]] = []
        for index in reversed(range(len(world.prefixes))):
            prefix = world.prefixes[index]
            longer = [(*prefix, token) for token in range(world.vocabulary)]
            q = [prompt_rewards[index_of[end]] if end in index_of else values[end] for end in longer]
            chances = oracle.softmax(rows[index])
            values[prefix] = beta * _log_sum(
                [math.log(p) + value / beta for p, value in zip(chances, q, strict=True)]
            )
            actions.append(q)
        all_values.append([values[prefix] for prefix in world.prefixes])
        all_actions.append(actions[::-1])
    return torch.tensor(all_values, dtype=torch.float64), torch.tensor(all_actions, dtype=torch.float64)


def optimal_logits(world: World, reference: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """π* as a table of logits from the soft Bellman backup: `log π_ref(a|s) + Q(s, a)/β`, `[P, N, V]`."""
    _, actions = soft_values(world, reference, rewards, beta=beta)
    return reference.detach() + actions / beta


def autoregressive_logits(world: World, probabilities: oracle.Columns) -> Tensor:
    """The table of logits whose policy gives these probabilities to the sequences, `[P, N, V]`.

    `π(a|s) = Σ {π(y): y begins with s, a} / Σ {π(y): y begins with s}`; logarithms of the numerators are
    logits of it.
    """
    tables = []
    for column in probabilities:
        mass: dict[tuple[int, ...], list[float]] = {}
        for sequence, probability in zip(world.sequences, column, strict=True):
            for length in range(1, len(sequence) + 1):
                mass.setdefault(sequence[:length], []).append(probability)
        tables.append(
            [
                [math.log(math.fsum(mass[(*prefix, token)])) for token in range(world.vocabulary)]
                for prefix in world.prefixes
            ]
        )
    return torch.tensor(tables, dtype=torch.float64)


def regularised_reward(
    world: World, logits: Tensor, reference: Tensor, rewards: Tensor, *, beta: float
) -> float:
    """`J_β(π) = E_π[r] − β KL[π, π_ref]`, averaged over the prompts."""
    reward = oracle.expected(world, logits, rewards.tolist())
    return reward - beta * oracle.sequence_kl(world, logits, reference)


def total_variation(left: oracle.Columns, right: oracle.Columns) -> float:
    """`½ Σ_y |p(y) − q(y)|`, averaged over the prompts: 0 for the same policy, 1 for disjoint ones."""
    distances = [
        math.fsum(abs(p - q) for p, q in zip(*columns, strict=True)) / 2
        for columns in zip(left, right, strict=True)
    ]
    return math.fsum(distances) / len(distances)


def _log_sum(exponents: list[float]) -> float:
    """`log Σ exp`, without overflow."""
    largest = max(exponents)
    return largest + math.log(math.fsum(math.exp(exponent - largest) for exponent in exponents))
