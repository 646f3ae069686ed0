"""What a reward returned, as one checked number for each answer, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any, SupportsFloat

from logratio.errors import BadReward
from logratio.records import Sample


def checked_rewards(returned: Any, samples: Sequence[Sample], *, name: str) -> list[float | None]:
    """One finite number for each answer, exactly as returned, or None where the answer has no reward.

    Raises:
        BadReward: not in an order, of another length, or with a value that is neither a finite number nor
            None; `where` names the prompt, the answer and how the prompt begins.
    """
    index_pairs = [
        (number, index) for number, sample in enumerate(samples) for index in range(len(sample.completions))
    ]
    values = _as_list(returned, name)
    if len(values) != len(index_pairs):
        where = answer_location(samples, *index_pairs[len(values)]) if len(values) < len(index_pairs) else ""
        raise BadReward(
            f"{name} returned {len(values)} numbers for {len(index_pairs)} answers",
            where=f"the first answer without one is {where}" if where else "",
            action="return exactly one number for each completion, in their order",
        )
    return [
        None if value is None else _number(value, samples, index_pair, name)
        for value, index_pair in zip(values, index_pairs, strict=True)
    ]


def _as_list(returned: Any, name: str) -> list[Any]:
    try:
        # The order of the answers is that of the values, which these do not keep.
        if isinstance(returned, str | bytes | Mapping | Set):
            raise TypeError
        return list(returned)
    except TypeError as error:
        raise BadReward(
            f"{name} returned {type(returned).__name__}, not a list of numbers",
            action="return a list with one number for each completion",
        ) from error


def _number(value: Any, samples: Sequence[Sample], index_pair: tuple[int, int], name: str) -> float:
    number = None
    if isinstance(value, SupportsFloat):
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = None
    if number is not None and math.isfinite(number):
        return number
    raise BadReward(
        f"{name} returned {value!r}, which is not a finite number",
        where=answer_location(samples, *index_pair),
        action="return a finite number for every answer, or None where the reward has nothing to say of it",
    )


def answer_location(samples: Sequence[Sample], sample_index: int, answer_index: int) -> str:
    """Where an answer is: the file and line of its prompt where they are known, and how the prompt begins."""
    beginning = " ".join(samples[sample_index].prompt.messages[-1].text.split())
    shown = beginning if len(beginning) <= 60 else beginning[:59] + "…"
    prompt = samples[sample_index].source or f"prompt {sample_index + 1}"
    return f"{prompt}, answer {answer_index + 1} (“{shown}”)"
