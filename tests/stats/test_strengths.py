"""Strengths from comparisons: closed forms of two items, other algorithms, intervals, what is refused."""

import math
from itertools import product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from logratio.stats import strengths
from logratio.stats.strengths import NotConnectedError, fit_strengths, linked_groups
from logratio.verify.worlds import ranking

CIRCLE = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def counts(table):
    return torch.tensor(table, dtype=torch.float64)


def tournament(items=6, *, seed=0, most=30):
    """Random wins of every pair, at least one each way."""
    generator = torch.Generator().manual_seed(seed)
    wins = torch.randint(1, most, (items, items), generator=generator).double()
    return wins - wins.diagonal().diag()


def draws(items=6, *, seed=0, most=10):
    ties = tournament(items, seed=seed + 100, most=most).triu(1)
    return ties + ties.T


def test_two_items_hand_worked():
    """3 to 1: odds of 3, a difference of ln 3; the information is 4·¾·¼, so its error is √(4/3)."""
    fitted = fit_strengths(counts([[0.0, 3.0], [1.0, 0.0]]))
    half = math.log(3) / 2
    assert fitted.strengths.tolist() == pytest.approx([half, -half], abs=1e-14)
    difference, error = fitted.contrast(0, 1)
    assert difference == pytest.approx(math.log(3), abs=1e-14)
    assert error == pytest.approx(math.sqrt(4 / 3), rel=1e-13)
    assert fitted.standard_errors.tolist() == pytest.approx([error / 2, error / 2], rel=1e-13)
    assert fitted.contrast(1, 1) == (0, 0)
    assert fitted.tie_parameter is None
    assert fitted.log_likelihood == pytest.approx(3 * math.log(0.75) + math.log(0.25), rel=1e-14)
    assert 0 < fitted.iterations < 10


def test_two_items_with_ties_have_a_closed_form():
    """5 wins, 2 defeats, 3 ties: two free parameters, so the chances are the shares ½, ⅕ and 3/10."""
    wins, ties = counts([[0.0, 5.0], [2.0, 0.0]]), counts([[0.0, 3.0], [3.0, 0.0]])
    davidson = fit_strengths(wins, ties=ties)
    assert davidson.contrast(0, 1)[0] == pytest.approx(math.log(5 / 2), abs=1e-12)
    assert davidson.tie_parameter == pytest.approx(3 / math.sqrt(10), abs=1e-12)
    rao_kupper = fit_strengths(wins, ties=ties, tie_model="rao-kupper")
    # From p/(p + θq) = ½ and q/(q + θp) = ⅕: p/q = θ and θ p/q = 4.
    assert rao_kupper.contrast(0, 1)[0] == pytest.approx(math.log(2), abs=1e-12)
    assert rao_kupper.tie_parameter == pytest.approx(2, abs=1e-12)
    shares = 5 * math.log(0.5) + 2 * math.log(0.2) + 3 * math.log(0.3)
    assert davidson.log_likelihood == pytest.approx(shares, rel=1e-13)
    assert rao_kupper.log_likelihood == pytest.approx(shares, rel=1e-13)
    half = fit_strengths(wins, ties=ties, tie_model="half")
    assert half.contrast(0, 1)[0] == pytest.approx(math.log(6.5 / 3.5), abs=1e-12)
    assert half.tie_parameter is None


@pytest.mark.parametrize("seed", range(4))
def test_newton_agrees_with_hunter_and_newman(seed):
    wins = tournament(seed=seed)
    ours = fit_strengths(wins).strengths.tolist()
    assert ours == pytest.approx(ranking.hunter(wins.tolist()), abs=1e-9)
    assert ours == pytest.approx(ranking.newman(wins.tolist()), abs=1e-9)


def test_every_item_wins_as_often_as_expected():
    wins = tournament(seed=9)
    s = fit_strengths(wins).strengths
    expected = ((wins + wins.T) * (s[:, None] - s[None]).sigmoid()).sum(dim=1)
    expected -= (wins + wins.T).diagonal() / 2
    torch.testing.assert_close(expected, wins.sum(dim=1), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("model", ["davidson", "rao-kupper"])
def test_ties_reach_the_maximum_of_the_likelihood_written_out(model):
    wins, ties = tournament(5, seed=3), draws(5, seed=3)
    fitted = fit_strengths(wins, ties=ties, tie_model=model)

    def likelihood(point):
        return ranking.tie_log_likelihood(point, wins.tolist(), ties.tolist(), model=model)

    highest = ranking.climb(likelihood, torch.zeros(6, dtype=torch.float64))
    assert fitted.strengths.tolist() == pytest.approx((highest[:-1] - highest[:-1].mean()).tolist(), abs=1e-6)
    parameter = highest[-1].exp().item() + (model == "rao-kupper")
    assert fitted.tie_parameter == pytest.approx(parameter, abs=1e-6)
    assert fitted.log_likelihood == pytest.approx(likelihood(highest).item(), rel=1e-12)
    covariance = torch.linalg.pinv(ranking.curvature(likelihood, highest), hermitian=True)[:-1, :-1]
    torch.testing.assert_close(fitted.covariance, covariance, rtol=1e-6, atol=1e-8)


def test_covariance():
    """The pseudo-inverse of the information; twice the games, half of it."""
    wins = tournament(seed=5)
    fitted = fit_strengths(wins)

    def likelihood(s):
        chance = (s[:, None] - s[None]).sigmoid()
        return (wins * chance.log()).sum()

    information = ranking.curvature(likelihood, fitted.strengths)
    torch.testing.assert_close(
        fitted.covariance, torch.linalg.pinv(information, hermitian=True), rtol=1e-9, atol=1e-12
    )
    assert fitted.covariance.sum(dim=1).abs().max() < 1e-15
    torch.testing.assert_close(
        fit_strengths(2 * wins).covariance, fitted.covariance / 2, rtol=1e-9, atol=1e-14
    )
    i, j = 1, 4
    expected = fitted.covariance[i, i] + fitted.covariance[j, j] - 2 * fitted.covariance[i, j]
    assert fitted.contrast(i, j)[1] == pytest.approx(math.sqrt(expected.item()), rel=1e-14)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.permutations(range(5)), st.integers(0, 1_000), st.sampled_from(["davidson", "rao-kupper", "half"]))
def test_names_do_not_matter(order, seed, model):
    wins, ties = tournament(5, seed=seed), draws(5, seed=seed)
    order = list(order)
    fitted = fit_strengths(wins, ties=ties, tie_model=model)
    renamed = fit_strengths(wins[order][:, order], ties=ties[order][:, order], tie_model=model)
    torch.testing.assert_close(renamed.strengths, fitted.strengths[order], rtol=0.0, atol=1e-10)
    torch.testing.assert_close(renamed.covariance, fitted.covariance[order][:, order], rtol=1e-7, atol=1e-12)
    assert renamed.strengths.sum().abs() < 1e-12


def test_few_comparisons_and_very_many():
    even = fit_strengths(counts(CIRCLE))
    assert even.strengths.abs().max() < 1e-14
    lopsided = fit_strengths(counts([[0.0, 1e8], [1.0, 0.0]]))
    assert lopsided.contrast(0, 1)[0] == pytest.approx(8 * math.log(10), abs=1e-9)
    chain = counts([[0.0, 1e6, 0.0], [1.0, 0.0, 1e6], [0.0, 1.0, 0.0]])
    difference, error = fit_strengths(chain).contrast(0, 2)
    assert difference == pytest.approx(12 * math.log(10), abs=1e-8)
    assert error == pytest.approx(math.sqrt(2 * (1 + 1e-6)), rel=1e-6)
    ties = counts([[0.0, 1e3], [1e3, 0.0]])
    for model in ("davidson", "rao-kupper"):
        extreme = fit_strengths(counts([[0.0, 1e9], [1.0, 0.0]]), ties=ties, tie_model=model)
        assert extreme.contrast(0, 1)[1] < 2


def test_ties_that_are_hardly_any_leave_bradley_terry():
    wins = tournament(4, seed=8)
    plain = fit_strengths(wins)
    assert fit_strengths(wins, ties=torch.zeros_like(wins)).tie_parameter is None
    rare = 1e-9 * (1 - torch.eye(4, dtype=torch.float64))
    for model, limit in (("davidson", 0.0), ("rao-kupper", 1.0)):
        fitted = fit_strengths(wins, ties=rare, tie_model=model)
        torch.testing.assert_close(fitted.strengths, plain.strengths, rtol=0.0, atol=1e-8)
        assert fitted.tie_parameter == pytest.approx(limit, abs=1e-8)


def test_a_round_in_which_somebody_never_lost_is_refused_with_its_groups():
    wins = counts([[0.0, 3.0, 1.0], [0.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    with pytest.raises(NotConnectedError, match=r"2 groups .* \[0\]; \[1, 2\]$") as caught:
        fit_strengths(wins)
    assert caught.value.groups == [[0], [1, 2]]
    with pytest.raises(NotConnectedError, match=r"7 groups .*\[4\]; …"):
        fit_strengths(torch.ones(7, 7, dtype=torch.float64).triu(1))
    # A tie is a link both ways.
    tie = counts([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert fit_strengths(wins, ties=tie).strengths.isfinite().all()


def test_linked_groups():
    beats = torch.zeros(6, 6, dtype=torch.bool)
    for winner, loser in [(0, 4), (4, 2), (2, 0), (1, 5), (5, 1), (0, 1)]:
        beats[winner, loser] = True
    assert linked_groups(beats) == [[0, 2, 4], [1, 5], [3]]
    assert linked_groups(torch.zeros(1, 1, dtype=torch.bool)) == [[0]]
    ring = torch.roll(torch.eye(33, dtype=torch.bool), 1, dims=1)
    assert linked_groups(ring) == [list(range(33))]


@pytest.mark.parametrize("model", ["davidson", "rao-kupper"])
def test_a_tie_parameter_without_a_maximum_is_refused(model):
    """One win and one tie: the larger the difference, the larger ν, the likelier, without end."""
    win, tie = counts([[0.0, 1.0], [0.0, 0.0]]), counts([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="no finite maximum"):
        fit_strengths(win, ties=tie, tie_model=model)
    climbing = [
        ranking.tie_log_likelihood(
            counts([u, -u, u if model == "davidson" else 2 * u]), win.tolist(), tie.tolist(), model=model
        ).item()
        for u in (1.0, 3.0, 10.0)
    ]
    assert climbing[0] < climbing[1] < climbing[2] <= 2 * math.log(0.5)
    with pytest.raises(ValueError, match="no finite maximum"):
        fit_strengths(torch.zeros_like(win), ties=tie, tie_model=model)
    assert fit_strengths(win, ties=tie, tie_model="half").strengths[0] > 0


@pytest.mark.parametrize("model", ["davidson", "rao-kupper"])
def test_all_small_tournaments_with_ties_are_judged_rightly(model):
    """Three items, every pattern of wins and ties, against a search for a way to climb without end.

    Such a way gives every winner a lead of at least 1 and no tie a lead above 1, or, where nothing is lost
    by it, leaves the tie parameter alone: winners not below, ties level, and not all level.
    """
    pairs = [(0, 1), (0, 2), (1, 2)]
    for played in product(range(8), repeat=3):
        wins, ties = torch.zeros(2, 3, 3, dtype=torch.float64)
        for (i, j), code in zip(pairs, played, strict=True):
            wins[i, j], wins[j, i] = float(code & 1), float(code >> 1 & 1)
            ties[i, j] = ties[j, i] = float(code >> 2 & 1)
        if not ties.any():
            continue
        endless = any(climbs(wins, ties, (0, *rest)) for rest in product(range(-2, 3), repeat=2))
        try:
            fitted = fit_strengths(wins, ties=ties, tie_model=model)
        except ValueError:
            assert endless, (wins, ties)
        else:
            assert not endless, (wins, ties)
            assert fitted.strengths.abs().max() < 20


def climbs(wins, ties, heights):
    lead = torch.tensor([[float(a - b) for b in heights] for a in heights])
    steeper = bool((lead[wins > 0] >= 1).all() and (lead[ties > 0].abs() <= 1).all())
    level = bool((lead[wins > 0] >= 0).all() and (lead[ties > 0] == 0).all() and lead.any())
    return steeper or level


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=4, max_size=4))
def test_it_is_fitted_where_ford_says_so_and_refused_elsewhere(table):
    wins = counts(table)
    wins = wins - wins.diagonal().diag()
    assume(bool(wins.any()))
    if ranking.is_finite_maximum(wins.tolist()):
        assert fit_strengths(wins).strengths.tolist() == pytest.approx(
            ranking.newman(wins.tolist()), abs=1e-8
        )
    else:
        with pytest.raises(NotConnectedError):
            fit_strengths(wins)


def test_counts_that_make_no_sense_are_refused():
    good, tie = counts([[0.0, 1.0], [1.0, 0.0]]), counts([[0.0, 1.0], [1.0, 0.0]])
    for bad, message in (
        (counts([[0.0]]), "1 items"),
        (counts([[0.0, -1.0], [1.0, 0.0]]), "negative or not finite"),
        (counts([[0.0, math.nan], [1.0, 0.0]]), "negative or not finite"),
        (counts([[1.0, 1.0], [1.0, 0.0]]), "against itself"),
    ):
        with pytest.raises(ValueError, match=f"wins has .*{message}"):
            fit_strengths(bad)
    with pytest.raises(ValueError, match=r"ties has .*negative"):
        fit_strengths(good, ties=-tie)
    with pytest.raises(ValueError, match="not symmetric"):
        fit_strengths(good, ties=counts([[0.0, 1.0], [2.0, 0.0]]))


def test_newton_that_does_not_arrive_says_so(monkeypatch):
    monkeypatch.setattr(strengths, "MAX_ITERATIONS", 1)
    with pytest.raises(ArithmeticError, match="no maximum after 1 Newton steps"):
        fit_strengths(tournament(seed=1))


def test_a_step_that_leads_nowhere_is_not_halved_for_ever():
    """A slope of the wrong sign: no part of the step goes up."""

    def evaluate(point):
        one = torch.ones(1, dtype=torch.float64)
        return -point.square().sum(), point + one, one[None]

    start = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(ArithmeticError, match="60 halvings"):
        strengths._uphill(evaluate, start, start + 1, floor=torch.zeros((), dtype=torch.float64))
