"""The invariant of the data that a model learns to stop from: every finished answer ends in one end token."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from logratio.errors import InvariantViolated
from logratio.models.end_of_turn import Stop, find_ends
from logratio.packed_rows import AnswerGroup
from logratio.training.invariants import InvariantResult


def check_end_token_carries_loss(
    groups: Sequence[AnswerGroup], finished: Sequence[Sequence[bool]], stop_ids: Collection[Stop]
) -> InvariantResult:
    """The last predicted token of every finished answer is an end token, and there is only one."""
    for number, (group, flags) in enumerate(zip(groups, finished, strict=True)):
        for answer, is_finished in zip(group.answers, flags, strict=True):
            ends = find_ends(answer, stop_ids)
            count = len(ends)
            if is_finished and (count != 1 or ends[0][1] != len(answer)):
                raise InvariantViolated(
                    "end_token_carries_loss",
                    float(count),
                    f"a finished answer has {count} end tokens and ends in token {answer[-1]}",
                    where=f"example {number}",
                    action="the model would not learn to stop; check the tokenizer's end token and template",
                )
    num_finished = sum(flag for flags in finished for flag in flags)
    return InvariantResult(
        invariant="end_token_carries_loss", value=float(num_finished), limit=float(num_finished), step=0
    )
