"""How positive an answer sounds: a reward that needs no model, no network and no people.

Give it to a command as `--reward logratio.rollouts.sentiment:sentiment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from logratio.errors import MissingExtra


def sentiment(
    prompts: Sequence[Any], completions: Sequence[str | Sequence[dict[str, str]]], **columns: Any
) -> list[float]:
    """VADER's compound score of each answer, from -1 (most negative) to 1 (most positive).

    A lexicon of 7,500 words with rules for negation, emphasis and contrast (Hutto and Gilbert 2014): the
    same text always has the same score, and the prompt plays no part in it.

    Args:
        prompts: not looked at.
        completions: `B` answers, each a text or a list of messages.
        columns: not looked at.

    Returns:
        `B` scores.

    Raises:
        MissingExtra: the package `vaderSentiment` is not installed.
    """
    analyser = _analyser()
    return [float(analyser.polarity_scores(_text(completion))["compound"]) for completion in completions]


def _text(completion: str | Sequence[dict[str, str]]) -> str:
    if isinstance(completion, str):
        return completion
    return "\n".join(message["content"] for message in completion)


@lru_cache(maxsize=1)
def _analyser() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise MissingExtra(
            "the sentiment reward needs the package vaderSentiment, which is not installed",
            action="pip install 'logratio[demo]'  (or: pip install vaderSentiment)",
        ) from error
    return SentimentIntensityAnalyzer()
