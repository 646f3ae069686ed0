"""Weights that lie in a file: those that stay leave memory while nobody reads them, others move out of it.

safetensors maps a model's file into memory, so that weights which are never written are still the file's own
pages. What is frozen (a reference, a reward model) is read once an update and then lies idle while gradients
and activations take their room. Its pages can be given back: the next reader finds them in the operating
system's cache of files, or on the disk. What is trained is copied once, before its first update: written to
where it lies in the file, every page would be copied by itself, which takes five times as long.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from torch import nn

DONT_NEED = 4
"""Linux's number for `MADV_DONTNEED` (`mman.h`)."""
SMAPS = Path("/proc/self/smaps")


def release_pages(model: nn.Module) -> int:
    """Give back the pages of `model`'s weights that are a file's own; returns how many bytes they are.

    Whatever was written to since it was mapped, or is not mapped from a file, stays where it is. The weights
    are the same before and after. Elsewhere than on Linux this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return 0
    addresses = {weight.data_ptr() for weight in model.parameters() if weight.device.type == "cpu"}
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    released = 0
    for start, end in clean_mapped_ranges():
        if any(start <= address < end for address in addresses) and not advise(start, end - start, DONT_NEED):
            released += end - start
    return released


def copy_out_of_mapping(model: nn.Module) -> int:
    """Give weights that are trained and lie in a mapped file memory of their own; returns how many bytes.

    The weights are the same before and after, and tied ones stay tied. Weights that are parts of one tensor
    stay that. Elsewhere than on Linux this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return 0
    trained = [
        weight for weight in model.parameters() if weight.requires_grad and weight.device.type == "cpu"
    ]
    sharing = Counter(weight.untyped_storage().data_ptr() for weight in trained)
    ranges, moved = list(clean_mapped_ranges()), 0
    for weight in trained:
        in_file = any(start <= weight.data_ptr() < end for start, end in ranges)
        if in_file and sharing[weight.untyped_storage().data_ptr()] == 1:
            weight.data = weight.data.clone()
            moved += weight.nbytes
    return moved


def clean_mapped_ranges() -> Iterator[tuple[int, int]]:
    """Ranges of addresses that are mapped from a file and hold no page of this process's own."""
    span, of_file = (0, 0), False
    for line in SMAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            low, _, high = head.partition("-")
            span, of_file = (int(low, 16), int(high, 16)), rest.split()[3] != "0"
        elif head == "Anonymous:" and of_file and rest.split()[0] == "0":
            yield span
