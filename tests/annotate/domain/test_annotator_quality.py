"""Rates by hand, of verdicts whose every field is given."""

from __future__ import annotations

import pytest

from annotate.label_snapshots import PEOPLE, drawn, fill, pair, snapshot
from logratio.annotate.domain.agreement import Proportion
from logratio.annotate.domain.annotator_quality import assess
from logratio.annotate.storage.snapshot import Snapshot
from logratio.annotate.storage.store import Store


def assess_one(pairs, verdicts):
    """The one annotator's quality, and that of all, which must be the same."""
    report = assess(snapshot(pairs, verdicts))
    (quality,) = report.annotators
    assert quality.to_json() | {"annotator": ""} == report.together.to_json()
    return quality


def test_left_is_counted_by_side_and_longer_by_content():
    # A is the longer answer of every pair but the last, where both are as long.
    pairs = [pair(0), pair(1), pair(2), pair(3, a="same length", b="samelength2")]
    quality = assess_one(
        pairs,
        [
            (0, "anna", "a", {"swapped": False}),
            (1, "anna", "a", {"swapped": True}),
            (2, "anna", "b", {"swapped": True}),
            (3, "anna", "b", {"swapped": True}),
        ],
    )
    assert quality.left == Proportion.of(3, 4)
    assert quality.longer == Proportion.of(2, 3)


def test_ties_and_the_like_are_no_side_and_no_length():
    pairs = [pair(number) for number in range(4)]
    verdicts = [(place, "anna", one) for place, one in enumerate(["tie", "bad", "skip", "flag"])]
    quality = assess_one(pairs, verdicts)
    assert (quality.left, quality.longer, quality.consistency, quality.gold) == (None, None, None, None)
    assert quality.verdicts == {"chosen": 0, "tie": 1, "bad": 1, "skip": 1, "flag": 1}
    assert quality.num_verdicts == 4


def test_consistency_compares_content_with_the_sides_swapped():
    again = {"kind": "repeat", "swapped": True}
    pairs = [pair(number) for number in range(6)]
    quality = assess_one(
        pairs,
        [
            *((place, "anna", one) for place, one in enumerate(["a", "b", "tie", "bad", "a", "skip"])),
            (0, "anna", "a", again),
            (1, "anna", "a", again),
            (2, "anna", "tie", again),
            (3, "anna", "bad", again),
            (4, "anna", "skip", again),
            (5, "anna", "a", again),
        ],
    )
    assert quality.consistency == Proportion.of(3, 4)


def test_a_repeat_is_compared_with_the_same_person_and_what_stands():
    again = {"kind": "repeat"}
    verdicts = [
        (0, "anna", "a"),
        (0, "ben", "b"),
        (0, "anna", "undo", {"supersedes": 1}),
        (0, "anna", "b"),
        (0, "anna", "b", again),
        (0, "ben", "b", again),
        (0, "ben", "undo", {"supersedes": 6}),
    ]
    report = assess(snapshot([pair(0)], verdicts))
    assert [quality.consistency for quality in report.annotators] == [Proportion.of(1, 1), None]


def test_gold_counts_gold_presentations_alone():
    pairs = [pair(0, gold="a"), pair(1, gold="tie"), pair(2, gold="b"), pair(3, gold="b")]
    gold = {"kind": "gold"}
    quality = assess_one(
        pairs,
        [
            (0, "anna", "a", gold),
            (1, "anna", "tie", gold),
            (2, "anna", "bad", gold),
            (3, "anna", "skip", gold),
            (3, "anna", "a"),
        ],
    )
    assert quality.gold == Proportion.of(2, 3)
    assert quality.num_verdicts == 1


def test_the_median_time_leaves_skips_and_repeats_out():
    times = [(0, "a", 1000), (1, "tie", 3000), (2, "bad", 8000), (3, "skip", 90_000)]
    verdicts = [(place, "anna", verdict, {"milliseconds": time}) for place, verdict, time in times]
    verdicts.append((0, "anna", "a", {"kind": "repeat", "milliseconds": 70_000}))
    assert assess_one([pair(number) for number in range(4)], verdicts).seconds == 3.0


def test_only_pairs_in_random_order_count_where_a_margin_chose_the_others():
    pairs = [pair(number) for number in range(60)]
    picked = {"at_random": False}
    verdicts = [(place, name, "ab"[place % 2]) for place in range(24) for name in ("anna", "ben")]
    verdicts += [(place, "anna", "a", picked | {"milliseconds": 9}) for place in range(24, 60)]
    verdicts += [(place, "ben", "b", picked) for place in range(24, 60)]
    report = assess(snapshot(pairs, verdicts))
    assert report.only_random
    assert report.agreement.num_overlapping == 24
    assert report.agreement.raw.value == 1.0
    assert report.left_out == {"not in random order": 72}
    assert (report.num_used, report.num_verdicts) == (48, 120)
    assert report.annotators[0].seconds == 0.0


def test_refused_agreement_leaves_the_rates():
    report = assess(snapshot([pair(0)], [(0, "anna", "a")]))
    assert report.agreement is None
    assert "there are 0" in report.refused
    assert report.together.left == Proportion.of(1, 1)
    assert report.to_json()["agreement"] is None


def test_nothing_at_all():
    report = assess(snapshot([], []))
    assert (report.annotators, report.num_verdicts, report.left_out) == ((), 0, {})
    assert report.together.seconds is None


@pytest.mark.parametrize("seed", range(5))
def test_the_counts_add_up(seed):
    report = assess(drawn(60, seed=seed), resamples=50)
    assert report.num_used + sum(report.left_out.values()) == report.num_verdicts
    assert sum(quality.num_verdicts for quality in report.annotators) == report.together.num_verdicts
    assert [quality.annotator for quality in report.annotators] == sorted(PEOPLE)


def test_a_snapshot_of_a_store_is_what_the_store_holds(tmp_path):
    made = snapshot(
        [pair(0), pair(1, gold="b")],
        [
            (0, "anna", "a", {"strength": 2, "reasons": ("r",), "note": "n", "swapped": True}),
            (0, "anna", "undo", {"supersedes": 1}),
            (1, "anna", "b", {"kind": "gold"}),
        ],
    )
    with Store.open(fill(tmp_path / "labels.db", made)) as store:
        read = Snapshot.of(store)
        assert read == made
        assert read.standing == store.votes()
