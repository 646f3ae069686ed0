"""Every assistant turn of a conversation as an example of its own, for `--train-on all-assistant-turns`.

A turn stands behind the prompt that it was the answer to: the turns before it, rendered as they are when it
is to be answered. Where a template writes earlier turns differently later on, such as without their
reasoning, what is trained is what the model reads and writes when it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from logratio.data.encoding import UNLIMITED, EncodedPair
from logratio.data.record_parsing import ensure_prompt_turns
from logratio.data.unusable_rows import UnusableRow
from logratio.errors import DataFault, EmptyAnswer, PromptTooLong
from logratio.models import tokenisation
from logratio.models.input_limits import ModelLimits
from logratio.models.tokenisation import Tokenizer
from logratio.records import Completion, Prompt

TrainOn = Literal["last-assistant-turn", "all-assistant-turns"]
TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTurn:
    """An assistant's turn and what it answers, as tokens."""

    prompt_ids: TokenIds
    """Tokens up to the turn."""
    answer_ids: TokenIds
    """Tokens of the turn; its end once if it is not cut."""
    cut: bool = False
    """Whether tokens were cut off, and with them the end."""


def encode_earlier_turns(
    tokenizer: Tokenizer, pair: EncodedPair, *, max_length: int, limits: ModelLimits = UNLIMITED
) -> tuple[list[EncodedTurn], list[UnusableRow]]:
    """The assistant's turns before the answer, and those that cannot be trained on.

    Args:
        tokenizer: of the model to be trained.
        pair: its prompt holds the turns.
        max_length: tokens of a turn with all before it; a longer turn is cut.
        limits: what the model can read.
    """
    prompt, turns, faults = pair.comparison.prompt, [], []
    content = prompt.messages
    for index, turn in enumerate(content):
        if turn.role != "assistant":
            continue
        before = replace(prompt, content=content[:index])
        try:
            answer = Completion.of_turn(turn)
            turns.append(_encode_turn(tokenizer, before, answer, max_length=max_length, limits=limits))
        except DataFault as fault:
            source = f"{pair.comparison.source}, prompt[{index}]"
            faults.append(replace(UnusableRow.of(fault, source=source), source=source))
    return turns, faults


def _encode_turn(
    tokenizer: Tokenizer, before: Prompt, answer: Completion, *, max_length: int, limits: ModelLimits
) -> EncodedTurn:
    ensure_prompt_turns(before.messages, column="prompt", where="")
    if answer.is_empty:
        raise EmptyAnswer("the turn is empty")
    prompt_ids = tokenisation.encode_prompt(tokenizer, before)
    answer_ids = tokenisation.encode_completion(tokenizer, before, answer)
    limits.ensure_embedded(tokenizer, (*prompt_ids, *answer_ids))
    longest, limit = limits.truncated_to(max_length)
    room = longest - len(prompt_ids)
    if room < 1:
        raise PromptTooLong(f"{len(prompt_ids)} tokens stand before the turn, which {limit} does not allow")
    return EncodedTurn(prompt_ids=prompt_ids, answer_ids=answer_ids[:room], cut=len(answer_ids) > room)


def describe_turns(turns: Sequence[EncodedTurn], left_out: Sequence[UnusableRow], num_pairs: int) -> str:
    """How many examples there are, and which turns are none."""
    lines = [f"{num_pairs} last assistant turns and {len(turns)} earlier ones, each an example of its own"]
    lines += [f"left out: {row.source}: {row.fault_name}: {row.what}" for row in left_out]
    return "\n".join(lines)
