"""How the C library gives memory back, set so that a training step does not fetch it anew each time."""

from __future__ import annotations

import ctypes
import platform

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
