"""Ratings: published strengths, intervals against identities and simulation, what is refused and said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from logratio.errors import BadConfig, TooFewLabels
from logratio.evaluation.ratings import rating as module
from logratio.evaluation.ratings.pairwise_counts import ITSELF, PairOutcome, Resampler, count_outcomes
from logratio.evaluation.ratings.rating import rate, win_chance
from logratio.evaluation.ratings.records import ELO, notes
from logratio.stats.strengths import fit_strengths

# The American League's eastern division in 1987: how often the row's team beat the column's, of 13 games each
# (Agresti, Categorical Data Analysis, the chapter on matched pairs).
TEAMS = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
GAMES = [
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
]
# choix 0.4.1, ilsr_pairwise(7, games, tol=1e-12), of mean 0.
CHOIX = [
    0.5311533406521277,
    0.38620589580324705,
    0.24428258790252386,
    0.19741530913212904,
    0.05749516936936071,
    -0.36634976685004295,
    -1.0502025360093457,
]
# Standard errors against Baltimore, as the R package BradleyTerry2 prints them for the same games.
ERRORS = [0.3433, 0.3396, 0.3367, 0.3359, 0.3339, 0.3319]


def season():
    return count_outcomes(
        PairOutcome(first=TEAMS[i], second=TEAMS[j], result="first", count=number)
        for i, row in enumerate(GAMES)
        for j, number in enumerate(row)
    )


def games(text):
    """`ab` is a win of a over b, `a=b` a tie, `a~b` both bad."""
    words = {"=": "tie", "~": "both-bad"}
    return count_outcomes(
        PairOutcome(first=one[0], second=one[-1], result=words.get(one[1], "first"), source=f"f:{place}")
        for place, one in enumerate(text.split(), start=1)
    )


LINKED = "ab ba bc cb ab ac ca a=b b=c bc ab ba ac ca cb bc"


def by_name(ratings):
    return {one.model: one for one in ratings.ratings}


def test_strengths_equal_choix():
    found = rate(season(), resamples=0)
    assert [one.model for one in found.ratings] == TEAMS
    assert [one.strength for one in found.ratings] == pytest.approx(CHOIX, abs=1e-9)
    assert (found.ratings[0].wins, found.ratings[0].losses, found.ratings[0].ties) == (50, 28, 0)
    assert found.wins == tuple(map(tuple, GAMES))
    assert found.tie_parameter is None


def test_differences_and_their_errors_equal_the_published():
    found = rate(season(), resamples=0, baseline="Baltimore")
    assert [one.first for one in found.to_baseline] == TEAMS[:-1]
    errors = [one.standard_error for one in found.to_baseline]
    assert errors == pytest.approx(ERRORS, abs=5e-5)
    first = found.to_baseline[0]
    assert first.difference == pytest.approx(1.5814, abs=5e-5)
    assert first.interval == pytest.approx(
        (first.difference - 1.959964 * errors[0], first.difference + 1.959964 * errors[0]), abs=1e-6
    )
    assert first.is_clear
    assert [(one.first, one.second) for one in found.to_next][:2] == [
        ("Milwaukee", "Detroit"),
        ("Detroit", "Toronto"),
    ]
    assert not found.to_next[0].is_clear
    assert sum(one.difference for one in found.to_next) == pytest.approx(first.difference, abs=1e-12)


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper", "half"])
def test_ratings_are_those_of_the_fit(ties):
    tally = games(LINKED)
    found = rate(tally, ties=ties, resamples=0)
    wins = torch.tensor([[0.0, 3, 2], [2, 0, 3], [2, 2, 0]], dtype=torch.float64)
    tied = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)
    fitted = fit_strengths(wins, ties=tied, tie_model=ties)
    rows = by_name(found)
    assert [rows[name].strength for name in "abc"] == pytest.approx(fitted.strengths.tolist(), abs=1e-14)
    assert [rows[name].standard_error for name in "abc"] == pytest.approx(
        fitted.standard_errors.tolist(), rel=1e-13
    )
    assert found.tie_parameter == fitted.tie_parameter
    assert found.log_likelihood == fitted.log_likelihood


def test_half_ties_are_as_if_all_was_played_twice():
    doubled = " ".join(one for one in LINKED.split() if "=" not in one)
    doubled = f"{doubled} {doubled} ab ba bc cb"
    halves, plain = rate(games(LINKED), ties="half", resamples=0), rate(games(doubled), resamples=0)
    assert [one.strength for one in halves.ratings] == pytest.approx(
        [one.strength for one in plain.ratings], abs=1e-12
    )


def test_the_elo_scale_has_odds_of_ten_to_one_at_400():
    tally = count_outcomes(
        [
            PairOutcome(first="a", second="b", result="first", count=10),
            PairOutcome(first="b", second="a", result="first"),
        ]
    )
    contrast = rate(tally, resamples=0).to_next[0].to_json()
    assert contrast["elo"] == pytest.approx(400, abs=1e-9)
    assert contrast["win_chance"] == pytest.approx(10 / 11, abs=1e-13)
    assert pytest.approx(173.7177927613) == ELO


def test_win_chance_is_that_of_the_model():
    assert win_chance(1.0, ties="davidson", parameter=0.7) == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-14)
    # Rao and Kupper: p/(p + θq) against q/(q + θp).
    p, q, theta = math.exp(0.8), 1.0, 1.6
    first, second = p / (p + theta * q), q / (q + theta * p)
    found = win_chance(0.8, ties="rao-kupper", parameter=theta)
    assert found == pytest.approx(first / (first + second), rel=1e-14)
    assert win_chance(0.8, ties="rao-kupper", parameter=None) == pytest.approx(p / (p + q), rel=1e-14)
    assert win_chance(5000.0, ties="davidson", parameter=None) == 1.0
    assert win_chance(-5000.0, ties="davidson", parameter=None) < 1e-300


# --- the bootstrap ----------------------------------------------------------------------------------


def test_the_bootstrap_is_one_over_comparisons():
    """A resample by hand: comparisons drawn one by one from the list; the intervals' ends agree closely."""
    rows = [
        (i, j) for i, row in enumerate(GAMES[:3]) for j, number in enumerate(row[:3]) for _ in range(number)
    ]
    tally = count_outcomes(PairOutcome(first=TEAMS[i], second=TEAMS[j], result="first") for i, j in rows)
    found = by_name(rate(tally, resamples=500, seed=1))
    generator, draws = np.random.default_rng(7), []
    for _ in range(500):
        wins = np.zeros((3, 3))
        for place in generator.integers(len(rows), size=len(rows)):
            wins[rows[place]] += 1
        draws.append(fit_strengths(torch.from_numpy(wins)).strengths.numpy())
    ends = np.quantile(np.array(draws), [0.025, 0.975], axis=0).T
    for team, (low, high) in zip(TEAMS, ends, strict=False):
        assert found[team].bootstrap == pytest.approx((low, high), abs=0.12)


def test_with_many_comparisons_both_intervals_agree():
    tally = count_outcomes(
        PairOutcome(first=TEAMS[i], second=TEAMS[j], result="first", count=100 * number)
        for i, row in enumerate(GAMES)
        for j, number in enumerate(row)
    )
    found = rate(tally, resamples=500, baseline="Boston")
    for one in (*found.ratings, *found.to_next, *found.to_baseline):
        width = one.interval[1] - one.interval[0]
        assert one.bootstrap == pytest.approx(one.interval, abs=0.15 * width)


def test_the_seed_and_nothing_else_decides_the_draws():
    words = LINKED.split()
    first = rate(games(LINKED), resamples=150, seed=3)
    again = rate(games(" ".join(reversed(words))), resamples=150, seed=3)
    assert first.to_json() == again.to_json()
    other = rate(games(LINKED), resamples=150, seed=4)
    assert other.ratings[0].bootstrap != first.ratings[0].bootstrap
    assert other.ratings[0].interval == first.ratings[0].interval


def test_contrasts_are_drawn_together():
    """The interval of a difference comes from differences, not from two intervals."""
    found = rate(season(), resamples=300, baseline="Detroit")
    to_next, to_baseline = found.to_next[0], found.to_baseline[0]
    assert (to_next.first, to_next.second) == (to_baseline.first, to_baseline.second)
    assert to_next == to_baseline
    rows = by_name(found)
    apart = rows["Milwaukee"].bootstrap[1] - rows["Detroit"].bootstrap[0]
    assert to_next.bootstrap[1] < apart


def test_resamples_that_are_not_linked_are_counted_and_said():
    found = rate(games("ab ba bc cb ac a=c"), resamples=100, seed=0)
    counts = found.resamples
    assert counts.fitted == counts.requested == 100
    assert counts.drawn_again["not linked"] > 20
    text = " ".join(notes(found))
    assert f"{counts.drawn_again['not linked']} not linked" in text
    assert "too narrow" in text
    assert found.to_json()["resamples"]["drawn_again"] == counts.drawn_again
    endless = rate(games("ab ab ba a=b a=b"), resamples=100, seed=0).resamples
    assert endless.drawn_again["no finite tie parameter"] > 20
    assert endless.fitted == 100


def test_too_few_linked_resamples_give_no_interval(monkeypatch):
    monkeypatch.setattr(module, "MAX_DRAWS_EACH", 2)
    chain = "ab ba bc cb cd dc de ed ef fe"
    found = rate(games(chain), resamples=100, seed=0)
    assert found.resamples.fitted < 100
    assert {one.bootstrap for one in (*found.ratings, *found.to_next)} == {None}
    assert found.tie_bootstrap is None
    assert any("no interval by bootstrap" in note for note in notes(found))
    assert all(one.interval[0] < one.interval[1] for one in found.ratings)


def test_a_resample_without_ties_has_the_parameter_that_means_none():
    rare = " ".join(["ab ba bc cb ac ca"] * 4) + " a=b"
    for model, none in (("davidson", 0.0), ("rao-kupper", 1.0)):
        found = rate(games(rare), ties=model, resamples=150, seed=0)
        assert found.tie_bootstrap[0] == none
        assert found.tie_bootstrap[0] < found.tie_parameter < found.tie_bootstrap[1]
    assert rate(games(rare), ties="half", resamples=150).tie_bootstrap is None


def test_all_verdicts_on_a_pair_are_drawn_together():
    """Five people who always agree say no more than one: the bootstrap's interval is as wide as of one."""

    def verdicts(people):
        return count_outcomes(
            PairOutcome(first="a", second="b", result="first" if pair % 3 else "second", unit=str(pair))
            for pair in range(90)
            for _ in range(people)
        )

    one, five = (rate(verdicts(people), resamples=400, seed=0) for people in (1, 5))
    assert five.resamples.unit == "pairs"
    assert one.resamples.unit == "comparisons"
    assert five.ratings[0].bootstrap == pytest.approx(one.ratings[0].bootstrap, abs=1e-9)
    widths = [ratings.ratings[0].interval[1] - ratings.ratings[0].interval[0] for ratings in (one, five)]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(5), rel=1e-9)
    assert any("too narrow where people agree" in note for note in notes(five))
    assert notes(one) == []


def test_resampler_counts_everything_and_keeps_the_number_of_units():
    resampler = Resampler(games(LINKED))
    wins, ties = resampler.everything()
    assert wins.tolist() == [[0, 3, 2], [2, 0, 3], [2, 2, 0]]
    assert ties.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    generator = np.random.default_rng(0)
    means = np.zeros((2, 3, 3))
    for _ in range(4000):
        drawn = np.array(resampler.draw(generator))
        assert drawn[0].sum() + drawn[1].sum() / 2 == 16
        means += drawn / 4000
    assert means == pytest.approx(np.array([wins, ties]), abs=0.13)


# --- what is refused --------------------------------------------------------------------------------


def test_models_that_never_met_are_refused_with_their_groups():
    with pytest.raises(TooFewLabels, match="2 groups that were never compared with each other") as caught:
        rate(games("ab ba cd dc ce ec"))
    assert "group 1: 'c', 'd', 'e'\n" in caught.value.what
    assert caught.value.what.endswith("group 2: 'a', 'b'")
    assert "compare models of different groups" in caught.value.action


def test_models_that_never_lost_are_refused_with_what_they_won():
    with pytest.raises(TooFewLabels, match="3 groups that are not linked by wins both ways") as caught:
        rate(games("ab ba ca ca cb ad bd"))
    lines = [line.strip() for line in caught.value.what.splitlines()[1:]]
    assert lines == [
        "group 1: 'a', 'b': won all 2 against some groups, lost all 3 against others",
        "group 2: 'c': won all 3 against the others",
        "group 3: 'd': lost all 2 against the others",
    ]
    assert "a tie links both ways" in caught.value.action


def test_many_groups_are_not_all_listed():
    chain = " ".join(f"{a}{b}" for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    with pytest.raises(TooFewLabels, match="10 groups") as caught:
        rate(games(chain))
    assert "and 4 groups more" in caught.value.what
    wide = " ".join(f"{name}z z{name}" for name in "abcdefgh")
    with pytest.raises(TooFewLabels, match=r"'a', 'b', 'c', 'd', 'e' and 4 more"):
        rate(games(f"{wide} xy yx"))


def test_ties_without_a_finite_parameter_are_refused():
    with pytest.raises(TooFewLabels, match="no finite maximum") as caught:
        rate(games("ab a=b"))
    assert "--ties half" in caught.value.action
    assert rate(games("ab a=b"), ties="half", resamples=0).ratings[0].model == "a"


def test_a_fit_that_does_not_arrive_is_a_named_fault(monkeypatch):
    def lost(*args, **settings):
        raise ArithmeticError("no maximum after 200 Newton steps")

    monkeypatch.setattr(module, "fit_strengths", lost)
    with pytest.raises(TooFewLabels, match="rounding hides the maximum"):
        rate(games("ab ba"))


def test_settings_are_checked():
    for settings, where in (
        ({"resamples": -1}, "--bootstrap"),
        ({"resamples": 5}, "--bootstrap"),
        ({"resamples": 10**7}, "--bootstrap"),
        ({"seed": -1}, "--seed"),
        ({"baseline": "nobody\x1b[2J"}, "--baseline"),
    ):
        with pytest.raises(BadConfig) as caught:
            rate(games("ab ba"), **settings)
        assert caught.value.where == where
        assert "\x1b" not in str(caught.value)
    assert "'a', 'b'" in caught.value.action


def test_hostile_names_are_quoted_in_faults():
    outcome = PairOutcome(first="\x1b[31mred\u202e", second="=cmd()", result="first")
    with pytest.raises(TooFewLabels) as caught:
        rate(count_outcomes([outcome]))
    text = str(caught.value)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"'\x1b[31mred\u202e'" in text
    assert "'=cmd()'" in text


def test_huge_counts():
    tally = count_outcomes(
        [
            PairOutcome(first="a", second="b", result="first", count=10**9),
            PairOutcome(first="b", second="a", result="first", count=10**9 // 10),
        ]
    )
    found = rate(tally, resamples=100)
    assert found.to_next[0].to_json()["elo"] == pytest.approx(400, abs=1e-6)
    assert found.to_next[0].bootstrap == pytest.approx(found.to_next[0].interval, abs=1e-4)
    assert found.ratings[0].wins == 10**9


def test_what_is_written_adds_up_and_is_json():
    tally = games(LINKED + " a~b cc")
    found = rate(tally, resamples=100).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    counts = found["counts"]
    assert counts == {
        "comparisons": 17,
        "decided": 14,
        "ties": 3,
        "both_bad": 1,
        "left_out": {ITSELF: 1},
    }
    assert sum(one["wins"] for one in found["models"]) == sum(one["losses"] for one in found["models"]) == 14
    assert sum(one["ties"] for one in found["models"]) == 2 * counts["ties"]
    assert found["notes"][0] == "1 times both answers were called bad; that counts as a tie."
    assert found["notes"][1] == f"1 left out: {ITSELF} (the first at f:18)."
    assert abs(sum(one["strength"] for one in found["models"])) < 1e-12


def test_the_callback_counts_fits():
    fits = []
    rate(games(LINKED), resamples=100, on_fit=lambda: fits.append(1))
    assert len(fits) == 100
