"""Actions that are numbers: a normal distribution around what the policy thinks best."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from logratio.control.networks import POLICY_GAIN, linear

StdSource = Literal["parameter", "state"]
LOWEST, HIGHEST = -20.0, 2.0
"""Logarithms of a deviation are held between these where they depend on the state."""
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class GaussianHead(nn.Module):
    """`π(a|s) = Π_i N(a_i; μ_i(s), σ_i)`, the means linear in the features of the state.

    What is drawn is what is scored: an environment that has bounds is given the draw scaled and cut to them,
    and the log-density stays that of the draw, of which the action is a function. Where a draw `u` is scaled
    to `a = centre + scale · u`, the density of `a` is less by the constant `Σ_i log scale_i`: ratios are the
    same, log-densities and entropy are in units of the draw.

    Args:
        inputs: features of a state.
        size: numbers in an action.
        std: `parameter`: σ is the same in all states; `state`: it depends on the state.
        initial: log σ at the start.
        generator: of the weights.
    """

    dtype = torch.float32

    def __init__(
        self, inputs: int, size: int, *, std: StdSource, initial: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.size, self.std = size, std
        self.mean = linear(inputs, size, gain=POLICY_GAIN, generator=generator)
        self.log_std: nn.Module | nn.Parameter
        if std == "parameter":
            self.log_std = nn.Parameter(torch.full((size,), float(initial)))
        else:
            self.log_std = linear(inputs, size, gain=POLICY_GAIN, generator=generator)
            nn.init.constant_(self.log_std.bias, initial)

    @property
    def num_choices(self) -> int:
        """Columns of an action."""
        return self.size

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of the deviations, `[..., size]` each."""
        mean = self.mean(features)
        if isinstance(self.log_std, nn.Parameter):
            return mean, self.log_std.expand_as(mean)
        return mean, self.log_std(features).clamp(LOWEST, HIGHEST)

    def sample(
        self,
        features: Tensor,
        *,
        noise: Tensor,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Actions `[..., size]` that `noise` makes, and their log-density `[...]`."""
        mean, log_std = self.distribution(features)
        drawn = mean + log_std.exp() * noise
        # From the action, as the trainer sees it, and not from the noise: they differ by rounding.
        return drawn, _logprob(drawn, mean, log_std)

    def noise(self, number: int, *, generator: torch.Generator) -> Tensor:
        """`[number, size]` standard normal numbers, which actions are made of."""
        return torch.empty(number, self.size).normal_(generator=generator)

    def greedy(self, features: Tensor, *, action_mask: Tensor | None = None) -> Tensor:
        """The means, `[..., size]`."""
        return self.mean(features)

    def evaluate(
        self, features: Tensor, actions: Tensor, *, action_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-density of actions `[..., size]`, and the entropy in nats; `[...]` each."""
        mean, log_std = self.distribution(features)
        entropy = (log_std + 0.5 + HALF_LOG_TWO_PI).sum(dim=-1)
        return _logprob(actions, mean, log_std), entropy


def _logprob(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    scaled = (actions - mean) * (-log_std).exp()
    return (-0.5 * scaled.square() - log_std - HALF_LOG_TWO_PI).sum(dim=-1)
