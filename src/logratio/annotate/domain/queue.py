"""Who judges which pair next: leases, verdicts, undo and progress, over one store.

A pair has `votes_per_pair` places. A verdict of a, b, tie or bad fills one; a lease that lives keeps one; a
skip leaves its place to somebody else; a flag closes the pair for all. Every change is one transaction that
begins as a writer, so that two processes cannot both see the last place free.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from logratio.annotate.domain.leases import Lease, drop_lease, read_leases, write_lease
from logratio.annotate.domain.pair_order import chance, draw_kind, draw_swapped, in_random_slice, order_pairs
from logratio.annotate.domain.settings import AnnotationProgress as AnnotationProgress
from logratio.annotate.domain.settings import Assignment as Assignment
from logratio.annotate.domain.settings import Order as Order
from logratio.annotate.domain.settings import QueueSettings as QueueSettings
from logratio.annotate.domain.settings import Receipt as Receipt
from logratio.annotate.domain.settings import VoteRequest as VoteRequest
from logratio.annotate.domain.settings import ensure_nonce, ensure_vote_request
from logratio.annotate.domain.votes import COUNTED
from logratio.annotate.storage.current_votes import CurrentVote, VoteState
from logratio.annotate.storage.store import Store
from logratio.annotate.storage.vote_log import add_undo, add_vote, find_receipt, nonce_used
from logratio.errors import DuplicateVote, LeaseConflict

SETTINGS = "queue"
"""The name under which the store keeps the settings."""
REPEAT_GAP = 5
"""A pair is not shown again before so many others."""
OTHER_PAIR = "go on with the next pair"


class Queue:
    """Gives pairs to annotators and takes their verdicts; threads may share it.

    Args:
        store: open for writing.
        settings: how pairs are given out; kept in the store for those who read the verdicts.
        clock: seconds since 1970.
    """

    def __init__(
        self, store: Store, settings: QueueSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.settings = settings
        self._clock = clock
        self._state = VoteState(settings.votes_per_pair)
        self._orders: dict[str, tuple[tuple[int, int], list[str]]] = {}
        self._lock = threading.RLock()
        store.set_meta(SETTINGS, settings.to_json())

    def lease(self, annotator: str) -> Assignment | None:
        """The pair that is kept for the annotator, the same and on the same sides until it is judged.

        Returns:
            None where there is none now; `progress` tells whether to wait or to be done.

        Raises:
            LeaseConflict: nobody is known by this name.
        """
        with self._writing(annotator) as (connection, now):
            leases = read_leases(connection)
            lease = leases.pop(annotator, None)
            leased = self._count_leases(leases.values(), now)
            if lease is None or not self._may_judge(lease, leased):
                lease = self._draw(annotator, leased, now)
            if lease is None:
                drop_lease(connection, annotator)
                return None
            return self._keep(connection, lease, leases, now)

    def renew(self, annotator: str, ticket: str) -> float:
        """Keep the pair for longer, after a heartbeat of the annotator; returns until when.

        Raises:
            LeaseConflict: it is no longer theirs.
        """
        with self._writing(annotator) as (connection, now):
            leases = read_leases(connection)
            lease = _own_lease(leases, annotator, ticket)
            if not self._may_judge(lease, self._count_leases(leases.values(), now)):
                raise LeaseConflict("the pair is closed", action=OTHER_PAIR)
            return self._keep(connection, lease, leases, now).lease_until

    def vote(self, annotator: str, vote_request: VoteRequest) -> Receipt:
        """Add a verdict to the log; it is on the disk when this returns.

        The same nonce again gives the same receipt. A verdict after the lease's end is taken, unless
        somebody else took the place.

        Raises:
            HostileRequest: a field is out of range.
            LeaseConflict: the pair is not theirs to judge now.
            DuplicateVote: the presentation has another verdict, the pair is closed, or the nonce is used.
        """
        ensure_vote_request(vote_request)
        with self._writing(annotator) as (connection, now):
            receipt = find_receipt(connection, annotator, vote_request)
            if receipt is not None:
                return receipt
            leases = read_leases(connection)
            lease = _own_lease(leases, annotator, vote_request.ticket)
            if not self._may_judge(lease, self._count_leases(leases.values(), now)):
                raise DuplicateVote("the pair is closed", action=OTHER_PAIR)
            supersedes = self._state.record(annotator).undone.get((lease.pair_id, lease.kind))
            vote_id = add_vote(connection, lease, vote_request, now=now, supersedes=supersedes)
            drop_lease(connection, annotator)
        return Receipt(vote_id=vote_id, pair_id=lease.pair_id, duplicate=False)

    def undo(self, annotator: str, *, nonce: str) -> Assignment:
        """Take back the annotator's last verdict by a new row, and give them its pair again, sides kept.

        The same nonce again takes back nothing more, and gives the pair they have now.

        Raises:
            HostileRequest: the nonce is out of range.
            LeaseConflict: there is nothing to take back, or others have judged the pair since.
            DuplicateVote: the nonce was used for something else.
        """
        ensure_nonce(nonce)
        with self._writing(annotator) as (connection, now):
            done = connection.execute(
                "SELECT annotator, verdict FROM votes WHERE nonce = ?", (nonce,)
            ).fetchone()
            if done is None:
                return self._take_back(connection, annotator, nonce, now)
            if done != (annotator, "undo"):
                raise nonce_used()
        assignment = self.lease(annotator)
        if assignment is None:
            raise LeaseConflict("the verdict was taken back before, and given anew since", action=OTHER_PAIR)
        return assignment

    def progress(self, annotator: str) -> AnnotationProgress:
        """How far the annotator, and everybody, has come."""
        with self._lock, self.store.reading() as connection:
            self._state.refresh(connection)
            leases = read_leases(connection)
            leases.pop(annotator, None)
            now = self._clock()
            state = self._state
            waited = self._waited_for(annotator, leases.values(), now)
            return AnnotationProgress(
                mine=len(state.record(annotator).standing),
                total=len(state.margins) - len(state.gold),
                done=len(state.complete),
                waiting=len({lease.pair_id for lease in waited}),
                next_free=min((lease.lease_until for lease in waited), default=None),
            )

    # --- within a transaction ---

    @contextmanager
    def _writing(self, annotator: str) -> Iterator[tuple[sqlite3.Connection, float]]:
        """A transaction with the mirror up to date; the mirror sees nothing that is not committed."""
        with self._lock, self.store.transaction() as connection:
            known = connection.execute("SELECT 1 FROM annotators WHERE name = ?", (annotator,)).fetchone()
            if known is None:
                raise LeaseConflict(f"nobody is known as {annotator!r}", action="add the annotator first")
            self._state.refresh(connection)
            yield connection, self._clock()

    def _count_leases(self, leases: Iterable[Lease], now: float) -> Counter[str]:
        """How many places of each pair are kept by living leases."""
        return Counter(
            lease.pair_id
            for lease in leases
            if lease.kind == "first" and lease.lives(now, self.settings.lease_seconds)
        )

    def _may_judge(self, lease: Lease, leased: Mapping[str, int]) -> bool:
        """Whether the pair is still to be judged by the lease's annotator; `leased` counts others' leases."""
        if lease.kind == "first":
            return self._is_free(lease.annotator, lease.pair_id, leased)
        mine = self._state.record(lease.annotator).by_kind[lease.kind]
        return not self._state.is_flagged(lease.pair_id) and lease.pair_id not in mine

    def _is_free(self, annotator: str, pair_id: str, leased: Mapping[str, int]) -> bool:
        """Whether a pair has a place for this annotator."""
        state = self._state
        return (
            pair_id not in state.complete
            and pair_id not in state.gold
            and pair_id not in state.record(annotator).by_kind["first"]
            and state.count(pair_id) + leased.get(pair_id, 0) < self.settings.votes_per_pair
        )

    def _waited_for(self, annotator: str, leases: Collection[Lease], now: float) -> list[Lease]:
        """The living leases of others without which the annotator would have a pair more."""
        leased = self._count_leases(leases, now)
        return [
            lease
            for lease in leases
            if lease.pair_id in leased
            and lease.kind == "first"
            and lease.lives(now, self.settings.lease_seconds)
            and self._is_free(annotator, lease.pair_id, {})
            and not self._is_free(annotator, lease.pair_id, leased)
        ]

    def _draw(self, annotator: str, leased: Mapping[str, int], now: float) -> Lease | None:
        """What the annotator sees next; no repeat and no gold once there is no pair left to label."""
        fresh = next(
            (pair_id for pair_id in self._order(annotator) if self._is_free(annotator, pair_id, leased)), None
        )
        if fresh is None:
            return None
        record = self._state.record(annotator)
        kind = draw_kind(self.settings, annotator, record.turns)
        pair_id = {"gold": self._next_gold, "repeat": self._next_repeat}.get(kind, _none)(annotator)
        if pair_id is None:
            kind, pair_id = "first", fresh
        if kind == "repeat":
            swapped = not record.by_kind["first"][pair_id].swapped
        else:
            swapped = draw_swapped(self.settings, annotator, pair_id, kind)
        return Lease(
            annotator=annotator,
            ticket=secrets.token_urlsafe(16),
            pair_id=pair_id,
            kind=kind,
            swapped=swapped,
            at_random=in_random_slice(self.settings, pair_id),
            shown_at=now,
            lease_until=now,
        )

    def _order(self, annotator: str) -> list[str]:
        """The pairs to be labelled in this annotator's order, made anew when pairs or gold were added."""
        state = self._state
        size = (len(state.margins), len(state.gold))
        known = self._orders.get(annotator)
        if known is None or known[0] != size:
            margins = {
                pair_id: margin for pair_id, margin in state.margins.items() if pair_id not in state.gold
            }
            known = self._orders[annotator] = (size, order_pairs(self.settings, annotator, margins))
        return known[1]

    def _next_gold(self, annotator: str) -> str | None:
        state, seen = self._state, self._state.record(annotator).by_kind
        return self._least(
            annotator,
            (
                pair_id
                for pair_id in state.gold
                if pair_id not in seen["gold"]
                and pair_id not in seen["first"]
                and not state.is_flagged(pair_id)
            ),
        )

    def _next_repeat(self, annotator: str) -> str | None:
        state, record = self._state, self._state.record(annotator)
        return self._least(
            annotator,
            (
                pair_id
                for pair_id, vote in record.by_kind["first"].items()
                if vote.verdict in COUNTED
                and vote.turn + REPEAT_GAP < record.turns
                and pair_id not in record.by_kind["repeat"]
                and pair_id not in state.gold
                and not state.is_flagged(pair_id)
            ),
        )

    def _least(self, annotator: str, pair_ids: Iterable[str]) -> str | None:
        return min(
            pair_ids,
            key=lambda pair_id: chance(self.settings.seed, "check", annotator, pair_id),
            default=None,
        )

    def _keep(
        self, connection: sqlite3.Connection, lease: Lease, others: Mapping[str, Lease], now: float
    ) -> Assignment:
        """Write the lease, and make room for it."""
        lease = replace(lease, lease_until=now + self.settings.lease_seconds)
        if lease.kind == "first":
            self._make_room(connection, lease, others, now)
        write_lease(connection, lease)
        return Assignment(
            pair=self.store.pair(lease.pair_id),
            swapped=lease.swapped,
            kind=lease.kind,
            lease_until=lease.lease_until,
            ticket=lease.ticket,
        )

    def _make_room(
        self, connection: sqlite3.Connection, lease: Lease, others: Mapping[str, Lease], now: float
    ) -> None:
        """Drop others' ended leases where their place is needed, so that no clock can bring them back.

        Hence verdicts and leases together, ended ones too, never outnumber the places of a pair.
        """
        rivals = [
            other for other in others.values() if (other.pair_id, other.kind) == (lease.pair_id, "first")
        ]
        mine = self._state.record(lease.annotator).by_kind["first"].get(lease.pair_id)
        filled = self._state.count(lease.pair_id) - (mine is not None and mine.verdict in COUNTED)
        if filled + len(rivals) >= self.settings.votes_per_pair:
            for rival in rivals:
                if not rival.lives(now, self.settings.lease_seconds):
                    drop_lease(connection, rival.annotator)

    def _take_back(
        self, connection: sqlite3.Connection, annotator: str, nonce: str, now: float
    ) -> Assignment:
        standing = self._state.record(annotator).standing
        if not standing:
            raise LeaseConflict("there is no verdict to take back", action=OTHER_PAIR)
        vote = standing[next(reversed(standing))]
        leases = read_leases(connection)
        leases.pop(annotator, None)
        if self._is_out_of_reach(vote, self._count_leases(leases.values(), now)):
            raise LeaseConflict("others have judged the pair since, or flagged it", action=OTHER_PAIR)
        add_undo(connection, vote, nonce=nonce, now=now)
        lease = Lease(
            annotator=annotator,
            ticket=secrets.token_urlsafe(16),
            pair_id=vote.pair_id,
            kind=vote.kind,
            swapped=vote.swapped,
            at_random=vote.at_random,
            shown_at=now,
            lease_until=now,
        )
        return self._keep(connection, lease, leases, now)

    def _is_out_of_reach(self, vote: CurrentVote, leased: Mapping[str, int]) -> bool:
        """Whether the pair would have no place for the annotator without this verdict of theirs."""
        flags = self._state.flags.get(vote.pair_id, 0) - (vote.verdict == "flag")
        if vote.kind != "first":
            return flags > 0
        others = self._state.count(vote.pair_id) - (vote.verdict in COUNTED)
        return flags > 0 or others + leased.get(vote.pair_id, 0) >= self.settings.votes_per_pair


def _own_lease(leases: dict[str, Lease], annotator: str, ticket: str) -> Lease:
    """The annotator's lease, taken out of `leases`.

    Raises:
        LeaseConflict: it is not of this ticket.
    """
    lease = leases.pop(annotator, None)
    if lease is None or lease.ticket != ticket:
        raise LeaseConflict("the pair is not kept for you any more; somebody else has it", action=OTHER_PAIR)
    return lease


def _none(_: str) -> None:
    return None
