"""The verdict claims what the interval allows, and nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.evaluation.verdict import as_percent, give_verdict
from logratio.evaluation.win_rate import WinRate, win_rate
from logratio.stats.bootstrap import Estimate

shares = st.floats(0, 1)


def rate(low: float, value: float, high: float, ties: int = 0) -> WinRate:
    return WinRate(
        value=value,
        low=low,
        high=high,
        n=128,
        wins=70,
        ties=ties,
        losses=58 - ties,
        method="wilson",
        confidence=0.95,
    )


@settings(derandomize=True, max_examples=300)
@given(st.lists(shares, min_size=3, max_size=3), st.lists(shares, min_size=3, max_size=3), st.booleans())
def test_nothing_is_claimed_when_the_interval_holds_one_half(plain, controlled, trained):
    low, value, high = sorted(plain)
    equal = dict(zip(("low", "value", "high"), sorted(controlled), strict=True))
    verdict = give_verdict(
        rate(low, value, high), judge="j", length_controlled=Estimate(**equal), trained_on_judge=trained
    )
    if low <= 0.5 <= high:
        assert verdict.outcome == "not shown"
        assert verdict.sentence.startswith("It is not shown that")
        assert " is better than" not in verdict.sentence
        assert " is worse than" not in verdict.sentence
    else:
        assert verdict.outcome == ("better" if low > 0.5 else "worse")
        assert f"The policy is {verdict.outcome} than the reference" in verdict.sentence
    assert "judged by j" in verdict.sentence


@settings(derandomize=True, max_examples=200)
@given(st.integers(0, 150), st.integers(0, 150), st.integers(0, 150))
def test_the_verdict_of_counts_follows_their_interval(wins, ties, losses):
    if wins + ties + losses == 0:
        return
    found = win_rate(
        [1.0] * wins + [0.0] * (ties + losses), [0.0] * (wins + ties) + [1.0] * losses, resamples=200
    )
    outcome = give_verdict(found, judge="j").outcome
    assert (outcome == "better") == (found.low > 0.5)
    assert (outcome == "worse") == (found.high < 0.5)
    if outcome != "not shown":
        assert (wins > losses) == (outcome == "better")


def test_the_sentence_says_what_a_reader_needs():
    sentence = give_verdict(rate(0.5234, 0.61, 0.6901, ties=3), judge="demo:sentiment").sentence
    assert sentence == (
        "The policy is better than the reference, judged by demo:sentiment: it wins 61.0 % of 128 prompts,"
        " 3 ties counted half (95 % interval 52.3 % to 69.0 %, all of it above one half)."
    )


def test_a_judge_that_was_trained_on_is_named_as_such():
    sentence = give_verdict(rate(0.52, 0.6, 0.7), judge="j", trained_on_judge=True).sentence
    assert "judged by j, which is also what it was trained towards" in sentence


@pytest.mark.parametrize(
    ("plain", "controlled", "words"),
    [
        ((0.52, 0.6, 0.68), (0.45, 0.53, 0.61), "which does not show it"),
        ((0.52, 0.6, 0.68), (0.30, 0.4, 0.49), "which would be a loss"),
        ((0.42, 0.5, 0.58), (0.51, 0.6, 0.68), "which would be a win"),
        ((0.60, 0.7, 0.78), (0.51, 0.58, 0.66), "length plays a part"),
    ],
)
def test_equal_length_is_mentioned_where_it_disagrees(plain, controlled, words):
    low, value, high = controlled
    estimate = Estimate(low=low, value=value, high=high)
    assert words in give_verdict(rate(*plain), judge="j", length_controlled=estimate).sentence


def test_equal_length_is_not_mentioned_where_it_agrees():
    estimate = Estimate(low=0.53, value=0.61, high=0.69)
    assert "length" not in give_verdict(rate(0.52, 0.6, 0.68), judge="j", length_controlled=estimate).sentence


def test_percent_never_rounds_a_claim_away():
    assert as_percent(0.5) == "50.0 %"
    assert as_percent(0.5004) == "50.04 %"
    assert as_percent(0.49996) == "49.996 %"
    assert re.fullmatch(r"61\.3 %", as_percent(0.6131))
