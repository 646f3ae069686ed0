"""How pairs are given out, and what passes between a queue and the page that asks it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from logratio.annotate.domain.pairs import Pair
from logratio.annotate.domain.votes import Kind
from logratio.errors import BadConfig, HostileRequest

Order = Literal["random", "margin", "file"]
"""random: each annotator in an order of their own; margin: closest first; file: as they arrived."""
SideVerdict = Literal["left", "right", "tie", "bad", "skip", "flag"]
"""What the page says: it knows sides only."""

NONCE = re.compile("[A-Za-z0-9_-]{8,64}")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_NOTE = 2000
MAX_REASONS = 100
LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """How pairs are given out.

    Raises:
        BadConfig: a value is out of range.
    """

    votes_per_pair: int = 1
    """How many different annotators judge each pair."""
    order: Order = "random"
    """Which pairs come first."""
    random_slice: float = 0.2
    """With `order = margin`: the share of pairs that come in random order all the same; only their verdicts
    may be used for statistics, since a margin chooses hard pairs."""
    repeats: float = 0.05
    """Share of presentations that show an annotator one of their own pairs again, sides swapped."""
    gold: float = 0.05
    """Share of presentations that show a pair whose right verdict is known, while there are any."""
    lease_seconds: float = 600.0
    """How long a pair is kept for an annotator who gives no sign."""
    seed: int = 0
    """Of the order, of the sides and of which presentations are repeats or gold."""

    def __post_init__(self) -> None:
        if self.votes_per_pair < 1:
            raise BadConfig(f"votes per pair is {self.votes_per_pair}", action="give 1 or more")
        if self.order not in get_args(Order):
            raise BadConfig(f"order is {self.order!r}", action=f"choose {', '.join(get_args(Order))}")
        for name in ("random_slice", "repeats", "gold"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadConfig(f"{name} is {getattr(self, name)}", action="give a share from 0 to 1")
        if self.repeats + self.gold >= 1:
            raise BadConfig(
                f"repeats {self.repeats} and gold {self.gold} leave no pair to label",
                action="give shares whose sum is below 1",
            )
        if not 1 <= self.lease_seconds <= 1e7:
            raise BadConfig(f"a lease of {self.lease_seconds} s", action="give 1 second or more")

    def to_json(self) -> dict[str, Any]:
        """A JSON object, as the store keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> QueueSettings:
        """The inverse of `to_json`."""
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A pair that is kept for one annotator, and how it is shown."""

    pair: Pair
    """What is to be judged."""
    swapped: bool
    """B stands on the left."""
    kind: Kind
    """Why it is shown; the annotator must not learn it."""
    lease_until: float
    """When it may be given to somebody else, seconds since 1970."""
    ticket: str
    """Names this presentation; a verdict carries it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRequest:
    """A verdict as the page sends it."""

    ticket: str
    """The presentation that is judged."""
    verdict_side: SideVerdict
    """Which side is better, or why neither."""
    strength: int | None = None
    """1 slightly, 2 clearly, 3 much better; kept only where a side was preferred."""
    reasons: tuple[str, ...] = ()
    """Reasons ticked."""
    note: str = ""
    """What the annotator wrote."""
    milliseconds: int = 0
    """How long the annotator looked."""
    nonce: str
    """Drawn by the page for this verdict; sent again with every retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A verdict is on the disk."""

    vote_id: int
    """Its row of the log."""
    pair_id: str
    """What it is about."""
    duplicate: bool
    """It was there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationProgress:
    """How far one annotator, and everybody, has come."""

    mine: int
    """Verdicts of mine that stand, repeats and gold included: they must not be told apart."""
    total: int
    """Pairs to be labelled; gold pairs are not."""
    done: int
    """Pairs that have all verdicts they need, or were flagged."""
    waiting: int
    """Pairs I could judge, if others did not hold them now."""
    next_free: float | None
    """When the first of those is free, if its holder does not come back."""


def ensure_vote_request(vote_request: VoteRequest) -> None:
    """Refuse what the page would never send.

    Raises:
        HostileRequest: a field is out of range.
    """
    ensure_nonce(vote_request.nonce)
    faults = {
        "choice": vote_request.verdict_side not in get_args(SideVerdict),
        "strength": vote_request.strength is not None
        and (isinstance(vote_request.strength, bool) or vote_request.strength not in (1, 2, 3)),
        "milliseconds": isinstance(vote_request.milliseconds, bool)
        or not 0 <= vote_request.milliseconds <= LARGEST_INTEGER,
        "note": len(vote_request.note) > MAX_NOTE or LONE_SURROGATE.search(vote_request.note) is not None,
        "reasons": len(vote_request.reasons) > MAX_REASONS,
    }
    wrong = [name for name, is_wrong in faults.items() if is_wrong]
    if wrong:
        raise HostileRequest(f"the verdict has a {wrong[0]} that the page would not send")


def ensure_nonce(nonce: str) -> None:
    """Refuse a nonce that is not 8 to 64 letters, digits, `-` and `_`.

    Raises:
        HostileRequest: it is something else.
    """
    if not NONCE.fullmatch(nonce):
        raise HostileRequest("the nonce is not 8 to 64 letters, digits, - or _")
