"""The queue: no pair given twice beyond its places, none stranded, no verdict lost or counted twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from annotate import label_stores
from logratio.annotate.domain.pair_order import chance, in_random_slice, order_pairs
from logratio.annotate.domain.queue import REPEAT_GAP, AnnotationProgress, QueueSettings, Receipt
from logratio.annotate.storage.store import Store
from logratio.errors import BadConfig, DuplicateVote, HostileRequest, LeaseConflict


@pytest.fixture(autouse=True)
def _closed_stores():
    with label_stores.closed_stores():
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.db"


@pytest.fixture
def clock():
    return label_stores.Clock()


def open_queue(path, clock, num_pairs, **options):
    content = options.pop("content", None) or label_stores.pairs(num_pairs)
    return label_stores.queue(label_stores.store(path, content), clock=clock, **options)


# --- leases ---


def test_a_pair_is_kept_with_its_sides_until_it_is_judged(path, clock):
    queue = open_queue(path, clock, 3)
    first = queue.lease("anna")
    clock.now += 10
    assert queue.lease("anna") == replace(first, lease_until=clock.now + 600)
    again = label_stores.queue(Store.create_or_open(path), clock=clock)
    assert again.lease("anna") == queue.lease("anna")
    queue.vote("anna", label_stores.ballot(first))
    assert queue.lease("anna").pair != first.pair


def test_a_restart_goes_on_where_it_stopped(path, clock, tmp_path):
    straight = open_queue(path, clock, 30, repeats=0.2)
    broken = open_queue(tmp_path / "other.db", clock, 30, repeats=0.2)

    def step(queue):
        assignment = queue.lease("anna")
        queue.vote("anna", label_stores.ballot(assignment))
        return assignment.pair.id, assignment.swapped, assignment.kind

    seen, seen_anew = [], []
    for _ in range(30):
        seen.append(step(straight))
        seen_anew.append(step(broken))
        broken.store.close()
        broken = label_stores.queue(Store.create_or_open(tmp_path / "other.db"), clock=clock, repeats=0.2)
    assert seen == seen_anew
    assert {kind for *_, kind in seen} == {"first", "repeat"}


def test_two_annotators_do_not_meet(path, clock):
    queue = open_queue(path, clock, 2)
    anna, ben = queue.lease("anna"), queue.lease("ben")
    assert anna.pair != ben.pair
    queue.vote("anna", label_stores.ballot(anna))
    assert queue.lease("anna") is None
    assert queue.progress("anna") == AnnotationProgress(
        mine=1, total=2, done=1, waiting=1, next_free=ben.lease_until
    )
    queue.vote("ben", label_stores.ballot(ben))
    assert queue.progress("anna") == AnnotationProgress(mine=1, total=2, done=2, waiting=0, next_free=None)


def test_a_lease_that_ended_is_free_for_another(path, clock):
    queue = open_queue(path, clock, 1)
    anna = queue.lease("anna")
    assert queue.lease("ben") is None
    clock.now = anna.lease_until - 1
    assert queue.lease("ben") is None
    clock.now = anna.lease_until
    ben = queue.lease("ben")
    assert ben is not None
    assert ben.pair == anna.pair
    with pytest.raises(LeaseConflict):
        queue.vote("anna", label_stores.ballot(anna))
    with pytest.raises(LeaseConflict):
        queue.renew("anna", anna.ticket)
    assert queue.lease("anna") is None
    queue.vote("ben", label_stores.ballot(ben))
    with pytest.raises(LeaseConflict):
        queue.vote("anna", label_stores.ballot(anna))
    assert [vote.annotator for vote in queue.store.votes()] == ["ben"]


def test_a_late_verdict_counts_if_nobody_took_the_place(path, clock):
    queue = open_queue(path, clock, 1)
    anna = queue.lease("anna")
    clock.now += 10_000
    assert queue.vote("anna", label_stores.ballot(anna)) == Receipt(
        vote_id=1, pair_id=anna.pair.id, duplicate=False
    )


def test_a_lease_is_renewed(path, clock):
    queue = open_queue(path, clock, 1)
    anna = queue.lease("anna")
    for _ in range(5):
        clock.now += 500
        assert queue.renew("anna", anna.ticket) == clock.now + 600
        assert queue.lease("ben") is None
    with pytest.raises(LeaseConflict):
        queue.renew("ben", anna.ticket)
    with pytest.raises(LeaseConflict):
        queue.renew("anna", "another ticket")


def test_a_clock_that_goes_back_strands_no_pair(path, clock):
    queue = open_queue(path, clock, 1)
    anna = queue.lease("anna")
    clock.now -= 100_000
    ben = queue.lease("ben")
    assert ben is not None
    assert ben.pair == anna.pair
    # The clock is put right again: the first lease does not come back to life beside the second.
    for now in (ben.lease_until - 1, anna.lease_until - 1):
        clock.now = now
        with pytest.raises(LeaseConflict):
            queue.vote("anna", label_stores.ballot(anna))
    queue.vote("ben", label_stores.ballot(ben))


def test_a_clock_that_goes_back_a_little_gives_no_pair_twice(path, clock):
    queue = open_queue(path, clock, 1)
    queue.lease("anna")
    clock.now -= 300
    assert queue.lease("ben") is None


def test_revoking_frees_the_pair(path, clock):
    queue = open_queue(path, clock, 1)
    anna = queue.lease("anna")
    queue.store.revoke("anna")
    assert queue.lease("ben").pair == anna.pair


def test_nobody_gets_a_pair_without_a_name(path, clock):
    queue = open_queue(path, clock, 1)
    with pytest.raises(LeaseConflict, match="carl"):
        queue.lease("carl")


@pytest.mark.parametrize("num_votes", [1, 2, 3])
def test_every_pair_gets_its_votes_from_different_people(path, clock, num_votes):
    names = ["anna", "ben", "carl", "dora"]
    store = label_stores.store(path, label_stores.pairs(12), annotators=names)
    queue = label_stores.queue(store, clock=clock, votes_per_pair=num_votes)
    waiting = True
    while waiting:
        waiting = [name for name in names if label_stores.judge(queue, name, lambda _: "tie", most=2)]
    voters = Counter((vote.pair_id, vote.annotator) for vote in store.votes())
    assert set(voters.values()) == {1}
    assert Counter(pair_id for pair_id, _ in voters) == dict.fromkeys(store.pairs(), num_votes)
    assert queue.progress("anna").done == 12


def test_a_skipped_pair_goes_to_somebody_else(path, clock):
    queue = open_queue(path, clock, 1)
    assert label_stores.judge(queue, "anna", lambda _: "skip") == 1
    assert queue.progress("anna") == AnnotationProgress(mine=1, total=1, done=0, waiting=0, next_free=None)
    assert queue.lease("anna") is None
    assert label_stores.judge(queue, "ben", lambda _: "bad") == 1
    assert queue.progress("ben").done == 1


def test_a_flag_closes_a_pair_for_all(path, clock):
    queue = open_queue(path, clock, 1, votes_per_pair=2)
    anna, ben = queue.lease("anna"), queue.lease("ben")
    queue.vote("anna", label_stores.ballot(anna, "flag"))
    with pytest.raises(DuplicateVote, match="closed"):
        queue.vote("ben", label_stores.ballot(ben))
    with pytest.raises(LeaseConflict, match="closed"):
        queue.renew("ben", ben.ticket)
    assert queue.lease("ben") is None
    assert queue.progress("ben") == AnnotationProgress(mine=0, total=1, done=1, waiting=0, next_free=None)
    assert queue.undo("anna", nonce="undo-flag").pair == anna.pair
    assert queue.lease("ben").pair == anna.pair


def test_pairs_that_come_while_people_judge(path, clock):
    queue = open_queue(path, clock, 2)
    assert label_stores.judge(queue, "anna", lambda _: "a") == 2
    queue.store.add_file("made.jsonl", label_stores.pair_file(label_stores.pairs(5), sha256="1"), live=True)
    assert queue.progress("anna").total == 5
    assert label_stores.judge(queue, "anna", lambda _: "a") == 3


# --- verdicts ---


@pytest.mark.parametrize("verdict", ["a", "b", "tie", "bad", "skip", "flag"])
def test_verdicts_are_of_content(path, clock, verdict):
    queue = open_queue(path, clock, 40)
    label_stores.judge(queue, "anna", lambda _: verdict)
    votes = queue.store.votes()
    assert {vote.verdict for vote in votes} == {verdict}
    assert {vote.swapped for vote in votes} == {False, True}
    if verdict in "ab":
        assert all(vote.left_won == ((verdict == "b") == vote.swapped) for vote in votes)


def test_what_a_vote_holds(path, clock):
    queue = open_queue(path, clock, 1)
    assignment = queue.lease("anna")
    clock.now += 5
    queue.lease("anna")
    clock.now += 2.5
    told = {"strength": 3, "reasons": ("rude", "ü"), "note": "\x00=cmd()", "milliseconds": 7}
    ballot = label_stores.ballot(assignment, "b", **told)
    receipt = queue.vote("anna", ballot)
    (vote,) = queue.store.votes()
    assert receipt == Receipt(vote_id=vote.id, pair_id=vote.pair_id, duplicate=False)
    expected = label_stores.vote(
        1,
        assignment.pair.id,
        "anna",
        "b",
        **told,
        swapped=assignment.swapped,
        shown_at=1_000_000.0,
        sent_at=1_000_007.5,
        nonce=ballot.nonce,
    )
    assert vote == expected


def test_a_verdict_that_is_sent_again_counts_once(path, clock):
    queue = open_queue(path, clock, 3)
    ballot = label_stores.ballot(queue.lease("anna"))
    receipt = queue.vote("anna", ballot)
    assert queue.vote("anna", ballot) == replace(receipt, duplicate=True)
    again = label_stores.queue(Store.create_or_open(path), clock=clock)
    assert again.vote("anna", ballot) == replace(receipt, duplicate=True)
    queue.undo("anna", nonce="undo-0001")
    assert queue.vote("anna", ballot) == replace(receipt, duplicate=True)
    assert queue.store.votes() == []


def test_a_second_verdict_on_one_presentation_is_refused(path, clock):
    queue = open_queue(path, clock, 3)
    assignment = queue.lease("anna")
    ballot = label_stores.ballot(assignment)
    queue.vote("anna", ballot)
    with pytest.raises(DuplicateVote, match="verdict already"):
        queue.vote("anna", replace(ballot, nonce=label_stores.nonce()))
    with pytest.raises(DuplicateVote, match="nonce"):
        queue.vote("anna", replace(ballot, verdict_side="tie"))
    with pytest.raises(DuplicateVote, match="nonce"):
        queue.vote("anna", label_stores.ballot(queue.lease("anna"), nonce=ballot.nonce))
    assert [vote.nonce for vote in queue.store.log()] == [ballot.nonce]


def test_the_nonce_and_the_ticket_of_another_person_are_refused(path, clock):
    queue = open_queue(path, clock, 3)
    anna, ben = queue.lease("anna"), queue.lease("ben")
    ballot = label_stores.ballot(anna)
    with pytest.raises(LeaseConflict):
        queue.vote("ben", ballot)
    queue.vote("anna", ballot)
    with pytest.raises(DuplicateVote):
        queue.vote("ben", ballot)
    with pytest.raises(DuplicateVote):
        queue.vote("ben", label_stores.ballot(ben, nonce=ballot.nonce))
    with pytest.raises(DuplicateVote):
        queue.undo("ben", nonce=ballot.nonce)
    with pytest.raises(DuplicateVote):
        queue.undo("anna", nonce=ballot.nonce)
    queue.undo("anna", nonce="undo-0002")
    with pytest.raises(DuplicateVote):
        queue.vote("ben", label_stores.ballot(ben, nonce="undo-0002"))
    assert [vote.verdict for vote in queue.store.log()] == ["a", "undo"]


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict_side": "a"},
        {"verdict_side": "undo"},
        {"strength": 0},
        {"strength": 4},
        {"strength": True},
        {"milliseconds": -1},
        {"milliseconds": 2**63},
        {"milliseconds": True},
        {"note": "x" * 2001},
        {"note": "\ud800"},
        {"reasons": ("x",) * 101},
        {"nonce": "short"},
        {"nonce": "x" * 65},
        {"nonce": "nonce-0001\n"},
        {"nonce": "nönce-0001"},
        {"nonce": "'; DROP TABLE votes"},
    ],
)
def test_what_no_page_sends_changes_nothing(path, clock, fields):
    queue = open_queue(path, clock, 1)
    assignment = queue.lease("anna")
    with pytest.raises(HostileRequest):
        queue.vote("anna", replace(label_stores.ballot(assignment), **fields))
    assert queue.store.log() == []
    assert queue.lease("anna").ticket == assignment.ticket


def test_hostile_tickets_and_reasons_are_only_values(path, clock):
    queue = open_queue(path, clock, 1)
    assignment = queue.lease("anna")
    with pytest.raises(LeaseConflict):
        queue.vote("anna", replace(label_stores.ballot(assignment), ticket="' OR 1=1 --"))
    queue.vote("anna", label_stores.ballot(assignment, reasons=("'); DROP TABLE votes; --", "\ud800")))
    (vote,) = queue.store.votes()
    assert vote.reasons == ("'); DROP TABLE votes; --", "\ud800")


# --- undo ---


def test_undo_gives_the_pair_back_with_its_sides(path, clock):
    queue = open_queue(path, clock, 5)
    first = queue.lease("anna")
    queue.vote("anna", label_stores.ballot(first, "a"))
    second = queue.lease("anna")
    queue.vote("anna", label_stores.ballot(second, "b"))
    queue.lease("anna")
    back = queue.undo("anna", nonce="undo-0003")
    assert (back.pair, back.swapped, back.kind) == (second.pair, second.swapped, "first")
    assert back.ticket != second.ticket
    assert queue.lease("anna") == back
    assert queue.progress("anna").mine == 1
    back = queue.undo("anna", nonce="undo-0004")
    assert back.pair == first.pair
    queue.vote("anna", label_stores.ballot(back, "tie"))
    assert [(vote.pair_id, vote.verdict) for vote in queue.store.votes()] == [(first.pair.id, "tie")]
    with pytest.raises(DuplicateVote):
        queue.vote("anna", label_stores.ballot(second, "b"))
    assert queue.undo("anna", nonce="undo-0005").pair == first.pair
    with pytest.raises(LeaseConflict, match="no verdict"):
        queue.undo("anna", nonce="undo-0006")


def test_undo_is_idempotent(path, clock):
    queue = open_queue(path, clock, 2)
    label_stores.judge(queue, "anna", lambda _: "a")
    back = queue.undo("anna", nonce="undo-0007")
    assert queue.undo("anna", nonce="undo-0007") == back
    assert queue.progress("anna").mine == 1
    queue.vote("anna", label_stores.ballot(back))
    with pytest.raises(LeaseConflict, match="since"):
        queue.undo("anna", nonce="undo-0007")
    assert [vote.verdict for vote in queue.store.log()] == ["a", "a", "undo", "a"]
    with pytest.raises(HostileRequest):
        queue.undo("anna", nonce="x")


def test_a_skip_that_another_has_judged_since_stays(path, clock):
    queue = open_queue(path, clock, 1)
    label_stores.judge(queue, "anna", lambda _: "skip")
    ben = queue.lease("ben")
    with pytest.raises(LeaseConflict, match="others"):
        queue.undo("anna", nonce="undo-0008")
    clock.now = ben.lease_until
    back = queue.undo("anna", nonce="undo-0008")
    with pytest.raises(LeaseConflict):
        queue.vote("ben", label_stores.ballot(ben))
    queue.vote("anna", label_stores.ballot(back))
    assert [vote.verdict for vote in queue.store.votes()] == ["a"]


def test_undo_on_a_pair_that_another_flagged_stays(path, clock):
    queue = open_queue(path, clock, 1, votes_per_pair=2)
    label_stores.judge(queue, "anna", lambda _: "a")
    label_stores.judge(queue, "ben", lambda _: "flag")
    with pytest.raises(LeaseConflict, match="flagged"):
        queue.undo("anna", nonce="undo-0009")


def test_undo_drops_no_lease_that_has_a_place_of_its_own(path, clock):
    queue = open_queue(path, clock, 1, votes_per_pair=2)
    ben = queue.lease("ben")
    queue.vote("anna", label_stores.ballot(queue.lease("anna")))
    clock.now = ben.lease_until
    queue.undo("anna", nonce="undo-0010")
    queue.vote("ben", label_stores.ballot(ben))


# --- repeats, gold, order, sides ---


def test_repeats_have_their_sides_swapped_and_fill_no_place(path, clock):
    queue = open_queue(path, clock, 200, repeats=0.2)
    sent = label_stores.judge(queue, "anna", lambda _: "a")
    votes = queue.store.votes()
    first = {vote.pair_id: vote for vote in votes if vote.kind == "first"}
    repeats = [vote for vote in votes if vote.kind == "repeat"]
    assert len(votes) == sent == len(first) + len(repeats)
    assert len(first) == 200
    assert 0.12 < len(repeats) / sent < 0.28
    assert len({vote.pair_id for vote in repeats}) == len(repeats)
    assert all(vote.swapped != first[vote.pair_id].swapped for vote in repeats)
    assert all(vote.id - first[vote.pair_id].id > REPEAT_GAP for vote in repeats)
    assert queue.progress("anna") == AnnotationProgress(
        mine=sent, total=200, done=200, waiting=0, next_free=None
    )


def test_skipped_and_flagged_pairs_are_not_repeated(path, clock):
    queue = open_queue(path, clock, 60, repeats=0.4)
    verdicts = iter(["skip", "flag", "tie"] * 1000)
    label_stores.judge(queue, "anna", lambda _: next(verdicts))
    votes = queue.store.votes()
    verdict_of = {vote.pair_id: vote.verdict for vote in votes if vote.kind == "first"}
    assert {verdict_of[vote.pair_id] for vote in votes if vote.kind == "repeat"} == {"tie"}


def test_gold_is_mixed_in_once_for_everybody(path, clock):
    content = label_stores.pairs(100) + [label_stores.pair(1000 + number, gold="a") for number in range(8)]
    queue = open_queue(path, clock, 0, content=content, gold=0.2, votes_per_pair=2)
    assert queue.progress("anna").total == 100
    for name in ("anna", "ben"):
        label_stores.judge(queue, name, lambda _: "b")
        votes = [vote for vote in queue.store.votes() if vote.annotator == name]
        gold = [vote.pair_id for vote in votes if vote.kind == "gold"]
        assert sorted(gold) == sorted(pair.id for pair in content[100:])
        assert len(votes) == 108
    assert queue.progress("anna").done == 100


def test_no_gold_where_there_is_none(path, clock):
    queue = open_queue(path, clock, 20, gold=0.9)
    assert label_stores.judge(queue, "anna", lambda _: "a") == 20


def test_a_pair_that_becomes_gold_is_no_longer_to_be_labelled(path, clock):
    queue = open_queue(path, clock, 2, order="file")
    queue.vote("anna", label_stores.ballot(queue.lease("anna")))
    assert queue.progress("anna").done == 1
    queue.store.add_file(
        "gold.jsonl", label_stores.pair_file([label_stores.pair(0, gold="a"), label_stores.pair(1, gold="a")])
    )
    assert queue.lease("anna") is None
    assert queue.progress("anna") == AnnotationProgress(mine=1, total=0, done=0, waiting=0, next_free=None)


def test_orders(path, clock, tmp_path):
    content = [
        label_stores.pair(number, margin=margin) for number, margin in enumerate([2.0, -0.1, None, 0.5, -3.0])
    ]

    def seen(name, **options):
        queue = open_queue(tmp_path / name, clock, 0, content=content, **options)
        ids = [pair.id for pair in content]
        order = []
        label_stores.judge(queue, "anna", lambda pair: order.append(ids.index(pair.id)) or "a")
        return order

    assert seen("1", order="file") == [0, 1, 2, 3, 4]
    assert seen("2", order="margin", random_slice=0.0) == [1, 3, 0, 4, 2]
    assert seen("3", order="random", seed=1) != seen("4", order="random", seed=2)
    assert sorted(seen("5", order="random")) == [0, 1, 2, 3, 4]


def test_a_random_slice_is_spread_between_the_others_and_marked(path, clock):
    content = [label_stores.pair(number, margin=float(number)) for number in range(400)]
    queue = open_queue(path, clock, 0, content=content, order="margin", random_slice=0.25)
    label_stores.judge(queue, "anna", lambda _: "a")
    votes = queue.store.votes()
    margin = {pair.id: pair.margin for pair in content}
    chosen = [margin[vote.pair_id] for vote in votes if not vote.at_random]
    assert chosen == sorted(chosen)
    halves = [sum(vote.at_random for vote in votes[part : part + 200]) for part in (0, 200)]
    assert all(30 <= half <= 70 for half in halves)
    drawn = [margin[vote.pair_id] for vote in votes if vote.at_random]
    assert abs(sum(drawn) / len(drawn) - 199.5) < 3 * 115 / len(drawn) ** 0.5
    assert all(vote.at_random == in_random_slice(queue.settings, vote.pair_id) for vote in votes)


def test_without_margins_every_verdict_is_at_random(path, clock):
    for order in ("random", "file"):
        assert in_random_slice(QueueSettings(order=order), "x")
    queue = open_queue(path, clock, 3)
    label_stores.judge(queue, "anna", lambda _: "a")
    assert all(vote.at_random for vote in queue.store.votes())


def test_orders_of_annotators_are_independent():
    ids = dict.fromkeys(f"{number:016x}" for number in range(200))
    anna, ben = (order_pairs(QueueSettings(), name, ids) for name in ("anna", "ben"))
    assert sorted(anna) == sorted(ben) == sorted(ids)
    place = {one: number for number, one in enumerate(ben)}
    shifts = sum(abs(number - place[one]) for number, one in enumerate(anna)) / 200
    assert 50 < shifts < 83  # 200/3 for two independent orders


def test_sides_are_even_and_chance_is_uniform():
    values = [chance(0, "side", "anna", number) for number in range(4000)]
    assert abs(sum(value < 0.5 for value in values) - 2000) < 4 * 31.7
    assert abs(sum(values) / 4000 - 0.5) < 4 * 0.289 / 4000**0.5
    assert chance("ab", "c") != chance("a", "bc")


def test_settings_are_kept_with_the_labels(path, clock):
    queue = open_queue(path, clock, 1, votes_per_pair=3, order="margin")
    assert QueueSettings.from_json(queue.store.get_meta("queue")) == queue.settings


@pytest.mark.parametrize(
    "fields",
    [
        {"votes_per_pair": 0},
        {"order": "best"},
        {"random_slice": -0.1},
        {"repeats": 1.5},
        {"gold": float("nan")},
        {"repeats": 0.5, "gold": 0.5},
        {"lease_seconds": 0},
    ],
)
def test_settings_out_of_range(fields):
    with pytest.raises(BadConfig):
        QueueSettings(**fields)
