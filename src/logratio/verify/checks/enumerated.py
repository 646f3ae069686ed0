"""The problem that expectations are taken of: the small world with policies, rewards and their exact sums.

The sequences of all prompts stand one below the other, `[P·S, H]`, padded behind their ends: as a batch of
sampled sequences stands, except that each has its exact probability in the place of having been drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from logratio.objectives.masked import masked_sum
from logratio.policies.language import LanguagePolicy
from logratio.verify.worlds import oracle, transformer
from logratio.verify.worlds.world import World, token_logprobs

WORLD = World()
NUM_PROMPTS, NUM_SEQUENCES = len(WORLD.prompts), len(WORLD.sequences)
MASK = WORLD.mask.repeat(NUM_PROMPTS, 1)
"""`[P·S, H]` true where a sequence has a token."""
FOLLOWED = F.pad(MASK[:, 1:], (0, 1)).double()
"""`[P·S, H]` 1 where another token follows, else 0: the discounts of undiscounted episodes."""
POLICY = WORLD.random_logits(seed=1)
"""`[P, N, V]` the tabular policy."""
OTHER = POLICY + WORLD.random_logits(seed=2, scale=0.5)
"""`[P, N, V]` another policy near it: the behaviour policy, or the reference."""
POLICY_SEED, OTHER_SEED = 5, 6
"""Seeds of the weights of two transformers."""
NUM_DIRECTIONS = 8
"""Directions in which gradients by a transformer's weights are held against differences."""


@cache
def rewards() -> Tensor:
    """`[P·S, H]`: a reward for every token in its state, and a score of the whole at the last token."""
    table = WORLD.random_logits(seed=3)
    scores = table[:, WORLD.states, WORLD.tokens]
    last = WORLD.mask.sum(dim=1) - 1
    scores[:, torch.arange(NUM_SEQUENCES), last] += WORLD.rewards(seed=4)
    return torch.where(MASK, scores.flatten(0, 1), torch.zeros(MASK.shape, dtype=scores.dtype))


@cache
def totals(discount: float = 1.0) -> oracle.Columns:
    """`[P][S]` (discounted) sums of the rewards, by the oracle."""
    shaped = rewards().view(NUM_PROMPTS, NUM_SEQUENCES, WORLD.horizon)
    return oracle.totals(WORLD, shaped, discount=discount)


def column(values: oracle.Columns) -> Tensor:
    """`[P·S]` from the oracle's columns."""
    return torch.tensor(values, dtype=torch.float64).flatten()


def weights_of(logits: Tensor) -> Tensor:
    """`[P·S]` π(y|x) over the number of prompts, by the oracle: what an expectation is summed with."""
    return column(oracle.sequence_probabilities(WORLD, logits)) / NUM_PROMPTS


def tabular(logits: Tensor = POLICY) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities `[P·S, H]` of a tabular policy, and what they are differentiated by."""
    theta = logits.clone().requires_grad_()
    return token_logprobs(WORLD, theta).flatten(0, 1), [theta]


def language(seed: int = POLICY_SEED) -> tuple[Tensor, list[Tensor]]:
    """The same of a transformer, through the packed rows that training computes."""
    policy = LanguagePolicy(transformer.small_llama(seed=seed), None)
    flat = torch.cat([policy.evaluate(row) for row in policy.pack(WORLD.groups())])
    return padded(flat), list(policy.model.parameters())


def padded(flat: Tensor) -> Tensor:
    """`[P·S, H]` from the `[N]` values of all tokens in order, 0 behind the ends."""
    return torch.zeros(MASK.shape, dtype=flat.dtype).masked_scatter(MASK, flat)


@cache
def language_logits(seed: int = POLICY_SEED) -> Tensor:
    """`[P, N, V]` the table of that transformer, by the oracle."""
    return oracle.transformer_logits(WORLD, transformer.small_llama(seed=seed))


@cache
def language_directions() -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Directions in the space of the transformer's weights, and its tables a step along each."""
    model = transformer.small_llama(seed=POLICY_SEED)
    ways = transformer.directions(model, count=NUM_DIRECTIONS, seed=8)
    return ways, transformer.tables_along(WORLD, model, ways)


def summed(values: Tensor) -> Tensor:
    """`[P·S]` sums over the tokens of each sequence."""
    return masked_sum(values, MASK, dim=1)


def gradient_of(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient by all parameters, as one column."""
    gradients = torch.autograd.grad(value, list(parameters), retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def distance(ours: Tensor, exact: Tensor) -> float:
    """`‖ours − exact‖ / ‖exact‖`."""
    return float((ours - exact).norm() / exact.norm())


def misdirection(ours: Tensor, exact: Tensor) -> float:
    """What is left of the distance after the best rescaling: `√(1 − cos²)`."""
    scale = torch.dot(ours, exact) / torch.dot(ours, ours)
    return distance(scale * ours, exact)
