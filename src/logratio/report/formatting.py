"""Numbers as a person reads them: few digits, a true minus sign, units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from logratio.stats.wilson import percent_decimals

ABSENT = "–"
MINUS = "−"
NO_BREAK = "\u00a0"
"""A space at which no line ends, between a number and its unit."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number (and not true or false)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: float | None, *, digits: int = 3) -> str:
    """At most `digits` significant digits, whole numbers whole; tiny and huge ones as `1e-5`."""
    if not is_number(value):
        return ABSENT
    if isinstance(value, int) or (value == int(value) and 1000 <= abs(value) < 1e9):
        return f"{int(value):,}".replace("-", MINUS)
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def fixed(value: float | None, decimals: int = 2) -> str:
    """So many decimals: for columns of numbers that are compared with each other."""
    if not is_number(value):
        return ABSENT
    text = f"{value:,.{decimals}f}"
    return (text[1:] if text.startswith("-") and not text.strip("-0.,") else text).replace("-", MINUS)


def percent(share: float | None, decimals: int = 1) -> str:
    """A share as `61.3 %`; shown as 0 or 100 % only where it is 0 or 1."""
    return ABSENT if not is_number(share) else f"{_hundredths(share, decimals)}{NO_BREAK}%"


def percent_interval(low: float | None, high: float | None) -> str:
    """`52.7 to 69.3 %`."""
    if low is None or high is None:
        return ABSENT
    return f"{_hundredths(low, 1)} to {_hundredths(high, 1)}{NO_BREAK}%"


def _hundredths(share: float, decimals: int) -> str:
    return fixed(100 * share, percent_decimals(share, decimals))


def interval(bounds: Sequence[float | None] | None, decimals: int = 2) -> str:
    """`0.35 to 0.45`; empty where there is none."""
    low, high = bounds or (None, None)
    if not is_number(low) or not is_number(high):
        return ""
    return f"{fixed(low, decimals)} to {fixed(high, decimals)}"


def size(num_bytes: float | None) -> str:
    """`2.41 GB`."""
    if not is_number(num_bytes):
        return ABSENT
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(num_bytes) >= scale:
            return f"{number(num_bytes / scale)}{NO_BREAK}{unit}"
    return f"{int(num_bytes)} bytes"
