"""Fewer bits for what is computed, all of them for what is learned.

With `bf16` products are computed from bfloat16 copies of weights and activations; the weights themselves, the
states between layers, their gradients, the optimiser and every reduction to a log-probability stay float32
(Micikevicius et al., 2018, arXiv:1710.03740, whose loss scaling bfloat16's range makes needless).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Precision = Literal["fp32", "bf16"]
"""Of matrix products: float32, or bfloat16 with the weights themselves kept in float32."""
SMALL_BATCH_ROWS = 160
"""Rows of states up to which `small_batch_matmul` turns the product round."""
ALIGNMENT = 16
"""Rows that processors multiply at a time: products of other widths are slower than of the next multiple."""


@cache
def multiplies_bf16(kind: str = "cpu") -> bool:
    """Whether a device of this kind has bfloat16 products of its own, rather than slow stand-ins for them."""
    found = torch.cpu.get_capabilities()
    return kind != "cpu" or any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A model's own forward pass, which knows nothing of `ComputeWeights`, in this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def multiply(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`left @ right`, in their precision; summed in float32. Written to `out` where that is given.

    PyTorch multiplies bfloat16 without the processor's help at an eighth of float32's rate, or less. There,
    both are widened first, which changes nothing but the time: a product of two is exact in float32.
    """
    if left.dtype == torch.bfloat16 and not multiplies_bf16(left.device.type):
        product = (left.float() @ right.float()).to(left.dtype)
        return product if out is None else out.copy_(product)
    return torch.matmul(left, right, out=out)


def small_batch_matmul(weight: Tensor, states: Tensor) -> Tensor:
    """`states @ weightᵀ`, in the form in which a processor multiplies the states of a few tokens faster.

    Up to some hundred rows the large matrix on the left is up to twice as fast, and 31 rows take half as long
    again as 32.
    """
    count = len(states)
    if count > SMALL_BATCH_ROWS:
        return states @ weight.T
    if extra := -count % ALIGNMENT:
        states = torch.nn.functional.pad(states, (0, 0, 0, extra))
    return (weight @ states.T).T[:count]


class ComputeWeights:
    """What is computed with in the place of weights: copies in fewer bits, made anew when a weight has moved.

    Args:
        precision: `fp32` computes with the weights themselves, whatever their dtype.
    """

    def __init__(self, precision: Precision = "fp32") -> None:
        self.precision: Precision = precision
        self._kept = WeakTensorKeyDictionary()

    def of(self, weight: Tensor) -> Tensor:
        """The copy of a weight, or the weight."""
        if self.precision == "fp32" or weight.dtype == torch.bfloat16:
            return weight.detach()
        kept = self._kept.get(weight)
        if kept is None or kept[0] != weight._version:
            kept = (weight._version, weight.detach().to(torch.bfloat16))
            self._kept[weight] = kept
        copy: Tensor = kept[1]
        return copy

    def widened(self, weight: Tensor) -> Tensor:
        """The copy for products without gradient, widened once where each product would widen it again."""
        copy = self.of(weight)
        wide = copy.dtype == torch.bfloat16 and not multiplies_bf16(copy.device.type)
        return copy.float() if wide else copy
