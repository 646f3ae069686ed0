"""Runs of neighbours in a sequence of tokens or words, and how far it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")
REPEATED_NGRAM = 3
"""Items of a run that counts as repeated."""


def ngrams(items: Sequence[Item], n: int) -> list[tuple[Item, ...]]:
    """All runs of `n` neighbours."""
    return [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]


def repeated_ngram_share(items: Sequence[Item], *, n: int = REPEATED_NGRAM) -> float:
    """The share of the runs of `n` neighbours that stood in the sequence before; 0 for a shorter one."""
    runs = ngrams(items, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
