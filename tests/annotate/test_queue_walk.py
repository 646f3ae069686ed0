"""A random walk beside a simple model, which recounts everything from plain lists at every step."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from annotate import label_stores
from logratio.annotate.domain.queue import AnnotationProgress, Receipt
from logratio.annotate.storage.store import Store
from logratio.errors import DuplicateVote, LeaseConflict

NAMES = ("anna", "ben", "carl")
LEASE = 600.0


class Walk(RuleBasedStateMachine):
    """Three people who lease, judge, take back, reload and come late, while clocks and servers fail."""

    def __init__(self):
        super().__init__()
        self.directory = None

    @initialize(num_votes=st.integers(1, 3), num_pairs=st.integers(1, 5), repeats=st.sampled_from([0.0, 0.5]))
    def begin(self, num_votes, num_pairs, repeats):
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "labels.db"
        self.clock = label_stores.Clock()
        self.options = {"votes_per_pair": num_votes, "repeats": repeats, "gold": 0.2, "lease_seconds": LEASE}
        content = [*label_stores.pairs(num_pairs), label_stores.pair(100, gold="a")]
        self.store = label_stores.store(self.path, content, annotators=NAMES)
        self.queue = label_stores.queue(self.store, clock=self.clock, **self.options)
        self.pair_ids = {pair.id for pair in content[:num_pairs]}
        self.num_pairs = num_pairs
        self.stacks = {name: [] for name in NAMES}  # (pair, kind, verdict, swapped), oldest first
        self.held = {}  # name: assignment, also when it has ended
        self.sides = {}
        self.sent = []  # (name, ballot, receipt)
        self.stale = []  # (name, assignment) that were given up, judged or taken
        self.num_rows = 0

    def teardown(self):
        if self.directory is not None:
            self.store.close()
            self.directory.cleanup()

    # The model.

    def standing(self, pair_id):
        return [
            (name, verdict)
            for name in NAMES
            for one, kind, verdict, _ in self.stacks[name]
            if one == pair_id and kind == "first" and verdict in ("a", "b", "tie", "bad")
        ]

    def flagged(self, pair_id):
        return any(
            one == pair_id and verdict == "flag" for s in self.stacks.values() for one, _, verdict, _ in s
        )

    def living(self, pair_id, *, but):
        return [
            name
            for name, one in self.held.items()
            if name != but
            and (one.pair.id, one.kind) == (pair_id, "first")
            and self.clock.now < one.lease_until <= self.clock.now + 2 * LEASE
        ]

    def free(self, name):
        return {
            pair_id
            for pair_id in self.pair_ids
            if not self.flagged(pair_id)
            and not any(one == pair_id and kind == "first" for one, kind, *_ in self.stacks[name])
            and len(self.standing(pair_id)) + len(self.living(pair_id, but=name)) < self.num_votes
        }

    @property
    def num_votes(self):
        return self.options["votes_per_pair"]

    def forget_taken(self, name):
        """Ended leases go when somebody takes the place they would need."""
        pair_id = self.held[name].pair.id
        if self.held[name].kind != "first":
            return
        rivals = [
            other
            for other, one in self.held.items()
            if other != name and (one.pair.id, one.kind) == (pair_id, "first")
        ]
        if len(self.standing(pair_id)) + len(rivals) >= self.num_votes:
            for other in set(rivals) - set(self.living(pair_id, but=name)):
                self.stale.append((other, self.held.pop(other)))

    # What people do.

    @rule(name=st.sampled_from(NAMES))
    def lease(self, name):
        before = self.held.get(name)
        free = self.free(name)
        assignment = self.queue.lease(name)
        kept = before is not None and (
            before.pair.id in free if before.kind == "first" else not self.flagged(before.pair.id)
        )
        if kept:
            assert assignment == replace(before, lease_until=self.clock.now + LEASE)
        elif before is not None:
            self.stale.append((name, self.held.pop(name)))
        if assignment is None:
            assert not free
            return
        assert kept or free
        assert assignment.lease_until == self.clock.now + LEASE
        if assignment.kind == "first":
            assert assignment.pair.id in free
        else:
            assert not any(s[:2] == (assignment.pair.id, assignment.kind) for s in self.stacks[name])
        first = self.sides.get((name, assignment.pair.id, "first"))
        expected = (not first) if assignment.kind == "repeat" else assignment.swapped
        assert (
            self.sides.setdefault((name, assignment.pair.id, assignment.kind), expected) == assignment.swapped
        )
        self.held[name] = assignment
        self.forget_taken(name)

    @rule(name=st.sampled_from(NAMES), verdict=st.sampled_from(["a", "b", "tie", "bad", "skip", "flag"]))
    def vote(self, name, verdict):
        assignment = self.held.get(name)
        if assignment is None:
            return
        ballot = label_stores.ballot(assignment, verdict)
        if self.flagged(assignment.pair.id):
            with pytest.raises(DuplicateVote):
                self.queue.vote(name, ballot)
            return
        receipt = self.queue.vote(name, ballot)
        self.num_rows += 1
        assert receipt == Receipt(vote_id=self.num_rows, pair_id=assignment.pair.id, duplicate=False)
        self.stacks[name].append((assignment.pair.id, assignment.kind, verdict, assignment.swapped))
        self.sent.append((name, ballot, receipt))
        self.stale.append((name, self.held.pop(name)))

    def has_room(self, name, last):
        pair_id, kind, *_ = last
        taken = len(self.standing(pair_id)) + len(self.living(pair_id, but=name))
        return not self.flagged(pair_id) and (kind != "first" or taken < self.num_votes)

    @rule(name=st.sampled_from(NAMES))
    def undo(self, name):
        stack = self.stacks[name]
        last = stack.pop() if stack else None
        if last is None or not self.has_room(name, last):
            stack.extend([last] if last else [])
            with pytest.raises(LeaseConflict):
                self.queue.undo(name, nonce=label_stores.nonce())
            return
        pair_id, kind, _, swapped = last
        nonce = label_stores.nonce()
        back = self.queue.undo(name, nonce=nonce)
        self.num_rows += 1
        assert (back.pair.id, back.kind, back.swapped) == (pair_id, kind, swapped)
        if name in self.held:
            self.stale.append((name, self.held[name]))
        self.held[name] = back
        self.forget_taken(name)
        assert self.queue.undo(name, nonce=nonce) == back

    @rule(draw=st.randoms(use_true_random=False))
    def replay(self, draw):
        if self.sent:
            name, ballot, receipt = draw.choice(self.sent)
            assert self.queue.vote(name, ballot) == replace(receipt, duplicate=True)
            other = draw.choice([one for one in NAMES if one != name])
            with pytest.raises(DuplicateVote):
                self.queue.vote(other, ballot)

    @rule(draw=st.randoms(use_true_random=False))
    def vote_from_a_stale_tab(self, draw):
        if self.stale:
            name, assignment = draw.choice(self.stale)
            with pytest.raises((LeaseConflict, DuplicateVote)):
                self.queue.vote(name, label_stores.ballot(assignment, "tie"))

    @rule(name=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
    def vote_with_anothers_ticket(self, name, other):
        if name != other and other in self.held:
            with pytest.raises(LeaseConflict):
                self.queue.vote(name, label_stores.ballot(self.held[other]))

    @rule(seconds=st.sampled_from([1.0, 300.0, 599.0, 600.0, 5000.0, -1.0, -300.0, -601.0, -100_000.0]))
    def pass_time(self, seconds):
        self.clock.now += seconds

    @rule()
    def restart(self):
        self.store.close()
        self.store = Store.create_or_open(self.path)
        self.queue = label_stores.queue(self.store, clock=self.clock, **self.options)

    @rule()
    def add_pair(self):
        pair = label_stores.pair(self.num_pairs)
        self.num_pairs += 1
        self.pair_ids.add(pair.id)
        assert self.store.add_file(f"more-{self.num_pairs}", label_stores.pair_file([pair])) == 1

    @invariant()
    def agrees(self):
        if self.directory is None:
            return
        expected = sorted((name, *one) for name, stack in self.stacks.items() for one in stack)
        votes = self.store.votes()
        assert sorted((v.annotator, v.pair_id, v.kind, v.verdict, v.swapped) for v in votes) == expected
        assert len(self.store.log()) == self.num_rows
        for pair_id in self.pair_ids:
            assert len(self.standing(pair_id)) + len(self.living(pair_id, but=None)) <= self.num_votes
        for name in NAMES:
            self.agrees_on_progress(name)

    def agrees_on_progress(self, name):
        without_leases = {
            pair_id
            for pair_id in self.pair_ids
            if not self.flagged(pair_id)
            and not any(one == pair_id and kind == "first" for one, kind, *_ in self.stacks[name])
            and len(self.standing(pair_id)) < self.num_votes
        }
        waited = without_leases - self.free(name)
        ends = [self.held[one].lease_until for pair_id in waited for one in self.living(pair_id, but=name)]
        assert self.queue.progress(name) == AnnotationProgress(
            mine=len(self.stacks[name]),
            total=len(self.pair_ids),
            done=sum(
                self.flagged(pair_id) or len(self.standing(pair_id)) >= self.num_votes
                for pair_id in self.pair_ids
            ),
            waiting=len(waited),
            next_free=min(ends, default=None),
        )


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
