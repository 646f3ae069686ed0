"""The labelling page's server: fixed addresses, JSON in and out, a verdict on the disk before its reply.

What the page is told of a pair is the prompt and two texts, left and right: no names of models, no paths,
not whether the pair is a repeat or one with a known answer, and nobody else's verdict.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from logratio.annotate import web
from logratio.annotate.domain.queue import AnnotationProgress, Assignment, Queue
from logratio.annotate.storage.store import Store
from logratio.annotate.web.auth_tokens import TokenAuthenticator, Visitor
from logratio.annotate.web.markdown import parse, raw
from logratio.annotate.web.request_schema import parse_fields, parse_nonce, parse_ticket, parse_vote_request
from logratio.annotate.web.security import (
    READ_SECONDS,
    RejectedRequest,
    RoutePolicy,
    SecurityMiddleware,
    parse_object,
)
from logratio.errors import TooFewLabels

NUM_THREADS = 4
"""Requests that are worked on at once; the database writes one verdict at a time in any case."""
TITLE = "Compare answers"
PLAIN = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
LINK_REQUIRED = (
    "This page needs a link of its own for everybody who compares.\n\n"
    "Open the newest link you were given. It is printed in the terminal where `logratio annotate serve`\n"
    "was started, and is another one after every start. What you judged is kept, and so is what this\n"
    "browser has not sent yet.\n"
)
CONTINUE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Compare answers</title>'
    '<meta http-equiv="refresh" content="0; url={target}"></head>'
    '<body><p><a href="{target}">Go to the page</a></p></body></html>\n'
)
"""For a link opened from another site: a browser sends the strict cookie only once our own page leads on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What a browser loads."""

    page: Callable[[str], str]
    """The page of a person: an HTML document without inline script and style."""
    assets: Mapping[str, tuple[str, str]]
    """Path to content type and text: the scripts and the style sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Whose requests are answered, and for how long they are waited for."""

    hosts: Sequence[str]
    """The values of Host that name this server."""
    cookie: str
    """The name of the cookie; it should hold the port."""
    owner_token: str | None = None
    """The token for the agreement page; nobody sees that page without one."""
    read_seconds: float = READ_SECONDS
    """How long a request's body may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSettings:
    """What the person who runs the server asks of those who compare."""

    strength: bool = False
    """Ask how much better."""
    reasons: Sequence[str] = ()
    """Reasons to choose from."""
    guidelines: str | None = None
    """What to go by, in Markdown."""
    is_growing: bool = False
    """More pairs may come: nobody is told that all is done."""

    def to_json(self) -> dict[str, Any]:
        """As the page reads it."""
        guidelines = None if self.guidelines is None else parse(self.guidelines)
        return {"strength": self.strength, "reasons": list(self.reasons), "guidelines": guidelines}


def load_pages() -> Pages:
    """The page and its assets, from the package."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(web.read(web.TEMPLATE))
    assets = {path: (kind, web.read(name)) for path, (name, kind) in web.ASSETS.items()}
    return Pages(page=lambda person: template.render(title=TITLE, person=person), assets=assets)


def create_app(
    store: Store,
    queue: Queue,
    *,
    access: AccessSettings,
    pages: Pages,
    settings: PageSettings = PageSettings(),
    on_vote: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """The application, with its gate before it.

    Args:
        store: the labels.
        queue: who gets which pair.
        access: who is let in.
        pages: what a browser loads.
        settings: what is asked beside the verdict.
        on_vote: called after a verdict or an undo is on the disk.
    """
    keys = TokenAuthenticator(access.cookie, store.annotator_of, access.owner_token)
    service = AnnotationService(queue, settings, on_vote)
    threads = Threads()
    route_policies, routes = {}, []

    def add(path: str, route: RoutePolicy, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        route_policies[path] = route
        routes.append(Route(path, endpoint, methods=[route.method]))

    for path, work in service.posts.items():
        add(path, RoutePolicy("POST", "annotator"), _posting(work, threads))
    add("/api/progress", RoutePolicy("GET", "annotator"), _getting(service.progress, threads))
    for path, (kind, text) in pages.assets.items():
        add(path, RoutePolicy("GET", "either"), _giving(text, kind))
    add("/", RoutePolicy("GET", "route"), _entrance(keys, pages.page, threads))
    add("/agreement", RoutePolicy("GET", "owner"), _agreement(store, threads))
    add("/health", RoutePolicy("GET", "open"), _giving('{"ok": true}', "application/json"))
    # Browsers ask for it on their own; it would be a fault in their consoles otherwise.
    add("/favicon.ico", RoutePolicy("GET", "open"), _giving("", "image/x-icon", status=204))
    # No redirect to a path with or without a slash: it would be made from what the request says of itself.
    # A router alone, since the gate answers faults, and an application's own answer would come before it.
    router = Router(routes, redirect_slashes=False)
    return SecurityMiddleware(
        router,
        hosts=access.hosts,
        keys=keys,
        route_policies=route_policies,
        read_seconds=access.read_seconds,
    )


# --- what the page asks -----------------------------------------------------------------------------


@dataclass(slots=True)
class AnnotationService:
    """What the page asks of the queue, as functions from an annotator and an object to an object."""

    queue: Queue
    """Who gets which pair."""
    settings: PageSettings
    """What is asked beside the verdict."""
    on_vote: Callable[[], None]
    """Called after a verdict or an undo is on the disk."""
    settings_json: dict[str, Any] = field(init=False)
    """The settings as the page reads them, made once."""

    def __post_init__(self) -> None:
        self.settings_json = self.settings.to_json()

    @property
    def posts(self) -> dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]]:
        """What changes something, by path."""
        return {
            "/api/lease": self.lease,
            "/api/vote": self.vote,
            "/api/undo": self.undo,
            "/api/renew": self.renew,
        }

    def lease(self, annotator: str, body: dict[str, Any]) -> dict[str, Any]:
        """The pair to judge now."""
        parse_fields(body)
        return self._offer(annotator, self.queue.lease(annotator))

    def vote(self, annotator: str, body: dict[str, Any]) -> dict[str, Any]:
        """Keep a verdict; it is on the disk when this returns."""
        receipt = self.queue.vote(annotator, parse_vote_request(body))
        self.on_vote()
        progress = progress_json(self.queue.progress(annotator))
        return {"vote": receipt.vote_id, "duplicate": receipt.duplicate, "progress": progress}

    def undo(self, annotator: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take the last verdict back and show its pair again."""
        assignment = self.queue.undo(annotator, nonce=parse_nonce(body))
        self.on_vote()
        return self._offer(annotator, assignment)

    def renew(self, annotator: str, body: dict[str, Any]) -> dict[str, Any]:
        """Go on holding the pair: the person is still reading."""
        return {"lease_until": self.queue.renew(annotator, parse_ticket(body))}

    def progress(self, annotator: str) -> dict[str, Any]:
        """Who this is, and how far the work is."""
        return {"person": annotator, "progress": progress_json(self.queue.progress(annotator))}

    def _offer(self, annotator: str, assignment: Assignment | None) -> dict[str, Any]:
        progress = self.queue.progress(annotator)
        more_to_come = progress.waiting > 0 or self.settings.is_growing
        return {
            "pair": None if assignment is None else assignment_json(assignment),
            "progress": progress_json(progress),
            "reason": None if assignment is not None else "waiting" if more_to_come else "done",
            "settings": self.settings_json,
        }


def assignment_json(assignment: Assignment) -> dict[str, Any]:
    """A pair as the page may know it: texts, sides and a ticket."""
    pair = assignment.pair
    left, right = (pair.b, pair.a) if assignment.swapped else (pair.a, pair.b)
    return {
        "ticket": assignment.ticket,
        "prompt": [{"role": turn.role} | text_json(turn.readable) for turn in pair.prompt.messages],
        "left": text_json(left.readable) | {"length": len(left.readable)},
        "right": text_json(right.readable) | {"length": len(right.readable)},
        "lease_until": assignment.lease_until,
    }


def text_json(text: str) -> dict[str, Any]:
    """A text as the tree that is shown, and as it stands."""
    return {"tree": parse(text), "raw": raw(text)}


def progress_json(progress: AnnotationProgress) -> dict[str, Any]:
    """How far the work is, in numbers."""
    return asdict(progress)


# --- endpoints --------------------------------------------------------------------------------------


class Threads:
    """A few threads for what waits for the disk, so that one slow reader holds up nobody."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(NUM_THREADS)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do the work in a thread, once one is free."""
        async with self._free:
            return await asyncio.to_thread(work)


def _posting(
    work: Callable[[str, dict[str, Any]], dict[str, Any]], threads: Threads
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        body, annotator = parse_object(await request.body()), _annotator(request)
        _ensure_own_page(body.pop("person", annotator), annotator)
        return json_reply(await threads.run(lambda: work(annotator, body)))

    return endpoint


def _ensure_own_page(person: Any, annotator: str) -> None:
    """A browser has one cookie: of two people's links in it, the last one's is sent by both pages.

    Raises:
        Refusal: the page is another person's.
    """
    if person != annotator:
        raise RejectedRequest(401, "another person's link was opened in this browser", code="OtherPerson")


def _getting(
    work: Callable[[str], dict[str, Any]], threads: Threads
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return json_reply(await threads.run(lambda: work(_annotator(request))))

    return endpoint


def _giving(text: str, kind: str, *, status: int = 200) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return Response(text, status_code=status, headers={"content-type": kind})

    return endpoint


def _entrance(
    keys: TokenAuthenticator, page: Callable[[str], str], threads: Threads
) -> Callable[[Request], Awaitable[Response]]:
    """The page for who has a cookie; a cookie for who has a token; what to do for everybody else."""

    async def endpoint(request: Request) -> Response:
        tokens = parse_qs(request.scope["query_string"].decode("latin-1")).get("t", [])
        if tokens:
            visitor = await threads.run(lambda: keys.identify(tokens[0]))
            return _set_cookie(visitor, keys, tokens[0], site=request.headers.get("sec-fetch-site"))
        headers = dict(request.scope["headers"])
        visitor = await threads.run(lambda: keys.visitor(headers))
        if visitor.annotator is None:
            return Response(LINK_REQUIRED, status_code=401, headers={"content-type": PLAIN})
        return Response(page(visitor.annotator), headers={"content-type": HTML})

    return endpoint


def _set_cookie(visitor: Visitor, keys: TokenAuthenticator, token: str, *, site: str | None) -> Response:
    if visitor.annotator is None and not visitor.is_owner:
        return Response(LINK_REQUIRED, status_code=401, headers={"content-type": PLAIN})
    name, target = (keys.owner_cookie, "/agreement") if visitor.is_owner else (keys.cookie, "/")
    cookie = f"{name}={token}; HttpOnly; SameSite=Strict; Path=/"
    if site in (None, "none", "same-origin"):
        return Response(status_code=303, headers={"location": target, "set-cookie": cookie})
    text = CONTINUE.format(target=target)
    return Response(text, headers={"content-type": HTML, "set-cookie": cookie})


def _agreement(store: Store, threads: Threads) -> Callable[[Request], Awaitable[Response]]:
    def work() -> Response:
        # Imported when it is asked for: the page that people wait for needs none of it.
        from logratio.annotate.web.agreement_page import render_agreement

        try:
            return Response(render_agreement(store), headers={"content-type": HTML})
        except TooFewLabels as fault:
            return Response(f"{fault.what}\n{fault.action}\n", headers={"content-type": PLAIN})

    async def endpoint(request: Request) -> Response:
        response: Response = await threads.run(work)
        return response

    return endpoint


def json_reply(value: Any) -> Response:
    """A JSON reply; ASCII alone, so that no text can fail to be encoded."""
    text = json.dumps(value, allow_nan=False)
    return Response(text, headers={"content-type": "application/json"})


def _annotator(request: Request) -> str:
    visitor: Visitor = request.scope["visitor"]
    assert visitor.annotator is not None, "the gate lets nobody else through"
    return visitor.annotator
