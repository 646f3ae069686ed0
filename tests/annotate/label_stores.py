"""Pairs, stores and votes for tests; a clock that stands until it is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from logratio.annotate.domain.pairs import Choice, Pair, PairFile, make_pair
from logratio.annotate.domain.queue import Assignment, Queue, QueueSettings, VoteRequest
from logratio.annotate.storage.store import Store, Vote
from logratio.records import Completion, Prompt

NONCES = count()
PLAIN = {"repeats": 0.0, "gold": 0.0}
"""Settings of a queue that shows every pair once and nothing else."""


class Clock:
    """Seconds since 1970 that pass only when they are told to."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@contextmanager
def closed_stores() -> Iterator[None]:
    """Close every store that was opened within."""
    opened: list[Store] = []
    begin = Store.__init__

    def remember(self: Store, *values: Any) -> None:
        begin(self, *values)
        opened.append(self)

    with mock.patch.object(Store, "__init__", remember):
        yield
    for each in opened:
        each.close()


def pair(
    number: int,
    *,
    models: tuple[str, str] = ("", ""),
    margin: float | None = None,
    gold: Choice | None = None,
    texts: tuple[str, str] | None = None,
) -> Pair:
    """The pair of this number; its a is `texts[0]` where the texts are in order."""
    first, second = texts or (f"answer a to {number}", f"answer b to {number}")
    return make_pair(
        Prompt(f"question {number}"),
        Completion(text=first),
        Completion(text=second),
        models=models,
        source=f"made.jsonl:{number + 1}",
        margin=margin,
        gold=gold,
    )


def pairs(num_pairs: int, **fields: Any) -> list[Pair]:
    """The pairs 0, 1, …"""
    return [pair(number, **fields) for number in range(num_pairs)]


def pair_file(content: Sequence[Pair], *, sha256: str = "0" * 64) -> PairFile:
    """As if read from a file."""
    return PairFile(pairs=[*content], sha256=sha256)


def store(path: Path, content: Sequence[Pair], *, annotators: Sequence[str] = ("anna", "ben")) -> Store:
    """An open store with pairs and annotators."""
    made = Store.create_or_open(path)
    made.add_file("made.jsonl", pair_file(content))
    for name in annotators:
        made.add_annotator(name)
    return made


def queue(made: Store, *, clock: Callable[[], float] | None = None, **settings: Any) -> Queue:
    """A queue without repeats and gold unless they are asked for."""
    return Queue(made, QueueSettings(**(PLAIN | settings)), clock=clock or Clock())


def nonce() -> str:
    """A new one."""
    return f"nonce-{next(NONCES):08d}"


def ballot(assignment: Assignment, verdict: str = "a", **fields: Any) -> VoteRequest:
    """What the page would send for a verdict on content or on neither."""
    sides = {"a": "right", "b": "left"} if assignment.swapped else {"a": "left", "b": "right"}
    return VoteRequest(
        ticket=assignment.ticket,
        verdict_side=sides.get(verdict, verdict),
        **({"nonce": nonce(), "milliseconds": 1000} | fields),
    )


def judge(made: Queue, annotator: str, choose: Callable[[Pair], str], *, most: int = 10**6) -> int:
    """Let an annotator judge until nothing is left; returns how many verdicts were sent."""
    for number in range(most):
        assignment = made.lease(annotator)
        if assignment is None:
            return number
        made.vote(annotator, ballot(assignment, choose(assignment.pair)))
    return most


def vote(number: int, pair_id: str, annotator: str, verdict: str, **fields: Any) -> Vote:
    """A row of the log, for functions that take votes."""
    made = {"milliseconds": 1000, "shown_at": 1e6 + number, "sent_at": 1e6 + number + 1.0}
    made |= {"nonce": f"nonce-{number:08d}"} | fields
    return Vote(id=number, pair_id=pair_id, annotator=annotator, verdict=verdict, **made)
