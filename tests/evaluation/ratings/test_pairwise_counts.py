"""Outcomes into counts: units, what is left out, what is refused."""

from __future__ import annotations

import pytest

from logratio.errors import TooFewLabels, WrongType
from logratio.evaluation.ratings.pairwise_counts import ITSELF, MAX_MODELS, PairOutcome, count_outcomes, short


def outcome(first="a", second="b", result="first", **more):
    return PairOutcome(first=first, second=second, result=result, **more)


def test_outcomes_become_cells():
    tally = count_outcomes(
        [
            outcome(),
            outcome(count=4),
            outcome(result="second"),
            outcome("b", "a", "tie"),
            outcome("a", "b", "both-bad", count=2),
            outcome("b", "c", count=0),
        ]
    )
    assert tally.models == ("a", "b", "c")
    assert tally.units == {((0, 1, False),): 5, ((1, 0, False),): 1, ((0, 1, True),): 3}
    assert (tally.num_comparisons, tally.num_units, tally.both_bad) == (9, 9, 2)
    assert not tally.has_shared_units
    assert tally.left_out == {}


def test_units_that_hold_the_same_are_kept_once():
    tally = count_outcomes(
        [
            outcome(unit="p1"),
            outcome(unit="p2", result="tie"),
            outcome(unit="p1", result="tie"),
            outcome(unit="p2"),
            outcome(unit="p3"),
            outcome(),
        ]
    )
    assert tally.units == {((0, 1, False), (0, 1, True)): 2, ((0, 1, False),): 2}
    assert (tally.num_comparisons, tally.num_units) == (6, 4)
    assert tally.has_shared_units


def test_a_model_with_itself_is_left_out_and_counted():
    rows = [outcome(), outcome("c", "c", source="f:7"), outcome("a", "a", "tie", count=3, source="f:9")]
    tally = count_outcomes(rows, left_out={"skipped": 2, "flagged": 0})
    assert tally.left_out == {"skipped": 2, ITSELF: 4}
    assert tally.first_left_out == {ITSELF: "f:7"}
    assert tally.only_itself == ("c",)
    assert tally.models == ("a", "b")
    assert tally.num_comparisons == 1


def test_one_model_or_none_is_refused():
    with pytest.raises(
        TooFewLabels, match=r"one model alone, 'x', .*left out: 2 a model with itself"
    ) as caught:
        count_outcomes([outcome("x", "x", source="f:2"), outcome("x", "x")])
    assert caught.value.where == "f:2"
    with pytest.raises(TooFewLabels, match=r"no comparison of two models \(left out: 3 skipped\)"):
        count_outcomes([], left_out={"skipped": 3})
    with pytest.raises(TooFewLabels, match="no comparison of two models"):
        count_outcomes([outcome("x", "x"), outcome("y", "y")])


def test_a_column_that_is_not_of_models_is_refused_before_it_fills_the_memory():
    def endless():
        number = 0
        while True:
            number += 1
            yield outcome(f"id {number}", "b", source=f"f:{number}")

    with pytest.raises(WrongType, match=f"more than {MAX_MODELS} different names") as caught:
        count_outcomes(endless())
    assert caught.value.where == f"f:{MAX_MODELS}"


def test_more_comparisons_than_anybody_made_are_refused():
    rows = [outcome(count=10**9)] * 1001
    with pytest.raises(WrongType, match="more than 1,000,000,000,000"):
        count_outcomes(rows)


def test_short():
    assert short("a\x1b[2J\u202e") == r"'a\x1b[2J\u202e'"
    assert len(short("x" * 1000)) == 42
