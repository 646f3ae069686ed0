"""What reads packed rows with a transformers model: how its numbers are computed, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from logratio.errors import BadConfig
from logratio.kernels.block_diagonal_sdpa import use_block_attention
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.packing import Layout, assign_rows, common_prefix
from logratio.kernels.precision import ComputeWeights, Precision, autocast
from logratio.packed_rows import AnswerGroup, TokenIds

PROBE_TOKENS = 12
"""Tokens of a prompt and of an answer, and answers to a prompt, that a probe has."""


class PackedModel:
    """A model with its tokenizer and the layout in which it reads prompts with answers.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        layout: `packed` reads a prompt once for all its answers; `unpacked` computes each answer as a plain
            sequence through the model's own forward pass, for architectures that mix tokens otherwise.
    """

    def __init__(self, model: Any, tokenizer: Any, *, layout: Layout) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.layout: Layout = layout
        self.compute_weights = ComputeWeights("fp32")
        self.recompute_activations = False
        self.accumulates_in_place = False
        use_block_attention(model)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    @property
    def precision(self) -> Precision:
        """Of the products that packed rows are computed by."""
        return self.compute_weights.precision

    def autocast(self) -> AbstractContextManager[Any]:
        """Have the model's own forward pass compute products in this precision."""
        return autocast(self.precision, self.device)

    @property
    def decoder(self) -> Decoder | None:
        """Computes packed rows, where every part of the model is known to it."""
        return Decoder.of(
            self.model.base_model,
            self.compute_weights,
            recompute=self.recompute_activations,
            accumulate_in_place=self.accumulates_in_place,
        )

    @contextmanager
    def accumulate_in_place(self) -> Iterator[None]:
        """Have backward passes of what is computed in here add to the weights' `grad` past the graph.

        That saves a training step the memory of a second gradient. A weight with hooks, or that is no plain
        tensor, gets its gradient by the graph; of the others `torch.autograd.grad` finds none.
        """
        before, self.accumulates_in_place = self.accumulates_in_place, True
        try:
            yield
        finally:
            self.accumulates_in_place = before

    def assign_rows(
        self, groups: Sequence[AnswerGroup], lengths: Sequence[int], *, max_tokens: int
    ) -> list[list[int]]:
        """Which groups are read in a row together, so that at most so many tokens are.

        Args:
            groups: what is read.
            lengths: tokens of each, read by itself.
            max_tokens: of a row; what all prompts begin with counts once.
        """
        prefix = common_prefix(groups) if self.layout == "packed" and self.decoder is not None else 0
        return assign_rows([length - prefix for length in lengths], capacity=max_tokens - prefix)

    def probe(self, groups: Sequence[AnswerGroup], *, lengths: Sequence[int]) -> list[AnswerGroup]:
        """The groups on which packed and plain sequences are compared: the longest, behind one other.

        On the longest a window would end, and behind another one group would leak into the next. A decoder
        whose parts are known has no window, and a few tokens of each tell as much.

        Args:
            groups: all of them.
            lengths: tokens read of each.
        """
        longest = max(range(len(groups)), key=lambda index: lengths[index])
        selected = [
            groups[index] for index in [*[i for i in range(len(groups)) if i != longest][:1], longest]
        ]
        if self.decoder is None:
            return selected
        return [
            AnswerGroup(
                _head_and_tail(group.prompt),
                tuple(answer[:PROBE_TOKENS] for answer in group.answers[:PROBE_TOKENS]),
            )
            for group in selected
        ]

    def set_compute(self, *, precision: Precision = "fp32", recompute_activations: bool = False) -> None:
        """Compute packed rows so from here on.

        Args:
            precision: of products.
            recompute_activations: whether the backward pass computes them again rather than keep them.

        Raises:
            BadConfig: activations of this architecture cannot be computed again.
        """
        self.compute_weights = ComputeWeights(precision)
        self.recompute_activations = recompute_activations
        if recompute_activations and self.decoder is None:
            raise BadConfig(
                f"activations of a {type(self.model).__name__} cannot be computed again here",
                where="--recompute-activations",
                action="leave it out, and lower --row-tokens for less memory",
            )


def _head_and_tail(prompt: TokenIds) -> TokenIds:
    """What a prompt has in common with others, and what is its own."""
    half = PROBE_TOKENS // 2
    return prompt if len(prompt) <= PROBE_TOKENS else (*prompt[:half], *prompt[-half:])
