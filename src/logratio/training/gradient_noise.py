"""How much of a gradient is signal: its squared length over the variance that chance gives it.

`SNR = ‖E g‖² / tr Var(ĝ)` for the gradient ĝ of an update's batch. The micro-batches it is computed
in are independent draws of answers, so their differences tell the variance. A sample of the coordinates
stands for all of them: both sides of the ratio are sums over coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

COORDINATES = 131_072
"""About so many coordinates are looked at; a model with fewer is looked at whole."""


@dataclass
class GradientSNR:
    """Gradients of parts of one update's batch, on a sample of the coordinates."""

    module: nn.Module
    """What the gradients are of."""
    micro_batches: list[tuple[Tensor, float]] = field(default_factory=list)
    """For each part its gradient and its share of its minibatch."""
    _before: Tensor | None = None

    def start_minibatch(self) -> None:
        """The gradients that stand are dropped: a new minibatch begins."""
        self._before = None

    def add_micro_batch(self, share: float) -> None:
        """A part was added to the gradients that stand; `share` is its weight in the minibatch's mean."""
        now = self._sample()
        self.micro_batches.append((now if self._before is None else now - self._before, share))
        self._before = now

    def signal_to_noise(self) -> float | None:
        """The estimate of ‖E g‖²/tr Var(ĝ), below 0 by chance only; `None` where there are too few parts.

        With parts g_k of shares s_k in M minibatches, ḡ = Σ g_k / M and σ² = Σ s_k ‖g_k/s_k − ḡ‖²/(K − 1):
        the variance of a minibatch's gradient. That of ĝ is σ²/M, and ‖ḡ‖² has it on top of ‖E g‖².
        """
        if len(self.micro_batches) < 2:
            return None
        minibatches = sum(share for _, share in self.micro_batches)
        mean = torch.stack([gradient for gradient, _ in self.micro_batches]).sum(dim=0) / minibatches
        spread = sum(
            share * float((gradient / share - mean).square().sum()) for gradient, share in self.micro_batches
        )
        variance = spread / (len(self.micro_batches) - 1) / minibatches
        return float(mean.square().sum()) / variance - 1.0 if variance > 0 else None

    def _sample(self) -> Tensor:
        """Every stride-th coordinate of all gradients, in float64 on the CPU."""
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        # An odd stride does not fall in step with rows of even length.
        stride = max(1, sum(parameter.numel() for parameter in trained) // COORDINATES) | 1
        samples, start = [], 0
        for parameter in trained:
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            samples.append(gradient.flatten()[start::stride])
            start = (start - parameter.numel()) % stride
        return torch.cat(samples).cpu().double()
