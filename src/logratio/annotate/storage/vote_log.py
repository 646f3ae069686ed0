"""Verdicts into the log: a ballot names a side, a row names a content."""

from __future__ import annotations

import json
import sqlite3

from logratio.annotate.domain.leases import Lease
from logratio.annotate.domain.pairs import Verdict
from logratio.annotate.domain.settings import Receipt, SideVerdict, VoteRequest
from logratio.annotate.storage.current_votes import CurrentVote
from logratio.errors import DuplicateVote

INSERT = """
    INSERT INTO votes (pair_id, annotator, verdict, strength, reasons, note, swapped, kind, at_random,
        shown_at, sent_at, milliseconds, nonce, supersedes, ticket)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
STANDS = "nothing to do: the verdict that stands is kept"


def content_of(side: SideVerdict, *, swapped: bool) -> Verdict:
    """What was judged, from the side that was named; swapped means that B stood on the left."""
    if side == "left":
        return "b" if swapped else "a"
    if side == "right":
        return "a" if swapped else "b"
    return side


def add_vote(
    connection: sqlite3.Connection,
    lease: Lease,
    vote_request: VoteRequest,
    *,
    now: float,
    supersedes: int | None,
) -> int:
    """Add a row for a verdict; returns its number."""
    verdict = content_of(vote_request.verdict_side, swapped=lease.swapped)
    inserted = connection.execute(
        INSERT,
        (
            lease.pair_id,
            lease.annotator,
            verdict,
            vote_request.strength if verdict in ("a", "b") else None,
            json.dumps(list(vote_request.reasons)),
            vote_request.note,
            lease.swapped,
            lease.kind,
            lease.at_random,
            lease.shown_at,
            now,
            vote_request.milliseconds,
            vote_request.nonce,
            supersedes,
            lease.ticket,
        ),
    )
    assert inserted.lastrowid is not None
    return inserted.lastrowid


def add_undo(connection: sqlite3.Connection, vote: CurrentVote, *, nonce: str, now: float) -> None:
    """Add a row that takes a verdict back."""
    presentation = (vote.swapped, vote.kind, vote.at_random, vote.shown_at)
    connection.execute(
        INSERT,
        (vote.pair_id, vote.annotator, "undo", None, "[]", "", *presentation, now, 0, nonce, vote.id, None),
    )


def find_receipt(connection: sqlite3.Connection, annotator: str, vote_request: VoteRequest) -> Receipt | None:
    """The receipt of a verdict that was sent before; None where it is new.

    Raises:
        DuplicateVote: the nonce belongs to another verdict, or the presentation has one already.
    """
    row = connection.execute(
        "SELECT id, pair_id, annotator, ticket, verdict, swapped FROM votes WHERE nonce = ?",
        (vote_request.nonce,),
    ).fetchone()
    if row is None:
        used = connection.execute("SELECT 1 FROM votes WHERE ticket = ?", (vote_request.ticket,)).fetchone()
        if used:
            raise DuplicateVote("this pair has a verdict already", action=STANDS)
        return None
    vote_id, pair_id, voter, ticket, verdict, swapped = row
    sent = (annotator, vote_request.ticket, content_of(vote_request.verdict_side, swapped=bool(swapped)))
    if (voter, ticket, verdict) != sent:
        raise nonce_used()
    return Receipt(vote_id=vote_id, pair_id=pair_id, duplicate=True)


def nonce_used() -> DuplicateVote:
    """The fault of a nonce that stands in the log for something else."""
    return DuplicateVote("the nonce belongs to another verdict", action=STANDS)
