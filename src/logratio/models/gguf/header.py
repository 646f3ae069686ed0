"""The header of a GGUF file: its metadata and what its tensors are, each read within the file's bounds."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from logratio.errors import ModelNotFound

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "<?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
"""The numpy type of each number that metadata can hold, by the number that stands for it in the file."""
STRING, ARRAY = 8, 9
AGAIN = "download or convert it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFTensor:
    """One tensor as the header describes it."""

    name: str
    """Its name in the file."""
    shape: tuple[int, ...]
    """Its shape as torch writes it: the last axis lies in one piece."""
    kind: str
    """How its numbers are stored: F32, F16, BF16, or a quantised type such as Q4_K."""
    start: int
    """Its first byte in the file."""
    num_bytes: int
    """How many bytes it takes."""

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class GGUFHeader:
    """What a GGUF file says of itself; no weight has been read."""

    path: Path
    """The file."""
    architecture: str
    """`general.architecture`."""
    metadata: dict[str, Any]
    """Every key with its value; lists of numbers and of strings are lists."""
    tensors: dict[str, GGUFTensor]
    """Every tensor by its name."""

    def architecture_metadata(self) -> dict[str, Any]:
        """The metadata of the architecture, without its prefix."""
        prefix = f"{self.architecture}."
        return {key[len(prefix) :]: value for key, value in self.metadata.items() if key.startswith(prefix)}

    def read(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The numbers of a small tensor, as float64.

        Raises:
            ModelNotFound: it is quantised, which no table of frequencies is.
        """
        tensor = self.tensors[name]
        types = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
        if tensor.kind not in types:
            raise self.fault(f"{name} is stored as {tensor.kind}", action="give a file in which it is F32")
        with open(self.path, "rb") as stream:
            stream.seek(tensor.start)
            content = stream.read(tensor.num_bytes)
        return np.frombuffer(content, dtype=types[tensor.kind]).reshape(tensor.shape).astype(np.float64)

    def fault(self, what: str, *, action: str) -> ModelNotFound:
        """A fault of this file."""
        return ModelNotFound(what, where=str(self.path), action=action)


def read_header(path: Path) -> GGUFHeader:
    """Read the header of the GGUF file at `path`, and hold the file's size against it.

    Raises:
        ModelNotFound: it is empty, no GGUF file, of a version or byte order that is not read, one part of
            several, cut off in its header, its metadata or its tensors, or its entries contradict each other.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        _check_beginning(path, stream.read(24), size)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            cursor = _Cursor(path, content)
            num_tensors, num_entries = cursor.unpack("<QQ", "its header")
            metadata = _read_metadata(cursor, num_entries)
            _check_parts(path, metadata)
            tensors = _read_tensors(cursor, num_tensors, metadata.get("general.alignment", ALIGNMENT))
    _check_size(path, tensors, size)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelNotFound(
            "the GGUF file names no architecture (general.architecture)", where=str(path), action=AGAIN
        )
    return GGUFHeader(path=path, architecture=architecture, metadata=metadata, tensors=tensors)


class _Cursor:
    """Where reading is in the file; a step beyond its end is a named fault."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.content = content
        self.at = 8

    def advance(self, num_bytes: int, part: str) -> int:
        """Where the next `num_bytes` begin; they are stepped over."""
        start, size = self.at, len(self.content)
        if start + num_bytes > size:
            raise ModelNotFound(
                f"the GGUF file ends within {part}: byte {start + num_bytes:,} is needed and it has {size:,}",
                where=str(self.path),
                action=f"it is cut off or damaged: {AGAIN}",
            )
        self.at += num_bytes
        return start

    def unpack(self, form: str, part: str) -> tuple[int, ...]:
        """The next numbers, in struct's `form`."""
        return struct.unpack_from(form, self.content, self.advance(struct.calcsize(form), part))

    def text(self, part: str) -> str:
        """The next string."""
        (length,) = self.unpack("<Q", part)
        start = self.advance(length, part)
        try:
            return self.content[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.malformed(f"{part} is no UTF-8 text at byte {start:,}") from error

    def value(self, kind: int, part: str) -> Any:
        """The next value of metadata: a number, a text or a list of them."""
        if kind == STRING:
            return self.text(part)
        if kind == ARRAY:
            of, count = self.unpack("<IQ", part)
            if of == STRING:
                return [self.text(part) for _ in range(count)]
            return self.array(of, count, part)
        return self.array(kind, 1, part)[0]

    def array(self, kind: int, count: int, part: str) -> list[Any]:
        """The next `count` numbers of a kind."""
        if kind not in NUMBERS:
            raise self.malformed(
                f"{part} is of type {kind}, which GGUF does not have or which is not read here"
            )
        dtype = np.dtype(NUMBERS[kind])
        start = self.advance(dtype.itemsize * count, part)
        return list(np.frombuffer(self.content, dtype, count, start).tolist())

    def malformed(self, what: str) -> ModelNotFound:
        """The fault of a file whose header contradicts itself."""
        return ModelNotFound(f"the GGUF file is damaged: {what}", where=str(self.path), action=AGAIN)


def _check_beginning(path: Path, head: bytes, size: int) -> None:
    if not head:
        raise ModelNotFound(f"{path.name} is empty (0 bytes)", where=str(path), action=AGAIN)
    if head.startswith(b"version https://git-lfs"):
        raise ModelNotFound(
            f"{path.name} is a Git LFS pointer, not the file that it stands for",
            where=str(path),
            action="git lfs pull, or download the file itself",
        )
    if not head.startswith(MAGIC):
        raise ModelNotFound(
            f"{path.name} does not begin as a GGUF file does", where=str(path), action="give a GGUF file"
        )
    if size < 24:
        raise ModelNotFound(
            f"the GGUF file ends within its header: byte 24 is needed and it has {size}",
            where=str(path),
            action=f"it is cut off or damaged: {AGAIN}",
        )
    version = int.from_bytes(head[4:8], "little")
    if version in VERSIONS:
        return
    swapped = int.from_bytes(head[4:8], "big") in (1, *VERSIONS)
    raise ModelNotFound(
        "the GGUF file is big-endian" if swapped else f"the GGUF file is of version {version}",
        where=str(path),
        action="convert the model again, little-endian"
        if swapped
        else f"versions {' and '.join(map(str, VERSIONS))} are read: convert the model again",
    )


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        part = f"its metadata (entry {index + 1} of {count})"
        key = cursor.text(part)
        (kind,) = cursor.unpack("<I", part)
        if key in metadata:
            raise cursor.malformed(f"{key} is in its metadata twice")
        metadata[key] = cursor.value(kind, f"its metadata ({key}, entry {index + 1} of {count})")
    return metadata


def _check_parts(path: Path, metadata: dict[str, Any]) -> None:
    parts = metadata.get("split.count", 0)
    if parts > 1:
        raise ModelNotFound(
            f"the GGUF file is part {metadata.get('split.no', 0) + 1} of {parts}",
            where=str(path),
            action="merge the parts with llama-gguf-split --merge and give the whole",
        )
    if metadata.get("general.type", "model") != "model":
        raise ModelNotFound(
            f"the GGUF file holds no model but {metadata['general.type']!r} (general.type)",
            where=str(path),
            action="give the GGUF file of a whole model; adapters are read in peft's format",
        )


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GGUFTensor]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    described = []
    for index in range(count):
        part = f"its list of tensors (entry {index + 1} of {count})"
        name = cursor.text(part)
        (axes,) = cursor.unpack("<I", part)
        shape = tuple(reversed(cursor.unpack(f"<{axes}Q", part)))
        kind, offset = cursor.unpack("<IQ", part)
        described.append((name, shape, kind, offset))
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise cursor.malformed(f"general.alignment is {alignment}")
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, kind, offset in described:
        if kind not in set(GGMLQuantizationType):
            raise cursor.malformed(
                f"{name} is of the tensor type {kind}, which the package gguf does not know"
            )
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if shape and shape[-1] % block:
            raise cursor.malformed(f"{name} has rows of {shape[-1]}, and its type has blocks of {block}")
        if name in tensors:
            raise cursor.malformed(f"the tensor {name} is in it twice")
        tensors[name] = GGUFTensor(
            name=name,
            shape=shape,
            kind=GGMLQuantizationType(kind).name,
            start=start + offset,
            num_bytes=prod(shape) // block * block_bytes,
        )
    return tensors


def _check_size(path: Path, tensors: dict[str, GGUFTensor], size: int) -> None:
    needed = max((tensor.start + tensor.num_bytes for tensor in tensors.values()), default=0)
    if needed <= size:
        return
    malformed = [tensor.name for tensor in tensors.values() if tensor.start + tensor.num_bytes > size]
    raise ModelNotFound(
        f"the GGUF file ends within its tensors: {needed:,} bytes are needed and it has {size:,}; "
        f"{len(malformed)} of {len(tensors)} tensors are not whole, {malformed[0]} among them",
        where=str(path),
        action=f"it is cut off: {AGAIN}",
    )
