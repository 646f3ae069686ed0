"""What stands, derived from the log: a mirror in memory that reads only the rows it has not seen.

Pairs, gold marks and votes are only ever added, under one writer at a time, so that the rows after the last
one seen are all there is to know, whatever process wrote them.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import NamedTuple

from logratio.annotate.domain.pairs import Choice
from logratio.annotate.domain.votes import COUNTED, Kind, LoggedVerdict


class _LogRow(NamedTuple):
    """A row of `votes`, as it is read."""

    id: int
    pair_id: str
    annotator: str
    verdict: LoggedVerdict
    kind: Kind
    swapped: int
    at_random: int
    shown_at: float
    supersedes: int | None


@dataclass(frozen=True, slots=True)
class CurrentVote:
    """A verdict that is neither taken back nor replaced."""

    id: int
    pair_id: str
    annotator: str
    verdict: LoggedVerdict
    kind: Kind
    swapped: bool
    at_random: bool
    shown_at: float
    turn: int
    """How many verdicts its annotator had sent before."""


@dataclass(slots=True)
class Record:
    """What one annotator did."""

    turns: int = 0
    """Verdicts ever sent, those taken back included: it only grows, so that chance is drawn anew by it."""
    standing: dict[int, CurrentVote] = field(default_factory=dict)
    """Verdicts that stand, in the order they were sent."""
    by_kind: dict[Kind, dict[str, CurrentVote]] = field(
        default_factory=lambda: {"first": {}, "repeat": {}, "gold": {}}
    )
    """The same by kind and pair."""
    undone: dict[tuple[str, Kind], int] = field(default_factory=dict)
    """Rows that took back a verdict which was not given anew since."""


class VoteState:
    """Pairs, gold and standing verdicts of a store, as of the last `refresh`.

    Args:
        needed: how many verdicts a pair needs.
    """

    def __init__(self, needed: int) -> None:
        self._needed = needed
        self.margins: dict[str, float | None] = {}
        """Every pair in order of arrival, with its margin."""
        self.gold: dict[str, Choice] = {}
        """The right verdicts of gold pairs."""
        self.records: dict[str, Record] = {}
        """What each annotator did."""
        self.counts: dict[str, int] = {}
        """How many verdicts of kind `first` fill a place of each pair."""
        self.flags: dict[str, int] = {}
        """How many flags stand on each pair."""
        self.complete: set[str] = set()
        """Pairs to be labelled that have all verdicts they need, or were flagged."""
        self._standing: dict[int, CurrentVote] = {}
        self._last_pair = self._last_gold = self._last_vote = 0

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Read the rows that are new; only what is committed may be visible to `connection`."""
        for arrival, pair_id, margin in connection.execute(
            "SELECT arrival, id, margin FROM pairs WHERE arrival > ? ORDER BY arrival", (self._last_pair,)
        ):
            self.margins[pair_id] = margin
            self._last_pair = arrival
        for arrival, pair_id, choice in connection.execute(
            "SELECT arrival, pair_id, choice FROM gold WHERE arrival > ? ORDER BY arrival", (self._last_gold,)
        ):
            self.gold[pair_id] = choice
            self.complete.discard(pair_id)
            self._last_gold = arrival
        for row in connection.execute(
            "SELECT id, pair_id, annotator, verdict, kind, swapped, at_random, shown_at, supersedes"
            " FROM votes WHERE id > ? ORDER BY id",
            (self._last_vote,),
        ):
            self._follow(_LogRow(*row))
            self._last_vote = row[0]

    def record(self, annotator: str) -> Record:
        """What one annotator did."""
        return self.records.setdefault(annotator, Record())

    def is_flagged(self, pair_id: str) -> bool:
        """Whether somebody's flag on the pair stands, which closes it for all."""
        return self.flags.get(pair_id, 0) > 0

    def count(self, pair_id: str) -> int:
        """How many places of the pair are filled by verdicts."""
        return self.counts.get(pair_id, 0)

    def _follow(self, row: _LogRow) -> None:
        record = self.record(row.annotator)
        if row.supersedes is not None:
            self._take_back(row.supersedes)
        if row.verdict == "undo":
            record.undone[row.pair_id, row.kind] = row.id
            return
        record.undone.pop((row.pair_id, row.kind), None)
        vote = CurrentVote(
            id=row.id,
            pair_id=row.pair_id,
            annotator=row.annotator,
            verdict=row.verdict,
            kind=row.kind,
            swapped=bool(row.swapped),
            at_random=bool(row.at_random),
            shown_at=row.shown_at,
            turn=record.turns,
        )
        record.turns += 1
        self._standing[row.id] = record.standing[row.id] = record.by_kind[row.kind][row.pair_id] = vote
        self._tally(vote, 1)

    def _take_back(self, vote_id: int) -> None:
        vote = self._standing.pop(vote_id, None)
        if vote is not None:
            record = self.record(vote.annotator)
            del record.standing[vote_id]
            del record.by_kind[vote.kind][vote.pair_id]
            self._tally(vote, -1)

    def _tally(self, vote: CurrentVote, change: int) -> None:
        if vote.verdict == "flag":
            self.flags[vote.pair_id] = self.flags.get(vote.pair_id, 0) + change
        elif vote.kind == "first" and vote.verdict in COUNTED:
            self.counts[vote.pair_id] = self.counts.get(vote.pair_id, 0) + change
        if vote.pair_id in self.gold or not self._is_complete(vote.pair_id):
            self.complete.discard(vote.pair_id)
        else:
            self.complete.add(vote.pair_id)

    def _is_complete(self, pair_id: str) -> bool:
        return self.is_flagged(pair_id) or self.count(pair_id) >= self._needed
