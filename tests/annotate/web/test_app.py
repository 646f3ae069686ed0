"""What the page asks and gets: pairs without names, verdicts kept once, and a word for every fault."""

import json
import sqlite3

import pytest

from annotate.live_server import POSTS, rows_of, running, vote_on, write_completions
from logratio.annotate import web
from logratio.annotate.domain.queue import QueueSettings
from logratio.annotate.web.app import PageSettings, load_pages
from logratio.annotate.web.markdown import parse, raw
from logratio.errors import DatabaseBusyOrBroken, DiskFull, NotWritable

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "[link](javascript:alert(1)) ![image](https://evil.example/x.png)",
    "\u202eright to left\u202c and zero\u200bwidth",
    "\x1b[31mred\x1b[0m \x07 bell",
    "=cmd|' /C calc'!A0",
    'quote " backslash \\ line\u2028end {{ 7 * 7 }} {% raw %}',
]


@pytest.fixture
def live(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 6)
    with running(tmp_path / "labels.db", names=("anna", "ben"), data=data) as server:
        yield server


@pytest.fixture
def anna(live):
    client = live.client("anna")
    yield client
    client.close()


def lease(client):
    status, body = client.post("/api/lease", {})
    assert status == 200
    return body


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_and_its_assets_come_with_a_link(live):
    token = live.tokens["anna"]
    page = live.ask("GET", "/", token=token)
    assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
    assert token.encode() not in page.body
    for path, (name, kind) in web.ASSETS.items():
        reply = live.ask("GET", path, token=token)
        assert (reply.status, reply.header("content-type")) == (200, kind)
        assert reply.body.decode() == web.read(name)


def test_the_pages_markup_has_no_inline_script_or_style_and_escapes_names():
    pages = load_pages()
    text = pages.page("<b>anna</b>")
    assert "<b>anna" not in text
    for forbidden in ("<style", " style=", "javascript:", " onclick", " onload", "http://", "https://"):
        assert forbidden not in text
    assert text.count("<script") == text.count('<script type="module" src="/')


def test_health_and_the_icon_need_no_token(live):
    assert live.ask("GET", "/health").json == {"ok": True}
    assert (live.ask("GET", "/favicon.ico").status, live.ask("GET", "/favicon.ico").body) == (204, b"")


def test_a_page_of_another_person_than_the_cookies_changes_nothing(live, anna):
    pair, before = lease(anna)["pair"], rows_of(live.store.path)
    vote = vote_on(pair, nonce="vote-0001")
    for path, body in (
        ("/api/lease", {}),
        ("/api/vote", vote),
        ("/api/undo", {"nonce": "undo-0001"}),
        ("/api/renew", {"ticket": pair["ticket"]}),
    ):
        for person in ("ben", None, ["anna"]):
            status, reply = anna.post(path, body | {"person": person})
            assert (status, reply["code"]) == (401, "OtherPerson")
    assert rows_of(live.store.path) == before
    assert anna.post("/api/vote", vote | {"person": "anna"})[0] == 200


def test_progress_names_the_person(live):
    reply = live.ask("GET", "/api/progress", token=live.tokens["ben"]).json
    assert reply == {
        "person": "ben",
        "progress": {"mine": 0, "total": 6, "done": 0, "waiting": 0, "next_free": None},
    }


# --- a pair -----------------------------------------------------------------------------------------


def test_a_pair_is_texts_sides_and_a_ticket(live, anna):
    body = lease(anna)
    assert set(body) == {"pair", "progress", "reason", "settings"}
    assert body["reason"] is None
    pair = body["pair"]
    assert set(pair) == {"ticket", "prompt", "left", "right", "lease_until"}
    assert set(pair["left"]) == {"tree", "raw", "length"}
    text = pair["prompt"][0]["raw"][0]["text"]
    number = text.split()[1]
    assert pair["prompt"] == [{"role": "user", "tree": parse(text), "raw": raw(text)}]
    texts = [f"yes, {number}", f"**no**, {number}"]
    sides = [pair["left"], pair["right"]]
    assert sorted(map(json.dumps, sides)) == sorted(
        json.dumps({"tree": parse(text), "raw": raw(text), "length": len(text)}) for text in texts
    )


def test_a_reload_gives_the_same_pair_on_the_same_sides(live, anna):
    first = lease(anna)["pair"]
    second = lease(anna)["pair"]
    assert {**first, "lease_until": 0} == {**second, "lease_until": 0}


def test_the_side_that_is_chosen_is_kept_as_content(live, anna):
    for number in range(6):
        pair = lease(anna)["pair"]
        left = "".join(run["text"] for run in pair["left"]["raw"])
        status, _ = anna.post("/api/vote", vote_on(pair, choice="left", nonce=f"nonce-{number:04}"))
        assert status == 200
        vote = live.store.votes()[-1]
        kept = live.store.pair(vote.pair_id)
        assert (kept.a if vote.verdict == "a" else kept.b).text == left
        assert vote.left_won is True
    assert {vote.swapped for vote in live.store.votes()} == {True, False}


def test_the_page_learns_no_model_no_path_no_kind_and_nobody_elses_verdict(tmp_path):
    rows = [
        {
            "prompt": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": f"ask {number}"},
            ],
            "chosen": f"good {number}",
            "rejected": f"poor {number}",
            "chosen_model": "secret-model-one",
            "rejected_model": "secret-model-two",
            # Numbers that no time of day has in it.
            "chosen_reward": -81.375,
            "rejected_reward": -92.625,
            "gold": "chosen" if number % 2 else None,
        }
        for number in range(12)
    ]
    data = tmp_path / "secret-path.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = QueueSettings(votes_per_pair=2, repeats=0.3, gold=0.3)
    with running(tmp_path / "labels.db", names=("anna", "ben"), data=data, settings=settings) as live:
        clients = [live.client("anna"), live.client("ben")]
        seen, kinds = [], set()
        for turn in range(30):
            client = clients[turn % 2]
            body = lease(client)
            seen.append(body)
            if body["pair"] is None:
                continue
            ballot = vote_on(body["pair"], nonce=f"nonce-{turn:04}", note="a private note")
            seen.append(client.post("/api/vote", ballot))
            kinds |= {vote.kind for vote in live.store.votes()}
        seen.append(client.post("/api/undo", {"nonce": "nonce-undo"}))
        for client in clients:
            client.close()
        page = live.ask("GET", "/", token=live.tokens["anna"]).body.decode()
    assert kinds == {"first", "repeat", "gold"}
    told = json.dumps(seen) + page
    for secret in (
        "secret",
        "jsonl",
        "gold",
        "repeat",
        "swapped",
        "margin",
        "-81.375",
        "-92.625",
        "private",
        "verdict_side",
    ):
        assert secret not in told.replace("verdicts", ""), secret
    shapes = {frozenset(body["pair"]) for body in seen if isinstance(body, dict) and body["pair"]}
    assert shapes == {frozenset({"ticket", "prompt", "left", "right", "lease_until"})}


def test_hostile_texts_arrive_as_they_are_inside_json(tmp_path):
    rows = [{"prompt": text, "chosen": text + " a", "rejected": text + " b"} for text in HOSTILE]
    data = tmp_path / "c.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running(tmp_path / "labels.db", data=data) as live:
        for number in range(len(HOSTILE)):
            reply = live.ask("POST", "/api/lease", body={}, token=live.tokens["anna"])
            assert reply.header("content-type") == "application/json"
            assert reply.body.isascii()
            pair = reply.json["pair"]
            for side in ("left", "right"):
                assert pair[side]["raw"] in [raw(text + end) for text in HOSTILE for end in (" a", " b")]
            live.ask(
                "POST", "/api/vote", body=vote_on(pair, nonce=f"hostile-{number}"), token=live.tokens["anna"]
            )
        assert len(live.store.votes()) == len(HOSTILE)


# --- a verdict --------------------------------------------------------------------------------------


def test_a_verdict_is_acknowledged_once_it_stands_in_the_file(live, anna):
    pair = lease(anna)["pair"]
    ballot = vote_on(pair, choice="right", nonce="nonce-0001", strength=3, reasons=["rude"], note="a note")
    status, body = anna.post("/api/vote", ballot)
    assert status == 200
    assert body == {
        "vote": 1,
        "duplicate": False,
        "progress": {"mine": 1, "total": 6, "done": 1, "waiting": 0, "next_free": None},
    }
    (row,) = live.rows()["votes"]
    assert "nonce-0001" in row
    assert "a note" in row
    assert '["rude"]' in row


def test_the_same_request_again_gives_the_same_receipt(live, anna):
    pair = lease(anna)["pair"]
    ballot = vote_on(pair, nonce="nonce-0001")
    first = anna.post("/api/vote", ballot)[1]
    for _ in range(3):
        status, body = anna.post("/api/vote", ballot)
        assert status == 200
        assert body == {**first, "duplicate": True}
    assert len(live.store.log()) == 1


def test_another_verdict_on_the_same_ticket_is_a_duplicate(live, anna):
    pair = lease(anna)["pair"]
    anna.post("/api/vote", vote_on(pair, nonce="nonce-0001"))
    status, body = anna.post("/api/vote", vote_on(pair, choice="right", nonce="nonce-0002"))
    assert (status, body["code"]) == (409, "DuplicateVote")
    assert set(body) == {"code", "what", "request"}
    assert len(live.store.log()) == 1


def test_somebody_elses_ticket_is_a_conflict(live, anna):
    pair = lease(anna)["pair"]
    ben = live.client("ben")
    status, body = ben.post("/api/vote", vote_on(pair, nonce="nonce-0001"))
    assert (status, body["code"]) == (409, "LeaseConflict")
    assert "anna" not in json.dumps(body)
    assert ben.post("/api/renew", {"ticket": pair["ticket"]})[0] == 409
    ben.close()
    assert live.store.log() == []


def test_undo_brings_the_pair_back_once(live, anna):
    pair = lease(anna)["pair"]
    anna.post("/api/vote", vote_on(pair, nonce="nonce-0001"))
    following = lease(anna)["pair"]
    status, body = anna.post("/api/undo", {"nonce": "nonce-undo"})
    assert status == 200
    assert (body["pair"]["left"], body["pair"]["right"]) == (pair["left"], pair["right"])
    assert body["pair"]["ticket"] not in (pair["ticket"], following["ticket"])
    assert anna.post("/api/undo", {"nonce": "nonce-undo"})[1]["pair"]["ticket"] == body["pair"]["ticket"]
    assert [vote.verdict for vote in live.store.log()][1:] == ["undo"]
    assert live.store.votes() == []


def test_undo_of_nothing_is_a_conflict(live, anna):
    status, body = anna.post("/api/undo", {"nonce": "nonce-undo"})
    assert (status, body["code"]) == (409, "LeaseConflict")


def test_renewing_moves_the_end(live, anna):
    pair = lease(anna)["pair"]
    status, body = anna.post("/api/renew", {"ticket": pair["ticket"]})
    assert status == 200
    assert body["lease_until"] >= pair["lease_until"]


def test_waiting_and_done_are_told_apart(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 1)
    with running(tmp_path / "labels.db", names=("anna", "ben"), data=data) as live:
        anna, ben = live.client("anna"), live.client("ben")
        pair = lease(anna)["pair"]
        waiting = lease(ben)
        assert (waiting["pair"], waiting["reason"]) == (None, "waiting")
        assert waiting["progress"]["next_free"] == pytest.approx(pair["lease_until"])
        anna.post("/api/vote", vote_on(pair, nonce="nonce-0001"))
        for client in (anna, ben):
            assert (lease(client)["reason"], lease(client)["pair"]) == ("done", None)
            client.close()


def test_while_a_file_grows_nobody_is_told_that_all_is_done(tmp_path):
    settings = {"settings": PageSettings(is_growing=True)}
    with running(tmp_path / "labels.db", app_settings=settings) as live:
        assert live.ask("POST", "/api/lease", body={}, token=live.tokens["anna"]).json["reason"] == "waiting"


def test_what_is_asked_beside_the_verdict_comes_with_the_pair(tmp_path):
    settings = PageSettings(strength=True, reasons=("wrong", "rude"), guidelines="# Go by\n\n**truth**")
    data = write_completions(tmp_path / "c.jsonl", 1)
    with running(tmp_path / "labels.db", data=data, app_settings={"settings": settings}) as live:
        body = live.ask("POST", "/api/lease", body={}, token=live.tokens["anna"]).json
    guidelines = parse("# Go by\n\n**truth**")
    assert body["settings"] == {"strength": True, "reasons": ["wrong", "rude"], "guidelines": guidelines}


# --- what a request may not hold --------------------------------------------------------------------

WRONG = {
    "no ticket": {"ticket": None},
    "a number for a ticket": {"ticket": 5},
    "a path for a ticket": {"ticket": "../../etc"},
    "no choice": {"choice": None},
    "a content for a side": {"choice": "a"},
    "undo for a side": {"choice": "undo"},
    "a list for a choice": {"choice": ["left"]},
    "strength 0": {"strength": 0},
    "strength 4": {"strength": 4},
    "strength true": {"strength": True},
    "strength 2.0": {"strength": 2.0},
    "strength text": {"strength": "2"},
    "reasons text": {"reasons": "rude"},
    "reasons numbers": {"reasons": [1]},
    "reasons many": {"reasons": [str(number) for number in range(21)]},
    "reasons twice": {"reasons": ["a", "a"]},
    "reasons long": {"reasons": ["x" * 201]},
    "reasons empty": {"reasons": [""]},
    "reasons surrogate": {"reasons": ["\ud800"]},
    "note long": {"note": "x" * 2001},
    "note list": {"note": []},
    "note NUL": {"note": "a\0b"},
    "note surrogate": {"note": "\udfff"},
    "time negative": {"milliseconds": -1},
    "time text": {"milliseconds": "5"},
    "time broken": {"milliseconds": 1.5},
    "time true": {"milliseconds": True},
    "time huge": {"milliseconds": 10**30},
    "no nonce": {"nonce": None},
    "nonce short": {"nonce": "x" * 7},
    "nonce long": {"nonce": "x" * 65},
    "nonce signs": {"nonce": "nonce nonce"},
    "nonce line": {"nonce": "nonce-0001\n"},
    "unknown": {"annotator": "ben"},
    "kind": {"kind": "gold"},
}


def test_each_wrong_field_is_refused_by_its_name(live, anna):
    pair = lease(anna)["pair"]
    before = live.rows()
    for name, change in WRONG.items():
        body = {**vote_on(pair, nonce="nonce-0001"), **change}
        reply = {key: value for key, value in body.items() if not (value is None and key in change)}
        status, answer = anna.post("/api/vote", reply)
        assert (status, answer["code"]) == (400, "HostileRequest"), name
        for value in change.values():
            assert not isinstance(value, str) or len(value) < 3 or value not in answer["what"]
    for path in POSTS:
        for body in ({"extra": 1}, {"ticket": 1}, {"nonce": []}):
            assert anna.post(path, body)[0] == 400
    assert live.rows() == before


def test_the_longest_note_and_all_letters_are_kept(live, anna):
    pair = lease(anna)["pair"]
    note = ("é😀\u202e<b>" * 500)[:2000]
    assert anna.post("/api/vote", vote_on(pair, nonce="x" * 64, note=note, strength=None))[0] == 200
    assert live.store.votes()[0].note == note


# --- when the labels cannot be written --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status"), [(DatabaseBusyOrBroken, 503), (NotWritable, 503), (DiskFull, 507)]
)
def test_a_fault_of_the_disk_tells_the_page_to_try_again(live, anna, fault, status, monkeypatch):
    pair = lease(anna)["pair"]
    ballot = vote_on(pair, nonce="nonce-0001")
    with monkeypatch.context() as broken:

        def fail(*_):
            raise fault("labels.db is broken", where="/private/somebody/labels.db")

        broken.setattr(live.queue, "vote", fail)
        got, body = anna.post("/api/vote", ballot)
        assert (got, body["code"]) == (status, fault.__name__)
        assert "somebody" not in json.dumps(body)
    assert anna.post("/api/vote", ballot)[0] == 200
    assert len(live.store.log()) == 1


def test_a_database_that_another_program_holds_is_said_and_the_vote_is_taken_later(live, anna):
    pair = lease(anna)["pair"]
    live.store._connection.execute("PRAGMA busy_timeout = 200")
    holder = sqlite3.connect(live.store.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    status, body = anna.post("/api/vote", vote_on(pair, nonce="nonce-0001"))
    assert (status, body["code"]) == (503, "DatabaseBusyOrBroken")
    holder.execute("ROLLBACK")
    holder.close()
    assert anna.post("/api/vote", vote_on(pair, nonce="nonce-0001"))[0] == 200


# --- for the person who runs it ---------------------------------------------------------------------


def test_the_agreement_page_is_the_owners(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 30)
    settings = QueueSettings(votes_per_pair=2, repeats=0.0, gold=0.0)
    with running(tmp_path / "labels.db", names=("anna", "ben"), data=data, settings=settings) as live:
        bearer = {"Authorization": f"Bearer {live.owner_token}"}
        early = live.ask("GET", "/agreement", headers=bearer)
        assert early.status == 200
        for name in ("anna", "ben"):
            client = live.client(name)
            for number in range(30):
                client.post("/api/vote", vote_on(lease(client)["pair"], nonce=f"{name}-{number:04}"))
            client.close()
        page = live.ask("GET", "/agreement", headers=bearer)
    assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    assert text.lower().startswith("<!doctype html>")
    assert "anna" in text
    for forbidden in ("<script", "<style", " style=", "http://", "https://"):
        assert forbidden not in text.replace("http://www.w3.org/2000/svg", "")
