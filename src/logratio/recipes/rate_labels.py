"""People's verdicts on answers as comparisons of the models that wrote them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from logratio.annotate.domain.pairs import Pair
from logratio.annotate.domain.votes import Vote
from logratio.annotate.storage.store import Store
from logratio.data.normalised_names import NameForms
from logratio.errors import TooFewLabels
from logratio.evaluation.ratings.pairwise_counts import PairOutcome, Result
from logratio.evaluation.ratings.reading import clean_name

RESULTS: dict[str, Result] = {"a": "first", "b": "second", "tie": "tie", "bad": "both-bad"}
"""Verdicts that say something of the two models."""
NO_NAMES = "on answers of models that have no name"


def read_labels(path: Path, forms: NameForms) -> tuple[list[PairOutcome], dict[str, int]]:
    """The verdicts that stand in a database of labels, and how many do not count, by reason.

    All verdicts on one pair are one unit. Hidden repeats and gold pairs are there to check annotators, and a
    pair that a margin chose is not a fair draw: none of them counts. `forms` takes note of the names.

    Raises:
        FileNotReadable, DatabaseBusyOrBroken, UnknownFormatVersion: the database cannot be opened.
        TooFewLabels: no pair says which models wrote its answers.
    """
    with Store.open(path) as store:
        # In this order: pairs are only ever added, also while people are judging.
        votes, pairs = store.votes(), store.pairs()
    if votes and not any(map(_has_names, pairs.values())):
        raise TooFewLabels(
            f"none of {len(pairs):,} pairs says which models wrote its answers",
            where=str(path),
            action="give `logratio annotate serve` completions with a column model, or comparisons with "
            "chosen_model and rejected_model",
        )
    flagged = {vote.pair_id for vote in votes if vote.verdict == "flag"}
    left_out: Counter[str] = Counter()
    outcomes = []
    for vote in votes:
        pair = pairs[vote.pair_id]
        reason = _why_not(vote, pair, flagged=vote.pair_id in flagged)
        if reason:
            left_out[reason] += 1
        else:
            outcomes.append(_outcome(vote, pair, forms))
    return outcomes, dict(left_out)


def _why_not(vote: Vote, pair: Pair, *, flagged: bool) -> str:
    """Why a verdict does not count; empty where it does."""
    reasons = {
        "hidden repeats": vote.kind == "repeat",
        "on gold pairs": vote.kind == "gold" or pair.gold is not None,
        "skipped": vote.verdict == "skip",
        "on flagged pairs": flagged,
        "on pairs that were chosen by a margin": not vote.at_random,
        NO_NAMES: not _has_names(pair),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _has_names(pair: Pair) -> bool:
    return all(name.strip() for name in pair.models)


def _outcome(vote: Vote, pair: Pair, forms: NameForms) -> PairOutcome:
    first, second = (clean_name(name, column="model", where=pair.source, forms=forms) for name in pair.models)
    return PairOutcome(
        first=first,
        second=second,
        result=RESULTS[vote.verdict],
        unit=pair.id,
        source=pair.source,
    )
