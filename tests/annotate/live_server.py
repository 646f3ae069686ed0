"""A real server on a real socket, in a thread of the test, and clients that may be as rude as they like."""

import http.client
import json
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from logratio.annotate.domain.pairs import read_pairs
from logratio.annotate.domain.queue import Queue, QueueSettings
from logratio.annotate.storage.store import Store
from logratio.annotate.web.app import AccessSettings, create_app, load_pages
from logratio.annotate.web.auth_tokens import authorities, new_token
from logratio.annotate.web.http_server import bind, make_server, serve

POSTS = ("/api/lease", "/api/vote", "/api/undo", "/api/renew")


def write_completions(path, num_prompts, *, start=0):
    """A file of completions with two different answers to each prompt."""
    rows = [
        {
            "prompt": f"question {number}",
            "completions": [{"text": f"yes, {number}"}, {"text": f"**no**, {number}"}],
        }
        for number in range(start, start + num_prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass
class Running:
    """A server that answers, with all that a test may want to look at."""

    store: Store
    queue: Queue
    port: int
    tokens: dict[str, str]
    owner_token: str
    server: object

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    @property
    def origin(self):
        return f"http://{self.host}"

    def client(self, name):
        return Client(self.port, self.tokens[name])

    def ask(self, method, path, *, headers=None, body=None, token=None):
        """One request on a connection of its own, by default with what the page would send."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {} if token is None else {"Cookie": f"logratio-{self.port}={token}"}
        if method == "POST":
            sent |= {"Origin": self.origin, "Content-Type": "application/json"}
        sent |= headers or {}
        content = json.dumps(body) if isinstance(body, dict) else body
        wanted = {name: value for name, value in sent.items() if value is not None}
        try:
            connection.request(method, path, body=content, headers=wanted)
            reply = connection.getresponse()
            return Reply(reply.status, [(n.lower(), v) for n, v in reply.getheaders()], reply.read())
        finally:
            connection.close()

    def raw(self, content, *, pauses=0.0, seconds=20.0, until_closed=False):
        """Bytes as they are; the first whole reply, or all that comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            for piece in [content] if isinstance(content, bytes) else content:
                try:
                    connection.sendall(piece)
                except OSError:
                    break
                time.sleep(pauses)
            received = b""
            connection.settimeout(seconds)
            try:
                while (until_closed or not is_whole(received)) and (piece := connection.recv(65536)):
                    received += piece
            except OSError:
                pass
            return received

    def rows(self):
        """Every row of every table of the store, read from the file by a connection of its own."""
        return rows_of(self.store.path)


def is_whole(received):
    """Whether a final reply of known length has come."""
    head, found, body = received.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return is_whole(body)
    length = next(
        (line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b""
    )
    return bool(found and length) and len(body) >= int(length)


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    def header(self, name):
        values = [value for known, value in self.headers if known == name]
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


class Client:
    """What the page does, on one connection that is kept."""

    def __init__(self, port, token):
        self.port, self.token = port, token
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(self, path, body):
        headers = {
            "Cookie": f"logratio-{self.port}={self.token}",
            "Origin": f"http://127.0.0.1:{self.port}",
            "Sec-Fetch-Site": "same-origin",
            "Content-Type": "application/json",
        }
        self.connection.request("POST", path, body=json.dumps(body), headers=headers)
        reply = self.connection.getresponse()
        return reply.status, json.loads(reply.read())

    def close(self):
        self.connection.close()


def vote_on(pair, *, choice="left", nonce, **further):
    return {"ticket": pair["ticket"], "choice": choice, "milliseconds": 900, "nonce": nonce, **further}


def rows_of(path):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables}
    finally:
        connection.close()


@contextmanager
def running(store_path, *, names=("anna",), data=None, settings=None, app_settings=None, port=0, wrap=None):
    """Serve a store until the block ends."""
    arguments = dict(app_settings or {})
    read_seconds = arguments.pop("read_seconds", 10.0)
    with Store.create_or_open(store_path) as store:
        if data is not None:
            store.add_file(str(data), read_pairs(data))
        queue = Queue(store, settings or QueueSettings(repeats=0.0, gold=0.0))
        sockets = bind("127.0.0.1", port)
        bound = sockets[0].getsockname()[1]
        owner_token = new_token()
        app = create_app(
            store,
            queue,
            access=AccessSettings(
                hosts=authorities(bound),
                cookie=f"logratio-{bound}",
                owner_token=owner_token,
                read_seconds=read_seconds,
            ),
            pages=load_pages(),
            **arguments,
        )
        server = make_server(app if wrap is None else wrap(app), read_seconds=read_seconds)
        tokens = {name: store.add_annotator(name) for name in names}
        thread = threading.Thread(target=serve, args=(server, sockets))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield Running(store, queue, bound, tokens, owner_token, server)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            for listener in sockets:
                listener.close()
