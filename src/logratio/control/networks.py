"""Small networks for control: perceptrons, a convolutional network for images, a recurrent layer.

Weights are orthogonal and biases 0 at the start: the hidden layers with gain √2, the policy's last layer with
0.01, so that every action is about as probable at first, the critic's with 1 (Andrychowicz et al., 2021,
arXiv:2006.05990, found the small last layer to matter most).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn


class Tanh(nn.Module):
    """The hyperbolic tangent, as the logistic function gives it: `tanh x = 2 σ(2x) − 1`.

    PyTorch's logistic function takes a third of its tanh's time. Of a number near 0 the error is one of
    float32 at 1, 6e-8: nothing beside the weights' own noise.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Of every number."""
        return _Tanh.apply(inputs)  # type: ignore[no-untyped-call]


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        outputs = _tanh_of_half(inputs * 2.0)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (outputs,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient, outputs)


class _TanhOfProduct(torch.autograd.Function):
    """`tanh(x W + b)` of batches of matrices: the product is made double at once, which rounds nothing."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
        outputs = _tanh_of_half(torch.baddbmm(bias, inputs, weight, beta=2, alpha=2))
        ctx.save_for_backward(inputs, weight, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        inputs, weight, outputs = ctx.saved_tensors
        inner = torch.ops.aten.tanh_backward(gradient, outputs)
        before = torch.bmm(inner, weight.transpose(1, 2)) if ctx.needs_input_grad[1] else None
        return inner.sum(dim=1, keepdim=True), before, torch.bmm(inputs.transpose(1, 2), inner)


def _tanh_of_half(doubled: Tensor) -> Tensor:
    """`2 σ(y) − 1` in the place of y, with one rounding: −1 − (−2) σ(y)."""
    return torch.sub(torch.tensor(-1.0), doubled.sigmoid_(), alpha=-2, out=doubled)


Activation = Literal["tanh", "relu", "elu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "elu": nn.ELU}
HIDDEN_GAIN, POLICY_GAIN, VALUE_GAIN = math.sqrt(2.0), 0.01, 1.0


def linear(inputs: int, outputs: int, *, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights of this gain and no bias at the start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(
    inputs: int, hidden_sizes: Sequence[int], *, activation: Activation, generator: torch.Generator
) -> nn.Sequential:
    """Hidden layers of these widths, each followed by the activation: `[..., inputs]` to `[..., widths[-1]]`.

    Without widths it is the identity.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *hidden_sizes]):
        layers += [linear(before, after, gain=HIDDEN_GAIN, generator=generator), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class StackedMLP(nn.Module):
    """Two perceptrons of one form that read the same: the first is the policy's, the second the critic's.

    Their weights are held together, `[2, inputs, outputs]` a layer, and both are computed by one product:
    where networks are small, the number of calls is what costs.

    Args:
        first: the policy's, as `mlp` makes it.
        second: the critic's.
        activation: what follows each layer.
    """

    def __init__(self, first: nn.Sequential, second: nn.Sequential, *, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for one, other in zip(first, second, strict=True):
            if isinstance(one, nn.Linear) and isinstance(other, nn.Linear):
                weights = torch.stack([one.weight.detach().T, other.weight.detach().T])
                biases = torch.stack([one.bias.detach(), other.bias.detach()])
                self.weights.append(nn.Parameter(weights))
                self.biases.append(nn.Parameter(biases[:, None]))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both, `[..., width]` each, of `[..., inputs]`."""
        flat = inputs.flatten(0, -2)
        features = flat.expand(2, *flat.shape)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            features = self._layer(bias, features, weight)
        first, second = features.unflatten(1, inputs.shape[:-1]).unbind()
        return first, second

    def first(self, inputs: Tensor) -> Tensor:
        """Features of the first alone, `[..., width]` of `[..., inputs]`."""
        return self._alone(0, inputs)

    def second(self, inputs: Tensor) -> Tensor:
        """Features of the second alone."""
        return self._alone(1, inputs)

    def _alone(self, number: int, inputs: Tensor) -> Tensor:
        features = inputs.flatten(0, -2)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            features = self._layer_alone(bias[number], features, weight[number])
        return features if inputs.ndim == 2 else features.unflatten(0, inputs.shape[:-1])

    def _layer(self, bias: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        if isinstance(self.activation, Tanh):
            return _TanhOfProduct.apply(bias, features, weight)  # type: ignore[no-untyped-call]
        return self.activation(torch.baddbmm(bias, features, weight))

    def _layer_alone(self, bias: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        if isinstance(self.activation, Tanh) and not torch.is_grad_enabled():
            return _tanh_of_half(torch.addmm(bias, features, weight, beta=2, alpha=2))
        return self.activation(torch.addmm(bias, features, weight))


class ImageEncoder(nn.Module):
    """Three convolutions and a linear layer (Mnih et al., 2015): `[..., C, H, W]` bytes to `[..., width]`.

    Args:
        shape: C, H and W; at least 36 rows and columns, which the convolutions need.
        width: features.
        generator: of the weights.
    """

    SMALLEST = 36

    def __init__(self, shape: tuple[int, ...], *, width: int, generator: torch.Generator) -> None:
        super().__init__()
        channels = shape[0]
        convolutions: list[nn.Module] = []
        for size, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            layer = nn.Conv2d(channels, size, kernel, stride)
            nn.init.orthogonal_(layer.weight, HIDDEN_GAIN, generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            convolutions += [layer, nn.ReLU()]
            channels = size
        self.convolutions = nn.Sequential(*convolutions, nn.Flatten())
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, *shape)).shape[1]
        self.project = linear(features, width, gain=HIDDEN_GAIN, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images whose pixels are from 0 to 255."""
        flat = images.flatten(0, -4).float() / 255.0
        features = self.project(self.convolutions(flat)).relu()
        return features.unflatten(0, images.shape[:-3])


class RecurrentLayer(nn.Module):
    """A gated recurrent layer (Cho et al., 2014) that forgets where an episode begins.

    Args:
        inputs: features of a step.
        width: features that are remembered.
        generator: of the weights.
    """

    def __init__(self, inputs: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.cell = nn.GRUCell(inputs, width)
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            nn.init.orthogonal_(weight, 1.0, generator=generator)
        for bias in (self.cell.bias_ih, self.cell.bias_hh):
            nn.init.zeros_(bias)
        self.width = width

    def forward(self, features: Tensor, state: Tensor, episode_start: Tensor) -> tuple[Tensor, Tensor]:
        """Read steps in order; where an episode begins, nothing is remembered from before.

        Args:
            features: `[sequences, time, inputs]`.
            state: `[sequences, width]` what is remembered before the first step.
            episode_start: `[sequences, time]` true where a step is the first of its episode.

        Returns:
            `[sequences, time, width]`, and what is remembered after the last step.
        """
        outputs = []
        for time in range(features.shape[1]):
            state = torch.where(episode_start[:, time, None], torch.zeros_like(state), state)
            state = self.cell(features[:, time], state)
            outputs.append(state)
        return torch.stack(outputs, dim=1), state
