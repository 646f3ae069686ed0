"""What the labels of a file say about each other: repeats, contradictions and cycles.

Labels are votes. Several votes for the same pair are kept, also where a minority differs: Bradley–Terry
takes two against one for exactly that, odds of two to one. Only where no side has a majority is there
nothing to learn but noise; those rows are left out. A cycle (A over B, B over C, C over A) is reported, since
no order of answers agrees with it; its rows are kept, for each of its pairs has a majority.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from logratio.data.preference_formats import normalise
from logratio.records import Comparison
from logratio.stats.graphs import strongly_connected

Answer = tuple[str, str]
"""A prompt's key and an answer's text."""


Pair = tuple[Answer, Answer]
"""Two answers to one prompt, in the order of the alphabet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """All votes on one pair of answers, by the numbers of their rows."""

    first: list[int] = field(default_factory=list)
    """Rows that prefer the first answer of the pair."""
    second: list[int] = field(default_factory=list)
    """Rows that prefer the second."""

    @property
    def rows(self) -> list[int]:
        """All rows on this pair, in order."""
        return sorted(self.first + self.second)

    @property
    def contradict(self) -> bool:
        """Whether both answers are preferred by somebody."""
        return bool(self.first and self.second)

    @property
    def settled(self) -> bool:
        """Whether one answer has more votes."""
        return len(self.first) != len(self.second)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """Repeats, contradictions and cycles, each by the numbers of its rows, from 0."""

    duplicates: list[list[int]]
    """Rows that are the same vote on the same pair; they count as several votes."""
    contradictions: list[list[int]]
    """Rows on a pair that both answers won at least once."""
    undecided: list[list[int]]
    """Those contradictions without a majority: left out of training."""
    cycles: list[list[int]]
    """Rows whose majorities go round: of each tangle of answers, all rows among them."""


def compare_labels(comparisons: Sequence[Comparison]) -> LabelReport:
    """Group the votes by prompt and pair of answers and see what they say together."""
    pairs: dict[Pair, Votes] = defaultdict(Votes)
    for row, comparison in enumerate(comparisons):
        winner, loser = answers_of(comparison)
        pair = min(winner, loser), max(winner, loser)
        (pairs[pair].first if winner == pair[0] else pairs[pair].second).append(row)
    sides = [side for votes in pairs.values() for side in (votes.first, votes.second)]
    contradicting = [votes for votes in pairs.values() if votes.contradict]
    return LabelReport(
        duplicates=[side for side in sides if len(side) > 1],
        contradictions=[votes.rows for votes in contradicting],
        undecided=[votes.rows for votes in contradicting if not votes.settled],
        cycles=find_cycles(pairs),
    )


def answers_of(comparison: Comparison) -> tuple[Answer, Answer]:
    """Winner and loser, each known by its prompt and what it says."""
    key = comparison.prompt.key
    return (key, normalise(comparison.chosen.identity)), (key, normalise(comparison.rejected.identity))


def find_cycles(pairs: Mapping[Pair, Votes]) -> list[list[int]]:
    """Rows of every set of answers in which each is better than each other, by way of majorities."""
    better: dict[Answer, set[Answer]] = defaultdict(set)
    for (first, second), votes in pairs.items():
        if votes.settled:
            winner, loser = (first, second) if len(votes.first) > len(votes.second) else (second, first)
            better[winner].add(loser)
    tangles = [tangle for tangle in strongly_connected(better) if len(tangle) > 1]
    tangle_of = {answer: index for index, tangle in enumerate(tangles) for answer in tangle}
    rows: list[list[int]] = [[] for _ in tangles]
    for (first, second), votes in pairs.items():
        if first in tangle_of and tangle_of[first] == tangle_of.get(second) and votes.settled:
            rows[tangle_of[first]] += votes.rows
    return [sorted(tangle) for tangle in rows]
