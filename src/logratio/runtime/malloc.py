"""How the C library gives memory back, set so that a training step does not fetch it anew each time."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform

import torch
from torch import Tensor

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers that `mallopt` has for its settings (`malloc.h`)."""
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let the process keep freed memory for its next allocation rather than return it.

    By default glibc returns every large block when it is freed, so that the activations of each step are
    zeroed pages fetched from the kernel again, which cost 15 % of a step on a small virtual machine. Peak
    memory stays what it was: what is kept has been in use. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def release_freed_memory() -> None:
    """Return what is kept: before a stage that needs its memory elsewhere, such as for a frozen model's file.

    It costs what fetching it anew costs, once a stage and not once a step. Elsewhere than on glibc this
    does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def mmap_zeros(like: Tensor, shape: tuple[int, ...] | None = None, *, sparse: bool = False) -> Tensor:
    """Zeros on a CPU in a mapping of their own, of which pages that are written to take memory.

    For what is large and stands at the peak of a step: a mapping fits where no hole of the heap does, and is
    gone when it is freed.

    Args:
        like: has the type of the numbers, and the device; elsewhere than on a CPU the zeros are plain.
        shape: their form, where it is not that of `like`.
        sparse: whether few pages will be written to. Otherwise they are asked for in large ones.
    """
    shape = tuple(like.shape) if shape is None else shape
    size = like.element_size() * torch.Size(shape).numel()
    if like.device.type != "cpu" or not size:
        return like.new_zeros(shape)
    # Private: of a mapping that could be shared, pages that are only read take memory too.
    pages = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    if not sparse and hasattr(mmap, "MADV_HUGEPAGE"):
        # Advice: a kernel built without large pages refuses it, and small ones do.
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    # A tensor of its own rather than a view, which could be taken for a part of a larger one.
    return torch.frombuffer(pages, dtype=like.dtype).view(shape).detach()
