"""Strengths from comparisons by other roads: fixed-point iterations, likelihoods written out by pairs.

Slow and plain on purpose. Nothing is shared with the product's Newton method: no matrix is inverted here, and
every chance is computed from its formula in the strengths' exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

Table = Sequence[Sequence[float]]
TieModel = Literal["davidson", "rao-kupper"]
Number = TypeVar("Number", float, Tensor)
MAX_SWEEPS = 100_000
TOLERANCE = 1e-13
"""The largest change of a strength, in nats, at which an iteration has arrived."""


def hunter(wins: Table) -> list[float]:
    """Bradley–Terry strengths of sum 0 by the minorise–maximise iteration.

    `p_i ← W_i / Σ_j N_ij / (p_i + p_j)` (Hunter, 2004, eq. 3; Zermelo, 1929), one item after the other.

    Raises:
        ArithmeticError: the iteration did not arrive.
    """

    def update(p: list[float], i: int) -> float:
        won = math.fsum(wins[i])
        share = math.fsum((wins[i][j] + wins[j][i]) / (p[i] + p[j]) for j in range(len(p)) if j != i)
        return won / share

    return _iterate(update, len(wins))


def newman(wins: Table) -> list[float]:
    """Bradley–Terry strengths of sum 0 by an iteration that arrives in far fewer sweeps.

    `p_i ← [Σ_j w_ij p_j / (p_i + p_j)] / [Σ_j w_ji / (p_i + p_j)]` (Newman, 2023, arXiv:2207.00076).

    Raises:
        ArithmeticError: the iteration did not arrive.
    """

    def update(p: list[float], i: int) -> float:
        others = [j for j in range(len(p)) if j != i]
        won = math.fsum(wins[i][j] * p[j] / (p[i] + p[j]) for j in others)
        lost = math.fsum(wins[j][i] / (p[i] + p[j]) for j in others)
        return won / lost

    return _iterate(update, len(wins))


def _iterate(update: Callable[[list[float], int], float], items: int) -> list[float]:
    p = [1.0] * items
    for _ in range(MAX_SWEEPS):
        before = list(p)
        for i in range(items):
            p[i] = update(p, i)
        mean = math.exp(math.fsum(math.log(x) for x in p) / items)
        p = [x / mean for x in p]
        if max(abs(math.log(new / old)) for new, old in zip(p, before, strict=True)) < TOLERANCE:
            return [math.log(x) for x in p]
    raise ArithmeticError(f"the iteration did not arrive in {MAX_SWEEPS} sweeps")


def outcome_chances(p: Number, q: Number, tie: Number, *, model: TieModel) -> tuple[Number, Number, Number]:
    """The chances that the item of weight p wins, that the one of weight q wins, and of a tie.

    Davidson (1970), ν = `tie`: `p/D`, `q/D`, `ν√(pq)/D` with `D = p + q + ν√(pq)`. Rao and Kupper (1967),
    θ = `tie`: `p/(p + θq)`, `q/(q + θp)`, `(θ² − 1)pq / [(p + θq)(q + θp)]`.
    """
    if model == "davidson":
        drawn = tie * (p * q) ** 0.5
        whole = p + q + drawn
        return p / whole, q / whole, drawn / whole
    first, second = p + tie * q, q + tie * p
    return p / first, q / second, (tie * tie - 1) * p * q / (first * second)


def tie_log_likelihood(point: Tensor, wins: Table, ties: Table, *, model: TieModel) -> Tensor:
    """The log-likelihood of wins and ties, pair by pair, differentiable in `point`.

    `point` is `[items + 1]`: the strengths, and the logarithm of ν (Davidson) or of θ − 1 (Rao and Kupper).
    """
    weights = point[:-1].exp()
    tie = point[-1].exp() if model == "davidson" else 1 + point[-1].exp()
    terms = []
    for j in range(len(wins)):
        for i in range(j):
            if wins[i][j] + wins[j][i] + ties[i][j] == 0:
                continue
            chances = outcome_chances(weights[i], weights[j], tie, model=model)
            counts = (wins[i][j], wins[j][i], ties[i][j])
            terms += [n * chance.log() for n, chance in zip(counts, chances, strict=True) if n > 0]
    return torch.stack(terms).sum()


def climb(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth concave function is largest, by L-BFGS from `start`; knows only values and gradients."""
    point = start.clone().requires_grad_()
    scale = abs(float(function(start))) or 1.0
    optimiser = torch.optim.LBFGS(
        [point],
        max_iter=2_000,
        tolerance_grad=1e-15,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -function(point) / scale
        loss.backward()
        return loss

    optimiser.step(closure)
    return point.detach()


def curvature(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The observed information: minus the matrix of second derivatives."""
    return -torch.autograd.functional.hessian(function, point)


def is_finite_maximum(wins: Table) -> bool:
    """Ford's condition (1957) by its definition: in every division in two, each side won against the other.

    Goes through all 2^n divisions.
    """
    items = range(len(wins))
    for code in range(1, 2 ** len(wins) - 1):
        side = [i for i in items if code >> i & 1]
        rest = [i for i in items if not code >> i & 1]
        if not any(wins[i][j] > 0 for i in side for j in rest):
            return False
    return True
