"""What can be counted in a set of answers: how long, how varied, how they begin and end.

A policy that found a way to please its judge shows here first: answers get long, repeat themselves, begin
alike or never end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from logratio.records import Completion
from logratio.stats.ngrams import ngrams, repeated_ngram_share

WORD = re.compile(r"\w+|[^\w\s]")
OPENING_WORDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStatistics:
    """Counts over a set of answers."""

    length: float
    """Mean number of tokens, the end token included."""
    eos_rate: float
    """Share of answers that the model ended itself."""
    distinct_1: float | None
    """Distinct words over words, over all answers together; None where there is no word."""
    distinct_2: float | None
    """The same for pairs of neighbouring words."""
    distinct_3: float | None
    """The same for triples."""
    repetition: float
    """Mean share of an answer's triples that stood in it before."""
    empty_rate: float
    """Share of answers that are empty or white space."""
    same_opening: float
    """Share of answers that begin with the commonest three words."""
    opening: str
    """Those words."""
    most_frequent: tuple[tuple[str, int], ...]
    """The commonest answers that occur more than once, with their counts."""

    def to_json(self) -> dict[str, Any]:
        """All fields by name; frequent answers as `{"text", "count"}`."""
        frequent = [{"text": text, "count": count} for text, count in self.most_frequent]
        return asdict(self) | {"most_frequent": frequent}


def text_statistics(completions: Sequence[Completion]) -> TextStatistics:
    """All counts of this module.

    Raises:
        ValueError: there is no answer, or the tokens of one are not known.
    """
    if not completions:
        raise ValueError("there are no answers to count in")
    texts = [completion.text for completion in completions]
    opening, same_opening = commonest_opening(texts)
    return TextStatistics(
        length=mean_length(completions),
        eos_rate=eos_rate(completions),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        distinct_3=distinct_n(texts, 3),
        repetition=repetition(texts),
        empty_rate=sum(not text.strip() for text in texts) / len(texts),
        same_opening=same_opening,
        opening=opening,
        most_frequent=most_frequent(texts),
    )


def words(text: str) -> list[str]:
    """Words and punctuation marks in lower case; what a word is does not depend on a tokenizer."""
    return WORD.findall(text.lower())


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct n-grams over n-grams, over all texts together (Li et al. 2016, arXiv:1510.03055).

    It falls as texts get longer, so it compares sets of like length. None where there is no n-gram.
    """
    all_ngrams = [ngram for text in texts for ngram in ngrams(words(text), n)]
    return len(set(all_ngrams)) / len(all_ngrams) if all_ngrams else None


def repetition(texts: Sequence[str]) -> float:
    """Mean over texts of the share of word triples that stood in the same text before; 0 for a short text."""
    return sum(repeated_ngram_share(words(text)) for text in texts) / len(texts)


def mean_length(completions: Sequence[Completion]) -> float:
    """Mean number of tokens, the end token included.

    Raises:
        ValueError: the tokens of an answer are not known.
    """
    return sum(token_count(completion) for completion in completions) / len(completions)


def token_count(completion: Completion) -> int:
    """Number of tokens of a sampled answer, the end token included.

    Raises:
        ValueError: its tokens are not known.
    """
    if completion.token_ids is None:
        raise ValueError("an answer without its tokens has no length in tokens")
    return len(completion.token_ids)


def eos_rate(completions: Sequence[Completion]) -> float:
    """Share of answers that ended themselves instead of being cut off."""
    return sum(completion.finish_reason == "stop" for completion in completions) / len(completions)


def commonest_opening(texts: Sequence[str], *, num_words: int = OPENING_WORDS) -> tuple[str, float]:
    """The commonest first words, and the share of texts that begin with them."""
    openings = Counter(" ".join(words(text)[:num_words]) for text in texts)
    opening, count = openings.most_common(1)[0]
    return opening, count / len(texts)


def most_frequent(texts: Sequence[str], *, limit: int = 5) -> tuple[tuple[str, int], ...]:
    """Texts that occur more than once, white space at the ends aside, with their counts."""
    counts = Counter(text.strip() for text in texts)
    return tuple((text, count) for text, count in counts.most_common(limit) if count > 1)
