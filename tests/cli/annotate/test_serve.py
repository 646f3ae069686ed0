"""`logratio annotate serve`: what it prints, how it ends, and what it refuses to begin."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from annotate.live_server import Client, vote_on, write_completions
from annotate.serve_process import make_forks, run_command, start
from logratio.annotate.storage.store import Store
from logratio.annotate.web.http_server import hold
from logratio.cli.annotate.serve import Arguments, opened, run
from logratio.cli.main import main
from logratio.errors import (
    BadConfig,
    BadEncoding,
    DatabaseBusyOrBroken,
    FileNotReadable,
    InputChanged,
    NotWritable,
    PortBusy,
    TooFewLabels,
    UnknownFormatVersion,
    UnsafeArtifact,
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_completions(tmp_path / "completions.jsonl", 4)
    return tmp_path


@pytest.fixture(scope="module")
def forks():
    return make_forks()


def arguments(place, **settings):
    given = {"store": place / "labels.db", "data": place / "completions.jsonl", "port": 0, "open": False}
    return Arguments(**{**given, **settings})


def end(served, number=signal.SIGINT):
    """Send a signal, and give the exit status and all that was printed."""
    os.kill(served.process.pid, number)
    served.process.join(timeout=120)
    status = served.process.exitcode
    served.process.close()
    return status, served.printed


def judge_all(served, name, prefix="nonce"):
    client = Client(served.port, served.tokens[name])
    number = 0
    while (pair := client.post("/api/lease", {})[1]["pair"]) is not None:
        assert client.post("/api/vote", vote_on(pair, nonce=f"{prefix}-{number:04}"))[0] == 200
        number += 1
    client.close()
    return number


# --- the course of things ---------------------------------------------------------------------------


def test_labelling_from_the_links_to_the_end(place, forks):
    given = arguments(place, annotators="anna,ben").__dict__
    served = start(forks, place / "out", **given)
    text = served.printed
    assert f"labels   {place / 'labels.db'} (this file alone holds them)" in text
    assert "pairs    4, one verdict each, order: random" in text
    assert set(served.tokens) == {"anna", "ben"}
    assert "WARNING" not in text
    assert judge_all(served, "anna") == 4
    status, text = end(served)
    assert status == 0
    assert "ended: 4 verdicts stand in" in text
    assert "4 of 4 pairs done; verdicts: anna 4, ben 0" in text
    assert f"logratio annotate export --store {place / 'labels.db'} --out labels" in text
    assert "Traceback" not in text
    assert sorted(one.name for one in place.iterdir()) == ["completions.jsonl", "labels.db", "out"]

    again = start(forks, place / "out", **given)
    assert "4 verdicts stand there already" in again.printed
    assert again.tokens["anna"] != served.tokens["anna"]
    old = Client(again.port, served.tokens["anna"])
    assert old.post("/api/lease", {})[0] == 401
    old.close()
    assert judge_all(again, "ben") == 0
    assert end(again, signal.SIGTERM)[0] == 128 + signal.SIGTERM


def test_links_of_people_who_are_not_named_any_more_are_worth_nothing(place, forks):
    first = start(forks, place / "out", **arguments(place, annotators="anna,ben").__dict__)
    first.kill()
    second = start(forks, place / "out", **arguments(place, annotators="anna").__dict__)
    for token in (first.tokens["ben"], first.tokens["anna"], first.owner_token):
        client = Client(second.port, token)
        assert client.post("/api/lease", {})[0] == 401
        client.close()
    end(second)


def test_a_growing_file_is_followed(place, forks):
    growing = place / "live.jsonl"
    served = start(forks, place / "out", **arguments(place, data=None, live=growing).__dict__)
    assert f"more are added as they appear in {growing}" in served.printed
    client = Client(served.port, served.tokens["me"])
    body = client.post("/api/lease", {})[1]
    assert (body["pair"], body["reason"]) == (None, "waiting")
    row = {"prompt": "p", "completions": [{"text": "a"}, {"text": "b"}]}
    growing.write_text(json.dumps(row) + "\n" + '{"prompt": "half a')
    deadline = time.monotonic() + 60
    while (pair := client.post("/api/lease", {})[1]["pair"]) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pair is not None
    client.close()
    assert "1 new pairs from" in end(served)[1]


def test_a_second_server_on_a_store_is_refused_and_leaves_the_first_ones_links(place, forks):
    served = start(forks, place / "out", **arguments(place).__dict__)
    with pytest.raises(DatabaseBusyOrBroken, match=f"process {served.process.pid}"):
        run(arguments(place))
    client = Client(served.port, served.tokens["me"])
    assert client.post("/api/lease", {})[0] == 200
    client.close()
    end(served)


def test_a_keyboard_interrupt_as_soon_as_the_links_are_shown_ends_in_order(place, monkeypatch, capsys):
    # A job in the background is begun with its interrupts ignored.
    shown, before = [], signal.getsignal(signal.SIGINT)

    def show_and_interrupt(links, **_):
        shown.append(links)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("logratio.cli.annotate.serve.show_links", show_and_interrupt)
    try:
        status = run(arguments(place))
    except KeyboardInterrupt:
        pytest.fail("nothing was there yet that ends the server in order")
    assert status == 0
    assert len(shown) == 1
    assert "ended: 0 verdicts stand" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_keyboard_interrupt_while_a_request_is_under_way_ends_all_the_same(place, forks):
    served = start(forks, place / "out", **arguments(place).__dict__)
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(f"POST /api/lease HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n".encode())
        time.sleep(0.2)
        began = time.monotonic()
        status, text = end(served)
    assert status == 0
    assert time.monotonic() - began < 10
    assert "ended: 0 verdicts stand" in text


# --- what it refuses --------------------------------------------------------------------------------


def test_a_port_in_use_is_said_before_anything_is_made(place):
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(PortBusy) as caught:
            run(arguments(place, port=other.getsockname()[1]))
        assert str(other.getsockname()[1]) in str(caught.value)
        assert "--port" in caught.value.action
    assert not (place / "labels.db").exists()


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"annotators": ""}, "--annotators"),
        ({"annotators": "anna,ben,anna"}, "--annotators"),
        ({"host": "0.0.0.0"}, "--host"),
        ({"host": "::"}, "--host"),
        ({"port": 70000}, "--port"),
        ({"votes_per_pair": 0}, "--votes-per-pair"),
        ({"lease_minutes": 0.0}, "--lease-minutes"),
        ({"repeats": 0.9}, "--repeats"),
        ({"gold_share": -0.1}, "--gold-share"),
        ({"random_slice": 0.0}, "--random-slice"),
    ],
)
def test_settings_are_checked_before_anything_is_made(place, settings, where):
    with pytest.raises(BadConfig) as caught:
        run(arguments(place, **settings))
    assert caught.value.where == where
    assert not (place / "labels.db").exists()


def test_an_order_by_margin_needs_margins(place):
    with pytest.raises(BadConfig, match="no pair has a margin"):
        run(arguments(place, order="margin"))


def test_a_name_that_cannot_be_printed_is_refused(place):
    with pytest.raises(BadConfig, match="no name"):
        run(arguments(place, annotators="an\x1bna"))


def test_nothing_to_compare_is_said_with_the_reasons(place):
    row = {"prompt": "p", "completions": [{"text": "same"}, {"text": "same"}]}
    (place / "completions.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(TooFewLabels, match="1 identical"):
        run(arguments(place))
    with pytest.raises(TooFewLabels):
        run(arguments(place, data=None, store=place / "other.db"))


def test_an_input_file_that_changed_under_a_store_is_refused(place, forks):
    end(start(forks, place / "out", **arguments(place).__dict__))
    write_completions(place / "completions.jsonl", 5)
    with pytest.raises(InputChanged, match=r"completions\.jsonl"):
        run(arguments(place))
    with Store.open(place / "labels.db") as store:
        assert len(store.pairs()) == 4


def test_guidelines_that_cannot_be_read_are_refused(place):
    with pytest.raises(FileNotReadable):
        run(arguments(place, guidelines=place / "none.md"))
    (place / "guide.md").write_bytes(b"\xff\xfe")
    with pytest.raises(BadEncoding):
        run(arguments(place, guidelines=place / "guide.md"))


def test_a_store_that_is_damaged_newer_a_link_or_none_is_refused_and_left(place):
    damaged = place / "damaged.db"
    damaged.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    kept = damaged.read_bytes()
    with pytest.raises(DatabaseBusyOrBroken):
        run(arguments(place, store=damaged))
    assert damaged.read_bytes() == kept

    newer = place / "newer.db"
    Store.create_or_open(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(UnknownFormatVersion):
        run(arguments(place, store=newer))

    (place / "link.db").symlink_to(newer)
    with pytest.raises(UnsafeArtifact):
        run(arguments(place, store=place / "link.db"))

    with pytest.raises(NotWritable):
        run(arguments(place, store=place / "completions.jsonl" / "labels.db"))
    assert not list(place.glob("*.lock"))


def test_a_store_that_another_program_holds_is_said(place, monkeypatch):
    monkeypatch.setattr("logratio.annotate.storage.database.BUSY_SECONDS", 0.2)
    Store.create_or_open(place / "labels.db").close()
    holder = sqlite3.connect(place / "labels.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseBusyOrBroken, match="another program"):
        run(arguments(place))
    holder.close()


def test_a_refusal_gives_the_port_and_the_lock_back(place):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(BadConfig, match="margin"):
            run(arguments(place, order="margin", port=port))
    with hold(place / "labels.db"):
        pass


# --- other machines ---------------------------------------------------------------------------------


def test_another_address_is_warned_of_and_keeps_the_token(place, forks):
    given = arguments(place, host="127.0.0.2").__dict__
    (place / "out").unlink(missing_ok=True)
    process = forks.Process(target=run_command, args=(place / "out", given))
    process.start()
    deadline = time.monotonic() + 60
    while "Ctrl-C ends" not in (text := _text(place / "out")) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        assert "WARNING  other machines reach this server at 127.0.0.2, and nothing is encrypted" in text
        address = text.split("http://127.0.0.2:")[1]
        port = int(address.split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.2", port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read().startswith(b"This page needs a link")
        connection.request("GET", "/", headers={"Host": f"192.0.2.9:{port}"})
        reply = connection.getresponse()
        assert reply.status == 421
        reply.read()
        connection.close()
        os.kill(process.pid, signal.SIGINT)
        process.join(timeout=120)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()


def _text(path):
    return path.read_text() if path.exists() else ""


# --- opening a browser ------------------------------------------------------------------------------


def test_the_link_is_opened_by_way_of_a_private_file(monkeypatch):
    asked = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)

    def open_page(address):
        path = Path(address.removeprefix("file://"))
        asked.append((address, path.stat().st_mode & 0o777, path.read_text()))

    monkeypatch.setattr("webbrowser.open", open_page)
    with opened("http://127.0.0.1:1/?t=secret", wanted=True):
        deadline = time.monotonic() + 60
        while not asked and time.monotonic() < deadline:
            time.sleep(0.01)
    ((address, mode, page),) = asked
    assert "secret" not in address
    assert mode == 0o600
    assert "url=http://127.0.0.1:1/?t=secret" in page
    assert not os.path.exists(address.removeprefix("file://"))


def test_nothing_is_opened_where_there_is_no_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("opened"))
    with opened("http://127.0.0.1:1/", wanted=sys.platform == "linux"):
        pass


def test_it_starts_without_torch_and_transformers():
    code = (
        "import sys, logratio.cli.annotate.serve, logratio.annotate.web.app, "
        "logratio.annotate.web.http_server\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_teaches(capsys):
    assert main(["annotate", "serve", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--votes-per-pair", "--guidelines", "--live", "--no-open", "--order"):
        assert flag in out


def test_the_command_line_exits_2_with_three_sentences(place, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        words = ["annotate", "serve", "--data", "completions.jsonl", "--store", "labels.db", "--port", port]
        assert main(words) == 2
    error = capsys.readouterr().err
    assert "PortBusy" in error
    assert f"where: 127.0.0.1:{port}" in error
    assert "do:    end it, or give another port" in error
    assert "Traceback" not in error
