"""What a run will take at its peak, before it begins."""

from __future__ import annotations

from torch import nn

from logratio.models.lora import LOW_RANK, WRAPPED
from logratio.runtime.memory import num_bytes

ACTIVATIONS, FEWER_ACTIVATIONS = 40, 12
"""Numbers kept for the backward pass a token, layer and unit of width: roughly a Llama's by its own forward
pass, and by `kernels.fused_decoder`."""


def estimate_bytes(
    trained: nn.Module, *, frozen: nn.Module | None, row_tokens: int, activations: int = ACTIVATIONS
) -> int:
    """What a run will take at its peak, before it begins: an estimate.

    Weights; gradients and two moments of those that are trained; the weights of what is not; the activations
    of a row, for each adapter that computes it.
    """
    named = dict(trained.named_parameters())
    trainable = [parameter for parameter in named.values() if parameter.requires_grad]
    # A matrix that maps a width to itself or wider tells the width; norms and biases have one axis.
    squares = [min(p.shape) for name, p in named.items() if p.ndim == 2 and LOW_RANK not in name]
    width = max(squares, default=0)
    layers = max(1, len(squares) // 7)
    num_adapted = sum(name.endswith(f"{WRAPPED}weight") for name in named)
    passes = sum(f"{LOW_RANK}A." in name for name in named) // num_adapted if num_adapted else 1
    other = [] if frozen is None else frozen.parameters()
    weight_bytes = num_bytes(named.values()) + 3 * num_bytes(trainable) + num_bytes(other)
    return weight_bytes + activations * 4 * row_tokens * width * layers * passes
