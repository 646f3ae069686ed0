"""How much memory this process has taken at most."""

from __future__ import annotations

import resource
import sys

import torch
from torch import nn

ACTIVATIONS = 40
"""Numbers kept for the backward pass a token, layer and unit of width: roughly a Llama's."""


def peak_memory_bytes() -> int:
    """Peak resident memory of the process; on a GPU the peak that torch allocated there, where it is more."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host = peak if sys.platform == "darwin" else peak * 1024
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return max(host, device)


def estimate_bytes(trained: nn.Module, *, frozen: nn.Module | None, row_tokens: int) -> int:
    """What a run will take at its peak, before it begins: an estimate.

    Weights, gradients and two moments of what is trained; the weights of what is not; the activations
    of a row.
    """
    sizes = [parameter.numel() * parameter.element_size() for parameter in trained.parameters()]
    # A matrix that maps a width to itself or wider tells the width; norms and biases have one axis.
    squares = [min(parameter.shape) for parameter in trained.parameters() if parameter.ndim == 2]
    width = max(squares, default=0)
    layers = max(1, len(squares) // 7)
    other = 0 if frozen is None else sum(p.numel() * p.element_size() for p in frozen.parameters())
    return 4 * sum(sizes) + other + ACTIVATIONS * 4 * row_tokens * width * layers
