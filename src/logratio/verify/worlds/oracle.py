"""What is true of a policy on the small world, by plain loops: the numbers everything else is held against.

Nothing of the package is used but the list of the world's sequences. A policy is a table of logits
`[P, N, V]`: one that is given, or one that is read off a real transformer with one forward pass for every
state, a single sequence without padding each time. From there on it is products and sums of Python's numbers,
one sequence and one token at a time, in an order that no tensor code has.

Values of several prompts are averaged, each prompt with the same weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from logratio.verify.worlds.world import World

Columns = list[list[float]]
"""A number for each prompt and each of its sequences, or states."""

STEP = 1e-5
"""The step of central differences: its square and the rounding of float64 over it are both about 1e-10."""


def transformer_logits(world: World, model: Any) -> Tensor:
    """`[P, N, V]` logits of a causal language model, from one unpadded sequence at a time."""
    with torch.no_grad():
        table = [
            [
                model(input_ids=torch.tensor([[*prompt, *prefix]])).logits[0, -1].tolist()
                for prefix in world.prefixes
            ]
            for prompt in world.prompts
        ]
    return torch.tensor(table, dtype=torch.float64)


def answer_logprobs(
    model: Any, prompt: Sequence[int], answer: Sequence[int], *, temperature: float = 1.0, top_k: int = 0
) -> list[float]:
    """log-probability of each token of an answer, every token from a forward pass of what stands before it.

    With a temperature and top-k, under the distribution that is drawn from: logits over the temperature, the
    k largest of them.
    """
    logprobs = []
    for length, token in enumerate(answer):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer[:length]]])).logits[0, -1].tolist()
        scaled = {index: logit / temperature for index, logit in enumerate(logits)}
        kept = sorted(scaled, key=lambda index: -scaled[index])[: top_k or len(scaled)]
        largest = scaled[kept[0]]
        total = math.fsum(math.exp(scaled[index] - largest) for index in kept)
        logprobs.append(scaled[token] - largest - math.log(total))
    return logprobs


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities of one state's tokens."""
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def sequence_probabilities(world: World, logits: Tensor) -> Columns:
    """π(y|x) of every sequence, the product over its tokens, the end token included: `[P][S]`."""
    columns = []
    for table in _tables(logits):
        column = []
        for path in _paths(world):
            probability = 1.0
            for state, token in path:
                probability *= table[state][token]
            column.append(probability)
        columns.append(column)
    return columns


def token_logprobs(world: World, logits: Tensor) -> list[list[list[float]]]:
    """Log π of every token of every sequence, without padding: `[P][S][length]`."""
    return [
        [[math.log(table[state][token]) for state, token in path] for path in _paths(world)]
        for table in _tables(logits)
    ]


def visitation(world: World, logits: Tensor) -> Columns:
    """How probable it is that a sequence passes through each state: `[P][N]`, 1 for the empty prefix."""
    columns = []
    for table in _tables(logits):
        reached: dict[tuple[int, ...], float] = {(): 1.0}
        for index, prefix in enumerate(world.prefixes):
            # Prefixes are ordered by length, so that a state stands behind the one it is reached from.
            for token in range(1, world.vocabulary):
                reached[(*prefix, token)] = reached[prefix] * table[index][token]
        columns.append([reached[prefix] for prefix in world.prefixes])
    return columns


def totals(world: World, rewards: Tensor, *, discount: float = 1.0) -> Columns:
    """`Σ_t γ^t r_t` of every sequence from rewards `[P, S, H]`: `[P][S]`."""
    return [
        [
            math.fsum(discount**t * row[t] for t in range(len(sequence)))
            for sequence, row in zip(world.sequences, rows, strict=True)
        ]
        for rows in rewards.tolist()
    ]


def expected(world: World, logits: Tensor, values: Columns) -> float:
    """`E_π` of a value that every sequence has, such as its reward: J."""
    columns = sequence_probabilities(world, logits)
    return _mean(
        math.fsum(p * value for p, value in zip(column, prompt_values, strict=True))
        for column, prompt_values in zip(columns, values, strict=True)
    )


def sequence_kl(world: World, logits: Tensor, reference: Tensor) -> float:
    """`KL[π, π_ref] = Σ_y π(y) (log π(y) − log π_ref(y))` in nats per sequence."""
    pairs = zip(sequence_probabilities(world, logits), sequence_probabilities(world, reference), strict=True)
    return _mean(
        math.fsum(p * (math.log(p) - math.log(q)) for p, q in zip(*columns, strict=True)) for columns in pairs
    )


def half_squared_log_ratio(world: World, logits: Tensor, reference: Tensor) -> float:
    """`½ E_π (log π(y) − log π_ref(y))²`: what k2 of whole sequences is on average."""
    pairs = zip(sequence_probabilities(world, logits), sequence_probabilities(world, reference), strict=True)
    return _mean(
        math.fsum(p * (math.log(p) - math.log(q)) ** 2 / 2 for p, q in zip(*columns, strict=True))
        for columns in pairs
    )


def entropy(world: World, logits: Tensor) -> float:
    """`−Σ_y π(y) log π(y)` in nats per sequence."""
    return _mean(
        -math.fsum(p * math.log(p) for p in column) for column in sequence_probabilities(world, logits)
    )


def squared_score_norms(world: World, logits: Tensor) -> Columns:
    """`‖∇ log π(y|x)‖²` by the logits of the table: `Σ_t Σ_v (1[v = y_t] − π_v)²`, `[P][S]`."""
    return [
        [
            math.fsum(((v == token) - p) ** 2 for state, token in path for v, p in enumerate(table[state]))
            for path in _paths(world)
        ]
        for table in _tables(logits)
    ]


def central_differences(value: Callable[[Tensor], float], at: Tensor, *, step: float = STEP) -> Tensor:
    """`(f(x + h) − f(x − h)) / 2h` in every entry of `at`; the same shape."""
    moved = at.detach().clone()
    entries = moved.view(-1)
    slopes = torch.zeros_like(entries)
    for index, here in enumerate(entries.tolist()):
        entries[index] = here + step
        ahead = value(moved)
        entries[index] = here - step
        slopes[index] = (ahead - value(moved)) / (2 * step)
        entries[index] = here
    return slopes.view_as(at)


@cache
def _paths(world: World) -> list[list[tuple[int, int]]]:
    """The states that each sequence passes through and the tokens it takes there."""
    index_of = {prefix: index for index, prefix in enumerate(world.prefixes)}
    return [
        [(index_of[sequence[:t]], token) for t, token in enumerate(sequence)] for sequence in world.sequences
    ]


def _tables(logits: Tensor) -> list[list[list[float]]]:
    return [[softmax(row) for row in rows] for rows in logits.detach().tolist()]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)
