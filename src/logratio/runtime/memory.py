"""How much memory this process has taken at most."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable

import torch
from torch import nn


def peak_memory_bytes() -> int:
    """Peak resident memory of the process; on a GPU the peak that torch allocated there, where it is more."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host = peak if sys.platform == "darwin" else peak * 1024
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return max(host, device)


def num_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """What weights take."""
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
