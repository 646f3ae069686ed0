"""Counts of data add up, or say that they do not."""

from __future__ import annotations

from logratio.report.row_accounting import groups, single_counts, totals


def only(data):
    return [(group, total.name, total.adds_up) for group, total in totals(data)]


def test_rows_are_the_unusable_by_reason_and_the_usable():
    data = {"num_rows": 10, "unusable": {"EmptyAnswer": 2, "BadRoles": 1}, "num_usable": 7}
    ((_, total),) = totals(data)
    assert total.parts == (("EmptyAnswer", 2), ("BadRoles", 1), ("num_usable", 7))
    assert total.adds_up


def test_a_lost_row_is_seen():
    assert only({"num_rows": 10, "unusable": {"EmptyAnswer": 2}, "num_usable": 7}) == [
        ("", "num_rows", False)
    ]


def test_groups_are_summed_by_themselves():
    data = {
        "num_usable": 7,
        "train": 6,
        "held_out": 1,
        "labels": {
            "pairs_considered": 9,
            "labelled": 7,
            "identical": 1,
            "ties": 1,
            "empty": 0,
            "deeper": {"x": 1},
        },
    }
    assert only(data) == [("", "num_usable", True), ("labels", "pairs_considered", True)]
    assert [name for name, _ in groups(data)] == ["", "labels", "labels deeper"]


def test_a_total_without_all_its_parts_is_not_claimed():
    assert totals({"num_rows": 10, "num_usable": 7}) == []
    assert totals({}) == []


def test_single_counts_are_numbers_alone():
    assert single_counts({"a": 1, "b": "x", "c": True, "d": {"e": 1}, "f": 0.5}) == [("a", 1), ("f", 0.5)]
