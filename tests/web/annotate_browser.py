"""Drives the labelling page: the real server in a process of its own, and a real browser before it."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from logratio.annotate.storage.store import Store

SERVE = (sys.executable, "-m", "logratio.cli.main", "annotate", "serve")
# The page takes no key in the first 250 ms after it has shown a pair.
GUARD_SECONDS = 0.3
SHOWN = "#pair:not([hidden])"

WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`logratio annotate serve` on a port that stays the same over restarts."""

    def __init__(self, place: Path, rows, *flags: str, annotators: str = "anna"):
        self.store = place / "labels.db"
        self.data = place / "comparisons.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.annotators = annotators
        self.flags = flags
        self.port = free_port()
        self.process = None
        self.links = {}
        self.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        names = self.annotators.split(",")
        self.process = subprocess.Popen(
            [
                *SERVE,
                *("--data", str(self.data), "--store", str(self.store), "--annotators", self.annotators),
                *("--port", str(self.port), "--repeats", "0", "--no-open", *self.flags),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        lines = queue.Queue()
        threading.Thread(target=_drain, args=(self.process.stdout, lines), daemon=True).start()
        self.links, said, ends = {}, [], time.monotonic() + 120
        while len(self.links) < len(names):
            line = lines.get(timeout=max(0.1, ends - time.monotonic()))
            assert line is not None, "the server ended:\n" + "".join(said)
            said.append(line)
            words = line.split()
            if len(words) == 2 and words[0] in names and words[1].startswith(self.origin):
                self.links[words[0]] = words[1]

    def kill(self) -> None:
        """As the kernel does it: no handler runs, nothing is closed."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def votes(self):
        with Store.open(self.store) as store:
            return store.votes()

    def log(self):
        with Store.open(self.store) as store:
            return store.log()

    def pairs(self):
        with Store.open(self.store) as store:
            return store.pairs()


def _drain(stream, lines) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


@contextmanager
def serving(place: Path, rows, *flags: str, **options):
    server = Server(place, rows, *flags, **options)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def browsing():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "Chromium is needed: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody before the page, with a profile of their own; what the browser complains of is kept."""

    def __init__(self, browser, server: Server, name: str = "anna", **options):
        self.server = server
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
        self.context.add_init_script(WATCH_POLICY)
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.open(name)

    def open(self, name: str = "anna") -> None:
        self.page.goto(self.server.links[name])

    def wait_for_pair(self) -> None:
        self.page.wait_for_selector(SHOWN)
        self.wait_for_keys()

    def wait_for_keys(self) -> None:
        """Until the page takes keys again: how long it guards a pair is the machine's affair."""
        self.until("performance.now() >= Number(document.body.dataset.readyAt)")

    def read(self) -> tuple[str, str]:
        """What stands on the left and on the right."""
        return self.page.inner_text("#left"), self.page.inner_text("#right")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def decide(self, key: str) -> None:
        """Press a key and wait until the page has shown what comes next."""
        self.wait_for_keys()
        self.page.evaluate("for (const one of document.querySelectorAll('#left > *')) one.isOld = true")
        was_shown = self.page.is_visible("#pair")
        self.press(key)
        is_next = "!document.querySelector('#left > *')?.isOld || document.getElementById('pair').hidden"
        self.until(is_next if was_shown else "!document.getElementById('pair').hidden")
        self.wait_for_keys()

    def until(self, expression: str, *, seconds: float = 60) -> None:
        """Wait until a script's value is true; the page's policy forbids how Playwright itself would wait."""
        ends = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < ends, f"never true: {expression}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector).strip()

    def focused(self) -> str:
        return self.page.evaluate("document.activeElement.id || document.activeElement.dataset.action || ''")

    def unsaved(self) -> int:
        return self.page.evaluate("JSON.parse(localStorage.getItem('logratio.outbox') ?? '[]').length")

    def violations(self) -> list[str]:
        return self.page.evaluate("window.violations")

    def overflow(self) -> int:
        """By how much the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
