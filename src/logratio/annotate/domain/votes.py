"""A row of the log of verdicts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from logratio.annotate.domain.pairs import Verdict

Kind = Literal["first", "repeat", "gold"]
"""Why a pair was shown: to be labelled, to see whether its annotator says the same again, as a check."""
LoggedVerdict = Literal["a", "b", "tie", "bad", "skip", "flag", "undo"]
COUNTED: tuple[Verdict, ...] = ("a", "b", "tie", "bad")
"""Verdicts that fill one of a pair's places; a skip leaves the place to somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One row of the log; rows are never changed."""

    id: int
    """Rows in the order they were written."""
    pair_id: str
    """What was judged."""
    annotator: str
    """Who judged."""
    verdict: LoggedVerdict
    """Of content, never of a side; `undo` takes back the row that `supersedes` names."""
    strength: int | None = None
    """How much better: 1 slightly, 2 clearly, 3 much; only with `a` and `b`."""
    reasons: tuple[str, ...] = ()
    """Reasons ticked."""
    note: str = ""
    """What the annotator wrote."""
    swapped: bool = False
    """B stood on the left."""
    kind: Kind = "first"
    """Why the pair was shown."""
    at_random: bool = True
    """The pair came in random order, so that statistics may use it; false where a margin chose it."""
    shown_at: float = 0.0
    """When the pair was given to the annotator, seconds since 1970 by the server's clock."""
    sent_at: float = 0.0
    """When the verdict arrived, by the same clock."""
    milliseconds: int = 0
    """How long the annotator looked, by the page's clock."""
    nonce: str = ""
    """Drawn by the page, so that a verdict that is sent twice counts once."""
    supersedes: int | None = None
    """The earlier row that this one replaces or takes back."""

    @property
    def left_won(self) -> bool | None:
        """Whether the answer on the left was preferred; None where neither was."""
        if self.verdict not in ("a", "b"):
            return None
        return (self.verdict == "b") == self.swapped

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Vote:
        """A row of the table, its columns in the order of the fields."""
        (vote_id, pair_id, annotator, verdict, strength, reasons, note, swapped, kind, *rest) = row
        at_random, shown_at, sent_at, milliseconds, nonce, supersedes = rest
        return cls(
            id=vote_id,
            pair_id=pair_id,
            annotator=annotator,
            verdict=verdict,
            strength=strength,
            reasons=tuple(json.loads(reasons)),
            note=note,
            swapped=bool(swapped),
            kind=kind,
            at_random=bool(at_random),
            shown_at=shown_at,
            sent_at=sent_at,
            milliseconds=milliseconds,
            nonce=nonce,
            supersedes=supersedes,
        )
