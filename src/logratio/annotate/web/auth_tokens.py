"""Tokens: whose one is, and at which addresses a server may be asked."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TOKEN_BYTES = 32
TOKEN = re.compile(r"[A-Za-z0-9_-]{20,128}")
REMEMBERED_SECONDS = 1.0
"""How long a link that is taken back may still be taken."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks."""

    annotator: str | None = None
    """The name of a person who compares."""
    is_owner: bool = False
    """The person who runs the server."""


class TokenAuthenticator:
    """Whose a token is.

    Args:
        cookie: the name of the cookie; it holds the port, since browsers send cookies to every port.
        annotator_of: the name that a token belongs to, compared in constant time.
        owner_token: the token of the person who runs the server.
    """

    def __init__(
        self, cookie: str, annotator_of: Callable[[str], str | None], owner_token: str | None = None
    ) -> None:
        self.cookie, self.owner_cookie = cookie, f"{cookie}-owner"
        self._annotator_of = annotator_of
        self._owner = hash_token(owner_token if owner_token is not None else new_token())
        self._known: dict[bytes, tuple[str, float]] = {}

    def identify(self, token: str) -> Visitor:
        """The person whose token this is; nobody for any other text."""
        if not TOKEN.fullmatch(token):
            return Visitor()
        is_owner = hmac.compare_digest(hash_token(token), self._owner)
        return Visitor(annotator=self._annotator(token), is_owner=is_owner)

    def _annotator(self, token: str) -> str | None:
        """Remembered for a moment, since the labels may just be busy with somebody's verdict.

        What is looked up is a hash of the token, of which timing tells nothing.
        """
        key, now = hash_token(token), time.monotonic()
        name, until = self._known.get(key, ("", 0.0))
        if now < until:
            return name
        annotator = self._annotator_of(token)
        if annotator is None:
            self._known.pop(key, None)
        else:
            self._known[key] = annotator, now + REMEMBERED_SECONDS
        return annotator

    def visitor(self, headers: Mapping[bytes, bytes]) -> Visitor:
        """Who shows a token in these headers: a bearer's, or those of this server's cookies."""
        authorization = headers.get(b"authorization")
        if authorization is not None:
            scheme, _, token = authorization.decode("latin-1").partition(" ")
            return self.identify(token) if scheme.lower() == "bearer" else Visitor()
        cookies = headers.get(b"cookie", b"").decode("latin-1")
        annotator, is_owner = None, False
        for part in cookies.split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie:
                # A page on another port may have set one of the same name: a wrong one counts for nothing.
                annotator = annotator or self.identify(value).annotator
            elif name == self.owner_cookie:
                is_owner = is_owner or self.identify(value).is_owner
        return Visitor(annotator=annotator, is_owner=is_owner)


def new_token() -> str:
    """A token that nobody guesses: 256 bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> bytes:
    """sha256 of a token: what is kept, and compared, of it."""
    return hashlib.sha256(token.encode()).digest()


def authorities(port: int, *, host: str | None = None) -> tuple[str, ...]:
    """The values of Host that name this server.

    Args:
        port: where it listens.
        host: the address beside the machine's own ones, an IPv6 address without brackets.
    """
    extra_hosts = () if host is None else (f"[{host}]" if ":" in host else host.lower(),)
    names = dict.fromkeys((*LOOPBACK, *extra_hosts))
    # A browser leaves the port of the scheme away.
    return tuple(f"{name}:{port}" for name in names) + (tuple(names) if port == 80 else ())
