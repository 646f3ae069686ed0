"""Coefficients against published examples, each with its fraction worked by hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.annotate.domain.agreement import (
    Proportion,
    agreement_rate,
    cohen_kappa,
    krippendorff_alpha,
    measure_agreement,
    opposite_rate,
)
from logratio.annotate.domain.smoothing import label_error, suggest_smoothing, verdict_error
from logratio.errors import TooFewLabels


def table(cells):
    """Two raters' categories from `{(first, second): number of items}`."""
    pairs = [pair for pair, count in cells.items() for _ in range(count)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def by_unit(*raters):
    """Ratings from a row of categories for each rater; a full stop is a missing value."""
    names = [f"rater {number}" for number in range(len(raters))]
    return {
        f"unit {unit}": {name: row[unit] for name, row in zip(names, raters, strict=True) if row[unit] != "."}
        for unit in range(len(raters[0]))
    }


def alpha_by_coincidences(ratings):
    """Krippendorff's own way, in fractions: a table of coincidences, entry by entry."""
    coincidences = {}
    for unit in ratings.values():
        for first, second in permutations(unit.values(), 2):
            cell = coincidences.get((first, second), Fraction(0))
            coincidences[first, second] = cell + Fraction(1, len(unit) - 1)
    marginals = {}
    for (first, _), count in coincidences.items():
        marginals[first] = marginals.get(first, Fraction(0)) + count
    n = sum(marginals.values())
    observed = sum(count for (first, second), count in coincidences.items() if first != second)
    expected = sum(marginals[one] * marginals[other] for one, other in permutations(marginals, 2))
    return None if expected == 0 else 1 - (n - 1) * observed / expected


# --- Cohen's kappa -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "exact"),
    [
        # The textbook table of 50 grant proposals, two readers, yes or no: p_o = 35/50,
        # p_e = 25/50 · 30/50 + 25/50 · 20/50 = 1/2, κ = (7/10 − 1/2) / (1/2).
        ({("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}, Fraction(2, 5)),
        # Two tables of equal raw agreement, as encyclopedias print them beside it (0.1304 and 0.2593):
        # κ = 0.06/0.46 and 0.14/0.54, since p_e = 0.6 · 0.7 + 0.4 · 0.3 and 0.6 · 0.3 + 0.4 · 0.7.
        ({("y", "y"): 45, ("y", "n"): 15, ("n", "y"): 25, ("n", "n"): 15}, Fraction(3, 23)),
        ({("y", "y"): 25, ("y", "n"): 35, ("n", "y"): 5, ("n", "n"): 35}, Fraction(7, 27)),
        # Cohen (1960), "A coefficient of agreement for nominal scales", table 1, proportions times 200:
        # p_o = 0.44 + 0.20 + 0.06, p_e = 0.6 · 0.5 + 0.3 · 0.3 + 0.1 · 0.2 = 0.41, κ = 0.492.
        (
            {
                **{("p", "p"): 88, ("p", "n"): 14, ("p", "s"): 18},
                **{("n", "p"): 10, ("n", "n"): 40, ("n", "s"): 10},
                **{("s", "p"): 2, ("s", "n"): 6, ("s", "s"): 12},
            },
            Fraction(29, 59),
        ),
    ],
)
def test_kappa_equals_published_examples(cells, exact):
    assert cohen_kappa(*table(cells)) == pytest.approx(float(exact), abs=1e-12)


def test_kappa_at_the_ends():
    assert cohen_kappa("aabb", "aabb") == 1.0
    assert cohen_kappa("aabb", "bbaa") == -1.0
    # One rater always says a, the other always b: nothing in common, and chance would give nothing either.
    assert cohen_kappa("aaaa", "bbbb") == 0.0


def test_kappa_of_one_category_is_undefined_not_a_number():
    assert cohen_kappa("aaa", "aaa") is None
    with pytest.raises(ValueError, match="nothing"):
        cohen_kappa([], [])
    with pytest.raises(ValueError, match="argument"):
        cohen_kappa("ab", "a")


# --- Krippendorff's alpha ----------------------------------------------------------------------------

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", in the order of his sections.
MEG_AND_OWEN = by_unit("0100000010", "1110010000")
BEN_AND_GERRY = by_unit("aabbdcccedda", "babbbccceddd")
FOUR_OBSERVERS = by_unit("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
# Another of his, with many missing values, that programs are often checked against.
THREE_CODERS = by_unit(".....34121133.3", "1.21334" + "3.......", "..2134" + "4.21133.4")


@pytest.mark.parametrize(
    ("ratings", "exact", "printed"),
    [
        # n = 20, n_0 = 14, n_1 = 6, four of ten units differ: 1 − 19 · 4 / (14 · 6) = 1 − 76/84.
        (MEG_AND_OWEN, Fraction(2, 21), 0.095),
        # n = 24, marginals 4 6 6 6 2, three of twelve units differ, so 6 coincidences off the diagonal:
        # 1 − 23 · 6 / (24² − (16 + 36 + 36 + 36 + 4)) = 1 − 138/448.
        (BEN_AND_GERRY, Fraction(155, 224), 0.692),
        # Unit 12 has one value and is left out: n = 40, marginals 9 13 10 5 3. All units agree but three: 2
        # (2 2 3 2: 6 of its 12 ordered pairs differ, over 3: 2), 6 (1 2 3 4: 12/3 = 4) and 8 (1 1 2 1: 2).
        # 1 − 39 · 8 / (1600 − (81 + 169 + 100 + 25 + 9)) = 1 − 312/1216.
        (FOUR_OBSERVERS, Fraction(113, 152), 0.743),
        # n = 26 in 12 units, marginals 7 4 10 5; three units differ: 3 3 4 (4/2 = 2), 1 3 and 3 4 (2 each).
        # 1 − 25 · 6 / (676 − (49 + 16 + 100 + 25)) = 1 − 150/486.
        (THREE_CODERS, Fraction(56, 81), 0.691),
    ],
)
def test_alpha_equals_published_examples(ratings, exact, printed):
    assert krippendorff_alpha(ratings) == pytest.approx(float(exact), abs=1e-12)
    assert alpha_by_coincidences({k: v for k, v in ratings.items() if len(v) > 1}) == exact
    assert round(float(exact), 3) == printed


def test_the_published_figure_with_missing_data():
    assert krippendorff_alpha(FOUR_OBSERVERS) == pytest.approx(0.743421052632, abs=1e-12)


def test_alpha_when_all_agree_is_one_and_of_one_category_is_undefined():
    assert krippendorff_alpha(by_unit("aabb", "aabb")) == 1.0
    assert krippendorff_alpha(by_unit("aaaa", "aaaa")) is None
    # A category that stands only where nobody else judged does not count.
    assert krippendorff_alpha(by_unit("aab", "aa.")) is None


def test_alpha_of_one_rater_or_of_nothing_is_undefined():
    assert krippendorff_alpha(by_unit("abab")) is None
    assert krippendorff_alpha({}) is None
    assert krippendorff_alpha({"unit": {}}) is None


ratings_of_three = st.lists(
    st.dictionaries(st.sampled_from(["ann", "ben", "eva"]), st.sampled_from(["a", "b", "tie"])),
    min_size=1,
    max_size=12,
).map(lambda units: {str(number): unit for number, unit in enumerate(units)})


@settings(max_examples=200, deadline=None)
@given(ratings_of_three)
def test_alpha_equals_the_table_of_coincidences(ratings):
    exact = alpha_by_coincidences({name: unit for name, unit in ratings.items() if len(unit) > 1})
    found = krippendorff_alpha(ratings)
    assert (found is None) == (exact is None)
    if exact is not None:
        assert found == pytest.approx(float(exact), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abt"), st.sampled_from("abt")), min_size=1, max_size=12))
def test_kappa_equals_its_definition_and_does_not_care_who_is_first(pairs):
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    n = len(pairs)
    observed = Fraction(sum(one == other for one, other in pairs), n)
    chance = sum(Fraction(first.count(one) * second.count(one), n * n) for one in "abt")
    exact = None if chance == 1 else (observed - chance) / (1 - chance)
    assert cohen_kappa(first, second) == cohen_kappa(second, first)
    assert cohen_kappa(first, second) == (None if exact is None else pytest.approx(float(exact), abs=1e-12))


# --- all of it together ------------------------------------------------------------------------------


def test_agreement_is_refused_under_twenty_pairs_and_names_the_number():
    with pytest.raises(TooFewLabels, match="there are 19") as caught:
        measure_agreement(by_unit("ab" * 9 + "a" + "aaaa", "ab" * 9 + "a" + "...."))
    assert "--votes-per-pair 2" in caught.value.action
    assert measure_agreement(by_unit("ab" * 10, "ab" * 10)).num_overlapping == 20


def test_one_rater_is_refused_not_measured():
    with pytest.raises(TooFewLabels, match="there are 0"):
        measure_agreement(by_unit("ab" * 30))


def test_two_raters():
    found = measure_agreement(by_unit("a" * 20 + "b" * 5 + "a" * 10 + "b" * 15, "a" * 25 + "b" * 25))
    assert (found.num_overlapping, found.num_ratings) == (50, 100)
    assert (found.raw.count, found.raw.total, found.raw.value) == (35, 50, 0.7)
    assert found.opposite == Proportion.of(15, 50)
    (two,) = found.between
    assert (two.first, two.second, two.num_common, two.num_same, two.num_opposite) == (
        *("rater 0", "rater 1"),
        *(50, 35, 15),
    )
    assert two.kappa.value == pytest.approx(0.4, abs=1e-12)
    assert two.kappa.low < 0.4 < two.kappa.high
    assert found.alpha.low < found.alpha.value < found.alpha.high


def test_the_bootstrap_is_near_the_large_sample_interval_of_kappa():
    """Fleiss, Cohen and Everitt (1969): the standard error of κ of the 50 proposals is 0.1270."""
    found = measure_agreement(by_unit("a" * 20 + "b" * 5 + "a" * 10 + "b" * 15, "a" * 25 + "b" * 25))
    kappa = found.between[0].kappa
    assert (kappa.high - kappa.low) / (2 * 1.96) == pytest.approx(0.1270, rel=0.07)


def test_the_same_seed_gives_the_same_interval_and_another_seed_a_near_one():
    ratings = by_unit("abt" * 10 + "aab" * 10, "abt" * 10 + "bab" * 10)
    assert measure_agreement(ratings, seed=3) == measure_agreement(ratings, seed=3)
    one, other = (measure_agreement(ratings, seed=seed).alpha for seed in (0, 1))
    assert one.value == other.value
    assert 0 < abs(one.low - other.low) < 0.05


def test_all_agree_has_no_interval_from_resampling_but_one_of_raw_agreement():
    found = measure_agreement(by_unit("ab" * 15, "ab" * 15))
    assert (found.alpha.value, found.alpha.low, found.alpha.high) == (1.0, None, None)
    assert "nobody disagreed" in found.alpha.reason
    # Wilson at n of n: n / (n + z²).
    assert (found.raw.value, found.raw.high) == (1.0, 1.0)
    assert found.raw.low == pytest.approx(30 / (30 + 1.959964**2), abs=1e-6)


def test_one_category_is_said_to_be_undefined():
    found = measure_agreement(by_unit("a" * 30, "a" * 30))
    for coefficient in (found.alpha, found.between[0].kappa):
        assert coefficient.value is None
        assert coefficient.low is None
        assert "undefined" in coefficient.reason
    assert found.raw.value == 1.0


def test_resamples_of_one_category_take_the_interval_away():
    found = measure_agreement(by_unit("a" * 29 + "a", "a" * 29 + "b"))
    assert found.alpha.value == pytest.approx(float(1 - Fraction(59 * 2, 60**2 - 59**2 - 1)))
    assert found.alpha.low is None
    assert "one category" in found.alpha.reason


def test_two_of_three_with_few_pairs_in_common_are_counted_not_measured():
    found = measure_agreement(by_unit("ab" * 15, "ab" * 15, "ab" * 3 + "." * 24))
    assert [(two.first, two.second, two.num_common) for two in found.between] == [
        ("rater 0", "rater 1", 30),
        ("rater 0", "rater 2", 6),
        ("rater 1", "rater 2", 6),
    ]
    for two in found.between[1:]:
        assert two.raw is None
        assert two.kappa.value is None
        assert two.kappa.reason == "6 pairs in common, 20 are needed"


def test_raters_of_different_pairs_are_not_compared():
    left, right = "ab" * 10, "." * 20
    found = measure_agreement(by_unit(left + right, left + right, right + left, right + left))
    assert len(found.between) == 2


def test_shares_weigh_every_pair_the_same():
    # Three raters, two of whom agree: one of three pairs of raters. A tie is no side.
    ratings = {"1": {"x": "a", "y": "a", "z": "b"}, "2": {"x": "a", "y": "tie"}, "3": {"x": "a"}}
    assert agreement_rate(ratings).value == pytest.approx((1 / 3 + 0) / 2)
    assert opposite_rate(ratings).value == pytest.approx(2 / 3)
    assert opposite_rate(ratings).total == 1
    assert agreement_rate({"3": {"x": "a"}}) is None
    assert opposite_rate({"2": {"x": "a", "y": "tie"}}) is None


# --- label smoothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disagreement", "error"),
    # 2 · 0.1 · 0.9 = 0.18; 2 · 0.25 · 0.75 = 0.375; coins: 1/2.
    [(0.0, 0.0), (0.18, 0.1), (0.375, 0.25), (0.5, 0.5)],
)
def test_the_error_of_a_verdict_by_hand(disagreement, error):
    assert verdict_error(disagreement) == pytest.approx(error, abs=1e-12)


@given(st.floats(0, 0.5))
def test_the_error_of_a_verdict_turns_back(error):
    assert verdict_error(2 * error * (1 - error)) == pytest.approx(error, abs=1e-7)


def test_more_disagreement_than_coins_has_no_error():
    assert verdict_error(0.6) is None
    with pytest.raises(ValueError, match=r"1\.5"):
        verdict_error(1.5)


def test_a_majority_is_wrong_more_seldom_than_a_verdict():
    assert label_error(0.1, 1) == pytest.approx(0.1)
    # Two for and none against: both wrong 0.01, both right 0.81.
    assert label_error(0.1, 2) == pytest.approx(0.01 / 0.82)
    assert label_error(0.0, 3) == 0.0


def test_the_suggestion():
    measured = Proportion.of(18, 100)
    assert suggest_smoothing(measured, [1, 1, 1]).value == pytest.approx(0.1)
    assert suggest_smoothing(measured, [1, 2]).value == pytest.approx((0.1 + 0.01 / 0.82) / 2)
    assert suggest_smoothing(measured, []).value == pytest.approx(0.1)
    assert "18.0% of 100 pairs" in suggest_smoothing(measured, [1]).reason
    assert "majorities" not in suggest_smoothing(measured, [1]).reason
    assert "these labels with chance 0.056" in suggest_smoothing(measured, [1, 2]).reason
    assert suggest_smoothing(Proportion.of(0, 40), [1]).value == 0.0


def test_no_suggestion_without_twenty_pairs_or_beyond_coins():
    few = suggest_smoothing(Proportion.of(3, 19), [1])
    assert (few.value, few.verdict_error) == (None, None)
    assert "19 pairs" in few.reason
    assert suggest_smoothing(None, [1]).reason.startswith("0 pairs")
    for count in (20, 30):
        coins = suggest_smoothing(Proportion.of(count, 40), [1])
        assert coins.value is None
        assert "coins" in coins.reason
