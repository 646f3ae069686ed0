"""The table of leases: which pair is kept for whom, until when."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from logratio.annotate.domain.votes import Kind


@dataclass(frozen=True, slots=True)
class Lease:
    """A row of the table; an annotator has one at most, and it stays when it has ended, until it is taken."""

    annotator: str
    ticket: str
    pair_id: str
    kind: Kind
    swapped: bool
    at_random: bool
    shown_at: float
    lease_until: float

    def lives(self, now: float, lease_seconds: float) -> bool:
        """Whether it keeps its place; one that ends too far ahead was given before the clock went back."""
        return now < self.lease_until <= now + 2 * lease_seconds


def read_leases(connection: sqlite3.Connection) -> dict[str, Lease]:
    """All leases by annotator, living or not."""
    rows = connection.execute(
        "SELECT annotator, ticket, pair_id, kind, swapped, at_random, shown_at, lease_until FROM leases"
        " ORDER BY annotator"
    )
    return {
        annotator: Lease(annotator, ticket, pair_id, kind, bool(swapped), bool(at_random), shown_at, until)
        for annotator, ticket, pair_id, kind, swapped, at_random, shown_at, until in rows
    }


def write_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    """Keep a pair; what was kept for the annotator before is free."""
    connection.execute(
        "INSERT OR REPLACE INTO leases"
        " (annotator, ticket, pair_id, kind, swapped, at_random, shown_at, lease_until)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            lease.annotator,
            lease.ticket,
            lease.pair_id,
            lease.kind,
            lease.swapped,
            lease.at_random,
            lease.shown_at,
            lease.lease_until,
        ),
    )


def drop_lease(connection: sqlite3.Connection, annotator: str) -> None:
    """Keep nothing for the annotator."""
    connection.execute("DELETE FROM leases WHERE annotator = ?", (annotator,))
