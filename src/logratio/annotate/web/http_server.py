"""Sockets and the HTTP server: where it listens, and what a malformed or slow request gets.

The protocol is uvicorn's; here it learns to answer what is no HTTP with the same protective headers as
everything else, to wait only so long for the rest of a request's head, and to refuse a crowd.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from logratio.annotate.web.security import HEADERS, MAX_HEAD_BYTES, READ_SECONDS, rejection_body
from logratio.errors import BadConfig, DatabaseBusyOrBroken, NotWritable, PortBusy, UnsafeArtifact
from logratio.run_directory import disk_faults

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAX_CONNECTIONS = 200
GRACE_SECONDS = 5.0
"""How much longer than a body's own limit a connection may be busy with one request's arrival."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at the machine's own addresses, or at the one named.

    Args:
        host: `127.0.0.1`, `localhost` or `::1` for this machine alone (both families); else one address.
        port: the port; 0 takes a free one.

    Raises:
        PortBusy: another program listens there, or the port is not this user's to take.
        BadConfig: the host is not an address of this machine.
    """
    if host not in ("127.0.0.1", "localhost", "::1"):
        return [_bind_one(host, port)]
    first = _bind_one("127.0.0.1", port)
    try:
        return [first, *_bind_twin(first.getsockname()[1])]
    except BaseException:
        first.close()
        raise


def _bind_twin(port: int) -> list[socket.socket]:
    """The same port for IPv6: `localhost` must not lead to another program; a machine may have no IPv6."""
    try:
        return [_bind_one("::1", port)]
    except BadConfig:
        return []


def _bind_one(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise BadConfig(
            f"{host!r} is no address", where="--host", action="give an address of this machine"
        ) from error
    # With the protocol named, asyncio sends small replies at once; without, each waits 40 ms for an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Connections of a server that was just ended keep the port for a minute otherwise.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        # Listening is what takes the port from others.
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise _named(error, host, port) from error
    return listener


def _named(error: OSError, host: str, port: int) -> BadConfig | PortBusy:
    if error.errno == errno.EACCES:
        what = f"port {port} is not this user's to take"
    elif error.errno == errno.EADDRINUSE:
        what = f"another program listens at port {port}; perhaps another `logratio annotate serve`"
    else:
        return BadConfig(
            f"cannot listen at {host!r}: {error.strerror}",
            where="--host",
            action="give an address of this machine, or leave --host away",
        )
    return PortBusy(
        what, where=f"{host}:{port}", action=f"end it, or give another port: --port {port % 65535 + 1}"
    )


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 with our headers on the replies that no application sees, and a limit of time."""

    deadline_seconds = READ_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # Whatever logging is set to: a token may stand in an address.
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a crowd; begin to count the seconds of the first request's head."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline with the connection."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a request that is half here has until the deadline."""
        super().data_received(data)
        arriving = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if not arriving:
            self._forget()
        elif self._deadline is None:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; a reply that is under way already is cut off."""
        status = 431 if len(self.conn.trailing_data[0]) > MAX_HEAD_BYTES else 400
        self._refuse(status, "the request is no HTTP that this server reads")

    def _refuse(self, status: int, what: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = rejection_body("HostileRequest", what, "none")
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                *HEADERS,
            ]
            reply = h11.Response(status_code=status, headers=headers)
            for event in (reply, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        self._deadline = self.loop.call_later(self.deadline_seconds + GRACE_SECONDS, self._expire)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        # A browser may open a connection ahead of its time: one on which nothing came is just closed.
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, "the request took too long to arrive")
        else:
            self.transport.abort()


def make_server(app: ASGIApp, *, read_seconds: float = READ_SECONDS) -> Server:
    """A server for the application; it logs no addresses, since a token may stand in one.

    Args:
        app: what answers.
        read_seconds: how long a request may take to arrive.
    """
    protocol = type("GuardedProtocol", (GuardedProtocol,), {"deadline_seconds": read_seconds})
    config = Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    return Server(config)


def serve(server: Server, sockets: Sequence[socket.socket]) -> None:
    """Answer requests until the server is told to end; requests under way are finished first.

    Args:
        server: what `make_server` gave.
        sockets: what `bind` gave.
    """
    asyncio.run(server.serve(sockets=list(sockets)))


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what the server and its libraries log, tracebacks among it, to a file that only its owner reads.

    The file is made with the first fault; what was merely refused is not written down.
    """
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    handler._open = partial(_open_private, path)  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("logratio.annotate", "uvicorn.error", "asyncio")]
    before = [one.propagate for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.propagate = False
    try:
        yield
    finally:
        for one, propagate in zip(loggers, before, strict=True):
            one.removeHandler(handler)
            one.propagate = propagate
        handler.close()


def _open_private(path: Path) -> TextIOWrapper:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding="utf-8")


@contextmanager
def hold(store: Path) -> Iterator[None]:
    """One server at a time for a store: a second one would make the links of the first worthless.

    The lock is the operating system's, and goes with the process however that ends.

    Raises:
        DatabaseBusyOrBroken: another server holds it.
        NotWritable, DiskFull: the lock's file cannot be made.
        UnsafeArtifact: it is a symbolic link.
    """
    path = store.with_name(store.name + ".lock")
    lock = _locked(path, store)
    try:
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield
    finally:
        # While it is still held: whoever comes next finds no file, or one that it can take.
        path.unlink(missing_ok=True)
        lock.close()


def _locked(path: Path, store: Path) -> IO[str]:
    while True:
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = lock.read(20).strip()
            lock.close()
            raise DatabaseBusyOrBroken(
                f"another `logratio annotate serve` (process {holder or 'unknown'}) serves {store.name}",
                where=str(store),
                action="end it, or choose another --store",
            ) from error
        with suppress(FileNotFoundError):
            # Its last holder may have removed it between our opening and locking it.
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                return lock
        lock.close()


def _open_lock(path: Path) -> IO[str]:
    if path.is_symlink():
        raise UnsafeArtifact(
            f"{path.name} is a symbolic link", where=str(path), action="remove it, or choose another --store"
        )
    try:
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, IsADirectoryError) as error:
        raise NotWritable(
            f"cannot write {path.name}: {error.strerror}", where=str(path), action="choose another --store"
        ) from error
    return os.fdopen(descriptor, "r+", encoding="utf-8")
