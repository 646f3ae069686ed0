"""Prompts that can be answered and judged, found with tokenizers and configurations alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

from logratio.data.jsonl import PromptRow
from logratio.records import PROMPT_FORMAT, TOOLS

if TYPE_CHECKING:
    from logratio.models.input_limits import ModelLimits
    from logratio.rollouts.rewards import Reward


def answerable(
    tokenizer: Any, limits: ModelLimits, *, max_new_tokens: int, judges: Sequence[Reward] = ()
) -> Callable[[PromptRow], None]:
    """A check of prompts, for `ReadRows.keep`.

    Args:
        tokenizer: of the models that answer.
        limits: what all of them can read.
        max_new_tokens: of an answer.
        judges: what reads prompts with their answers.

    Returns:
        A function that raises a `DataFault` where a prompt cannot be answered or judged.
    """
    from logratio.models.tokenisation import encode_prompt

    def check(row: PromptRow) -> None:
        limits.ensure_prompt(tokenizer, encode_prompt(tokenizer, row.prompt), answer=max_new_tokens)
        for judge in judges:
            judge.ensure_prompt(row.prompt, max_new_tokens=max_new_tokens)

    return check


def limits_of_all(sources: Iterable[str]) -> ModelLimits:
    """What every one of several models can read."""
    from logratio.models.loading import read_limits

    return reduce(and_, map(read_limits, dict.fromkeys(sources)))


def columns_of_judges(judges: Iterable[Reward], columns: Iterable[str]) -> set[str]:
    """The columns of prompts that something reads: the prompt itself, and what judges are given."""
    given = list(columns)
    return {"prompt", TOOLS, PROMPT_FORMAT}.union(*(judge.accepted_columns(given) for judge in judges))
