"""`kill -9` of the real server a hundred times while two people vote: what was acknowledged is there."""

import http.client
import json
import random
import sqlite3
import threading
import time

import pytest

from annotate.live_server import Client, vote_on, write_completions
from annotate.serve_process import make_forks, start
from logratio.annotate.storage.store import Store

NUM_KILLS = 100
NAMES = ("anna", "ben")
GONE = (OSError, http.client.HTTPException, json.JSONDecodeError)


class Voter(threading.Thread):
    """Votes as fast as it can until the server is gone; keeps what was not acknowledged, as the page does.

    Args:
        name: who.
        served: the server.
        kept: the ballot that an earlier server did not acknowledge.
    """

    def __init__(self, name, served, kept):
        super().__init__(name=name)
        self.client = Client(served.port, served.tokens[name])
        self.kept = kept
        self.acknowledged = {}
        self.refused = []

    def run(self):
        try:
            while True:
                if self.kept is None:
                    status, body = self.client.post("/api/lease", {})
                    assert status == 200, body
                    if body["pair"] is None:
                        return
                    nonce = f"{self.name}-{random.randrange(10**12):012}"
                    self.kept = vote_on(body["pair"], choice=random.choice(["left", "right"]), nonce=nonce)
                self.send()
        except GONE:
            pass
        finally:
            self.client.close()

    def send(self):
        status, body = self.client.post("/api/vote", self.kept)
        if status == 200:
            self.acknowledged[self.kept["nonce"]] = body["vote"]
        else:
            self.refused.append((status, body))
        self.kept = None


@pytest.mark.slow
def test_no_acknowledged_verdict_is_lost(tmp_path):
    forks, store = make_forks(), tmp_path / "labels.db"
    data = write_completions(tmp_path / "c.jsonl", 2500)
    generator = random.Random(6)
    random.seed(6)
    kept, acknowledged, num_again, refused = dict.fromkeys(NAMES), {}, 0, []
    began = time.monotonic()
    for number in range(NUM_KILLS):
        further = {"data": data} if number == 0 else {}
        served = start(
            forks, tmp_path / "out", store=store, annotators=",".join(NAMES), votes_per_pair=2, **further
        )
        voters = [Voter(name, served, kept[name]) for name in NAMES]
        num_again += sum(voter.kept is not None for voter in voters)
        for voter in voters:
            voter.start()
        time.sleep(generator.uniform(0.02, 0.25))
        served.kill()
        for voter in voters:
            voter.join(timeout=120)
            kept[voter.name] = voter.kept
            acknowledged |= voter.acknowledged
            refused += voter.refused
        check_whole(store)
    with Store.open(store) as opened:
        log = {vote.nonce: vote.id for vote in opened.log()}
        assert len(log) == len(opened.log())
    lost = {nonce: row for nonce, row in acknowledged.items() if log.get(nonce) != row}
    seconds = time.monotonic() - began
    print(
        f"{NUM_KILLS} kills, {len(acknowledged)} acknowledged verdicts, {len(lost)} lost, 0 corrupt stores;"
        f" {num_again} were sent again after a kill, {len(log)} rows in the log, {seconds:.0f} s"
    )
    assert lost == {}
    assert refused == []
    assert len(acknowledged) > 2 * NUM_KILLS, "too few verdicts for the kills to fall among them"
    assert num_again > NUM_KILLS // 4, "too few kills fell between a verdict and its acknowledgement"
    # What nobody acknowledged may stand or not, but at most the two that were under way each time.
    assert len(log) <= len(acknowledged) + sum(ballot is not None for ballot in kept.values())


def check_whole(store):
    """The file as the next program finds it, its write-ahead log not folded in."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()
