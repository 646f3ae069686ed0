"""Choices among finitely many actions: one choice, or several that are made independently of each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from logratio.control.networks import POLICY_GAIN, linear


class CategoricalHead(nn.Module):
    """`π(a|s) = Π_i softmax(z_i)[a_i]`, logits `z` linear in the features of the state.

    One size is a plain choice; several are independent ones, each with logits of its own. An action that is
    not allowed has probability 0, exactly.

    Args:
        inputs: features of a state.
        sizes: of how many actions each choice is one.
        generator: of the weights.
    """

    dtype = torch.int64

    def __init__(self, inputs: int, sizes: Sequence[int], *, generator: torch.Generator) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.layer = linear(inputs, sum(sizes), gain=POLICY_GAIN, generator=generator)

    @property
    def num_choices(self) -> int:
        """Columns of an action."""
        return len(self.sizes)

    def log_probabilities(self, features: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """`[..., Σ sizes]` of every action of every choice, side by side; −∞ where it is not allowed."""
        logits = self.layer(features)
        if action_mask is not None:
            logits = logits.masked_fill(~action_mask, -torch.inf)
        if len(self.sizes) == 1:
            return logits.log_softmax(dim=-1)
        return torch.cat([part.log_softmax(dim=-1) for part in logits.split(self.sizes, dim=-1)], dim=-1)

    def sample(
        self,
        features: Tensor,
        *,
        noise: Tensor,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Actions `[..., choices]` that `noise` makes, and their log-probability `[...]`.

        The largest of `log p + G`, G from Gumbel's distribution, is a draw from p.
        """
        logprobs = self.log_probabilities(features, action_mask)
        drawn = self._largest(logprobs + noise)
        return drawn, self._logprob(logprobs, drawn)

    def noise(self, number: int, *, generator: torch.Generator) -> Tensor:
        """`[number, Σ sizes]` draws from Gumbel's distribution: −log of waiting times of mean 1."""
        return torch.empty(number, sum(self.sizes)).exponential_(generator=generator).log_().neg_()

    def greedy(self, features: Tensor, *, action_mask: Tensor | None = None) -> Tensor:
        """The most probable action of every choice, `[..., choices]`."""
        return self._largest(self.log_probabilities(features, action_mask))

    def evaluate(
        self, features: Tensor, actions: Tensor, *, action_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of actions `[..., choices]`, and the entropy in nats; `[...]` each."""
        logprobs = self.log_probabilities(features, action_mask)
        if action_mask is None:
            entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
        else:
            # 0·log 0 is 0, in the gradient as well.
            finite = logprobs.masked_fill(~action_mask, 0.0)
            entropy = -(logprobs.exp() * finite).sum(dim=-1)
        return self._logprob(logprobs, actions), entropy

    def _largest(self, scores: Tensor) -> Tensor:
        if len(self.sizes) == 1:
            return scores.argmax(dim=-1, keepdim=True)
        return torch.stack([part.argmax(dim=-1) for part in scores.split(self.sizes, dim=-1)], dim=-1)

    def _logprob(self, logprobs: Tensor, actions: Tensor) -> Tensor:
        if len(self.sizes) == 1:
            return logprobs.gather(-1, actions).squeeze(-1)
        starts = actions.new_tensor([0, *self.sizes[:-1]]).cumsum(0)
        return logprobs.gather(-1, actions + starts).sum(dim=-1)
