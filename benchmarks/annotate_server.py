"""How long a verdict takes until it is on the disk and acknowledged, with several people voting at once.

    .venv/bin/python benchmarks/annotate_server.py

starts `logratio annotate serve` as a process of its own and lets --clients people take pairs and judge them,
each as soon as the last one is acknowledged, which no person does. The time is that of the vote's request, as
the page sees it. The status is 1 where the 95th percentile is over --bar.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LINK = re.compile(r"^ +(\S+) +http://127\.0\.0\.1:(\d+)/\?t=(\S+)$")
ANSWER = (
    "A sentence of an answer, with **bold** words and `code`, that somebody has to read.\n\n- a point\n" * 6
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8, help="people who vote at once")
    parser.add_argument("--votes", type=int, default=200, help="verdicts of each")
    parser.add_argument("--pairs", type=int, default=5000, help="pairs in the store")
    parser.add_argument("--bar", type=float, default=100.0, help="milliseconds for 95 of 100 verdicts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        seconds, took = measure(Path(directory), arguments)
    milliseconds = sorted(1e3 * value for value in seconds)
    count = len(milliseconds)
    p50, p95 = (milliseconds[int(share * count)] for share in (0.5, 0.95))
    print(
        f"{arguments.clients} people at once, {count} verdicts on {arguments.pairs} pairs: "
        f"median {p50:.1f} ms, p95 {p95:.1f} ms, longest {milliseconds[-1]:.1f} ms; "
        f"{count / took:.0f} verdicts/s"
    )
    held = p95 < arguments.bar
    print(f"p95 under {arguments.bar:g} ms: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def measure(place: Path, arguments: argparse.Namespace) -> tuple[list[float], float]:
    """The seconds of every verdict, and of all together."""
    rows = [
        {
            "prompt": f"question {number}",
            "completions": [{"text": f"{ANSWER}{number}"}, {"text": f"{number}"}],
        }
        for number in range(arguments.pairs)
    ]
    data = place / "completions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ",".join(f"person{number}" for number in range(arguments.clients))
    flags = ["--data", str(data), "--store", str(place / "labels.db"), "--annotators", names, "--port", "0"]
    command = [sys.executable, "-m", "logratio.cli.main", "annotate", "serve", *flags, "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            return race(read_links(server, arguments.clients), arguments.votes)
        finally:
            server.terminate()
            server.communicate()


def read_links(server: subprocess.Popen[str], count: int) -> list[tuple[int, str]]:
    """Port and token of everybody, once the server has printed them."""
    found: list[tuple[int, str]] = []
    assert server.stdout is not None
    for line in server.stdout:
        match = LINK.match(line.rstrip())
        if match:
            found.append((int(match[2]), match[3]))
        if len(found) == count:
            return found
    raise SystemExit("the server did not start")


def race(links: list[tuple[int, str]], votes: int) -> tuple[list[float], float]:
    """Let everybody vote."""
    seconds: list[float] = []
    barrier = threading.Barrier(len(links) + 1)
    threads = [
        threading.Thread(target=vote_all, args=(link, votes, barrier, seconds, number))
        for number, link in enumerate(links)
    ]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return seconds, time.perf_counter() - began


def vote_all(
    link: tuple[int, str], votes: int, barrier: threading.Barrier, seconds: list[float], person: int
) -> None:
    """Take a pair and judge it, again and again; a request that fails ends the person's thread loudly."""
    port, token = link
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {
        "Cookie": f"logratio-{port}={token}",
        "Origin": f"http://127.0.0.1:{port}",
        "Content-Type": "application/json",
    }

    def post(path: str, body: dict[str, object]) -> dict[str, object]:
        connection.request("POST", path, json.dumps(body).encode(), headers)
        reply = connection.getresponse()
        content = json.loads(reply.read())
        if reply.status != 200:
            raise SystemExit(f"{path}: {reply.status} {content}")
        return content

    barrier.wait()
    for number in range(votes):
        pair = post("/api/lease", {})["pair"]
        ballot = {"ticket": pair["ticket"], "choice": "left", "milliseconds": 1000}
        ballot["nonce"] = f"person-{person:04}-{number:08}"
        began = time.perf_counter()
        post("/api/vote", ballot)
        seconds.append(time.perf_counter() - began)
    connection.close()


if __name__ == "__main__":
    sys.exit(main())
