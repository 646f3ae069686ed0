"""A language model and its critic for the policy-gradient trainers: an item is a prompt with its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from logratio.kernels.chunked_kl import TokenComparison, compare_logits, compare_tokens
from logratio.kernels.chunked_lm_head import token_logprobs_and_entropy
from logratio.kernels.packing import include_last_token
from logratio.models.lora import adapter_parameters
from logratio.packed_rows import AnswerGroup, PackedRow
from logratio.policies.language import LanguagePolicy
from logratio.policies.microbatches import MicroBatch, RowLossFunction, backpropagate_rows
from logratio.trajectories import ActionEvaluation, ItemIds, Rollout


class ValueHead(nn.Module):
    """A critic's last layer: one number a state, 0 everywhere at the start.

    Args:
        width: of the hidden states.
        dtype: of the weights.
    """

    def __init__(self, width: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, dtype=dtype)
        # A critic that knows nothing says 0; random weights would say something of no meaning.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """`[N, H]` states to `[N]` values."""
        return self.linear(states.to(self.linear.weight.dtype))[:, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatistics:
    """What a policy, its critic and the reference say of `R` rows, without gradient."""

    rows: Tensor
    """`[R]` which rows, as places in the flattened `[sequences · time]`."""
    tokens: TokenComparison
    """Policy and reference; one and the same where there is no reference."""
    values: Tensor | None
    """`[R]` the critic at the state; `None` without a critic."""


class LanguageActor:
    """A language policy, with or without a critic.

    Args:
        policy: the policy.
        row_tokens: tokens computed at a time.
        value_head: the critic's last layer; `None`: there is no critic.
        critic: the model whose states the head reads, of any decoder architecture with the policy's
            tokenizer, or another adapter on the policy's base; `None`: the policy's own states, which costs
            nothing beside the head.
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        *,
        row_tokens: int,
        value_head: ValueHead | None = None,
        critic: LanguagePolicy | None = None,
    ) -> None:
        self.policy, self.value_head, self.row_tokens = policy, value_head, row_tokens
        self.critic = critic
        modules: dict[str, nn.Module] = {}
        adapter_weights: list[nn.Parameter] = []
        if value_head is not None:
            modules["critic"] = value_head
        if critic is not None and critic.model is not policy.model:
            modules["critic_body"] = critic.model
        elif critic is not None and critic.adapter is not None:
            adapter_weights = adapter_parameters(critic.model, critic.adapter)
        self.module: nn.Module = nn.ModuleDict({"policy": policy.model} | modules)
        module_weights = [weight for module in modules.values() for weight in module.parameters()]
        self.critic_parameters = [*module_weights, *adapter_weights]

    @contextmanager
    def accumulate_in_place(self) -> Iterator[None]:
        """Have backward passes of policy and critic add to the weights' `grad`; see `PackedModel`."""
        critic = nullcontext() if self.critic is None else self.critic.accumulate_in_place()
        with self.policy.accumulate_in_place(), critic:
            yield

    def evaluate(
        self, items: Sequence[AnswerGroup], item_ids: ItemIds, rollout: Rollout
    ) -> Iterator[ActionEvaluation]:
        """Log-probability, entropy and value of every answer token, in packed rows; see `Actor`."""
        time = rollout.trajectories.mask.shape[1]
        for row_indices, rows in self.micro_batches(
            items, item_ids, time=time, group_size=rollout.group_size
        ):
            # Nothing of it is held here, where it would stand until the next part has been read.
            yield self._evaluate_rows(row_indices, rows)

    def backpropagate(
        self, rollout: Rollout, item_ids: ItemIds, losses: RowLossFunction, weights: Tensor
    ) -> Iterator[MicroBatch]:
        """The gradients of a minibatch, packed row by packed row; see `Actor`."""
        time, group_size = rollout.trajectories.mask.shape[1], rollout.group_size
        items = rollout.items_of(item_ids)
        for row_indices, rows in self.micro_batches(items, item_ids, time=time, group_size=group_size):
            yield backpropagate_rows(self._evaluate_rows(row_indices, rows), losses, weights)

    def _evaluate_rows(self, row_indices: Tensor, rows: Sequence[PackedRow]) -> ActionEvaluation:
        results = [self.evaluate_row(row) for row in rows]
        values = [result[2] for result in results if result[2] is not None]
        return ActionEvaluation(
            rows=row_indices,
            logprobs=torch.cat([result[0] for result in results]),
            entropy=torch.cat([result[1] for result in results]),
            values=torch.cat(values) if values else None,
        )

    @torch.no_grad()
    def compare(
        self,
        items: Sequence[AnswerGroup],
        reference: LanguagePolicy | None,
        *,
        time: int,
        group_size: int,
        minibatches: Sequence[ItemIds] | None = None,
    ) -> Iterator[TokenStatistics]:
        """The same of all items beside a reference, one forward pass each; without gradient.

        Args:
            items: prompts with their answers.
            reference: reads the very rows that the policy reads, so that equal models give equal numbers.
            time: rows of a sequence.
            group_size: answers to a prompt.
            minibatches: item ids that `evaluate` will be asked for together. They are packed here as
                they are there, so that the two give equal numbers in any precision; `None`: all together.
        """
        for item_ids in [range(len(items))] if minibatches is None else minibatches:
            selected = [items[item] for item in item_ids]
            for row_indices, rows in self.micro_batches(selected, item_ids, time=time, group_size=group_size):
                results = [self.compare_row(row, reference) for row in rows]
                columns = zip(*(tokens for tokens, _ in results), strict=True)
                values = [value for _, value in results if value is not None]
                yield TokenStatistics(
                    rows=row_indices,
                    tokens=TokenComparison(*(torch.cat(column) for column in columns)),
                    values=torch.cat(values) if values else None,
                )

    @torch.no_grad()
    def final_values(
        self, items: Sequence[AnswerGroup], item_ids: ItemIds, *, time: int, group_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`[R]` places and the critic's values there, of answers read to their last token.

        Args:
            items: prompts with their answers.
            item_ids: their indices in the rollout.
            time: rows of a sequence, one more than its longest answer has tokens: the last token's value
                stands behind it.
            group_size: answers to a prompt.
        """
        for row_indices, rows in self.micro_batches(
            include_last_token(items), item_ids, time=time, group_size=group_size
        ):
            critic = self.policy if self.critic is None else self.critic
            assert self.value_head is not None
            yield row_indices, torch.cat([self.value_head(critic.hidden_states(row)) for row in rows])

    def micro_batches(
        self, items: Sequence[AnswerGroup], item_ids: ItemIds, *, time: int, group_size: int
    ) -> Iterator[tuple[Tensor, list[PackedRow]]]:
        """What is computed at a time: packed rows, and the places of their tokens `[R]` in the rollout."""
        for group_indices, rows in self.policy.micro_batches(items, max_tokens=self.row_tokens):
            answers = [
                (item_ids[group_index] * group_size + index, len(answer))
                for group_index in group_indices
                for index, answer in enumerate(items[group_index].answers)
            ]
            row_indices = [sequence * time + token for sequence, length in answers for token in range(length)]
            # On the CPU, as the trajectories are that they are places of.
            yield torch.tensor(row_indices), rows

    def evaluate_row(self, row: PackedRow) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities, entropies and values of a row's answer tokens, `[N]` each, differentiable."""
        if row.spans:
            states = self.policy.hidden_states(row)
            weight = self.policy.model.get_output_embeddings().weight
            logprobs, entropy = token_logprobs_and_entropy(
                *(states, weight, row.target_ids),
                compute_weights=self.policy.compute_weights,
                accumulate_in_place=self.policy.accumulates_in_place,
            )
        else:
            states, logits = self.policy.states_and_logits(row)
            log_softmax = logits.log_softmax(-1)
            logprobs = log_softmax.gather(-1, row.target_ids[:, None])[:, 0]
            entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
        return logprobs, entropy, self._values(row, states)

    def compare_row(
        self, row: PackedRow, reference: LanguagePolicy | None
    ) -> tuple[TokenComparison, Tensor | None]:
        """What the policy and a reference say of a row's answer tokens, and the critic's values `[N]`."""
        other = self.policy if reference is None else reference
        if row.spans:
            states = self.policy.hidden_states(row)
            tokens = compare_tokens(
                states,
                self.policy.compute_weights.of(self.policy.model.get_output_embeddings().weight),
                states if other is self.policy else other.hidden_states(row),
                other.compute_weights.of(other.model.get_output_embeddings().weight),
                row.target_ids,
            )
        else:
            states, logits = self.policy.states_and_logits(row)
            others = logits if other is self.policy else other.states_and_logits(row)[1]
            tokens = compare_logits(logits, others, row.target_ids)
        return tokens, self._values(row, states)

    def _values(self, row: PackedRow, states: Tensor) -> Tensor | None:
        if self.value_head is None:
            return None
        return self.value_head(states if self.critic is None else self.critic.hidden_states(row))


def value_head_of(classifier: Any) -> ValueHead:
    """The head of a reward model as a critic's: what an answer would be worth if it ended here."""
    weight = classifier.score.weight
    head = ValueHead(weight.shape[1], dtype=weight.dtype).to(weight.device)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
    return head
