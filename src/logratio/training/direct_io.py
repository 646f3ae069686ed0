"""Safetensors written in one pass: laid out, hashed and put on the disk without a second reading.

A checkpoint of a small model is gigabytes that nobody reads unless something goes wrong. Going through the
operating system's page cache, they are copied into fresh memory, read again for their checksum and written
out at the end, which takes several times as long as the disk needs. Here each block is hashed while it is in
hand and goes to the disk past the cache, where the file system allows that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

BLOCK = 8 << 20
"""Bytes that go to the disk at a time."""
ALIGNMENT = 4096
"""What addresses and lengths must be multiples of where the cache is passed by."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names that the safetensors format has for element types."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write `tensors` as a safetensors file that is not there yet, and sync it.

    Returns:
        sha256 of the file, in hexadecimal digits.
    """
    digest = hashlib.sha256()
    descriptor = _open_past_cache(path)
    try:
        # Anonymous maps begin at a page, as writing past the cache wants its buffers to.
        with mmap.mmap(-1, BLOCK) as block:
            filled = total = 0
            for part in _parts(tensors):
                total += len(part)
                while part:
                    taken = min(len(part), BLOCK - filled)
                    block[filled : filled + taken] = part[:taken]
                    part, filled = part[taken:], filled + taken
                    if filled == BLOCK:
                        _flush(descriptor, block, filled, digest)
                        filled = 0
            _flush(descriptor, block, filled, digest)
        os.ftruncate(descriptor, total)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _open_past_cache(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o644)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Some file systems, those in memory among them, know no such writing; the file may be there all the same.
    path.unlink(missing_ok=True)
    return os.open(path, flags, 0o644)


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The header, then the bytes of each tensor; one tensor at a time is copied from a GPU."""
    yield memoryview(_header(tensors))
    for tensor in tensors.values():
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        yield memoryview(plain.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Length as eight bytes, then names, types, shapes and places as JSON, filled up to eight with blanks."""
    entries, start = {}, 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _flush(descriptor: int, block: mmap.mmap, filled: int, digest: hashlib._Hash) -> None:
    """Write the first `filled` bytes, and zeros up to the next multiple, which the caller cuts off."""
    length = -(-filled // ALIGNMENT) * ALIGNMENT
    block[filled:length] = bytes(length - filled)
    with memoryview(block) as view:
        digest.update(view[:filled])
        written = 0
        while written < length:
            written += os.write(descriptor, view[written:length])
