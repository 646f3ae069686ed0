"""What a trainer takes: prompts with their answers as tokens, and rows of several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

TokenIds = tuple[int, ...]
Precision = Literal["fp32", "bf16"]
"""Of matrix products: float32, or bfloat16 with the weights themselves kept in float32."""
Numbers = Sequence[int] | np.ndarray
"""Places of items in a rollout."""


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """A prompt with all its answers: one for SFT, chosen and rejected for DPO, k for a group.

    The prompt's tokens are computed once for the whole group.
    """

    prompt: TokenIds
    """Tokens up to the answer; never empty, since an answer's first token is predicted from its last."""
    answers: tuple[TokenIds, ...]
    """Tokens of each answer, the end token included where the answer is finished; none is empty."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt has no token to predict the answer from")
        if not self.answers or not all(self.answers):
            raise ValueError("an answer has no token")

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads: the last token of an answer is predicted, never read."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that are predicted."""
        return sum(len(answer) for answer in self.answers)


class Span(NamedTuple):
    """Where a group stands in a row."""

    start: int
    """Its first token."""
    split: int
    """The first token behind its prompt."""
    ends: tuple[int, ...]
    """The first token behind each of its answers."""

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answers."""
        return (self.split, *self.ends)[-1] - self.start

    def segments(self) -> list[tuple[int, int]]:
        """First token and end of the prompt, then of each answer."""
        edges = (self.start, self.split, *self.ends)
        return list(pairwise(edges))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRow:
    """Several answer groups in one row without padding; `T` tokens read, `N` tokens predicted.

    An answer sees its own prompt and itself, never the other answers or the other groups.
    """

    input_ids: Tensor
    """`[1, T]` tokens read."""
    position_ids: Tensor
    """`[1, T]` position in its own sequence, as if it stood alone."""
    attention_mask: Tensor | None
    """`[1, 1, T, T]` true where a token sees another; `None`: the row is one plain sequence."""
    spans: tuple[Span, ...]
    """The groups that the mask keeps apart, which fill the row; none where it is one plain sequence."""
    sources: Tensor
    """`[N]` where in the row the token is read that predicts target n."""
    targets: Tensor
    """`[N]` the tokens predicted."""
    answer_index: Tensor
    """`[N]` which answer target n belongs to, counted through the row's groups."""
    num_answers: int
    """How many answers the row holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """What happened: a token and an environment step are the same row. All `[sequences, time]`."""

    mask: Tensor
    """True where a row is real: not padding, not prompt, not the row that an autoreset adds."""
    logprobs: Tensor
    """log-probability of the action under the policy that sampled it, temperature included."""
    rewards: Tensor
    """Reward received after the action."""
    values: Tensor
    """The critic at this state; 0 where there is none."""
    next_values: Tensor
    """The critic at the true next state: the final observation where the episode was cut off."""
    discounts: Tensor
    """γ, or 0 where the episode terminated."""
    traces: Tensor
    """λ, or 0 where the episode ended for any reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Trajectories with what a policy needs to compute their log-probabilities again."""

    trajectories: Trajectories
    """The rows."""
    items: Sequence[Any]
    """What the policy evaluates, one item at a time or several: prompts with their answers, or states."""
    item_of_row: Tensor
    """`[sequences, time]` which item a row belongs to; any of them where the mask is false."""
    metrics: dict[str, float]
    """What the collector has to say of them: rewards by name, lengths, the KL to the reference."""
    group_size: int = 1
    """How many sequences in a row answer the same prompt."""
    reference_logprobs: Tensor | None = None
    """`[sequences, time]` log-probability of each action under the reference; `None` where there is none."""
    greedy_returns: Tensor | None = None
    """`[sequences]` return of the greedy answer to the same prompt, where the collector was asked for it."""
    sampling_noise: float = 2.0**-14
    """σ of the rounding of a token's log-probability, in nats, in the precision that is sampled in."""
    recomputed_noise: float = 0.0
    """The same between the log-probabilities here and those that the update computes of the same weights; 0
    where they are computed from rows that are packed alike, or by products that do not depend on packing."""
    weights_of_all: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """By reduction, what each row counts in a minibatch of all items, once it was asked for."""

    def items_of(self, numbers: Numbers) -> Sequence[Any]:
        """The items at these places."""
        return [self.items[number] for number in numbers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a policy says now of `R` rows, differentiable."""

    rows: Tensor
    """`[R]` which rows, as places in the flattened `[sequences · time]`; on the CPU."""
    logprobs: Tensor
    """`[R]` log-probability of the action that was taken."""
    entropy: Tensor
    """`[R]` entropy of the distribution it was taken from, in nats."""
    values: Tensor | None = None
    """`[R]` the critic at the state; `None` without a critic."""
