"""Several people at once over HTTP: no pair is given twice, and every verdict is in the log."""

import threading
import time

import pytest

from annotate.live_server import running, vote_on, write_completions
from logratio.annotate.domain.queue import QueueSettings

SIDES = ("left", "right")
PLAIN = {"repeats": 0.0, "gold": 0.0}


def race(live, names, *, most=10**9):
    """Everybody votes at once until nothing is left; what each saw, what was kept, how long it took."""
    seen, acknowledged, seconds = {name: [] for name in names}, {}, []
    barrier, faults = threading.Barrier(len(names)), []

    def work(name):
        client = live.client(name)
        try:
            barrier.wait()
            for number in range(most):
                status, body = client.post("/api/lease", {})
                assert status == 200, body
                if body["pair"] is None:
                    break
                seen[name].append(body["pair"]["prompt"][0]["raw"][0]["text"])
                choice = ("left", "right", "tie", "bad")[number % 4]
                began = time.perf_counter()
                status, reply = client.post(
                    "/api/vote", vote_on(body["pair"], choice=choice, nonce=f"{name}-{number:06}")
                )
                seconds.append(time.perf_counter() - began)
                assert status == 200, reply
                acknowledged[f"{name}-{number:06}"] = reply["vote"]
        except BaseException as error:
            faults.append(error)
            raise
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    return seen, acknowledged, sorted(seconds)


def p95(seconds):
    return seconds[int(0.95 * len(seconds))]


@pytest.mark.slow
def test_two_people_race_over_500_pairs(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 500)
    names = ("anna", "ben")
    with running(tmp_path / "l.db", names=names, data=data, settings=QueueSettings(**PLAIN)) as live:
        seen, acknowledged, seconds = race(live, names)
        log = live.store.log()
    shown = seen["anna"] + seen["ben"]
    assert len(shown) == len(set(shown)) == 500, "a pair was given to both"
    assert min(map(len, seen.values())) > 100, "one of them had nothing to race for"
    assert {vote.nonce: vote.id for vote in log} == acknowledged
    assert len({vote.pair_id for vote in log}) == len(log) == 500
    print(f"two people, 500 pairs, no pair given twice; p95 of a verdict {1e3 * p95(seconds):.0f} ms")


@pytest.mark.slow
def test_two_verdicts_a_pair_are_by_two_people(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 60)
    names = ("anna", "ben", "cem")
    settings = QueueSettings(votes_per_pair=2, **PLAIN)
    with running(tmp_path / "l.db", names=names, data=data, settings=settings) as live:
        _, acknowledged, _ = race(live, names)
        log = live.store.log()
    assert {vote.nonce: vote.id for vote in log} == acknowledged
    voters = {}
    for vote in log:
        voters.setdefault(vote.pair_id, []).append(vote.annotator)
    assert len(voters) == 60
    assert all(len(people) == len(set(people)) == 2 for people in voters.values())


@pytest.mark.slow
def test_eight_people_at_once(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 400)
    names = tuple(f"person{number}" for number in range(8))
    with running(tmp_path / "l.db", names=names, data=data, settings=QueueSettings(**PLAIN)) as live:
        _, acknowledged, seconds = race(live, names, most=40)
        assert {vote.nonce: vote.id for vote in live.store.log()} == acknowledged
    print(f"8 people at once, {len(seconds)} verdicts: p95 {1e3 * p95(seconds):.0f} ms")
    # A bound that holds on a busy machine; benchmarks/annotate_server.py measures.
    assert p95(seconds) < 1.0


def test_the_same_verdict_from_two_tabs_counts_once(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 3)
    with running(tmp_path / "l.db", data=data, settings=QueueSettings(**PLAIN)) as live:
        tabs = [live.client("anna") for _ in range(6)]
        pairs = [tab.post("/api/lease", {})[1]["pair"] for tab in tabs]
        assert len({pair["ticket"] for pair in pairs}) == 1
        replies = []

        def send(tab, nonce, choice):
            replies.append(tab.post("/api/vote", vote_on(pairs[0], choice=choice, nonce=nonce)))

        # Three times the same press, and three presses of another key in another tab.
        threads = [
            threading.Thread(
                target=send, args=(tab, f"nonce-tab-{number % 2}", ("left", "right")[number % 2])
            )
            for number, tab in enumerate(tabs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for tab in tabs:
            tab.close()
        assert sorted(status for status, _ in replies) == [200, 200, 200, 409, 409, 409]
        assert sum(not body["duplicate"] for status, body in replies if status == 200) == 1
        assert {body["code"] for status, body in replies if status == 409} == {"DuplicateVote"}
        assert len(live.store.log()) == 1
