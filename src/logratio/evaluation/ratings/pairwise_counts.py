"""Who beat whom, as counts: what strengths are fitted to, and what is drawn again for their intervals.

What is drawn together is a unit: a comparison by itself, or all verdicts on one pair of answers, which do not
speak independently of one another. Units that hold the same are kept once, with how many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from logratio.errors import TooFewLabels, WrongType

Result = Literal["first", "second", "tie", "both-bad"]
RESULTS: tuple[Result, ...] = ("first", "second", "tie", "both-bad")
Counts = NDArray[np.float64]
Cell = tuple[int, int, bool]
"""Winner, loser and false; or, of a tie, both and true, the lower first."""
MAX_MODELS = 500
"""More names than these are no models but something that differs from row to row."""
MAX_COMPARISONS = 10**12
ITSELF = "a model with itself"
"""Why a comparison is left out: it says nothing of who is stronger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOutcome:
    """What came of comparing two models."""

    first: str
    """A model."""
    second: str
    """Another."""
    result: Result
    """Who won. Both bad is a tie, and is counted apart."""
    count: int = 1
    """How often."""
    unit: str = ""
    """What it belongs to, where comparisons belong together; empty where each stands for itself."""
    source: str = ""
    """Where it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairwiseCounts:
    """Comparisons as counts."""

    models: tuple[str, ...]
    """Names in alphabetical order, so that no number depends on the order of the rows."""
    units: Mapping[tuple[Cell, ...], int]
    """What a unit holds, to how many units hold just that."""
    both_bad: int = 0
    """How many of the ties were two bad answers."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Comparisons that do not count, by reason."""
    first_left_out: Mapping[str, str] = field(default_factory=dict)
    """Where the first of them stands, by reason."""
    only_itself: tuple[str, ...] = ()
    """Models that were compared with nothing but themselves, and have no strength."""
    remarks: tuple[str, ...] = ()
    """How names and winners were read, in sentences."""

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return sum(self.units.values())

    @property
    def num_comparisons(self) -> int:
        """How many comparisons there are; those left out are not counted."""
        return sum(len(cells) * count for cells, count in self.units.items())

    @property
    def has_shared_units(self) -> bool:
        """Whether some comparisons belong together."""
        return any(len(cells) > 1 for cells in self.units)


class Resampler:
    """Draws as many units as there are, with replacement, and counts who beat whom in them."""

    def __init__(self, tally: PairwiseCounts) -> None:
        units = sorted(tally.units.items())
        cells = sorted({cell for unit, _ in units for cell in unit})
        index_of = {cell: index for index, cell in enumerate(cells)}
        self._counts = np.array([count for _, count in units], dtype=np.int64)
        self._unit = np.array([index for index, (unit, _) in enumerate(units) for _ in unit], dtype=np.int64)
        self._cell = np.array([index_of[cell] for unit, _ in units for cell in unit], dtype=np.int64)
        self._first, self._second, tied = np.array(cells, dtype=np.int64).T
        self._tied = tied.astype(bool)
        self._num_models = len(tally.models)

    def everything(self) -> tuple[Counts, Counts]:
        """Wins `[models, models]`, of the row over the column, and ties, each in both places."""
        return self._count(self._counts)

    def draw(self, generator: np.random.Generator) -> tuple[Counts, Counts]:
        """The same of a resample."""
        total = int(self._counts.sum())
        return self._count(generator.multinomial(total, self._counts / total))

    def _count(self, unit_counts: NDArray[np.int64]) -> tuple[Counts, Counts]:
        counts = np.bincount(self._cell, weights=unit_counts[self._unit], minlength=len(self._first))
        wins, ties = np.zeros((2, self._num_models, self._num_models))
        won, tied = ~self._tied, self._tied
        wins[self._first[won], self._second[won]] = counts[won]
        ties[self._first[tied], self._second[tied]] = counts[tied]
        return wins, ties + ties.T


def count_outcomes(
    outcomes: Iterable[PairOutcome],
    *,
    left_out: Mapping[str, int] | None = None,
    first_left_out: Mapping[str, str] | None = None,
) -> PairwiseCounts:
    """Count outcomes; those of a model with itself are left out.

    Args:
        outcomes: what was read.
        left_out: what the reader left out already, by reason; looked at when all is read.
        first_left_out: where the first of them stands, by reason.

    Raises:
        TooFewLabels: there is nothing to compare.
        WrongType: there are more names than models can have.
    """
    alone: Counter[tuple[str, str, bool]] = Counter()
    shared: dict[str, list[tuple[str, str, bool]]] = {}
    names: set[str] = set()
    itself, both_bad, at = 0, 0, ""
    for outcome in outcomes:
        names |= {outcome.first, outcome.second} if outcome.count else set()
        _ensure_few(names, at=outcome.source)
        if outcome.first == outcome.second:
            at = at or outcome.source
            itself += outcome.count
            continue
        both_bad += outcome.count * (outcome.result == "both-bad")
        cell = _cell(outcome)
        if outcome.unit:
            shared.setdefault(outcome.unit, []).extend([cell] * outcome.count)
        else:
            alone[cell] += outcome.count
    reasons = {**(left_out or {}), ITSELF: itself}
    left = {reason: count for reason, count in reasons.items() if count}
    models = _compared(alone, *shared.values())
    _ensure_enough(names, models, left, at=at)
    index_of = {name: index for index, name in enumerate(models)}
    units: Counter[tuple[Cell, ...]] = Counter()
    for cell, count in alone.items():
        units[_indexed([cell], index_of)] += count
    for cells in shared.values():
        units[_indexed(cells, index_of)] += 1
    tally = PairwiseCounts(
        models=models,
        units={unit: count for unit, count in units.items() if count},
        both_bad=both_bad,
        left_out=left,
        first_left_out={**(first_left_out or {}), **({ITSELF: at} if itself else {})},
        only_itself=tuple(sorted(names - set(models))),
    )
    if tally.num_comparisons > MAX_COMPARISONS:
        raise WrongType(
            f"{tally.num_comparisons:,} comparisons: more than {MAX_COMPARISONS:,}",
            action="look at the column of counts",
        )
    return tally


def _cell(outcome: PairOutcome) -> tuple[str, str, bool]:
    if outcome.result in ("first", "second"):
        return (
            (outcome.first, outcome.second, False)
            if outcome.result == "first"
            else (outcome.second, outcome.first, False)
        )
    return (*sorted((outcome.first, outcome.second)), True)  # type: ignore[return-value]


def _compared(*groups: Iterable[tuple[str, str, bool]]) -> tuple[str, ...]:
    return tuple(sorted({name for cells in groups for cell in cells for name in cell[:2]}))


def _indexed(cells: Iterable[tuple[str, str, bool]], index_of: Mapping[str, int]) -> tuple[Cell, ...]:
    return tuple(sorted((index_of[first], index_of[second], tied) for first, second, tied in cells))


def _ensure_few(names: set[str], *, at: str) -> None:
    if len(names) > MAX_MODELS:
        raise WrongType(
            f"the columns of models hold more than {MAX_MODELS} different names",
            where=at,
            action="give each model one name; a column of answers or identities is not one of models",
        )


def _ensure_enough(names: set[str], models: tuple[str, ...], left: Mapping[str, int], *, at: str) -> None:
    if models:
        return
    if len(names) == 1:
        what = f"there is one model alone, {short(names.pop())}, and strengths are of one against another"
    else:
        what = "there is no comparison of two models"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left.items())
    raise TooFewLabels(
        what + (f" (left out: {reasons})" if reasons else ""),
        where=at,
        action="give comparisons of at least two models, of which each has won and lost",
    )


def short(name: str) -> str:
    """A name as a fault shows it: cut, and with nothing in it that a terminal would act on."""
    return repr(name if len(name) <= 40 else name[:39] + "…")
