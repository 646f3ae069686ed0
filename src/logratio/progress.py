"""What is said while work is done: notes, and one line that says how far it is.

The line is rewritten in a terminal, and elsewhere a plain line now and then. Both go to standard error;
`set_verbosity("quiet")` turns them off.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Literal, TextIO

PLAIN_INTERVAL_SECONDS = 15.0
TERMINAL_INTERVAL_SECONDS = 0.2
Verbosity = Literal["normal", "quiet"]
_verbosity: Verbosity = "normal"


def set_verbosity(verbosity: Verbosity) -> None:
    """Turn notes and progress lines on (`normal`) or off (`quiet`); errors are raised all the same."""
    global _verbosity
    _verbosity = verbosity


def say(line: str) -> None:
    """Print a note to standard error, unless the process is to be quiet."""
    if _verbosity == "normal":
        print(line, file=sys.stderr)


class Progress:
    """Progress of `total` units of work, with a few numbers beside it.

    Args:
        label: what is being done, such as `sampling`.
        total: how many units there are.
        unit: what a unit is, such as `pairs`.
        done: units that were done before, by a run that is resumed.
        stream: where to write; standard error by default, so that standard output stays clean.
    """

    def __init__(
        self, label: str, total: int, *, unit: str, done: int = 0, stream: TextIO | None = None
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._done_before = done
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._terminal = self._stream.isatty()

    def advance(self, count: int = 1, **numbers: float | str) -> None:
        """Count `count` units as done and show `numbers` beside them."""
        self.done += count
        if _verbosity == "quiet":
            return
        now = time.monotonic()
        interval = TERMINAL_INTERVAL_SECONDS if self._terminal else PLAIN_INTERVAL_SECONDS
        if now - self._shown_at >= interval or self.done >= self.total:
            self._shown_at = now
            self._show(numbers)

    def _show(self, numbers: dict[str, float | str]) -> None:
        elapsed = time.monotonic() - self._started
        rate = (self.done - self._done_before) / max(elapsed, 1e-9)
        remaining = (self.total - self.done) / rate if rate > 0 else float("inf")
        shown = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in numbers.items()
        )
        clock = f"{format_seconds(elapsed)} taken, {format_seconds(remaining)} to go"
        line = f"{self.label}: {self.done}/{self.total} {self.unit}  {clock}  {shown}".rstrip()
        if self._terminal:
            self._stream.write(f"\r\x1b[2K{line}")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and _verbosity == "normal":
            self._stream.write("\n")
            self._stream.flush()


def format_seconds(seconds: float) -> str:
    """`7 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds == float("inf"):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
