"""Bradley–Terry and its relatives: strengths, their intervals, ties, rankings, a reward model's limit."""

from __future__ import annotations

import math
from itertools import permutations, product

import torch
from torch import Tensor

from logratio.objectives.bradley_terry import comparison_loss, plackett_luce_loss, preference_probability
from logratio.stats.strengths import NotConnectedError, Strengths, fit_strengths, linked_groups
from logratio.stats.wilson import normal_quantile
from logratio.verify.checks.rows import Check, Row, below, control, equal, within
from logratio.verify.worlds import ranking
from logratio.verify.worlds.world import World

PLANTED = torch.tensor([1.2, 0.8, 0.5, 0.1, -0.2, -0.5, -0.8, -1.1], dtype=torch.float64)
"""Eight strengths of sum 0."""
TIES: tuple[tuple[ranking.TieModel, float], ...] = (("davidson", 0.7), ("rao-kupper", 1.5))


def check_strength_estimators(quick: bool) -> list[Row]:
    """Three ways to the same maximum, and whether its intervals hold what they promise."""
    wins = _games(_expected_wins(180.0), seed=0)
    fitted = fit_strengths(wins)
    table = wins.tolist()
    chances = torch.tensor(
        [[_chance(a, b) for b in fitted.strengths.tolist()] for a in fitted.strengths.tolist()],
        dtype=torch.float64,
    )
    expected = ((wins + wins.T) * chances).sum(dim=1)
    z = max(
        abs(difference - float(PLANTED[i] - PLANTED[j])) / error
        for i in range(len(PLANTED))
        for j in range(i)
        for difference, error in [fitted.contrast(i, j)]
    )
    strengths, contrasts, bars = _coverage(500 if quick else 2_000)
    return [
        _same("strengths of 8 items from 5,040 games: Newton's method and Hunter's iteration", fitted, table),
        equal(
            "the same: Newton's method and Newman's iteration",
            fitted.strengths,
            torch.tensor(ranking.newman(table), dtype=torch.float64),
            tolerance=1e-9,
        ),
        equal("wins of each item: as many as expected", expected, wins.sum(dim=1), tolerance=1e-9),
        equal(
            "strengths from endless games: those that were planted",
            fit_strengths(_expected_wins(1.0)).strengths,
            PLANTED,
            tolerance=1e-10,
        ),
        below("the furthest of 28 fitted differences from the planted, in standard errors", z, 5.0),
        within("share of 95 % intervals that hold the planted strength", strengths, 0.93, 0.97),
        within("share of 95 % intervals that hold the planted difference", contrasts, 0.93, 0.97),
        control("errors of two strengths added as if both bars must part", bars - 0.95, at_least=0.02),
    ]


def check_no_finite_estimate(quick: bool) -> list[Row]:
    """Where the likelihood has no finite maximum, no number is given."""
    cases = {
        "an item that never lost": ([(0, 1), (1, 2), (2, 1), (0, 2)], [[0], [1, 2]]),
        "an item that never won": ([(0, 1), (1, 0), (0, 2)], [[0, 1], [2]]),
        "two circles that never met": ([(0, 1), (1, 0), (2, 3), (3, 2)], [[0, 1], [2, 3]]),
        "an item that nobody met": ([(0, 1), (1, 0)], [[0, 1], [2]]),
    }
    rows = [
        _yes(f"refused, with the groups named: {name}", _groups_of(games) == groups)
        for name, (games, groups) in cases.items()
    ]
    circle = _table([(0, 1), (1, 2), (2, 0)], items=3)
    even = fit_strengths(circle).strengths
    rows.append(equal("a circle of three wins: all are equal", even, torch.zeros(3), tolerance=1e-14))
    graphs = _all_graphs(4)
    wrong = sum(ranking.is_finite_maximum(g.tolist()) != (len(linked_groups(g)) == 1) for g in graphs)
    rows.append(equal("of all 4,096 win graphs of 4 items, judged unlike Ford", wrong, 0, tolerance=0.0))
    one_tie = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for model, _ in TIES:
        refused = False
        try:
            fit_strengths(_table([(0, 1)], items=2), ties=one_tie, tie_model=model)
        except ValueError:
            refused = True
        rows.append(_yes(f"refused: one win and one tie under {model}, endless in strength and tie", refused))
    return rows


def check_reward_model_recovery(quick: bool) -> list[Row]:
    """A reward for every sequence, trained on endless labels, is the true reward up to a constant."""
    world = World()
    worst = slope = moved = margin_error = 0.0
    for truth in world.rewards(seed=1):
        first, second = torch.combinations(torch.arange(len(truth))).T
        labels = torch.tensor(
            [_chance(a, b) for a, b in zip(truth[first].tolist(), truth[second].tolist(), strict=True)],
            dtype=torch.float64,
        )

        def loss(rewards: Tensor, margin: float = 0.0) -> Tensor:
            pairs = comparison_loss(rewards[first], rewards[second], preference=labels, margin=margin)  # noqa: B023
            return pairs.mean()

        at_truth = truth.clone().requires_grad_()
        loss(at_truth).backward()
        assert at_truth.grad is not None
        slope = max(slope, float(at_truth.grad.norm()))
        learned = ranking.climb(lambda r: -loss(r), torch.zeros_like(truth))
        worst = max(worst, _spread(learned - truth))
        moved = max(moved, float((loss(truth + 7.0) - loss(truth)).abs()))
        with_margin = ranking.climb(lambda r: -loss(r, 1.0), torch.zeros_like(truth))
        margin_error = max(margin_error, _spread(with_margin - truth))
    return [
        below("gradient of the loss at the true rewards", slope, 1e-12, exact=0.0),
        below("rewards learned less true rewards: the largest difference", worst, 1e-4, exact=0.0),
        below("loss after 7 is added to all rewards of a prompt", moved, 1e-12, exact=0.0),
        control("the same with a margin of 1, which asks for more", margin_error, at_least=0.1),
    ]


def check_rankings_and_ties(quick: bool) -> list[Row]:
    """Rankings and ties: chances that sum to 1, limits that are Bradley–Terry, maxima by brute force."""
    generator = torch.Generator().manual_seed(4)
    two = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    four = torch.randn(4, generator=generator, dtype=torch.float64)
    orders = torch.stack([four[list(order)] for order in permutations(range(4))])
    rows = [
        equal(
            "a ranking of two is a comparison",
            (-plackett_luce_loss(two)).exp(),
            preference_probability(two[:, 0], two[:, 1]),
            tolerance=1e-12,
        ),
        equal(
            "chances of all 24 rankings of four",
            (-plackett_luce_loss(orders)).exp().sum(),
            1.0,
            tolerance=1e-12,
        ),
    ]
    for model, parameter in TIES:
        rows += _tie_rows(model, parameter)
    wins, ties = _games(_expected_wins(40.0), seed=2), _sparse_ties(1.0)
    half = fit_strengths(wins, ties=ties, tie_model="half").strengths
    merged = fit_strengths(wins + ties / 2).strengths
    rows.append(equal("ties as half wins are half wins", half, merged, tolerance=0.0))
    return rows


def _tie_rows(model: ranking.TieModel, parameter: float) -> list[Row]:
    wins, ties = _expected_outcomes(model, parameter)
    planted = fit_strengths(wins, ties=ties, tie_model=model)
    assert planted.tie_parameter is not None
    rounded, few = (wins * 30).round(), (ties * 30).round()
    fitted = fit_strengths(rounded, ties=few, tie_model=model)
    assert fitted.tie_parameter is not None

    def likelihood(point: Tensor) -> Tensor:
        return ranking.tie_log_likelihood(point, rounded.tolist(), few.tolist(), model=model)

    highest = ranking.climb(likelihood, torch.zeros(len(PLANTED) + 1, dtype=torch.float64))
    strengths = highest[:-1] - highest[:-1].mean()
    inverse = torch.linalg.pinv(ranking.curvature(likelihood, highest), hermitian=True)[:-1, :-1]
    rare = fit_strengths(_expected_wins(1.0), ties=_sparse_ties(1e-10), tie_model=model)
    chances = ranking.outcome_chances(3.0, 0.4, parameter, model=model)
    return [
        equal(f"{model}: a win, a defeat and a tie", sum(chances), 1.0, tolerance=1e-12),
        equal(f"{model}: strengths from endless games with ties", planted.strengths, PLANTED, tolerance=1e-9),
        equal(f"{model}: the tie parameter from them", planted.tie_parameter, parameter, tolerance=1e-9),
        equal(f"{model}: strengths by L-BFGS", fitted.strengths, strengths, tolerance=1e-6),
        equal(f"{model}: log-likelihood there", fitted.log_likelihood, likelihood(highest), tolerance=1e-8),
        equal(f"{model}: covariance from second derivatives", fitted.covariance, inverse, tolerance=1e-7),
        equal(f"{model}: with next to no ties, Bradley–Terry", rare.strengths, PLANTED, tolerance=1e-8),
    ]


def _coverage(simulations: int) -> tuple[float, float, float]:
    """Shares of simulated tournaments whose intervals hold the truth: strengths, differences, parted bars."""
    z = normal_quantile(0.95)
    expected = _expected_wins(36.0)
    strengths = contrasts = bars = 0.0
    for seed in range(simulations):
        fitted = fit_strengths(_games(expected, seed=seed))
        missed = (fitted.strengths - PLANTED).abs()
        strengths += float((missed <= z * fitted.standard_errors).double().mean()) / simulations
        difference, error = fitted.contrast(0, 7)
        off = abs(difference - float(PLANTED[0] - PLANTED[7]))
        contrasts += (off <= z * error) / simulations
        both = float(fitted.standard_errors[0] + fitted.standard_errors[7])
        bars += (off <= z * both) / simulations
    return strengths, contrasts, bars


def _chance(a: float, b: float) -> float:
    return ranking.outcome_chances(math.exp(a), math.exp(b), 0.0, model="davidson")[0]


def _expected_wins(games: float) -> Tensor:
    """How often i is expected to beat j in so many games of every pair, by the planted strengths."""
    rows = [[games * _chance(a, b) for b in PLANTED.tolist()] for a in PLANTED.tolist()]
    table = torch.tensor(rows, dtype=torch.float64)
    return table - table.diagonal().diag()


def _expected_outcomes(model: ranking.TieModel, tie: float) -> tuple[Tensor, Tensor]:
    wins, ties = torch.zeros(2, len(PLANTED), len(PLANTED), dtype=torch.float64)
    weights = [math.exp(s) for s in PLANTED.tolist()]
    for i, j in product(range(len(weights)), repeat=2):
        if i != j:
            wins[i, j], _, ties[i, j] = ranking.outcome_chances(weights[i], weights[j], tie, model=model)
    return wins, (ties + ties.T) / 2


def _games(expected: Tensor, *, seed: int) -> Tensor:
    """Games of every pair drawn at random; `expected` holds whole numbers of games a pair."""
    played = (expected + expected.T).triu(1).round()
    chance = expected / (expected + expected.T).clamp(min=1e-300)
    won = torch.binomial(played, chance, generator=torch.Generator().manual_seed(seed))
    return won + (played - won).T


def _sparse_ties(count: float) -> Tensor:
    ties = torch.full((len(PLANTED), len(PLANTED)), count, dtype=torch.float64)
    return ties - ties.diagonal().diag()


def _table(games: list[tuple[int, int]], *, items: int) -> Tensor:
    wins = torch.zeros(items, items, dtype=torch.float64)
    for winner, loser in games:
        wins[winner, loser] += 1
    return wins


def _groups_of(games: list[tuple[int, int]]) -> list[list[int]]:
    """The groups that the product refuses with, among at least three items."""
    items = max(3, 1 + max(max(game) for game in games))
    try:
        fit_strengths(_table(games, items=items))
    except NotConnectedError as error:
        return error.groups
    return []


def _all_graphs(items: int) -> list[Tensor]:
    edges = [(i, j) for i in range(items) for j in range(items) if i != j]
    graphs = []
    for code in range(2 ** len(edges)):
        graph = torch.zeros(items, items, dtype=torch.bool)
        for bit, (i, j) in enumerate(edges):
            graph[i, j] = bool(code >> bit & 1)
        graphs.append(graph)
    return graphs


def _same(what: str, fitted: Strengths, wins: list[list[float]]) -> Row:
    iterated = torch.tensor(ranking.hunter(wins), dtype=torch.float64)
    return equal(what, fitted.strengths, iterated, tolerance=1e-9)


def _yes(what: str, happened: bool) -> Row:
    return equal(what, float(happened), 1.0, tolerance=0.0)


def _spread(differences: Tensor) -> float:
    return float(differences.max() - differences.min())


CHECKS: tuple[Check, ...] = (
    Check(
        name="B1",
        title="Bradley–Terry strengths: three methods agree, intervals hold what they say",
        run=check_strength_estimators,
    ),
    Check(
        name="B2",
        title="Strengths that have no finite estimate are refused, not given",
        run=check_no_finite_estimate,
    ),
    Check(
        name="B3",
        title="A reward model with endless labels learns the reward up to a constant",
        run=check_reward_model_recovery,
    ),
    Check(
        name="B4",
        title="Rankings and ties: chances sum to 1, limits and maxima are right",
        run=check_rankings_and_ties,
    ),
)
