"""What a store holds at one moment, as agreement and export read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from logratio.annotate.domain.pairs import Pair
from logratio.annotate.storage.store import Store, Vote

CATEGORIES = ("a", "b", "tie")
"""Verdicts whose agreement is measured; the others say nothing about which answer is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Pairs, the log of verdicts and the files they came from."""

    pairs: Mapping[str, Pair]
    """All pairs by id, in order of arrival."""
    log: tuple[Vote, ...]
    """Every row ever written, in order."""
    files: Mapping[str, str]
    """sha256 of each file of pairs, by name."""

    @classmethod
    def of(cls, store: Store) -> Snapshot:
        """Read a store, to which people may be writing.

        The log is read once, and first: pairs are only ever added, so that every row of it has its pair.
        """
        log = tuple(store.log())
        return cls(pairs=store.pairs(), log=log, files=store.files())

    @property
    def standing(self) -> list[Vote]:
        """Verdicts that were neither taken back nor replaced."""
        gone = {vote.supersedes for vote in self.log}
        return [vote for vote in self.log if vote.verdict != "undo" and vote.id not in gone]


def ratings_of(votes: list[Vote]) -> dict[str, dict[str, str]]:
    """Pair → annotator → category, of those votes that are first ones and prefer an answer or call a tie."""
    ratings: dict[str, dict[str, str]] = {}
    for vote in votes:
        if vote.kind == "first" and vote.verdict in CATEGORIES:
            ratings.setdefault(vote.pair_id, {})[vote.annotator] = vote.verdict
    return ratings
