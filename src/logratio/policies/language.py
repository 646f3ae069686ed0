"""A language model as a policy: how probable an answer is, differentiably. `decoding` draws answers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from logratio.kernels.chunked_lm_head import token_logprobs
from logratio.kernels.packing import Layout, pack, pack_single
from logratio.kernels.precision import ComputeWeights
from logratio.kernels.rounding_error import LogprobDifference
from logratio.models.lora import use_adapter
from logratio.packed_rows import AnswerGroup, PackedRow
from logratio.policies.packed_forward import PackedModel


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

    def micro_batches(
        self, groups: Sequence[AnswerGroup], *, max_tokens: int
    ) -> list[tuple[list[int], list[PackedRow]]]:
        """Divide `groups` into micro-batches.

        Returns:
            Pairs of the indices of the groups in a micro-batch and the rows that hold exactly their answers,
            in order: one packed row in the packed layout, a row for each answer in the other.
        """
        micro_batches = self.assign_rows(
            groups, [group.num_tokens for group in groups], max_tokens=max_tokens
        )
        return [
            (group_indices, self.pack([groups[index] for index in group_indices]))
            for group_indices in micro_batches
        ]

    def pack(self, groups: Sequence[AnswerGroup]) -> list[PackedRow]:
        """The rows of `groups` in this policy's layout."""
        if self.layout == "packed":
            return [pack(groups, device=self.device)]
        return [
            pack_single(group.prompt, answer, device=self.device)
            for group in groups
            for answer in group.answers
        ]

    def evaluate(self, row: PackedRow) -> Tensor:
        """Log-probability of every answer token at temperature 1: `[N]` nats, differentiable."""
        if row.attention_mask is None:
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
        layout: dict[str, Any] = {}
        if row.attention_mask is not None:
            layout = {
                "position_ids": row.position_ids,
                "attention_mask": row.attention_mask,
                "use_cache": False,
            }
        with self.forward_context():
            hidden = self.model.base_model(input_ids=row.input_ids, **layout).last_hidden_state
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
