"""Checks that hold, fail and stop, and small numbers for the pictures of their page."""

from __future__ import annotations

from logratio.errors import MissingExtra
from logratio.verify.checks.rows import Check, below, control, equal
from logratio.verify.report.plot_data import FORMS, SAMPLE_SIZES
from logratio.verify.run import gather, run_check


def holds(quick):
    return [
        equal("one half | a <b>", 0.5 + 1e-14, 0.5, tolerance=1e-12),
        below("a distance", 0.3 if quick else 0.2, 0.4),
        control("a form without its end", 0.7, at_least=0.1),
    ]


def fails(quick):
    return [equal("two of three", 0.5, 2 / 3, tolerance=1e-9), equal("three", 3.0, 3.0, tolerance=0.0)]


def raises(quick):
    raise ArithmeticError("no such <number>")


def lacks(quick):
    raise MissingExtra("Gymnasium is not installed", action="pip install 'logratio[control]'")


HOLDS = Check(name="A1", title="what holds", run=holds)
FAILS = Check(name="A2", title="What does not", run=fails)
RAISES = Check(name="B1", title="What stops", run=raises)
LACKS = Check(name="C1", title="what needs an extra", run=lacks)
EMPTY = Check(name="B2", title="What compares nothing", run=lambda quick: [])


def gathered(*checks, quick=False):
    outcomes = [run_check(check, quick=quick) for check in checks]
    return gather(outcomes, quick=quick, finished="2026-01-02 03:04:05 UTC")


def made_pictures():
    """Numbers in the form that `measure` gives, few of them."""
    line = [0.4, 0.2, 0.1]
    sizes = [{"size": size, "median": line, "wrong_sign": line, "effective": line} for size in SAMPLE_SIZES]
    curves = dict.fromkeys(("k1", "k2", "k3", "rao_blackwell"), line)
    forms = {name: {"error": 0.2, "cosine": None if name == "k1_loss" else 0.9} for name in FORMS}
    place = {"kl": 0.5, "forms": forms}
    return {
        "importance": {
            "truth": -1.0,
            "repeats": 3,
            "shifts": [0, 1, 2],
            "sizes": sizes,
            "exact_effective": line,
        },
        "kl_estimators": {"kl": [0.1, 0.2, 0.3], "bias": curves, "deviation": curves},
        "kl_gradients": {"far": place, "near": place},
        "ways": {"beta": 0.3, "runs": {"ppo": [line, line], "dpo": [line]}},
    }
