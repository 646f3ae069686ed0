"""A language model and its critic for the policy-gradient trainers: an item is a prompt with its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from logratio.batches import AnswerGroup, Evaluation, PackedRow, Rollout
from logratio.models.vocabulary import token_logprobs_and_entropy
from logratio.policies.language import LanguagePolicy


class ValueHead(nn.Module):
    """A critic on the policy's own last hidden states: one number a state, 0 everywhere at the start.

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


class LanguageActor:
    """A language policy, with or without a critic.

    Args:
        policy: the policy.
        row_tokens: tokens computed at a time.
        value_head: the critic, on the policy's backbone; `None`: there is none.
    """

    def __init__(
        self, policy: LanguagePolicy, *, row_tokens: int, value_head: ValueHead | None = None
    ) -> None:
        self.policy, self.value_head, self.row_tokens = policy, value_head, row_tokens
        parts: dict[str, nn.Module] = {"policy": policy.model}
        if value_head is not None:
            parts["critic"] = value_head
        self.module: nn.Module = nn.ModuleDict(parts)

    def evaluate(
        self, items: Sequence[AnswerGroup], numbers: Sequence[int], rollout: Rollout
    ) -> Iterator[Evaluation]:
        """Log-probability, entropy and value of every answer token, in packed rows; see `Actor`."""
        k, time = rollout.group_size, rollout.trajectories.mask.shape[1]
        for part, rows in self.policy.rows(items, max_tokens=self.row_tokens):
            sequences = [numbers[place] * k + answer for place in part for answer in range(k)]
            lengths = [len(answer) for place in part for answer in items[place].answers]
            places = [
                sequence * time + token
                for sequence, length in zip(sequences, lengths, strict=True)
                for token in range(length)
            ]
            read = [self.read(row) for row in rows]
            logprobs = torch.cat([parts[0] for parts in read])
            entropy = torch.cat([parts[1] for parts in read])
            values = [parts[2] for parts in read if parts[2] is not None]
            yield Evaluation(
                rows=torch.tensor(places, device=logprobs.device),
                logprobs=logprobs,
                entropy=entropy,
                values=torch.cat(values) if values else None,
            )

    def read(self, row: PackedRow) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities, entropies and values of a row's answer tokens, `[N]` each, differentiable."""
        if row.attention_mask is not None:
            states = self.policy.states(row)
            weight = self.policy.model.get_output_embeddings().weight
            logprobs, entropy = token_logprobs_and_entropy(states, weight, row.targets)
        else:
            # An architecture whose head may be more than a matrix: its own logits.
            output = self.policy.model(input_ids=row.input_ids, output_hidden_states=True)
            states, logits = output.hidden_states[-1][0, row.sources], output.logits[0, row.sources]
            every = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            logprobs = every.gather(-1, row.targets[:, None])[:, 0]
            entropy = -(every.exp() * every).sum(dim=-1)
        return logprobs, entropy, None if self.value_head is None else self.value_head(states)
