"""A language so small that every sequence is written down: what holds in it is a sum, not an estimate.

Four tokens, of which 0 ends a sequence, at most four of them: 121 sequences a prompt, 40 that end and 81 that
are cut off, on 40 prefixes. A policy over it is a table of logits or a real transformer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from logratio.packed_rows import AnswerGroup

END = 0
"""The token that ends a sequence."""


@dataclass(frozen=True)
class World:
    """All sequences of a small vocabulary up to a horizon.

    `S` sequences, `H` tokens at most, `N` prefixes (states), `V` tokens, `P` prompts.
    """

    vocabulary: int = 4
    """V, with the end token 0."""
    horizon: int = 4
    """H: a sequence of so many tokens without the end token is cut off."""
    prompts: tuple[tuple[int, ...], ...] = field(default=((1,), (2, 3, 1)))
    """P prompts in tokens, of different lengths."""

    @cached_property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """The S sequences, the end token included where there is one."""
        words = range(1, self.vocabulary)
        ended = [(*body, END) for length in range(self.horizon) for body in product(words, repeat=length)]
        return (*ended, *product(words, repeat=self.horizon))

    @cached_property
    def prefixes(self) -> tuple[tuple[int, ...], ...]:
        """The N states: what may stand before a token."""
        words = range(1, self.vocabulary)
        return tuple(body for length in range(self.horizon) for body in product(words, repeat=length))

    @cached_property
    def tokens(self) -> Tensor:
        """`[S, H]` tokens, 0 behind the end."""
        return torch.tensor([[*row, *[END] * (self.horizon - len(row))] for row in self.sequences])

    @cached_property
    def mask(self) -> Tensor:
        """`[S, H]` true where a sequence has a token."""
        lengths = torch.tensor([len(row) for row in self.sequences])
        return torch.arange(self.horizon)[None] < lengths[:, None]

    @cached_property
    def states(self) -> Tensor:
        """`[S, H]` index of the prefix before each token; 0 behind the end."""
        index = {prefix: position for position, prefix in enumerate(self.prefixes)}
        rows = [
            [index.get(row[:t], 0) if t < len(row) else 0 for t in range(self.horizon)]
            for row in self.sequences
        ]
        return torch.tensor(rows)

    @cached_property
    def ended(self) -> Tensor:
        """`[S]` true where a sequence ends by itself."""
        return torch.tensor([row[-1] == END for row in self.sequences])

    def groups(self) -> list[AnswerGroup]:
        """Each prompt with all S sequences as its answers: what the product computes log-probabilities of."""
        return [AnswerGroup(prompt=prompt, answers=self.sequences) for prompt in self.prompts]

    def rewards(self, *, seed: int = 0) -> Tensor:
        """`[P, S]` a reward for every sequence, standard normal in float64."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(self.prompts), len(self.sequences), generator=generator, dtype=torch.float64)

    def random_logits(self, *, seed: int, scale: float = 1.0) -> Tensor:
        """`[P, N, V]` a table of logits for every prompt and state, normal in float64."""
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.prompts), len(self.prefixes), self.vocabulary)
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def token_logprobs(world: World, logits: Tensor) -> Tensor:
    """`[P, S, H]` log-probability of every token of every sequence under a table `[P, N, V]`.

    0 behind the end. Differentiable: a tabular policy as the objectives see it, padded.
    """
    table = logits.log_softmax(dim=-1)
    chosen = table[:, world.states, world.tokens]
    return torch.where(world.mask, chosen, torch.zeros_like(chosen))


def sequence_logprobs(world: World, logits: Tensor) -> Tensor:
    """`[P, S]` log-probability of every sequence under a table of logits."""
    return token_logprobs(world, logits).sum(dim=-1)
