"""What the verdicts say about those who gave them: agreement, consistency, habits and pace.

Where a margin chose the order of pairs, only those that came in random order are looked at: a rate over
pairs that were picked for being close would say little about the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from logratio.annotate.domain.agreement import RESAMPLES, Agreement, Proportion, measure_agreement
from logratio.annotate.domain.pairs import Pair
from logratio.annotate.storage.snapshot import CATEGORIES, Snapshot, ratings_of
from logratio.annotate.storage.store import Vote
from logratio.errors import TooFewLabels

JUDGED = (*CATEGORIES, "bad")
"""Verdicts on both answers: neither passed on nor reported as broken."""
NOT_RANDOM = "not in random order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One annotator, or all together. Each share is none where nothing counts towards it."""

    annotator: str
    """The name; empty for all together."""
    verdicts: dict[str, int]
    """First verdicts that stand: chosen, tie, bad, skip, flag."""
    consistency: Proportion | None
    """Hidden repeats, sides swapped, that got the same verdict again."""
    gold: Proportion | None
    """Gold pairs with the right verdict."""
    left: Proportion | None
    """Of first verdicts for an answer: for the one on the left. Sides are drawn, so that 50 % is no habit."""
    longer: Proportion | None
    """Of first verdicts for an answer of unequal ones: for the one with more characters."""
    seconds: float | None
    """Median time of a first verdict, by the page's clock."""

    @property
    def num_verdicts(self) -> int:
        """First verdicts that stand."""
        return sum(self.verdicts.values())

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """Everything `logratio annotate agreement` tells."""

    num_pairs: int
    """Pairs in the store."""
    num_judged: int
    """Pairs with a verdict that agreement can use."""
    num_verdicts: int
    """Verdicts that stand: those in the agreement and those left out of it add up to them."""
    num_used: int
    """Verdicts in the agreement: `a`, `b` or `tie`, first ones, in random order."""
    left_out: dict[str, int]
    """The others, by reason."""
    only_random: bool
    """Whether some verdicts were left out since a margin had chosen their pairs."""
    agreement: Agreement | None
    """Agreement; none where it is refused."""
    refused: str
    """Why it is refused."""
    action: str
    """What to do about it."""
    annotators: tuple[Quality, ...]
    """Each annotator, by name."""
    together: Quality
    """All of them."""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def assess(snapshot: Snapshot, *, resamples: int = RESAMPLES, seed: int = 0) -> QualityReport:
    """Everything, with agreement refused by name where too few pairs overlap.

    Args:
        snapshot: of the store.
        resamples: for the intervals of kappa and alpha.
        seed: of the resampling.
    """
    standing = snapshot.standing
    votes = [vote for vote in standing if vote.at_random]
    ratings = ratings_of(votes)
    agreement, refused, action = None, "", ""
    try:
        agreement = measure_agreement(ratings, resamples=resamples, seed=seed)
    except TooFewLabels as fault:
        refused, action = fault.what, fault.action
    names = sorted({vote.annotator for vote in votes})
    num_used = sum(len(votes_on_pair) for votes_on_pair in ratings.values())
    return QualityReport(
        num_pairs=len(snapshot.pairs),
        num_judged=len(ratings),
        num_verdicts=len(standing),
        num_used=num_used,
        left_out=_left_out(standing),
        only_random=len(votes) < len(standing),
        agreement=agreement,
        refused=refused,
        action=action,
        annotators=tuple(
            assess_votes(name, [vote for vote in votes if vote.annotator == name], snapshot.pairs)
            for name in names
        ),
        together=assess_votes("", votes, snapshot.pairs),
    )


def assess_votes(name: str, votes: Sequence[Vote], pairs: Mapping[str, Pair]) -> Quality:
    """The rates of some votes that stand."""
    first = [vote for vote in votes if vote.kind == "first"]
    judged = [vote.milliseconds / 1000 for vote in first if vote.verdict in JUDGED]
    return Quality(
        annotator=name,
        verdicts=_count_verdicts(first),
        consistency=_consistency(votes),
        gold=_rate(
            [vote for vote in votes if vote.kind == "gold" and vote.verdict in JUDGED],
            lambda vote: vote.verdict == pairs[vote.pair_id].gold,
        ),
        left=_rate([vote for vote in first if vote.left_won is not None], lambda vote: bool(vote.left_won)),
        longer=_rate(
            [vote for vote in first if _lengths(vote, pairs)[0] != _lengths(vote, pairs)[1]],
            lambda vote: _lengths(vote, pairs)[0] > _lengths(vote, pairs)[1],
        ),
        seconds=median(judged) if judged else None,
    )


def _count_verdicts(votes: Sequence[Vote]) -> dict[str, int]:
    """Which answer was preferred is no habit of an annotator, so that `a` and `b` are counted as one."""
    counts = Counter("chosen" if vote.verdict in ("a", "b") else vote.verdict for vote in votes)
    return {name: counts[name] for name in ("chosen", "tie", "bad", "skip", "flag")}


def _consistency(votes: Sequence[Vote]) -> Proportion | None:
    """Repeats against the first verdict of the same person; those passed on or reported are not compared."""
    first = {(vote.annotator, vote.pair_id): vote.verdict for vote in votes if vote.kind == "first"}
    repeats = [
        vote
        for vote in votes
        if vote.kind == "repeat"
        and vote.verdict in JUDGED
        and first.get((vote.annotator, vote.pair_id)) in JUDGED
    ]
    return _rate(repeats, lambda vote: vote.verdict == first[vote.annotator, vote.pair_id])


def _lengths(vote: Vote, pairs: Mapping[str, Pair]) -> tuple[int, int]:
    """Characters of the preferred answer and of the other; equal where none was preferred."""
    if vote.left_won is None:
        return 0, 0
    pair = pairs[vote.pair_id]
    lengths = len(pair.a.text), len(pair.b.text)
    return lengths if vote.verdict == "a" else (lengths[1], lengths[0])


def _rate(votes: Sequence[Vote], holds: Callable[[Vote], bool]) -> Proportion | None:
    return Proportion.of(sum(map(holds, votes)), len(votes))


def _left_out(votes: Sequence[Vote]) -> dict[str, int]:
    """Verdicts that stand and are not in the agreement, each under its first reason."""
    counts: Counter[str] = Counter()
    for vote in votes:
        if vote.kind != "first":
            counts[vote.kind] += 1
        elif vote.verdict not in CATEGORIES:
            counts[vote.verdict] += 1
        elif not vote.at_random:
            counts[NOT_RANDOM] += 1
    return dict(sorted(counts.items()))
