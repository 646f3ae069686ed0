"""The tables of a label store, as a list of migrations; `PRAGMA user_version` counts those applied.

Pairs, gold marks and votes are only ever added to, so that a reader who remembers the last row it saw needs
no more than the rows after it. Triggers hold any program to that which opens the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

APPLICATION_ID = 0x4C475254
"""`LGRT`: what the header of the file says it belongs to."""

FIRST_TABLES = (
    """CREATE TABLE meta (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        sha256 TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE pairs (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        file INTEGER NOT NULL REFERENCES files (id),
        margin REAL,
        content TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE gold (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        pair_id TEXT NOT NULL UNIQUE REFERENCES pairs (id),
        choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie'))
    ) STRICT""",
    """CREATE TABLE annotators (
        name TEXT PRIMARY KEY,
        token_sha256 TEXT UNIQUE
    ) STRICT""",
    """CREATE TABLE votes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pair_id TEXT NOT NULL REFERENCES pairs (id),
        annotator TEXT NOT NULL REFERENCES annotators (name),
        verdict TEXT NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'bad', 'skip', 'flag', 'undo')),
        strength INTEGER CHECK (strength IS NULL OR (strength BETWEEN 1 AND 3 AND verdict IN ('a', 'b'))),
        reasons TEXT NOT NULL,
        note TEXT NOT NULL,
        swapped INTEGER NOT NULL CHECK (swapped IN (0, 1)),
        kind TEXT NOT NULL CHECK (kind IN ('first', 'repeat', 'gold')),
        at_random INTEGER NOT NULL CHECK (at_random IN (0, 1)),
        shown_at REAL NOT NULL,
        sent_at REAL NOT NULL,
        milliseconds INTEGER NOT NULL CHECK (milliseconds >= 0),
        nonce TEXT NOT NULL UNIQUE,
        supersedes INTEGER UNIQUE REFERENCES votes (id) CHECK (supersedes < id),
        ticket TEXT UNIQUE,
        CHECK ((verdict = 'undo') = (ticket IS NULL)),
        CHECK (verdict <> 'undo' OR supersedes IS NOT NULL)
    ) STRICT""",
    # One row for each annotator: nobody looks at two pairs at once.
    """CREATE TABLE leases (
        annotator TEXT PRIMARY KEY REFERENCES annotators (name),
        ticket TEXT NOT NULL UNIQUE,
        pair_id TEXT NOT NULL REFERENCES pairs (id),
        kind TEXT NOT NULL CHECK (kind IN ('first', 'repeat', 'gold')),
        swapped INTEGER NOT NULL CHECK (swapped IN (0, 1)),
        at_random INTEGER NOT NULL CHECK (at_random IN (0, 1)),
        shown_at REAL NOT NULL,
        lease_until REAL NOT NULL
    ) STRICT""",
    """CREATE TRIGGER votes_are_not_changed BEFORE UPDATE ON votes
        BEGIN SELECT RAISE (ABORT, 'votes are only ever added'); END""",
    """CREATE TRIGGER votes_are_not_removed BEFORE DELETE ON votes
        BEGIN SELECT RAISE (ABORT, 'votes are only ever added'); END""",
    """CREATE TRIGGER pairs_are_not_changed BEFORE UPDATE ON pairs
        BEGIN SELECT RAISE (ABORT, 'pairs are only ever added'); END""",
    """CREATE TRIGGER pairs_are_not_removed BEFORE DELETE ON pairs
        BEGIN SELECT RAISE (ABORT, 'pairs are only ever added'); END""",
    "PRAGMA application_id = 0x4C475254",
    "PRAGMA user_version = 1",
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Version 1."""
    for statement in FIRST_TABLES:
        connection.execute(statement)


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [create_tables]
"""The n-th takes a store from version n - 1 to n, and sets `user_version`, within one transaction."""
