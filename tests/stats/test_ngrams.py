"""Runs of neighbours: worked by hand."""

from __future__ import annotations

from logratio.stats.ngrams import ngrams, repeated_ngram_share


def test_runs_of_neighbours():
    assert ngrams("abcd", 2) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert ngrams([1, 2], 3) == []


def test_the_share_of_triples_that_stood_there_before():
    assert repeated_ngram_share([1, 2]) == 0
    assert repeated_ngram_share([1, 2, 3, 4]) == 0
    assert repeated_ngram_share([1, 2, 1, 2, 1, 2]) == 0.5
    assert repeated_ngram_share([7] * 12) == 0.9


def test_the_share_of_other_runs():
    assert repeated_ngram_share(["a", "b", "a", "b"], n=2) == 1 - 2 / 3
    assert repeated_ngram_share([1, 1, 1, 1], n=1) == 0.75
