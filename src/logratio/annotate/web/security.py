"""The gate before the labelling page: who may ask, for what, from where, and how much.

A server on this machine's own address can still be reached by any page that a browser here has open: by a
name that is made to point at 127.0.0.1 (rebinding), by a form, by another program's page on another port.
So each request passes, in this order: exactly one Host that names this server; a path and a method of a
fixed table; a token; for what changes something, an Origin that is this page's own and JSON; and a body of
limited size that arrives in time. Every reply, a refusal included, has the same protective headers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from logratio.annotate.web.auth_tokens import TokenAuthenticator, Visitor
from logratio.errors import DiskFull, DuplicateVote, HostileRequest, LeaseConflict, LogratioError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("logratio.annotate")

MAX_BODY_BYTES = 64 * 1024
MAX_HEAD_BYTES = 16 * 1024
READ_SECONDS = 10.0
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""On every reply, whatever its status."""

AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::\d{1,5})?")
SINGLE = (
    b"host",
    b"origin",
    b"authorization",
    b"cookie",
    b"content-type",
    b"content-length",
    b"transfer-encoding",
    b"sec-fetch-site",
)
"""Headers that decide something; a request that has one of them twice is read by nobody the same way."""

Access = Literal["open", "route", "annotator", "owner", "either"]


class RejectedRequest(HostileRequest):
    """A request that is not answered; nothing was changed.

    Args:
        status: the status of the reply.
        what: one sentence for the person before the page.
        code: the fault's name, for the page's script.
        headers: further headers of the reply.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        code: str = HostileRequest.__name__,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(what)
        self.status = status
        self.code = code
        self.headers = tuple(headers)


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """What a path takes, and whom it lets in."""

    method: str
    """The one method."""
    access: Access
    """`open`: anybody who names this server; `route`: the path looks at tokens itself; `annotator`, `owner`,
    `either`: who must show a token."""


class SecurityMiddleware:
    """The gate as ASGI middleware: lets through what the page itself would ask, and refuses the rest.

    What is let through carries the `Visitor` in `scope["visitor"]` and its whole body in one message.

    Args:
        app: what is guarded.
        hosts: the values of Host that name this server.
        keys: whose a token is.
        doors: every path that there is.
        read_seconds: how long a body may take.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Sequence[str],
        keys: TokenAuthenticator,
        route_policies: Mapping[str, RoutePolicy],
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._app, self._keys, self._route_policies = app, keys, dict(route_policies)
        self._hosts = frozenset(hosts)
        self._read_seconds = read_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = secrets.token_hex(4)
        reply = Reply(send)
        try:
            visitor = await self._check(scope)
            body = await read_body(scope, receive, seconds=self._read_seconds)
            scope["visitor"], scope["request"] = visitor, request
            await self._app(scope, _replay(body, receive), reply)
        except LogratioError as fault:
            await reply.refuse(fault if isinstance(fault, RejectedRequest) else rejection_of(fault), request)
        except Exception:
            # Neither path nor body: a token or an answer's text may stand in them.
            logger.exception("request %s failed", request)
            failure = RejectedRequest(500, "the server failed; its log says more", code="ServerFault")
            await reply.refuse(failure, request)

    async def _check(self, scope: Scope) -> Visitor:
        check_head(scope)
        headers = unique_headers(scope["headers"])
        host = check_host(headers, self._hosts)
        route = self._find(scope)
        if scope["method"] != route.method:
            allow = [(b"allow", route.method.encode())]
            raise RejectedRequest(405, f"this address takes {route.method} alone", headers=allow)
        check_site(headers, host=host, route=route, path=scope["path"])
        visitor = Visitor()
        if route.access not in ("open", "route"):
            # In a thread: the labels are asked, which may just be waiting for the disk.
            visitor = await asyncio.to_thread(self._keys.visitor, headers)
        check_access(visitor, route.access)
        if route.method == "POST":
            check_post(headers, host=host)
        return visitor

    def _find(self, scope: Scope) -> RoutePolicy:
        path = scope["path"]
        # The bytes as they were sent: a path that had to be decoded is none of ours.
        route = (
            self._route_policies.get(path) if scope.get("raw_path", path.encode()) == path.encode() else None
        )
        if route is None:
            raise RejectedRequest(404, "there is nothing at this address")
        return route


# --- the single checks ------------------------------------------------------------------------------


def check_head(scope: Scope) -> None:
    """Refuse a head that is longer than any browser's: what arrived at once was not measured before."""
    length = len(scope["path"]) + len(scope["query_string"])
    length += sum(len(name) + len(value) for name, value in scope["headers"])
    if length > MAX_HEAD_BYTES:
        raise RejectedRequest(431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes")


def unique_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers as a mapping; refused where one that decides something stands twice."""
    result: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in result and name in SINGLE:
            raise RejectedRequest(400, f"the request has two {name.decode('latin-1')} headers")
        result[name] = value
    return result


def check_host(headers: Mapping[bytes, bytes], hosts: Iterable[str]) -> str:
    """The request's Host; refused where it is missing, malformed or not one of `hosts`."""
    value = headers.get(b"host")
    if value is None:
        raise RejectedRequest(400, "the request has no Host header")
    host = value.decode("latin-1").lower()
    if not AUTHORITY.fullmatch(host):
        raise RejectedRequest(400, "the Host header is no host with a port")
    if host not in hosts:
        raise RejectedRequest(
            421, "this server answers only at the addresses that it printed when it started"
        )
    return host


def check_site(headers: Mapping[bytes, bytes], *, host: str, route: RoutePolicy, path: str) -> None:
    """Refuse what the browser says another site asked for.

    The page itself may be opened from anywhere (a link in a mail), and does nothing by being opened.
    """
    site = headers.get(b"sec-fetch-site")
    opened = route.method == "GET" and path == "/"
    if site is not None and site not in (b"same-origin", b"none") and not opened:
        raise RejectedRequest(403, "another site asked for this")
    origin = headers.get(b"origin")
    if origin is not None and origin != f"http://{host}".encode():
        raise RejectedRequest(403, "a page of another origin asked for this")


def check_access(visitor: Visitor, access: Access) -> None:
    """Refuse a visitor without the token that the path needs."""
    allowed = {
        "open": True,
        "route": True,
        "annotator": visitor.annotator is not None,
        "owner": visitor.is_owner,
        "either": visitor.annotator is not None or visitor.is_owner,
    }
    if not allowed[access]:
        what = (
            "this page is for the person who runs the server: open the owner's link from its terminal"
            if access == "owner"
            else "this link is no longer valid: open the newest link you were given"
        )
        raise RejectedRequest(401, what, headers=[(b"www-authenticate", b"Bearer")])


def check_post(headers: Mapping[bytes, bytes], *, host: str) -> None:
    """Refuse a change that was not asked for by this page or by a program with a token in a header."""
    if b"origin" not in headers and b"authorization" not in headers:
        raise RejectedRequest(403, "the request does not say which page it comes from")
    if headers.get(b"content-type") != b"application/json":
        raise RejectedRequest(415, "the request is not application/json")
    if b"content-encoding" in headers:
        raise RejectedRequest(415, "a compressed body is not read")


async def read_body(scope: Scope, receive: Receive, *, seconds: float) -> bytes:
    """The whole body; refused where it is too long, of unknown length or too slow."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length")
    chunked = b"transfer-encoding" in headers
    if scope["method"] == "POST" and length is None and not chunked:
        raise RejectedRequest(411, "the request does not say how long it is")
    if length is not None and (not length.isdigit() or int(length[:20]) > MAX_BODY_BYTES):
        raise RejectedRequest(413, f"the request is longer than {MAX_BODY_BYTES} bytes")
    if length in (None, b"0") and not chunked:
        return b""
    try:
        async with asyncio.timeout(seconds):
            return await _collect(receive)
    except TimeoutError as error:
        raise RejectedRequest(
            408, "the request took too long to arrive", headers=[(b"connection", b"close")]
        ) from error


async def _collect(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RejectedRequest(400, "the connection ended before the request did")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise RejectedRequest(413, f"the request is longer than {MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    is_sent = False

    async def replayed() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


class Reply:
    """The way out: puts the protective headers on whatever is sent.

    Args:
        send: the server's.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def __call__(self, message: Message) -> None:
        """Send a message of the guarded application."""
        if message["type"] == "http.response.start":
            self._started = True
            message = {**message, "headers": protected(message.get("headers", ()))}
        await self._send(message)

    async def refuse(self, rejection: RejectedRequest, request: str) -> None:
        """Send a refusal as JSON, unless a reply is under way already."""
        if self._started:
            return
        body = rejection_body(rejection.code, rejection.what, request)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *rejection.headers,
        ]
        await self({"type": "http.response.start", "status": rejection.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def protected(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers of a reply with the protective ones in them, and without any that grants another origin."""
    ours = {name for name, _ in HEADERS}
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() not in ours and not name.lower().startswith(b"access-control-")
    ]
    return [*kept, *HEADERS]


def rejection_of(fault: LogratioError) -> RejectedRequest:
    """A named fault as the page is told of it.

    What a fault says may name files, and people: the page needs to know only what to do with its verdict.
    """
    if isinstance(fault, LeaseConflict):
        return RejectedRequest(
            409, "this pair is not yours to judge now: somebody else has it", code=fault.name
        )
    if isinstance(fault, DuplicateVote):
        return RejectedRequest(409, "there is a verdict already, which stands", code=fault.name)
    if isinstance(fault, HostileRequest):
        return RejectedRequest(400, "the request is not as the page would make it")
    logger.error("%s: %s (%s)", fault.name, fault.what, fault.where)
    status = 507 if isinstance(fault, DiskFull) else 503
    return RejectedRequest(status, "the labels cannot be written now; try again soon", code=fault.name)


def rejection_body(code: str, what: str, request: str) -> bytes:
    """What the client is told: a code, a sentence, and the number under which the log has more."""
    return json.dumps({"code": code, "what": what, "request": request}).encode()


# --- bodies -----------------------------------------------------------------------------------------


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        Refusal: it is none, names a key twice, holds NaN, or text that cannot be written as UTF-8.
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise RejectedRequest(400, "the request is not JSON") from error
    if not isinstance(value, dict):
        raise RejectedRequest(400, "the request is not a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
