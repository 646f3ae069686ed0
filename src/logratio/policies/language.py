"""A language model as a policy: how probable an answer is, differentiably. `generation` draws answers.

`PackedModel` is what it has in common with a reward model: a transformers model that reads packed rows.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from logratio.errors import BadConfig
from logratio.kernels.block_diagonal_sdpa import packed_inputs, use_block_attention
from logratio.kernels.chunked_lm_head import token_logprobs
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.packing import Layout, assign_rows, common_prefix, pack, pack_single
from logratio.kernels.precision import ComputeWeights, Precision, autocast
from logratio.kernels.rounding_error import LogprobDifference
from logratio.models.lora import use_adapter
from logratio.packed_rows import AnswerGroup, PackedRow, TokenIds

PROBE_TOKENS = 12
"""Tokens of a prompt and of an answer, and answers to a prompt, that a probe has."""


class PackedModel(ABC):
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

    @abstractmethod
    def num_tokens_read(self, group: AnswerGroup) -> int:
        """Tokens that the model reads of a group for its numbers."""

    @abstractmethod
    def pack(self, groups: Sequence[AnswerGroup]) -> list[PackedRow]:
        """The rows of `groups` in this model's layout."""

    def rows_of(self, groups: Sequence[AnswerGroup]) -> list[PackedRow]:
        """One packed row in the packed layout, a row for each answer in the other."""
        if self.layout == "packed":
            return [pack(groups, device=self.device)]
        return [
            pack_single(group.prompt, answer, device=self.device)
            for group in groups
            for answer in group.answers
        ]

    def micro_batches(
        self, groups: Sequence[AnswerGroup], *, max_tokens: int
    ) -> list[tuple[list[int], list[PackedRow]]]:
        """Divide `groups` into micro-batches.

        Returns:
            Pairs of the indices of the groups in a micro-batch and the rows that hold exactly their answers,
            in order: one packed row in the packed layout, a row for each answer in the other.
        """
        lengths = [self.num_tokens_read(group) for group in groups]
        return [
            (group_indices, self.pack([groups[index] for index in group_indices]))
            for group_indices in self.assign_rows(groups, lengths, max_tokens=max_tokens)
        ]

    @torch.no_grad()
    def values_by_group(
        self,
        groups: Sequence[AnswerGroup],
        values_of: Callable[[Sequence[PackedRow]], Tensor],
        *,
        max_tokens: int,
    ) -> list[list[float]]:
        """What `values_of` gives for rows, `[answers]`, by group in the order of its answers."""
        by_group: list[list[float]] = [[] for _ in groups]
        for group_indices, rows in self.micro_batches(groups, max_tokens=max_tokens):
            values = iter(values_of(rows).tolist())
            for index in group_indices:
                by_group[index] = [next(values) for _ in groups[index].answers]
        return by_group

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


class LanguagePolicy(PackedModel):
    """A causal language model with the layout in which it computes log-probabilities.

    Args:
        model: a transformers model for causal language modelling.
        tokenizer: its tokenizer.
        layout: `packed` reads a prompt once for all its answers; `unpacked` computes each answer as a plain
            sequence through the model's own forward pass, for architectures that mix tokens otherwise.
        adapter: which of the model's adapters computes, `base` for none of them; `None`: the one in use.
            Policy, critic and reference may be three such policies on one model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, layout: Layout = "packed", adapter: str | None = None
    ) -> None:
        super().__init__(model, tokenizer, layout=layout)
        self.adapter = adapter

    def use_adapter(self) -> AbstractContextManager[None]:
        """Activate this policy's adapter, for code that chooses its own precision."""
        return nullcontext() if self.adapter is None else use_adapter(self.model, self.adapter)

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Have the model compute as this policy; whoever calls the model itself does so in here."""
        with self.use_adapter(), self.autocast():
            yield

    def num_tokens_read(self, group: AnswerGroup) -> int:
        """Tokens that the model reads of a group for log-probabilities: none for an answer's last."""
        return group.num_tokens

    def pack(self, groups: Sequence[AnswerGroup]) -> list[PackedRow]:
        """The rows of `groups` in this policy's layout."""
        return self.rows_of(groups)

    def evaluate(self, row: PackedRow) -> Tensor:
        """Log-probability of every answer token at temperature 1: `[N]` nats, differentiable."""
        if not row.spans:
            with self.forward_context():
                logits = self.model(input_ids=row.input_ids).logits[0, row.source_positions]
            dtype = torch.promote_types(logits.dtype, torch.float32)
            return logits.to(dtype).log_softmax(-1).gather(-1, row.target_ids[:, None])[:, 0]
        return token_logprobs(
            self.hidden_states(row),
            self.model.get_output_embeddings().weight,
            row.target_ids,
            compute_weights=self.compute_weights,
            accumulate_in_place=self.accumulates_in_place,
        )

    def hidden_states(self, row: PackedRow) -> Tensor:
        """The hidden states that predict the answer tokens: `[N, H]`, differentiable."""
        if row.spans and (decoder := self.decoder) is not None:
            with self.use_adapter():
                return decoder.hidden_states(row, row.source_positions)
        packed = {**packed_inputs(row), "use_cache": False} if row.spans else {}
        with self.forward_context():
            hidden = self.model.base_model(input_ids=row.input_ids, **packed).last_hidden_state
        return hidden[0, row.source_positions]

    def states_and_logits(self, row: PackedRow) -> tuple[Tensor, Tensor]:
        """States `[N, H]` and logits `[N, V]` of a plain row, by the model's own forward pass.

        For an architecture whose head may be more than a matrix; logits in float32 at least.
        """
        with self.forward_context():
            output = self.model(input_ids=row.input_ids, output_hidden_states=True)
        logits = output.logits[0, row.source_positions]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return output.hidden_states[-1][0, row.source_positions], logits.to(dtype)

    @torch.no_grad()
    def rounding_noise(self, groups: Sequence[AnswerGroup]) -> float:
        """How far its tokens' log-probabilities lie from those in float32: root mean square, in nats."""
        exact = copy.copy(self)
        exact.compute_weights = ComputeWeights("fp32")
        computed, expected = (
            torch.cat([policy.evaluate(row) for row in self.pack(groups)]) for policy in (self, exact)
        )
        return LogprobDifference.of(computed - expected).root_mean_square

    def sequence_logprobs(self, rows: Sequence[PackedRow]) -> Tensor:
        """Log-probability of every answer, the sum over its tokens: `[answers]` nats, differentiable."""
        return torch.cat([sum_by_answer(self.evaluate(row), row) for row in rows])


def sum_by_answer(values: Tensor, row: PackedRow) -> Tensor:
    """Sum `[N]` values of tokens to `[answers]`."""
    return values.new_zeros(row.num_answers).index_add(0, row.answer_index, values)


def answer_lengths(rows: Sequence[PackedRow]) -> Tensor:
    """Number of tokens of every answer: `[answers]`, as long."""
    return torch.cat([torch.bincount(row.answer_index, minlength=row.num_answers) for row in rows])


def _head_and_tail(prompt: TokenIds) -> TokenIds:
    """What a prompt has in common with others, and what is its own."""
    half = PROBE_TOKENS // 2
    return prompt if len(prompt) <= PROBE_TOKENS else (*prompt[:half], *prompt[-half:])
