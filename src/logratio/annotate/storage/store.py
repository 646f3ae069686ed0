"""The file of labels: pairs, annotators and the log of verdicts, in SQLite.

A verdict is a row that is added and never changed; taking it back is another row. What stands now is derived
from the log. Every statement has its values bound, never written into it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from logratio.annotate.domain.pairs import Choice, Pair, PairFile
from logratio.annotate.domain.votes import Kind as Kind
from logratio.annotate.domain.votes import Vote as Vote
from logratio.annotate.storage.database import database_faults, open_database
from logratio.data.normalised_names import tidy
from logratio.errors import BadConfig, InputChanged

TOKEN_BYTES = 32
MAX_NAME = 64
ALL_VOTES = """
    SELECT id, pair_id, annotator, verdict, strength, reasons, note, swapped, kind, at_random,
        shown_at, sent_at, milliseconds, nonce, supersedes
    FROM votes ORDER BY id"""
CURRENT_VOTES = """
    SELECT id, pair_id, annotator, verdict, strength, reasons, note, swapped, kind, at_random,
        shown_at, sent_at, milliseconds, nonce, supersedes
    FROM votes AS vote
    WHERE verdict <> 'undo' AND NOT EXISTS (SELECT 1 FROM votes WHERE supersedes = vote.id)
    ORDER BY id"""


class Store:
    """An open file of labels; threads may share it, and processes may open it each for itself.

    Args:
        path: the file.
        connection: from `open_database`; use `create_or_open` and `open`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def create_or_open(cls, path: Path) -> Store:
        """Open a store to write to it, and make it where there is none.

        Raises:
            UnsafeArtifact, DatabaseBusyOrBroken, UnknownFormatVersion, NotWritable, DiskFull: see
                `open_database`.
        """
        return cls(path, open_database(path, create=True))

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a store that must exist, to read it.

        Raises:
            FileNotReadable: there is none.
            UnsafeArtifact, DatabaseBusyOrBroken, UnknownFormatVersion, NotWritable: see `open_database`.
        """
        return cls(path, open_database(path, create=False))

    def close(self) -> None:
        """Close the file; the last to close it folds the write-ahead log into it."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written within is on the disk when it ends, or none of it.

        It begins as a writer, so that what is read in it is still true when it writes.

        Raises:
            DatabaseBusyOrBroken, NotWritable, DiskFull: nothing was written.
        """
        with self._begun("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All that is read within is of one moment."""
        with self._begun("BEGIN") as connection:
            yield connection

    @contextmanager
    def _begun(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, database_faults(self.path):
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already.
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    # --- pairs ---

    def add_file(self, name: str, file: PairFile, *, live: bool = False) -> int:
        """Add a file's pairs; those that stand already are left, but become gold if they are gold here.

        Args:
            name: by which the file is known again.
            file: what was read.
            live: the file may have grown since.

        Returns:
            How many pairs are new.

        Raises:
            InputChanged: the file known by this name held something else.
        """
        with self.transaction() as connection:
            number = _file_number(connection, name, file.sha256, live=live, where=str(self.path))
            return sum([_add_pair(connection, pair, number) for pair in file.pairs])

    def files(self) -> dict[str, str]:
        """sha256 of each file whose pairs are here, by name."""
        with self.reading() as connection:
            return dict(connection.execute("SELECT name, sha256 FROM files ORDER BY id").fetchall())

    def pairs(self) -> dict[str, Pair]:
        """All pairs by id, in order of arrival."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT content, choice FROM pairs LEFT JOIN gold ON gold.pair_id = pairs.id"
                " ORDER BY pairs.arrival"
            ).fetchall()
        pairs = [_pair(content, choice) for content, choice in rows]
        return {pair.id: pair for pair in pairs}

    def pair(self, pair_id: str) -> Pair:
        """One pair.

        Raises:
            KeyError: there is none of this id.
        """
        with self._lock, database_faults(self.path):
            row = self._connection.execute(
                "SELECT content, choice FROM pairs LEFT JOIN gold ON gold.pair_id = pairs.id WHERE id = ?",
                (pair_id,),
            ).fetchone()
        if row is None:
            raise KeyError(pair_id)
        return _pair(*row)

    # --- annotators ---

    def add_annotator(self, name: str) -> str:
        """A new token for a person, who may be known already; an older token is no longer good.

        Args:
            name: as `known_as` gives it.

        Raises:
            BadConfig: the name is empty, too long, or cannot be printed.
        """
        if not name.strip() or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise BadConfig(
                f"{name[:MAX_NAME]!r} is no name for an annotator",
                action=f"give 1 to {MAX_NAME} printable characters, with no space around them",
            )
        token = secrets.token_urlsafe(TOKEN_BYTES)
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO annotators (name, token_sha256) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET token_sha256 = excluded.token_sha256",
                (name, _hash(token)),
            )
        return token

    def revoke(self, name: str) -> None:
        """The person's token is no longer good, and the pair leased to them is free; their votes stay."""
        with self.transaction() as connection:
            connection.execute("UPDATE annotators SET token_sha256 = NULL WHERE name = ?", (name,))
            connection.execute("DELETE FROM leases WHERE annotator = ?", (name,))

    def annotator_of(self, token: str) -> str | None:
        """Whose token this is; every known hash is compared in constant time."""
        with self._lock, database_faults(self.path):
            rows = self._connection.execute(
                "SELECT name, token_sha256 FROM annotators WHERE token_sha256 IS NOT NULL ORDER BY name"
            ).fetchall()
        token_hash = _hash(token)
        matches = [name for name, known in rows if hmac.compare_digest(known, token_hash)]
        return matches[0] if matches else None

    def known_as(self, name: str) -> str:
        """The name under which a person stands here, if the same but for Unicode form and white space."""
        names = self.annotators()
        return name if name in names else next((one for one in names if tidy(one) == tidy(name)), name)

    def annotators(self) -> list[str]:
        """Everybody who ever had a token, by name."""
        with self.reading() as connection:
            return [name for (name,) in connection.execute("SELECT name FROM annotators ORDER BY name")]

    # --- votes ---

    def log(self) -> list[Vote]:
        """Every row ever written, in order."""
        with self.reading() as connection:
            return [Vote.from_row(row) for row in connection.execute(ALL_VOTES)]

    def votes(self) -> list[Vote]:
        """What stands now: neither taken back nor replaced. Repeats and gold are among them, by `kind`."""
        with self.reading() as connection:
            return [Vote.from_row(row) for row in connection.execute(CURRENT_VOTES)]

    # --- settings ---

    def set_meta(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO meta (name, value) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, text),
            )

    def get_meta(self, name: str) -> Any:
        """The JSON value kept under a name; None where there is none."""
        with self._lock, database_faults(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _pair(content: str, choice: Choice | None) -> Pair:
    return replace(Pair.from_json(json.loads(content)), gold=choice)


def _file_number(connection: sqlite3.Connection, name: str, sha256: str, *, live: bool, where: str) -> int:
    row = connection.execute("SELECT id, sha256 FROM files WHERE name = ?", (name,)).fetchone()
    if row is None:
        inserted = connection.execute("INSERT INTO files (name, sha256) VALUES (?, ?)", (name, sha256))
        assert inserted.lastrowid is not None
        return inserted.lastrowid
    number, known = row
    if known != sha256 and not live:
        raise InputChanged(
            f"{name} held something else when its pairs were added: sha256 {known[:12]}, now {sha256[:12]}",
            where=where,
            action="put the old file back, give the new one another name, or choose another --store",
        )
    connection.execute("UPDATE files SET sha256 = ? WHERE id = ?", (sha256, number))
    return int(number)


def _add_pair(connection: sqlite3.Connection, pair: Pair, file: int) -> bool:
    content = json.dumps(replace(pair, gold=None).to_json(), ensure_ascii=False, allow_nan=False)
    inserted = connection.execute(
        "INSERT INTO pairs (id, file, margin, content) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (pair.id, file, pair.margin, content),
    )
    if pair.gold:
        connection.execute(
            "INSERT INTO gold (pair_id, choice) VALUES (?, ?) ON CONFLICT (pair_id) DO NOTHING",
            (pair.id, pair.gold),
        )
    return inserted.rowcount == 1
