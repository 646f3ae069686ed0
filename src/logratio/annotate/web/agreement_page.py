"""Agreement as a page: one HTML document without script, for the server and as a file of its own."""

from __future__ import annotations

import re
from typing import Any

from logratio.annotate.domain.agreement import RESAMPLES, Coefficient
from logratio.annotate.domain.annotator_quality import QualityReport, assess
from logratio.annotate.domain.smoothing import Smoothing, suggest_smoothing
from logratio.annotate.storage.snapshot import Snapshot
from logratio.annotate.storage.store import Store
from logratio.annotate.web import read
from logratio.errors import MissingExtra
from logratio.stats.wilson import percent_decimals
from logratio.version import __version__

TEMPLATE = "agreement.html"
STYLES = ("page.css", "agreement.css")
TENTATIVE, RELIABLE = 2 / 3, 0.8
"""Krippendorff (2004): below the first draw no conclusions, between the two only tentative ones."""
BREAKLESS = "\u00a0"
LEFT_OUT = {
    "bad": "both answers bad: no preference",
    "flag": "reported as broken",
    "gold": "on gold pairs, whose answer is known",
    "not in random order": "on pairs that a margin chose",
    "repeat": "hidden repeats, which test one person against themselves",
    "skip": "passed on",
}


def render_agreement(store: Store, *, alone: bool = False) -> str:
    """The page of a store, to which people may be writing.

    Args:
        store: the labels.
        alone: with the style sheets in it, to be written as one file; else they are linked as the server
            has them.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    return render_report(assess(Snapshot.of(store)), alone=alone)


def render_report(report: QualityReport, *, alone: bool) -> str:
    """The page of a report."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtra("the page needs Jinja2", action="pip install 'logratio[annotate]'") from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.filters |= {"percent": percent, "decimal": decimal, "spoken": split_code, "count": count}
    environment.globals["place"] = place
    template = environment.from_string(read(TEMPLATE))
    smoothing = _smoothing(report)
    tone, headline, sentence = outcome(report)
    page: str = template.render(
        report=report,
        agreement=report.agreement,
        smoothing=smoothing,
        tone=tone,
        headline=headline,
        sentence=sentence,
        scale=scale(report.agreement.alpha) if report.agreement is not None else None,
        left_out=[(LEFT_OUT.get(name, name), num) for name, num in report.left_out.items()],
        sheets=[read(name) for name in STYLES] if alone else [],
        links=[] if alone else [f"/{name}" for name in STYLES],
        resamples=RESAMPLES,
        version=__version__,
    )
    return page.lstrip()


def outcome(report: QualityReport) -> tuple[str, str, str]:
    """Tone, headline and sentence: what the numbers allow to be said, by the lower end of the interval."""
    if report.agreement is None:
        refused = report.refused[:1].upper() + report.refused[1:]
        return "open", "Agreement is not stated yet", f"{refused}. To have it, {report.action}."
    alpha = report.agreement.alpha
    if alpha.value is None:
        return "open", "Everybody always says the same", f"Krippendorff's α is {alpha.reason}."
    if alpha.low is None:
        return "open", f"α is {decimal(alpha.value)}, with no interval", f"There is {alpha.reason}."
    return _by_interval(alpha.low)


def _by_interval(low: float) -> tuple[str, str, str]:
    if low >= RELIABLE:
        return "good", "People agree reliably", "All of the interval of α lies above 0.8."
    if low >= TENTATIVE:
        return (
            "good",
            "People agree well",
            "All of the interval of α lies above 0.667, enough for tentative conclusions.",
        )
    if low > 0:
        return (
            "fair",
            "People agree more than by chance",
            "The interval of α lies above 0 and reaches below 0.667: single labels are noisy. Smooth them in"
            " training, let more people judge each pair, or make the guidelines clearer.",
        )
    return (
        "bad",
        "Agreement cannot be told from chance",
        "The interval of α reaches down to 0. Look at the guidelines and at single people below before a"
        " model is trained on these labels.",
    )


def scale(alpha: Coefficient) -> dict[str, Any]:
    """Where α and its interval stand, in per cent of the width of the picture."""
    lowest = min(one for one in (0.0, alpha.value, alpha.low) if one is not None)
    start = -0.2 if lowest >= -0.2 else -1.0
    ends = (alpha.low, alpha.value, alpha.high)
    low, value, high = (None if one is None else place(one, start, 1.0) for one in ends)
    return {
        "low": low,
        "value": value,
        "high": high,
        "chance": place(0, start, 1),
        "tentative": place(TENTATIVE, start, 1),
        "reliable": place(RELIABLE, start, 1),
    }


def place(value: float, start: float, end: float) -> str:
    """Where a value stands between two, in per cent, a little away from the edges."""
    return f"{2 + 96 * (min(max(value, start), end) - start) / (end - start):.2f}"


def percent(share: float, digits: int = 1) -> str:
    """`65.7 %`, which no line end parts; shown as 0 or 100 % only where it is 0 or 1."""
    return f"{100 * share:.{percent_decimals(share, digits)}f}{BREAKLESS}%"


def decimal(value: float) -> str:
    """Two digits, with a real minus sign."""
    return f"{value:.2f}".replace("-", "\u2212")


def count(value: float) -> str:
    """A whole number without a point; what counts in part with one digit."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def split_code(sentence: str) -> list[str]:
    """Pieces of a sentence, every other one code, which stood between back-ticks."""
    return re.split(r"`([^`]*)`", sentence)


def _smoothing(report: QualityReport) -> Smoothing | None:
    """The suggestion for labels of one verdict each; the export makes it for the labels it writes."""
    return None if report.agreement is None else suggest_smoothing(report.agreement.opposite, [1])
