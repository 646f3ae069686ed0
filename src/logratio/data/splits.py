"""Splits by prompt: answers to one prompt never stand on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from logratio.errors import BadConfig, SplitLeak
from logratio.records import Prompt

Item = TypeVar("Item")


def split_by_prompt(
    items: Sequence[Item], key: Callable[[Item], Prompt], *, held_out: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Divide items into those to train on and those held out, by a hash of seed and prompt.

    A prompt's side depends on the seed and the prompt alone: not on the order of the rows, not on the other
    rows, so that it keeps its side when rows are added. The share that is held out is `held_out` on average.

    Args:
        items: anything with a prompt.
        key: gives an item's prompt.
        held_out: share of the prompts, from 0 up to but not 1.
        seed: another seed gives another split.

    Returns:
        The items to train on and the items held out, each in the order given.

    Raises:
        BadConfig: `held_out` is out of range.
    """
    if not 0 <= held_out < 1:
        raise BadConfig(f"held_out is {held_out}", action="give a share of at least 0 and below 1")
    train: list[Item] = []
    apart: list[Item] = []
    for item in items:
        (apart if _position(key(item), seed) < held_out else train).append(item)
    return train, apart


def _position(prompt: Prompt, seed: int) -> float:
    """A number in [0, 1) that is uniform over prompts."""
    # A hash of its own: prompts that were chosen by another lot of the same seed are split all the same.
    digest = hashlib.sha256(f"split:{seed}:{prompt.key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def ensure_disjoint(train_prompts: Iterable[Prompt], eval_prompts: Iterable[Prompt]) -> None:
    """Raise `SplitLeak` if a prompt stands on both sides."""
    trained = {prompt.key for prompt in train_prompts}
    leaked = {prompt.key: prompt for prompt in eval_prompts if prompt.key in trained}
    if leaked:
        first = str(next(iter(leaked.values()))).strip()
        raise SplitLeak(
            f"{len(leaked)} prompts of the evaluation were trained on, the first: {first[:60]!r}",
            action="evaluate on prompts that were held out, such as held_out.jsonl of the run",
        )
