"""What a request of the page may hold: every field by name and type, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from logratio.annotate.domain.settings import MAX_NOTE, NONCE, VoteRequest
from logratio.annotate.web.security import RejectedRequest

MAX_REASONS = 20
MAX_REASON = 200
MAX_MILLISECONDS = 10**11
"""Three years: a page that was left open is not a fault."""
CHOICES = ("left", "right", "tie", "bad", "skip", "flag")
TICKET = re.compile(r"[A-Za-z0-9_-]{1,100}")


def parse_vote_request(body: Mapping[str, Any]) -> VoteRequest:
    """The ballot of a vote's request.

    Raises:
        Refusal: a field is missing, unknown, of another type or out of range.
    """
    fields = parse_fields(
        body,
        ticket=_matching(TICKET),
        choice=lambda value: isinstance(value, str) and value in CHOICES,
        milliseconds=lambda value: _is_whole(value) and 0 <= value <= MAX_MILLISECONDS,
        nonce=_matching(NONCE),
        optional={"strength": _is_strength, "reasons": _are_reasons, "note": _is_note},
    )
    return VoteRequest(
        ticket=fields["ticket"],
        verdict_side=fields["choice"],
        strength=fields.get("strength"),
        reasons=tuple(fields.get("reasons") or ()),
        note=fields.get("note") or "",
        milliseconds=fields["milliseconds"],
        nonce=fields["nonce"],
    )


def parse_nonce(body: Mapping[str, Any]) -> str:
    """The nonce of a request that holds nothing else."""
    return str(parse_fields(body, nonce=_matching(NONCE))["nonce"])


def parse_ticket(body: Mapping[str, Any]) -> str:
    """The ticket of a request that holds nothing else."""
    return str(parse_fields(body, ticket=_matching(TICKET))["ticket"])


def parse_fields(
    body: Mapping[str, Any],
    *,
    optional: Mapping[str, Callable[[Any], bool]] | None = None,
    **required: Callable[[Any], bool],
) -> Mapping[str, Any]:
    """The body, once each field is known and right.

    Args:
        body: the request's object.
        optional: fields that may be missing, and what they must be.
        required: fields that must be there, and what they must be.

    Raises:
        Refusal: one is missing, unknown or wrong; its name is said, its value is not.
    """
    known = {**required, **(optional or {})}
    if not known.keys() >= body.keys():
        raise RejectedRequest(400, "the request has fields that this server does not know")
    for name, is_right in known.items():
        if name not in body:
            if name in required:
                raise RejectedRequest(400, f"the request lacks {name}")
        elif not is_right(body[name]):
            raise RejectedRequest(400, f"{name} is not as it must be")
    return body


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_strength(value: Any) -> bool:
    return value is None or (_is_whole(value) and 1 <= value <= 3)


def _are_reasons(value: Any) -> bool:
    # Not held against the reasons that are offered now: a verdict may have been made before a restart.
    return (
        isinstance(value, list)
        and len(value) <= MAX_REASONS
        and all(_is_text(reason, longest=MAX_REASON) and reason for reason in value)
        and len(set(value)) == len(value)
    )


def _is_note(value: Any) -> bool:
    return value is None or _is_text(value, longest=MAX_NOTE)


def _is_text(value: Any, *, longest: int) -> bool:
    """Whether it is a text that a database can hold: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)
