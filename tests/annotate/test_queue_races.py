"""Threads and processes race for pairs: none is given twice, and every verdict is in the log."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from annotate import label_stores
from logratio.annotate.storage.store import Store


@pytest.fixture(autouse=True)
def _closed_stores():
    with label_stores.closed_stores():
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.db"


WORKER = """
import json, sys, time
from pathlib import Path
from annotate import label_stores
from logratio.annotate.domain.queue import Queue, QueueSettings
from logratio.annotate.storage.store import Store

path, name, num_votes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = []
with Store.create_or_open(path) as store:
    queue = Queue(store, QueueSettings(repeats=0.0, votes_per_pair=num_votes))
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        assignment = queue.lease(name)
        if assignment is None:
            break
        receipt = queue.vote(name, label_stores.ballot(assignment, nonce=assignment.ticket))
        seen.append([receipt.pair_id, receipt.vote_id])
        time.sleep(0.001)  # SQLite's locks are not fair: without a pause one of the two may get nearly all.
print(json.dumps(seen))
"""


def check_race(store: Store, seen: dict[str, list[tuple[str, int]]], num_votes: int) -> None:
    """No pair was given twice to one person or to more people than it has places; every vote is there."""
    given = [pair_id for presented in seen.values() for pair_id, _ in presented]
    assert Counter(given) == dict.fromkeys(store.pairs(), num_votes)
    log = {vote.id: (vote.annotator, vote.pair_id) for vote in store.log()}
    acknowledged = {
        vote_id: (name, pair_id) for name, presented in seen.items() for pair_id, vote_id in presented
    }
    assert acknowledged == log
    assert len(set(log.values())) == len(log)


@pytest.mark.parametrize(
    ("names", "num_votes", "shared"), [("ab", 1, True), ("ab", 1, False), ("abc", 2, True)]
)
def test_threads_race_for_500_pairs(path, names, num_votes, shared):
    store = label_stores.store(path, label_stores.pairs(500), annotators=[*names])
    queues = {name: label_stores.queue(store, votes_per_pair=num_votes, clock=time.time) for name in names}
    if shared:
        queues = dict.fromkeys(names, queues["a"])
    else:
        queues["b"] = label_stores.queue(
            Store.create_or_open(path), votes_per_pair=num_votes, clock=time.time
        )
    seen = {name: [] for name in names}
    failures = []
    gate = threading.Barrier(len(names))

    def work(name):
        gate.wait()
        try:
            while assignment := queues[name].lease(name):
                receipt = queues[name].vote(name, label_stores.ballot(assignment, nonce=assignment.ticket))
                seen[name].append((assignment.pair.id, receipt.vote_id))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    # The last pairs may have been held by another when somebody asked.
    for name in names:
        while assignment := queues[name].lease(name):
            receipt = queues[name].vote(name, label_stores.ballot(assignment))
            seen[name].append((assignment.pair.id, receipt.vote_id))
    check_race(store, seen, num_votes)


def test_processes_race_for_500_pairs(path):
    store = label_stores.store(path, label_stores.pairs(500), annotators=["a", "b"])
    tests = str(Path(__file__).parents[1])
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), name, "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": tests, "PATH": "/usr/bin:/bin"},
        )
        for name in "ab"
    }
    for process in processes.values():
        assert process.stdout.readline() == "ready\n"
    for process in processes.values():
        process.stdin.write("go\n")
        process.stdin.flush()
    seen = {name: json.loads(process.communicate(timeout=120)[0]) for name, process in processes.items()}
    assert all(process.returncode == 0 for process in processes.values())
    assert all(len(presented) > 20 for presented in seen.values())
    check_race(store, {name: [tuple(one) for one in presented] for name, presented in seen.items()}, 1)
