"""Files into physical lines: plain or gzip, with the marks of encodings and the faults of lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from logratio.errors import BadEncoding, FileNotReadable

MAX_LINE_BYTES = 1 << 26
"""64 MiB: a longer line is not a row of text, and would fill the memory."""

UTF_8_MARK = b"\xef\xbb\xbf"
OTHER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
RECODE = "save the file as UTF-8"


def ensure_file(path: Path) -> None:
    """Raise `FileNotReadable` where the path leads to no file, or to an empty one."""
    if path.is_dir():
        raise FileNotReadable("this is a directory", where=str(path), action="give a file in it")
    if not path.exists():
        raise FileNotReadable("there is no such file", where=str(path), action="check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise FileNotReadable("the file is empty", where=str(path), action="write it again")


@contextmanager
def reading_faults(path: Path) -> Iterator[None]:
    """What the operating system says while a file is read, as `FileNotReadable`."""
    try:
        yield
    except OSError as error:
        raise FileNotReadable(
            error.strerror or str(error), where=str(path), action="check the path and its permissions"
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Physical line numbers and contents; blank lines hold no row, but are counted as lines."""
    ensure_file(path)
    for line, content in physical_lines(path):
        if content.strip():
            yield line, content.rstrip(b"\r\n")


def physical_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """All lines with their numbers and ends, the first without its byte-order mark.

    Raises:
        FileNotReadable: it cannot be read, is cut off, or has a line that is no row of text.
        BadEncoding: its mark is that of another encoding.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with reading_faults(path), opened(path, "rb") as stream:
        line = 0
        while content := _next_line(stream, where=f"{path}:{line + 1}"):
            line += 1
            yield line, without_mark(content, where=str(path)) if line == 1 else content


def _next_line(stream: gzip.GzipFile | BufferedReader, *, where: str) -> bytes:
    try:
        content = stream.readline(MAX_LINE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileNotReadable(
            f"the gzip file is cut off or damaged: {error}", where=where, action="fetch or write it again"
        ) from error
    if len(content) > MAX_LINE_BYTES:
        raise FileNotReadable(
            f"the line is longer than {MAX_LINE_BYTES} bytes",
            where=where,
            action="write one row on each line",
        )
    return content


def without_mark(content: bytes, *, where: str) -> bytes:
    """The first line of a file without the mark that some editors and spreadsheets begin UTF-8 with.

    Raises:
        BadEncoding: the mark is that of another encoding.
    """
    other = next((kind for mark, kind in OTHER_MARKS.items() if content.startswith(mark)), None)
    if other is not None:
        raise BadEncoding(f"the file begins as {other}", where=where, action=RECODE)
    return content.removeprefix(UTF_8_MARK)


def decode_line(content: bytes, *, source: str) -> str:
    """A line as text.

    Raises:
        BadEncoding: it is not clean UTF-8, or joined files left a byte-order mark before it.
    """
    if content.startswith(UTF_8_MARK):
        raise BadEncoding(
            "a byte-order mark begins the line, as where files were joined", where=source, action=RECODE
        )
    if b"\0" in content:
        raise BadEncoding(f"a NUL byte at column {content.index(0) + 1}", where=source, action=RECODE)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadEncoding(
            f"byte {content[error.start]:#04x} at column {error.start + 1} is not UTF-8",
            where=source,
            action=RECODE,
        ) from error
