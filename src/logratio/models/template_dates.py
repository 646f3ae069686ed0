"""The moment that chat templates take for now.

Templates write the date into a prompt (`strftime_now`: Llama 3.2, Mistral Small 3, gpt-oss). A run that went
on after midnight would train on other tokens than it began with, and its reference would be that of others:
all prompts of a run are rendered as of the moment that it began.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from typing import Any

NAME = "strftime_now"
"""The function of the template's, as transformers calls it."""

_moment: datetime | None = None


def rendering_time() -> datetime:
    """What templates take for now: the clock's time, unless another is held."""
    return _moment or datetime.now()


@contextmanager
def render_as_of(moment: datetime) -> Iterator[None]:
    """Hold what templates take for now, in all threads of the process."""
    global _moment
    before, _moment = _moment, moment
    try:
        yield
    finally:
        _moment = before


@contextmanager
def fixed_dates(template: Any) -> Iterator[None]:
    """Give a template that writes dates the moment that is held; any other is rendered as ever.

    A template is handed data alone and no function of ours, so the clock that transformers reads is held.
    """
    # Whoever has a tokenizer of transformers has loaded it; looking at data must not.
    library = sys.modules.get("transformers.utils.chat_template_utils")
    if library is None or _moment is None or NAME not in str(template):
        yield
        return
    names = vars(library)
    clock = names["datetime"]
    names["datetime"] = _FixedDatetime
    try:
        yield
    finally:
        names["datetime"] = clock


class _FixedDatetime(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _FixedDatetime:
        """The moment that is held."""
        moment = rendering_time()
        return cls.fromtimestamp(moment.timestamp(), tz)
