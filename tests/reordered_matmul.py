"""Products that accumulate in another order for each shape, as processors with bfloat16 tiles do.

Which sums a kernel takes first depends on the shape of the product. In float32 that shows in the last digit;
where the result is rounded to bfloat16, one digit of eight, and some layers later everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def reordered(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right`, summed in float32 in pieces whose size depends on the shape, then rounded."""
    rows, inner = left.shape
    mixed = 7 * rows + 5 * right.shape[1]
    size = inner // (2 + mixed % 3) + 1 + mixed % 11
    wide = torch.promote_types(left.dtype, torch.float32)
    total = torch.zeros(rows, right.shape[1], dtype=wide)
    for start in range(0, inner, size):
        total += left[:, start : start + size].to(wide) @ right[start : start + size].to(wide)
    return total.to(left.dtype)


class _Reordered(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        settings = settings or {}
        if function is aten.mm.default:
            return reordered(*arguments)
        if function is aten.mm.out:
            return settings["out"].copy_(reordered(*arguments))
        if function is aten.addmm.default and not settings:
            return arguments[0] + reordered(*arguments[1:])
        return function(*arguments, **settings)


@contextmanager
def reordered_products() -> Iterator[None]:
    """Have every matrix product in here be a `reordered` one."""
    with _Reordered():
        yield
