"""What goes on beside the labelling page: a growing file is followed, and the terminal says how far it is."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Sequence

from logratio.annotate.domain.queue import Queue
from logratio.annotate.storage.follow_file import Follower
from logratio.annotate.storage.store import Store
from logratio.errors import LogratioError

LOOK_SECONDS = 1.0
PLAIN_SECONDS = 30.0
"""Between two lines of progress where the output is no terminal."""


def describe_progress(store: Store, queue: Queue, names: Sequence[str]) -> str:
    """How far the work is, in one line."""
    progress = queue.progress(names[0])
    counts = Counter(vote.annotator for vote in store.votes())
    people = ", ".join(f"{name} {counts[name]}" for name in sorted({*names, *counts}))
    return f"{progress.done} of {progress.total} pairs done; verdicts: {people}"


class ProgressMonitor:
    """A thread that follows a growing file, and says now and then how far the work is.

    Args:
        store: the labels.
        queue: who gets which pair.
        names: those who compare.
        follower: looks at the growing file, if there is one.
    """

    def __init__(self, store: Store, queue: Queue, names: Sequence[str], follower: Follower | None) -> None:
        self._store, self._queue, self._names, self._follower = store, queue, names, follower
        self._changed, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
        self._is_terminal = sys.stdout.isatty()
        self._shown = ""

    def note(self) -> None:
        """A verdict was given or taken back."""
        self._changed.set()

    def __enter__(self) -> ProgressMonitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)
        if self._is_terminal and self._shown:
            print(flush=True)

    def _work(self) -> None:
        since_shown = 0.0
        while not self._ended.wait(LOOK_SECONDS):
            since_shown += LOOK_SECONDS
            try:
                if self._follower is not None:
                    self._follow(self._follower)
                if self._changed.is_set() and (self._is_terminal or since_shown >= PLAIN_SECONDS):
                    self._changed.clear()
                    since_shown = 0.0
                    self._show(describe_progress(self._store, self._queue, self._names))
            except LogratioError as fault:
                # The page's own requests meet the same fault and say so; this thread tries again.
                self._show(f"{fault.name}: {fault.what}")

    def _follow(self, follower: Follower) -> None:
        news = follower.poll()
        if news is None:
            return
        # A name of its own: the finished file, given as --data later, is not one that changed.
        num_new = self._store.add_file(f"live:{news.path.resolve()}", news.file, live=True)
        if num_new:
            self._show(f"{num_new} new pairs from {news.path}")
            self._changed.set()

    def _show(self, line: str) -> None:
        if line == self._shown:
            return
        if self._is_terminal:
            print("\r\x1b[2K" + line, end="", flush=True)
        else:
            print(line, flush=True)
        self._shown = line
