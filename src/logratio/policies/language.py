"""A language model as a policy: how probable an answer is, differentiably. `decoding` draws answers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from logratio.batches import AnswerGroup, PackedRow
from logratio.models.adapters import using
from logratio.models.packing import Layout, lay_apart, pack
from logratio.models.precision import Copies
from logratio.models.rounding import Difference
from logratio.models.vocabulary import token_logprobs
from logratio.policies.reader import Reader


class LanguagePolicy(Reader):
    """A causal language model with the layout in which it computes log-probabilities.

    Args:
        model: a transformers model for causal language modelling.
        tokenizer: its tokenizer.
        layout: `shared` reads a prompt once for all its answers; `apart` computes each answer as a plain
            sequence through the model's own forward pass, for architectures that mix tokens otherwise.
        adapter: which of the model's adapters computes, `base` for none of them; `None`: the one in use.
            Policy, critic and reference may be three such policies on one model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, layout: Layout = "shared", adapter: str | None = None
    ) -> None:
        super().__init__(model, tokenizer, layout=layout)
        self.adapter = adapter

    def chosen(self) -> AbstractContextManager[None]:
        """Have the model be this policy, for whoever computes with its weights and sees to precision."""
        return nullcontext() if self.adapter is None else using(self.model, self.adapter)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Have the model compute as this policy; whoever calls the model itself does so in here."""
        with self.chosen(), self.computing():
            yield

    def rows(
        self, groups: Sequence[AnswerGroup], *, max_tokens: int
    ) -> list[tuple[list[int], list[PackedRow]]]:
        """Divide `groups` into parts that are computed at a time.

        Returns:
            Pairs of the indices of the groups in a part and the rows that hold exactly their answers, in
            order: one packed row in the shared layout, a row for each answer in the other.
        """
        parts = self.assign(groups, [group.num_tokens for group in groups], max_tokens=max_tokens)
        return [(part, self.lay([groups[index] for index in part])) for part in parts]

    def lay(self, groups: Sequence[AnswerGroup]) -> list[PackedRow]:
        """The rows of `groups` in this policy's layout."""
        if self.layout == "shared":
            return [pack(groups, device=self.device)]
        return [
            lay_apart(group.prompt, answer, device=self.device)
            for group in groups
            for answer in group.answers
        ]

    def evaluate(self, row: PackedRow) -> Tensor:
        """Log-probability of every answer token at temperature 1: `[N]` nats, differentiable."""
        if row.attention_mask is None:
            with self.active():
                logits = self.model(input_ids=row.input_ids).logits[0, row.sources]
            dtype = torch.promote_types(logits.dtype, torch.float32)
            return logits.to(dtype).log_softmax(-1).gather(-1, row.targets[:, None])[:, 0]
        return token_logprobs(
            self.states(row), self.model.get_output_embeddings().weight, row.targets, copies=self.copies
        )

    def states(self, row: PackedRow) -> Tensor:
        """The hidden states that predict the answer tokens: `[N, H]`, differentiable."""
        if row.spans and (decoder := self.decoder) is not None:
            with self.chosen():
                return decoder.states(row, row.sources)
        layout: dict[str, Any] = {}
        if row.attention_mask is not None:
            layout = {
                "position_ids": row.position_ids,
                "attention_mask": row.attention_mask,
                "use_cache": False,
            }
        with self.active():
            hidden = self.model.base_model(input_ids=row.input_ids, **layout).last_hidden_state
        return hidden[0, row.sources]

    def states_and_logits(self, row: PackedRow) -> tuple[Tensor, Tensor]:
        """States `[N, H]` and logits `[N, V]` of a plain row, by the model's own forward pass.

        For an architecture whose head may be more than a matrix; logits in float32 at least.
        """
        with self.active():
            output = self.model(input_ids=row.input_ids, output_hidden_states=True)
        logits = output.logits[0, row.sources]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return output.hidden_states[-1][0, row.sources], logits.to(dtype)

    @torch.no_grad()
    def rounding_noise(self, groups: Sequence[AnswerGroup]) -> float:
        """How far its tokens' log-probabilities lie from those in float32: root mean square, in nats."""
        exact = copy.copy(self)
        exact.copies = Copies("fp32")
        found, expected = (
            torch.cat([policy.evaluate(row) for row in self.lay(groups)]) for policy in (self, exact)
        )
        return Difference.of(found - expected).root_mean_square

    def sequence_logprobs(self, rows: Sequence[PackedRow]) -> Tensor:
        """Log-probability of every answer, the sum over its tokens: `[answers]` nats, differentiable."""
        return torch.cat([sum_by_answer(self.evaluate(row), row) for row in rows])


def sum_by_answer(values: Tensor, row: PackedRow) -> Tensor:
    """Sum `[N]` values of tokens to `[answers]`."""
    return values.new_zeros(row.num_answers).index_add(0, row.answer_index, values)


def answer_lengths(rows: Sequence[PackedRow]) -> Tensor:
    """Number of tokens of every answer: `[answers]`, as long."""
    return torch.cat([torch.bincount(row.answer_index, minlength=row.num_answers) for row in rows])
