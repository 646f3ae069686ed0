"""What the labels of a file say about each other: repeats, contradictions and cycles.

Labels are votes. Several votes for the same pair are kept, also where a minority differs: Bradley–Terry
takes two against one for exactly that, odds of two to one. Only where no side has a majority is there
nothing to learn but noise; those rows are left out. A cycle (A over B, B over C, C over A) is reported, since
no order of answers agrees with it; its rows are kept, for each of its pairs has a majority.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from logratio.data.formats import normalise
from logratio.records import Comparison

Answer = tuple[str, str]
"""A prompt's key and an answer's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """All votes on one pair of answers, told apart by the places of their rows."""

    first: list[str] = field(default_factory=list)
    """Rows that prefer the answer that comes first by alphabet."""
    second: list[str] = field(default_factory=list)
    """Rows that prefer the other."""

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
    """Repeats, contradictions and cycles, each by the places of its rows."""

    duplicates: list[list[str]]
    """Rows that are the same vote on the same pair; they count as several votes."""
    contradictions: list[list[str]]
    """Rows on a pair that both answers won at least once."""
    undecided: list[list[str]]
    """Those contradictions without a majority: left out of training."""
    cycles: list[list[str]]
    """Rows whose majorities go round: of each tangle of answers, all rows among them."""


def compare_labels(comparisons: Sequence[Comparison]) -> LabelReport:
    """Group the votes by prompt and pair of answers and see what they say together."""
    pairs: dict[tuple[Answer, Answer], Votes] = defaultdict(Votes)
    for comparison in comparisons:
        winner, loser = answers_of(comparison)
        pair = min(winner, loser), max(winner, loser)
        votes = pairs[pair]
        (votes.first if winner == pair[0] else votes.second).append(comparison.source)
    sides = [side for votes in pairs.values() for side in (votes.first, votes.second)]
    contradicting = [votes for votes in pairs.values() if votes.contradict]
    return LabelReport(
        duplicates=[side for side in sides if len(side) > 1],
        contradictions=[votes.first + votes.second for votes in contradicting],
        undecided=[votes.first + votes.second for votes in contradicting if not votes.settled],
        cycles=find_cycles(pairs),
    )


def answers_of(comparison: Comparison) -> tuple[Answer, Answer]:
    """Winner and loser, each known by its prompt and what it says."""
    key = comparison.prompt.key
    return (key, normalise(comparison.chosen.text)), (key, normalise(comparison.rejected.text))


def find_cycles(pairs: Mapping[tuple[Answer, Answer], Votes]) -> list[list[str]]:
    """Rows of every set of answers in which each is better than each other, by way of majorities."""
    better: dict[Answer, set[Answer]] = defaultdict(set)
    for (first, second), votes in pairs.items():
        if votes.settled:
            winner, loser = (first, second) if len(votes.first) > len(votes.second) else (second, first)
            better[winner].add(loser)
    tangles = [tangle for tangle in strongly_connected(better) if len(tangle) > 2]
    return [
        [
            row
            for (first, second), votes in pairs.items()
            if first in tangle and second in tangle and votes.settled
            for row in votes.first + votes.second
        ]
        for tangle in tangles
    ]


def strongly_connected(edges: Mapping[Answer, Iterable[Answer]]) -> list[set[Answer]]:
    """Sets of nodes that reach each other (Kosaraju: by falling time of leaving, against the arrows)."""
    against: dict[Answer, set[Answer]] = defaultdict(set)
    for node, targets in edges.items():
        for target in targets:
            against[target].add(node)
    seen: set[Answer] = set()
    order = [node for start in edges for node in _leaving_order(start, edges, seen)]
    seen = set()
    return [set(_leaving_order(node, against, seen)) for node in reversed(order) if node not in seen]


def _leaving_order(
    start: Answer, edges: Mapping[Answer, Iterable[Answer]], seen: set[Answer]
) -> list[Answer]:
    """Nodes not yet seen that `start` reaches, a node after all that it leads to; no recursion."""
    if start in seen:
        return []
    seen.add(start)
    left: list[Answer] = []
    open_nodes = [(start, iter(sorted(edges.get(start, ()))))]
    while open_nodes:
        node, targets = open_nodes[-1]
        target = next((target for target in targets if target not in seen), None)
        if target is None:
            left.append(node)
            open_nodes.pop()
        else:
            seen.add(target)
            open_nodes.append((target, iter(sorted(edges.get(target, ())))))
    return left
