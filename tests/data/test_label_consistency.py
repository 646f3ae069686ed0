"""What labels say about each other, and what length says about them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.data.label_consistency import compare_labels
from logratio.data.length_statistics import length_bias, quantiles
from logratio.records import Comparison, Completion, Prompt
from logratio.stats.wilson import wilson_interval


def votes(*pairs: str, prompt: str = "ask") -> list[Comparison]:
    """`votes("ab", "ba")`: a over b in row 1, b over a in row 2."""
    return [
        Comparison(
            prompt=Prompt(prompt),
            chosen=Completion(text=pair[0]),
            rejected=Completion(text=pair[1]),
            source=f"f:{row}",
        )
        for row, pair in enumerate(pairs, 1)
    ]


def rows(*numbers: int) -> list[int]:
    """Rows as they are counted in `votes`: from 1."""
    return [number - 1 for number in numbers]


def test_nothing_to_report():
    report = compare_labels(votes("ab", "bc", "ac", "cd"))
    assert (report.duplicates, report.contradictions, report.undecided, report.cycles) == ([], [], [], [])


def test_repeated_votes_are_found_in_either_direction():
    report = compare_labels(votes("ab", "dc", "ab", "dc", "ac"))
    assert sorted(report.duplicates) == [rows(1, 3), rows(2, 4)]
    assert report.contradictions == []


def test_a_tie_of_votes_is_undecided():
    report = compare_labels(votes("ab", "ac", "ba"))
    assert report.contradictions == report.undecided == [rows(1, 3)]


def test_a_majority_decides():
    report = compare_labels(votes("ba", "ab", "ba"))
    assert report.contradictions == [rows(1, 2, 3)]
    assert report.undecided == []
    assert report.duplicates == [rows(1, 3)]


def test_two_against_two_is_undecided():
    assert compare_labels(votes("ba", "ab", "ba", "ab")).undecided == [rows(1, 2, 3, 4)]


def test_answers_are_compared_within_their_prompt_only():
    other = [
        Comparison(prompt=Prompt("other"), chosen=row.chosen, rejected=row.rejected, source="g:1")
        for row in votes("ba")
    ]
    report = compare_labels(votes("ab") + other)
    assert (report.duplicates, report.contradictions) == ([], [])


def test_white_space_around_an_answer_makes_no_other_answer():
    first, second = votes("ab", "ba")
    spaced = Comparison(
        prompt=Prompt("ask "), chosen=Completion(text=" b\n"), rejected=second.rejected, source="f:2"
    )
    assert compare_labels([first, spaced]).undecided == [rows(1, 2)]


def test_a_cycle_is_found_with_its_rows_only():
    report = compare_labels(votes("ab", "bc", "ca", "ad", "ea"))
    assert report.cycles == [rows(1, 2, 3)]


def test_a_long_cycle_and_a_second_one_are_found():
    chain = "abcdefgh"
    pairs = [chain[place] + chain[(place + 1) % len(chain)] for place in range(len(chain))]
    report = compare_labels(votes(*pairs, "xy", "yz", "zx", "ax"))
    assert sorted(report.cycles) == [rows(*range(1, 9)), rows(9, 10, 11)]


def test_votes_without_a_majority_close_no_cycle():
    assert compare_labels(votes("ab", "bc", "ca", "ac")).cycles == []
    assert len(compare_labels(votes("ab", "bc", "ca", "ac", "ca")).cycles) == 1


def test_a_chain_of_thousands_needs_no_recursion():
    pairs = [chr(0x4E00 + n) + chr(0x4E01 + n) for n in range(5000)]
    assert compare_labels(votes(*pairs)).cycles == []
    closed = compare_labels(votes(*pairs, chr(0x4E00 + 5000) + chr(0x4E00)))
    assert len(closed.cycles[0]) == 5001


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(*[st.sampled_from("abcde")] * 2).filter(lambda pair: pair[0] != pair[1]), max_size=12
    )
)
def test_a_cycle_is_reported_exactly_when_the_majorities_have_no_order(pairs):
    words = ["".join(pair) for pair in pairs]
    edges = {word for word in words if words.count(word) > words.count(word[::-1])}
    reach = set(edges)
    for _ in "abcde":
        reach |= {one[0] + two[1] for one in reach for two in edges if one[1] == two[0]}
    assert bool(compare_labels(votes(*words)).cycles) is any(one[0] == one[1] for one in reach)


# --- lengths ---------------------------------------------------------------------------------------


def test_the_longer_wins():
    bias = length_bias([(5, 3), (5, 4), (3, 5), (4, 4), (9, 1)], unit="tokens")
    assert (bias.wins, bias.num_pairs, bias.ties, bias.accuracy) == (3, 4, 1, 0.75)
    assert (bias.low, bias.high) == wilson_interval(3, 4)
    assert bias.to_json()["accuracy"] == 0.75


def test_the_wilson_interval_solves_its_equation():
    for wins, n in ((3, 4), (50, 100), (0, 10), (10, 10), (999, 1000)):
        for end in wilson_interval(wins, n):
            assert (wins / n - end) ** 2 == pytest.approx(
                1.959963984540054**2 * end * (1 - end) / n, abs=1e-12
            )
    low, high = wilson_interval(50, 100)
    assert high - low == pytest.approx(2 * 0.09614, abs=2e-4)
    nothing = length_bias([], unit="tokens")
    assert (nothing.low, nothing.high) == (0.0, 1.0)


def test_quantiles_are_lengths_that_occur():
    assert quantiles([]) == {}
    assert quantiles([7]) == dict.fromkeys(("min", "25%", "50%", "75%", "95%", "max"), 7)
    assert list(quantiles(range(100, -1, -1)).values()) == [0, 25, 50, 75, 95, 100]
