"""Each count on a set of answers that is known to be bad, and on one that is not."""

from __future__ import annotations

import pytest

from logratio.evaluation.text_statistics import (
    commonest_opening,
    distinct_n,
    eos_rate,
    mean_length,
    most_frequent,
    repetition,
    text_statistics,
    words,
)
from logratio.records import Completion

VARIED = ["The cat sat on the mat.", "A dog ran off!", "Rain falls in spring"]


def answer(text: str, *, tokens: int = 3, finish_reason="stop") -> Completion:
    return Completion(text=text, token_ids=tuple(range(tokens)), finish_reason=finish_reason)


def test_words_are_lower_case_and_marks_stand_alone():
    assert words("Don't stop, NOW!") == ["don", "'", "t", "stop", ",", "now", "!"]


def test_distinct_counts_by_hand():
    # a b a b: words {a, b} of 4, pairs {ab, ba} of 3, triples {aba, bab} of 2.
    assert [distinct_n(["a b a b"], n) for n in (1, 2, 3)] == pytest.approx([2 / 4, 2 / 3, 1.0])


def test_one_answer_to_everything_has_low_distinct():
    assert distinct_n(["so very good"] * 10, 2) == pytest.approx(0.1)
    assert distinct_n(VARIED, 2) == 1.0


def test_pairs_do_not_cross_answers():
    assert distinct_n(["a b", "c d"], 2) == 1.0
    assert distinct_n(["a", "b"], 2) is None
    assert distinct_n(["", " "], 1) is None


def test_a_loop_is_repetition_and_the_same_text_twice_is_not():
    assert repetition(["no " * 30]) == pytest.approx(1 - 1 / 28)
    assert repetition(VARIED) == 0.0
    assert repetition([VARIED[0], VARIED[0]]) == 0.0
    assert repetition(["no " * 30, "fine"]) == pytest.approx((1 - 1 / 28) / 2)


def test_answers_that_never_end():
    assert eos_rate([answer("a", finish_reason="length")] * 3 + [answer("b")]) == 0.25


def test_length_counts_tokens_with_the_end_token():
    assert mean_length([answer("a", tokens=4), answer("b", tokens=8)]) == 6.0
    with pytest.raises(ValueError, match="without its tokens"):
        mean_length([Completion(text="a")])


def test_one_opening_for_all():
    opening, share = commonest_opening(
        ["Great question! Yes.", "Great question! No.", "GREAT question! x", "Hm"]
    )
    assert (opening, share) == ("great question !", 0.75)


def test_the_same_answer_again_and_again():
    assert most_frequent(["yes", " yes", "no", "no", "yes ", "perhaps"]) == (("yes", 3), ("no", 2))
    assert most_frequent(VARIED) == ()


def test_all_together():
    found = text_statistics([answer("Yes."), answer("Yes."), answer("", tokens=1, finish_reason="length")])
    assert found.length == pytest.approx(7 / 3)
    assert found.eos_rate == pytest.approx(2 / 3)
    assert found.distinct_1 == 0.5
    assert found.empty_rate == pytest.approx(1 / 3)
    assert found.to_json()["most_frequent"] == [{"text": "Yes.", "count": 2}]
    with pytest.raises(ValueError, match="no answers"):
        text_statistics([])
