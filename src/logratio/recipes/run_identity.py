"""What a run began with that a resumed run must take over, or say that it is another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logratio.run_directory import RunDirectory

if TYPE_CHECKING:
    from logratio.packed_rows import AnswerGroup
    from logratio.rollouts.reward_shaping import WeightedReward


@contextmanager
def as_of_beginning(out: Path, *, resume: bool) -> Iterator[None]:
    """Render chat templates as of the moment that the run in `out` began: now, unless it is resumed."""
    from logratio.models.template_dates import render_as_of

    run = RunDirectory(out)
    with render_as_of(run.rendered_at() if resume else datetime.now()):
        yield


def describe_beginning(*, device: str, threads: int | None) -> dict[str, Any]:
    """For `config.json`: when templates were rendered, and with what numbers are computed."""
    from logratio.models.template_dates import rendering_time

    return {
        "rendered_at": rendering_time().isoformat(),
        "computed_with": {"device": device, "threads": threads},
    }


def settle_tokens(run: RunDirectory, groups: Sequence[AnswerGroup]) -> None:
    """Make the tokens of the data part of the run's identity.

    Raises:
        ResumeMismatch: the run was begun with others: by another tokenizer or template, or another version of
            a library that encodes otherwise.
    """
    from logratio.training.reference import hash_groups

    run.add_identity(tokens_sha256=hash_groups(groups))


def settle_rewards(run: RunDirectory, rewards: Sequence[WeightedReward]) -> None:
    """Make what rewards compute part of the run's identity: a function's source, a model's tokenizer.

    Raises:
        ResumeMismatch: one was changed since the run began.
    """
    from logratio.rollouts.rewards import Reward

    for one in rewards:
        if isinstance(one.reward, Reward):
            for what, value in one.reward.identity().items():
                run.add_identity(**{f"{what} of {one.name}": value})
