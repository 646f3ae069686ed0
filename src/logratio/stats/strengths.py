"""Strengths of models or answers from who beat whom: maximum likelihood with its covariance.

The two tie models have one more parameter. In both, and in plain Bradley–Terry, the log-likelihood is concave
in the strengths s = log p and the logarithm of the tie parameter, so Newton's method ends in the one maximum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from logratio.stats.graphs import strongly_connected

Ties = Literal["davidson", "rao-kupper", "half"]
Counts = Float[Tensor, "items items"]
Value = tuple[Tensor, Tensor, Tensor]
"""Log-likelihood, its gradient `[P]`, and minus its Hessian `[P, P]`."""
MAX_ITERATIONS = 200
MAX_HALVINGS = 60
TOLERANCE = 1e-13
"""Newton's decrement, over the number of comparisons, at which the maximum is reached."""


class NotConnectedError(ValueError):
    """The comparisons leave some strengths unbounded, or not comparable."""

    def __init__(self, groups: list[list[int]]) -> None:
        self.groups = groups
        """Items that beat each other, directly or around; between groups one side won all, or none met."""
        shown = "; ".join(str(group) for group in groups[:5]) + ("; …" if len(groups) > 5 else "")
        super().__init__(
            f"the comparisons fall into {len(groups)} groups that are not linked by wins both ways: {shown}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Strengths:
    """Fitted strengths, of sum 0, in nats: a difference d means a chance of σ(d) where there are no ties."""

    strengths: Tensor
    """`[items]`, float64."""
    covariance: Tensor
    """`[items, items]`, the inverse of the information within sum 0; its rows sum to 0."""
    tie_parameter: float | None
    """Davidson's ν or Rao and Kupper's θ; `None` without a tie model."""
    log_likelihood: float
    """At the maximum, in nats."""
    iterations: int
    """Newton steps."""

    @property
    def standard_errors(self) -> Tensor:
        """`[items]` standard errors of the strengths about their mean."""
        return self.covariance.diagonal().clamp(min=0).sqrt()

    def contrast(self, first: int, second: int) -> tuple[float, float]:
        """`s_first − s_second` and its standard error, which overlapping intervals do not tell."""
        covariance = self.covariance
        variance = covariance[first, first] + covariance[second, second] - covariance[first, second] * 2
        difference = self.strengths[first] - self.strengths[second]
        return float(difference), float(variance.clamp(min=0).sqrt())


def fit_strengths(wins: Counts, *, ties: Counts | None = None, tie_model: Ties = "davidson") -> Strengths:
    """Maximum-likelihood strengths of a Bradley–Terry model by Newton's method.

    `P(i beats j) = p_i / (p_i + p_j)`, p = exp(s) (Bradley and Terry, 1952). With ties, Davidson (1970):
    `P(i beats j) = p_i / D`, `P(tie) = ν √(p_i p_j) / D`, `D = p_i + p_j + ν √(p_i p_j)`; or Rao and Kupper
    (1967): `P(i beats j) = p_i / (p_i + θ p_j)`, `P(tie) = (θ² − 1) p_i p_j / [(p_i + θ p_j)(θ p_i + p_j)]`;
    or `half`: a tie is half a win for each, which is no model of ties.

    Args:
        wins: how often i beat j; weights need not be whole.
        ties: how often i and j tied: symmetric, each tie in both places.
        tie_model: what ties mean.

    Returns:
        Strengths with their covariance.

    Raises:
        NotConnectedError: some items never lost, or never won, against the rest (Ford, 1957): there is no
            finite maximum.
        ValueError: counts are negative, not finite, on the diagonal, or ties not symmetric; fewer than two
            items; a tie model whose parameter has no finite maximum, as with nothing but ties, or one win
            and one tie.
    """
    wins = wins.double()
    _check_counts(wins, "wins")
    drawn = torch.zeros_like(wins) if ties is None else ties.double()
    _check_counts(drawn, "ties")
    if not torch.equal(drawn, drawn.T):
        raise ValueError("ties are not symmetric: a tie of i and j stands at [i, j] and at [j, i]")
    groups = linked_groups((wins + drawn) > 0)
    if len(groups) > 1:
        raise NotConnectedError(groups)
    if tie_model == "half" or not bool(drawn.any()):
        merged = wins + drawn / 2
        return _fit(lambda point: _plain(point, merged), len(wins), merged.sum(), tie=None)
    _ensure_ties_are_bounded(wins, drawn)
    model = {"davidson": _davidson, "rao-kupper": _rao_kupper}[tie_model]
    total = wins.sum() + drawn.sum() / 2
    return _fit(lambda point: model(point, wins, drawn), len(wins), total, tie=tie_model)


def linked_groups(beats: Tensor) -> list[list[int]]:
    """The strongly connected groups of a graph given as a boolean `[items, items]` matrix, each in order."""
    edges = {
        winner: [loser for loser, beaten in enumerate(row) if beaten]
        for winner, row in enumerate(beats.tolist())
    }
    return sorted(sorted(group) for group in strongly_connected(edges))


def _check_counts(counts: Tensor, name: str) -> None:
    if len(counts) < 2:
        raise ValueError(f"{name} has {len(counts)} items; a comparison needs two")
    if not bool(counts.isfinite().all() and (counts >= 0).all()):
        raise ValueError(f"{name} has a count that is negative or not finite")
    if bool(counts.diagonal().any()):
        raise ValueError(f"{name} has a count of an item against itself")


def _ensure_ties_are_bounded(wins: Tensor, ties: Tensor) -> None:
    """Refuse counts under which strengths and tie parameter can grow together without end.

    Where every winner stands a step or more above the loser and no tie spans more than a step, a larger step
    makes nothing less likely, in either model. There is no such placing just where some closed walk, down by
    a win and up or down by a tie, has more wins than ties: a negative cycle of difference constraints.
    """
    height = torch.full_like(wins, torch.inf)
    height[ties > 0], height[wins > 0] = 1.0, -1.0
    for via in range(len(height)):
        height = torch.minimum(height, height[:, via, None] + height[None, via])
        if bool((height.diagonal() < 0).any()):
            return
    raise ValueError(
        "the tie parameter has no finite maximum: going round from item to item there are never more wins "
        "than ties; use tie_model='half', or more comparisons"
    )


def _fit(evaluate: Callable[[Tensor], Value], items: int, total: Tensor, *, tie: str | None) -> Strengths:
    """Damped Newton from equal strengths; the last coordinate is the logarithm of a tie model's parameter."""
    point = torch.zeros(items + (tie is not None), dtype=torch.float64, device=total.device)
    if tie is not None:
        point[-1] = 0.5
    # A number added to all strengths changes nothing: this term holds their sum, and the maximum stays.
    gauge = torch.zeros(len(point), len(point), dtype=torch.float64, device=total.device)
    gauge[:items, :items] = 1.0 / items
    likelihood, gradient, information = evaluate(point)
    iterations = 0
    while True:
        step = torch.linalg.solve(information + gauge * total, gradient)
        decrement = float(gradient @ step / total)
        if decrement <= TOLERANCE**2:
            break
        if iterations == MAX_ITERATIONS:
            raise ArithmeticError(f"no maximum after {iterations} Newton steps; decrement {decrement:.1e}")
        iterations += 1
        # At rounding distance from the maximum the likelihood no longer tells better from worse.
        floor = likelihood if decrement >= TOLERANCE else likelihood.new_tensor(-torch.inf)
        point, (likelihood, gradient, information) = _uphill(evaluate, point, step, floor=floor)
    strengths = point[:items] - point[:items].mean()
    inverse = torch.linalg.inv(information + gauge)
    centre = torch.eye(items, dtype=torch.float64, device=total.device) - gauge[:items, :items]
    return Strengths(
        strengths=strengths,
        covariance=centre @ inverse[:items, :items] @ centre,
        tie_parameter=None if tie is None else float(point[-1].exp()),
        log_likelihood=float(likelihood),
        iterations=iterations,
    )


def _uphill(
    evaluate: Callable[[Tensor], Value], point: Tensor, step: Tensor, *, floor: Tensor
) -> tuple[Tensor, Value]:
    """The longest of a step, its half, its quarter and so on that does not go below the floor."""
    for halvings in range(MAX_HALVINGS):
        trial = point + step / 2**halvings
        value = evaluate(trial)
        if bool(value[0] >= floor):
            return trial, value
    raise ArithmeticError(f"no maximum: {MAX_HALVINGS} halvings of a Newton step, and none makes it likelier")


def _plain(point: Tensor, wins: Tensor) -> Value:
    difference = point[:, None] - point[None]
    missed = (-difference).sigmoid()
    likelihood = (wins * F.logsigmoid(difference)).sum()
    # Wins not expected, less defeats not expected: many wins less as many expected would leave rounding.
    pull = wins * missed
    gradient = pull.sum(dim=1) - pull.sum(dim=0)
    return likelihood, gradient, _laplacian((wins + wins.T) * missed * missed.T)


def _davidson(point: Tensor, wins: Tensor, ties: Tensor) -> Value:
    """An exponential family: gradient and information are observed less expected, and a covariance.

    Of a score of 1, ½ or 0 and of being a tie; written without differences of nearly equal numbers, which
    would be left to rounding where one side nearly always wins.
    """
    strengths, log_nu = point[:-1], point[-1]
    first, second = strengths[:, None].expand_as(wins), strengths[None].expand_as(wins)
    terms = torch.stack([first, second, log_nu + (first + second) / 2])
    log_win, _, log_tie = (terms - terms.logsumexp(dim=0)).unbind()
    win, tie = log_win.exp(), log_tie.exp()
    played = wins + wins.T + ties
    missed = win.T + tie / 2
    pull = wins * missed + ties * (missed - missed.T) / 4
    likelihood = (wins * log_win).sum() + (ties * log_tie).sum() / 2
    gradient = torch.cat(
        [
            pull.sum(dim=1) - pull.sum(dim=0),
            ((ties * (win + win.T) - (wins + wins.T) * tie).sum() / 2)[None],
        ]
    )
    information = point.new_zeros(len(point), len(point))
    information[:-1, :-1] = _laplacian(played * (win * win.T + (win + win.T) * tie / 4))
    information[:-1, -1] = information[-1, :-1] = (played * tie * (win.T - win) / 2).sum(dim=1)
    information[-1, -1] = (played * tie * (win + win.T)).sum() / 2
    return likelihood, gradient, information


def _rao_kupper(point: Tensor, wins: Tensor, ties: Tensor) -> Value:
    """`P(tie) = (θ² − 1)·σ(d − η)·σ(−d − η)` with η = log θ: each tie counts as a win of either side."""
    strengths, eta = point[:-1], point[-1]
    if not bool(eta > 0):
        nothing = torch.full_like(point, torch.nan)
        return point.new_tensor(-torch.inf), nothing, nothing.expand(len(point), len(point))
    difference = strengths[:, None] - strengths[None] - eta
    counted = wins + ties
    missed = (-difference).sigmoid()
    curvature = counted * missed * (1 - missed)
    drawn = ties.sum() / 2
    beyond = torch.expm1(2 * eta)
    likelihood = (counted * F.logsigmoid(difference)).sum() + drawn * beyond.log()
    pull = counted * missed
    gradient = torch.cat(
        [
            pull.sum(dim=1) - pull.sum(dim=0),
            (-pull.sum() + drawn * 2 * (1 + 1 / beyond))[None],
        ]
    )
    information = point.new_zeros(len(point), len(point))
    information[:-1, :-1] = _laplacian(curvature + curvature.T)
    information[:-1, -1] = information[-1, :-1] = curvature.sum(dim=0) - curvature.sum(dim=1)
    information[-1, -1] = curvature.sum() + drawn * 4 * (1 + beyond) / beyond.square()
    return likelihood, gradient, information


def _laplacian(weights: Tensor) -> Tensor:
    """`diag(row sums) − weights`, of a symmetric matrix of weights without its diagonal."""
    weights = weights - weights.diagonal().diag()
    return weights.sum(dim=1).diag() - weights
