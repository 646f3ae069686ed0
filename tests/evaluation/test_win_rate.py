"""Win rates: published intervals, identities, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from logratio.evaluation.win_rate import choose_method, paired_outcomes, win_rate
from logratio.stats.wilson import wilson_interval


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: (0.61 + 0.019207) / 1.038415 ± 0.097490 / 1.038415.
        (61, 100, 0.5120, 0.6998),
    ],
)
def test_wilson_is_the_published_interval(wins, n, low, high):
    assert wilson_interval(wins, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_mirrors_and_stays_inside():
    low, high = wilson_interval(31.5, 80)
    assert wilson_interval(80 - 31.5, 80) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


@pytest.mark.parametrize(("wins", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(wins, n):
    with pytest.raises(ValueError, match="wins of"):
        wilson_interval(wins, n)


def test_ties_are_half():
    found = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 1.0])
    assert (found.wins, found.ties, found.losses, found.n) == (2, 1, 1, 4)
    assert found.value == 2.5 / 4
    assert (found.low, found.high) == wilson_interval(2.5, 4)
    assert found.method == "wilson"


def test_against_itself_it_is_one_half():
    rewards = np.random.default_rng(0).normal(size=200).tolist()
    found = win_rate(rewards, rewards)
    assert found.value == 0.5
    assert found.low < 0.5 < found.high
    assert found.ties == 200


def outcomes(wins: int, ties: int, losses: int) -> tuple[list[float], list[float]]:
    return [1.0] * wins + [0.0] * (ties + losses), [0.0] * (wins + ties) + [1.0] * losses


@pytest.mark.parametrize(
    ("counts", "method"),
    [
        ((60, 10, 58), "wilson"),  # 8 % of ties
        ((60, 20, 48), "bootstrap"),  # 16 %
        ((3, 2, 0), "wilson"),  # too few decided: the bootstrap would claim from three wins
        ((29, 99, 0), "wilson"),
        ((30, 98, 0), "bootstrap"),
    ],
)
def test_the_method_is_chosen_by_ties_and_decided_prompts(counts, method):
    rewards = outcomes(*counts)
    assert choose_method(paired_outcomes(*rewards)) == method
    assert win_rate(*rewards).method == method


def test_three_wins_and_two_ties_claim_nothing():
    assert win_rate(*outcomes(3, 2, 0)).low < 0.5
    assert win_rate(*outcomes(3, 2, 0), method="bootstrap").low > 0.5


def test_the_bootstrap_counts_the_smaller_variance_of_ties():
    rewards = outcomes(50, 64, 14)
    found = win_rate(*rewards)
    n, value = 128, (50 + 32) / 128
    variance = (50 + 64 / 4) / n - value**2
    assert found.high - found.low == pytest.approx(2 * 1.96 * (variance / n) ** 0.5, rel=0.05)
    wilson = win_rate(*rewards, method="wilson")
    assert found.high - found.low < 0.9 * (wilson.high - wilson.low)


@pytest.mark.parametrize(
    ("win", "tie"), [(0.5, 0.0), (0.55, 0.06), (0.4, 0.2), (0.55, 0.3), (0.25, 0.5), (0.9, 0.05), (0.05, 0.1)]
)
def test_the_interval_covers_the_true_rate(win, tie):
    truth, n, num_trials = win + tie / 2, 128, 600
    generator = np.random.default_rng(7)
    covered = 0
    for trial in range(num_trials):
        wins, ties, losses = generator.multinomial(n, [win, tie, 1 - win - tie]).tolist()
        found = win_rate(*outcomes(wins, ties, losses), resamples=600, seed=trial)
        covered += found.low <= truth <= found.high
    # 0.95, with two standard errors of 600 trials below it.
    assert covered / num_trials >= 0.93


@pytest.mark.parametrize(("tie", "n"), [(0.0, 128), (0.15, 128), (0.5, 128), (0.2, 45), (0.6, 80), (0.3, 10)])
def test_equal_models_are_rarely_told_apart(tie, n):
    generator = np.random.default_rng(11)
    claims = 0
    for trial in range(600):
        wins, ties, losses = generator.multinomial(n, [(1 - tie) / 2, tie, (1 - tie) / 2]).tolist()
        found = win_rate(*outcomes(wins, ties, losses), resamples=600, seed=trial)
        claims += found.low > 0.5 or found.high < 0.5
    assert claims / 600 <= 0.07


def test_different_numbers_of_rewards_are_refused():
    with pytest.raises(ValueError, match="zip"):
        win_rate([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="wins of"):
        win_rate([], [])
