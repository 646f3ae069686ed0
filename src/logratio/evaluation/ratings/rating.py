"""Strengths of models with two kinds of interval, differences between them, and who beat whom how often.

The interval from the covariance takes the likelihood for a parabola about its maximum. The bootstrap draws
the comparisons again and fits each resample; it asks nothing of that shape, and with few comparisons the two
part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from logratio.errors import BadConfig, TooFewLabels
from logratio.evaluation.ratings.groups import list_names, not_linked
from logratio.evaluation.ratings.pairwise_counts import Counts, PairwiseCounts, Resampler, short
from logratio.evaluation.ratings.records import Contrast, Interval, Rating, Ratings, Resamples
from logratio.stats.bootstrap import percentile_interval
from logratio.stats.strengths import NotConnectedError, Strengths, Ties, fit_strengths
from logratio.stats.wilson import normal_quantile

CONFIDENCE = 0.95
MAX_DRAWS_EACH = 10
"""How many resamples are drawn at most for each that is wanted, where some are not linked."""
NOT_LINKED, NO_TIE_MAXIMUM, NOT_FOUND = "not linked", "no finite tie parameter", "no maximum found"
Array = NDArray[np.float64]


def rate(
    tally: PairwiseCounts,
    *,
    ties: Ties = "davidson",
    resamples: int = 1000,
    seed: int = 0,
    baseline: str = "",
    on_fit: Callable[[], object] = lambda: None,
) -> Ratings:
    """Fit strengths, and the intervals of strengths and differences.

    Args:
        tally: the comparisons.
        ties: what ties mean, as in `fit_strengths`.
        resamples: how many resamples the bootstrap fits; 0 leaves it out.
        seed: of the bootstrap.
        baseline: a model that all others are held against; empty for none.
        on_fit: called after each resample that was fitted.

    Raises:
        TooFewLabels: groups of models are not linked, or the tie parameter has no finite maximum.
        BadConfig: there is no model of the baseline's name, or a number is out of range.
    """
    _check(tally, resamples=resamples, seed=seed, baseline=baseline)
    resampler = Resampler(tally)
    wins, tied = resampler.everything()
    fitted = _fit_all(tally, wins, tied, ties)
    draws, parameters, counts = _bootstrap(resampler, tally, ties, resamples, seed, on_fit)
    order = sorted(range(len(tally.models)), key=lambda i: (-float(fitted.strengths[i]), tally.models[i]))
    sample = _Sample(tally.models, fitted, draws if counts.is_enough else None, ties)
    against = tally.models.index(baseline) if baseline else None
    return Ratings(
        ratings=tuple(_rating(i, sample, wins, tied) for i in order),
        to_next=tuple(_contrast(i, j, sample) for i, j in pairwise(order)),
        to_baseline=tuple(_contrast(i, against, sample) for i in order if i != against)
        if against is not None
        else (),
        baseline=baseline,
        tie_model=ties,
        tie_parameter=fitted.tie_parameter,
        tie_bootstrap=percentile_interval(parameters)
        if counts.is_enough and fitted.tie_parameter is not None
        else None,
        log_likelihood=fitted.log_likelihood,
        wins=_whole(wins, order),
        ties=_whole(tied, order),
        resamples=counts,
        tally=tally,
    )


def win_chance(difference: float, *, ties: Ties, parameter: float | None) -> float:
    """The chance that the first wins, given that one of the two does.

    `σ(d)`; under Rao and Kupper's model `σ(d − η) / [σ(d − η) + σ(−d − η)]` with η = log θ.
    """
    eta = math.log(parameter) if ties == "rao-kupper" and parameter is not None else 0.0
    first, second = (1 / (1 + math.exp(min(eta - side * difference, 700.0))) for side in (1, -1))
    return first / (first + second)


@dataclass(frozen=True, slots=True)
class _Sample:
    """The fit with its resamples `[resamples, models]`."""

    models: Sequence[str]
    fitted: Strengths
    draws: Array | None
    ties: Ties


def _check(tally: PairwiseCounts, *, resamples: int, seed: int, baseline: str) -> None:
    if not 0 <= resamples <= 1_000_000 or 0 < resamples < 100:
        raise BadConfig(
            f"{resamples} resamples", where="--bootstrap", action="give 0 for none, or from 100 to 1,000,000"
        )
    if seed < 0:
        raise BadConfig(f"the seed is {seed}", where="--seed", action="give 0 or more")
    if baseline and baseline not in tally.models:
        names = list_names(list(range(len(tally.models))), tally.models)
        raise BadConfig(
            f"no model is called {short(baseline)}", where="--baseline", action=f"give one of {names}"
        )


def _fit(wins: Counts, tied: Counts, ties: Ties) -> Strengths:
    return fit_strengths(torch.from_numpy(wins), ties=torch.from_numpy(tied), tie_model=ties)


def _fit_all(tally: PairwiseCounts, wins: Counts, tied: Counts, ties: Ties) -> Strengths:
    try:
        return _fit(wins, tied, ties)
    except NotConnectedError as error:
        raise not_linked(error.groups, tally.models, wins, tied) from error
    except ValueError as error:
        raise TooFewLabels(
            f"the tie parameter of --ties {ties} has no finite maximum: going round from model to model there"
            " are never more wins than ties",
            where="--ties",
            action="give --ties half, or more comparisons that somebody wins",
        ) from error
    except ArithmeticError as error:
        raise TooFewLabels(
            f"the comparisons are so lopsided that rounding hides the maximum: {error}",
            action="look at the column of counts, or take ties otherwise (--ties)",
        ) from error


def _bootstrap(
    resampler: Resampler,
    tally: PairwiseCounts,
    ties: Ties,
    resamples: int,
    seed: int,
    on_fit: Callable[[], object],
) -> tuple[Array, Array, Resamples]:
    """Strengths `[fitted, models]` and tie parameters of resamples; those without a maximum are counted."""
    generator = np.random.default_rng(seed)
    draws: list[Array] = []
    parameters: list[float] = []
    again: Counter[str] = Counter()
    # A resample that happens to hold no tie has the parameter that means none.
    none = 1.0 if ties == "rao-kupper" else 0.0
    while len(draws) < resamples and len(draws) + again.total() < resamples * MAX_DRAWS_EACH:
        try:
            fitted = _fit(*resampler.draw(generator), ties)
        except NotConnectedError:
            again[NOT_LINKED] += 1
        except ValueError:
            again[NO_TIE_MAXIMUM] += 1
        except ArithmeticError:
            again[NOT_FOUND] += 1
        else:
            draws.append(fitted.strengths.numpy())
            parameters.append(none if fitted.tie_parameter is None else fitted.tie_parameter)
            on_fit()
    counts = Resamples(
        requested=resamples,
        fitted=len(draws),
        drawn_again=dict(again),
        unit="pairs" if tally.has_shared_units else "comparisons",
        seed=seed,
    )
    return np.array(draws), np.array(parameters), counts


def _rating(i: int, sample: _Sample, wins: Counts, tied: Counts) -> Rating:
    strength, error = float(sample.fitted.strengths[i]), float(sample.fitted.standard_errors[i])
    return Rating(
        model=sample.models[i],
        strength=strength,
        standard_error=error,
        interval=_normal(strength, error),
        bootstrap=None if sample.draws is None else percentile_interval(sample.draws[:, i]),
        wins=round(wins[i].sum()),
        losses=round(wins[:, i].sum()),
        ties=round(tied[i].sum()),
    )


def _contrast(i: int, j: int, sample: _Sample) -> Contrast:
    difference, error = sample.fitted.contrast(i, j)
    draws = sample.draws
    return Contrast(
        first=sample.models[i],
        second=sample.models[j],
        difference=difference,
        standard_error=error,
        interval=_normal(difference, error),
        bootstrap=None if draws is None else percentile_interval(draws[:, i] - draws[:, j]),
        win_chance=win_chance(difference, ties=sample.ties, parameter=sample.fitted.tie_parameter),
    )


def _normal(value: float, error: float) -> Interval:
    spread = normal_quantile(CONFIDENCE) * error
    return value - spread, value + spread


def _whole(counts: Counts, order: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(round(counts[i, j]) for j in order) for i in order)
