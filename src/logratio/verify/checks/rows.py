"""A row of the table: what is checked, the exact value, ours, and how far they may be apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison with an exact answer."""

    what: str
    """What is compared, in words."""
    exact: float
    """The exact value; NaN where the comparison is of many values at once."""
    ours: float
    """What the product computes."""
    error: float
    """How far apart they are, in the sense that the tolerance has."""
    tolerance: float
    """How far apart they may be."""
    passed: bool
    """Whether the error is within the tolerance; of a negative control, whether it is beyond it."""
    control: bool = False
    """A negative control: a form known to be wrong, which must fail by at least the tolerance."""
    skipped: bool = False
    """Nothing was compared, for want of an optional package; it has not passed then."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name; a value that is not finite becomes null."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A named check that gives rows."""

    name: str
    """As in the table of the docs: `E1`."""
    title: str
    """What it shows, in one sentence without a full stop."""
    run: Callable[[bool], list[Row]]
    """Called with whether to be quick: statistical checks then take fewer samples."""


def equal(what: str, ours: float | Tensor, exact: float | Tensor, *, tolerance: float) -> Row:
    """Two values, or the worst entry of two tensors, are at most `tolerance` apart."""
    left, right = _flat(ours), _flat(exact)
    errors = [abs(a - b) for a, b in zip(left, right, strict=True)]
    # NaN first: `max` would pass over one that does not come first.
    worst = next((error for error in errors if math.isnan(error)), max(errors))
    return _row(what, left, right, worst, tolerance)


def relative(what: str, ours: Tensor, exact: Tensor, *, tolerance: float) -> Row:
    """`‖ours − exact‖ / ‖exact‖`, for gradients and other vectors."""
    scale = float(exact.detach().norm())
    error = float((ours.detach() - exact.detach()).norm()) / scale
    return _row(what, [float(ours.detach().norm())], [scale], error, tolerance)


def below(what: str, ours: float, limit: float, *, exact: float = math.nan) -> Row:
    """A value that must not pass a limit: a distance, a z-score."""
    return Row(what=what, exact=exact, ours=ours, error=ours, tolerance=limit, passed=ours <= limit)


def within(what: str, ours: float, low: float, high: float) -> Row:
    """A value within a range; the error is its distance from the middle."""
    middle, half = (low + high) / 2, (high - low) / 2
    error = abs(ours - middle)
    return Row(what=what, exact=middle, ours=ours, error=error, tolerance=half, passed=low <= ours <= high)


def reaches(what: str, earned: float, best: float, *, missed: float) -> Row:
    """What a policy earns, against the best there is; the error is the share of that which is missed.

    More than the best is as wrong as less: then one of the two is not what it is said to be.
    """
    error = abs(best - earned) / abs(best)
    return Row(what=what, exact=best, ours=earned, error=error, tolerance=missed, passed=error <= missed)


def worst_of(seeds: int) -> str:
    """Of how many runs a row shows the worst."""
    return "one seed" if seeds == 1 else f"worst of {seeds} seeds"


def skipped(why: str) -> Row:
    """What stands in the place of the rows of a check that could not be run."""
    return Row(
        what=f"skipped: {why}",
        exact=math.nan,
        ours=math.nan,
        error=math.nan,
        tolerance=math.nan,
        passed=False,
        skipped=True,
    )


def control(what: str, error: float, *, at_least: float) -> Row:
    """A negative control: a form that is known to be wrong must be off by at least so much."""
    return Row(
        what=what,
        exact=math.nan,
        ours=math.nan,
        error=error,
        tolerance=at_least,
        passed=error >= at_least,
        control=True,
    )


def _row(what: str, ours: list[float], exact: list[float], error: float, tolerance: float) -> Row:
    single = len(ours) == 1
    return Row(
        what=what,
        exact=exact[0] if single else math.nan,
        ours=ours[0] if single else math.nan,
        error=error,
        tolerance=tolerance,
        # Written so that NaN does not pass.
        passed=error <= tolerance,
    )


def _flat(value: float | Tensor) -> list[float]:
    if isinstance(value, Tensor):
        return [float(entry) for entry in value.detach().flatten().tolist()]
    return [float(value)]
