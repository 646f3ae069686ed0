"""All checks, gathered from their modules and chosen by name."""

from __future__ import annotations

from collections.abc import Sequence

from logratio.errors import BadConfig
from logratio.verify.checks import (
    advantages,
    control,
    environments,
    expectations,
    frontier,
    importance_weights,
    mechanics,
    optimum,
    preferences,
    processes,
    proximal,
    strengths,
    trainers,
)
from logratio.verify.checks.rows import Check

MODULES = (
    expectations,
    mechanics,
    importance_weights,
    strengths,
    advantages,
    proximal,
    preferences,
    optimum,
    frontier,
    control,
    trainers,
    environments,
    processes,
)
"""Modules with checks, from what the rest builds on to what is built."""

CHECKS: tuple[Check, ...] = tuple(check for module in MODULES for check in module.CHECKS)
"""Every check, in the order in which they run and stand in tables."""


def select(names: Sequence[str], checks: Sequence[Check] = CHECKS) -> tuple[Check, ...]:
    """The checks with these names, in the table's order; all of them for no name. Case does not matter.

    Raises:
        BadConfig: there is no check of a name.
    """
    known = {check.name.casefold(): check.name for check in checks}
    for name in names:
        if name.casefold() not in known:
            listed = ", ".join(known.values())
            raise BadConfig(f"there is no check {name!r}", where="--only", action=f"give one of {listed}")
    wanted = {name.casefold() for name in names}
    return tuple(check for check in checks if not names or check.name.casefold() in wanted)
