"""The gate, before a real server on a socket: whatever is not the page's own request changes nothing."""

import json
import logging
import random
import socket
import time

import pytest

from annotate.live_server import POSTS, is_whole, running, vote_on, write_completions
from logratio.annotate import web
from logratio.annotate.web.auth_tokens import TokenAuthenticator, authorities
from logratio.annotate.web.security import (
    AUTHORITY,
    HEADERS,
    MAX_BODY_BYTES,
    RejectedRequest,
    parse_object,
    protected,
)

PROTECTION = {(name.decode(), value.decode()) for name, value in HEADERS}
ROUTES = {
    "/": "GET",
    **dict.fromkeys(web.ASSETS, "GET"),
    "/agreement": "GET",
    "/health": "GET",
    "/favicon.ico": "GET",
    "/api/progress": "GET",
    **dict.fromkeys(POSTS, "POST"),
}
TRAVERSAL = [
    "/../etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/page.js/../../store.py",
    "/page.js%00.css",
    "//page.js",
    "/./page.js",
    "/page.js/",
    "/page%2ejs",
    "/PAGE.JS",
    "/web/page.html",
    "/page.html",
    "/..\\..\\windows\\win.ini",
    "/%5c..%5c",
    "/C:/windows/win.ini",
    "/file:///etc/passwd",
    "/static/../page.js",
    "/api/lease/",
    "/api//lease",
    "/api/lease%2f",
    "/api/lease;x=1",
    "/~root",
    "/labels.db",
    "/%c0%ae%c0%ae/etc/passwd",
    "/%ff%fe",
    "*",
    "http://evil.example/",
    "http://evil.example/api/lease",
]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1:{port}.evil.example",
    "127.0.0.1.evil.example:{port}",
    "localhost.evil.example:{port}",
    "localhost:{port}:{port}",
    "localhost:{port}@evil.example",
    "user@localhost:{port}",
    "[::1]",
    "[::1]:1",
    "[::1%25lo]:{port}",
    "[0:0:0:0:0:0:0:1]:{port}",
    "::1:{port}",
    "0.0.0.0:{port}",
    "127.1:{port}",
    "2130706433:{port}",
    "localhost.:{port}",
    "localhost :{port}",
    "localhost:{port}/",
    "localhost:0{port}",
    "127.0.0.1:{port}, evil.example",
    "",
    ":{port}",
]
FOREIGN_ORIGINS = [
    "null",
    "https://evil.example",
    "http://evil.example:{port}",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}",
    "HTTP://127.0.0.1:{port}",
    "",
    "http://127.0.0.1:{port} http://evil.example",
]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    data = write_completions(place / "c.jsonl", 20)
    settings = {"read_seconds": 1.0}
    with running(place / "labels.db", names=("anna", "ben"), data=data, app_settings=settings) as server:
        yield server


def assert_protected(reply):
    for name, value in HEADERS:
        assert reply.header(name.decode()) == value.decode()
    names = [name for name, _ in reply.headers]
    assert not [name for name in names if name.startswith("access-control-")]
    assert "server" not in names
    assert "x-powered-by" not in names


def assert_refused(reply, status):
    assert reply.status == status, reply
    assert_protected(reply)
    assert set(reply.json) == {"code", "what", "request"}
    assert b"Traceback" not in reply.body
    assert b".py" not in reply.body


def parse_raw(content):
    """Status and headers of the first reply in what a socket gave."""
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return int(first.split()[1]), [(name.lower(), value) for name, value in headers], body


# --- headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "method", ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW"]
)
@pytest.mark.parametrize("known", [True, False])
def test_every_reply_of_every_route_is_protected(live, path, method, known):
    before = live.rows()
    token = live.tokens["anna"] if known else None
    reply = live.ask(method, path, token=token, body="[]" if method == "POST" else None)
    assert_protected(reply)
    assert reply.status < 500
    if method != ROUTES[path]:
        assert reply.status == 405
        assert reply.header("allow") == ROUTES[path]
    assert live.rows() == before


def test_all_routes_are_walked_above(live):
    assert set(live.server.config.app._route_policies) == set(ROUTES)


def test_the_policy_is_the_one_that_was_decided():
    policy = dict(HEADERS)[b"content-security-policy"].decode()
    assert policy == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'none'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_a_header_that_grants_another_origin_is_taken_out():
    sent = [(b"Access-Control-Allow-Origin", b"*"), (b"Cache-Control", b"public"), (b"allow", b"GET")]
    assert protected(sent) == [(b"allow", b"GET"), *HEADERS]


# --- Host and Origin --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_refused_on_every_route(live, host):
    before = live.rows()
    for path, method in ROUTES.items():
        body = {} if method == "POST" else None
        named = host.format(port=live.port)
        reply = live.ask(method, path, headers={"Host": named}, token=live.tokens["anna"], body=body)
        assert_refused(reply, 421 if AUTHORITY.fullmatch(named) else 400)
    assert live.rows() == before


def test_rebinding_with_a_matching_origin_is_refused(live):
    headers = {"Host": f"evil.example:{live.port}", "Origin": f"http://evil.example:{live.port}"}
    headers["Sec-Fetch-Site"] = "same-origin"
    assert_refused(live.ask("POST", "/api/lease", headers=headers, body={}, token=live.tokens["anna"]), 421)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
def test_the_servers_own_names_are_taken(live, name):
    host = f"{name}:{live.port}"
    headers = {"Host": host, "Origin": f"http://{host.lower()}"}
    assert live.ask("POST", "/api/lease", headers=headers, body={}, token=live.tokens["ben"]).status == 200


def test_it_answers_on_ipv6_where_there_is_one(live):
    try:
        connection = socket.create_connection(("::1", live.port), timeout=5)
    except OSError:
        pytest.skip("no IPv6 here")
    with connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: [::1]:{live.port}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "lines",
    [
        "Host: {host}\r\nHost: {host}",
        "Host: {host}\r\nHost: evil.example",
        "Host: evil.example\r\nHost: {host}",
        "X-Forwarded-Host: {host}",
        "Forwarded: host={host}",
    ],
)
def test_two_hosts_or_none_are_refused(live, lines):
    received = live.raw(f"GET /health HTTP/1.1\r\n{lines.format(host=live.host)}\r\n\r\n".encode(), seconds=2)
    status, headers, _ = parse_raw(received)
    assert status == 400
    assert set(headers) >= PROTECTION


def test_forwarded_headers_say_nothing(live):
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https"}
    reply = live.ask("GET", f"/?t={live.tokens['ben']}", headers=headers)
    assert (reply.status, reply.header("location")) == (303, "/")
    headers |= {"Host": "evil.example", "X-Forwarded-Host": live.host}
    assert live.ask("GET", "/health", headers=headers).status == 421


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_foreign_origin_is_refused(live, origin):
    before = live.rows()
    for path in POSTS:
        headers = {"Origin": origin.format(port=live.port)}
        assert_refused(live.ask("POST", path, headers=headers, body={}, token=live.tokens["anna"]), 403)
    assert live.rows() == before


@pytest.mark.parametrize(
    "site", ["cross-site", "same-site", "", "SAME-ORIGIN", "same-origin, none", "no-cors"]
)
def test_what_the_browser_says_of_another_site_is_believed(live, site):
    before = live.rows()
    for path, method in ROUTES.items():
        if path == "/":
            continue
        body = {} if method == "POST" else None
        reply = live.ask(method, path, headers={"Sec-Fetch-Site": site}, body=body, token=live.tokens["anna"])
        assert_refused(reply, 403)
    assert live.rows() == before


def test_without_an_origin_only_a_token_in_a_header_will_do(live):
    token = live.tokens["ben"]
    assert_refused(live.ask("POST", "/api/lease", headers={"Origin": None}, body={}, token=token), 403)
    bearer = {"Origin": None, "Authorization": f"Bearer {token}"}
    assert live.ask("POST", "/api/lease", headers=bearer, body={}).status == 200
    # Sec-Fetch-Mode and the like are no evidence.
    reply = live.ask(
        "POST", "/api/lease", headers={"Origin": None, "Sec-Fetch-Mode": "cors"}, token=token, body={}
    )
    assert_refused(reply, 403)


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-8",
        "application/json, text/plain",
        "Application/JSON",
        "text/json",
        "",
        None,
    ],
)
def test_a_forms_content_types_are_refused(live, kind):
    before = live.rows()
    for path in POSTS:
        reply = live.ask("POST", path, headers={"Content-Type": kind}, body="{}", token=live.tokens["anna"])
        assert_refused(reply, 415)
    assert live.rows() == before


def test_a_compressed_body_is_refused(live):
    headers = {"Content-Encoding": "gzip"}
    assert_refused(live.ask("POST", "/api/lease", headers=headers, body={}, token=live.tokens["anna"]), 415)


@pytest.mark.parametrize("name", ["Origin", "Content-Type", "Sec-Fetch-Site", "Cookie", "Authorization"])
def test_a_header_that_decides_stands_once(live, name):
    before = live.rows()
    values = {
        "Origin": live.origin,
        "Content-Type": "application/json",
        "Sec-Fetch-Site": "same-origin",
        "Cookie": f"logratio-{live.port}={live.tokens['anna']}",
        "Authorization": f"Bearer {live.tokens['anna']}",
    }
    lines = [f"{key}: {value}" for key, value in values.items()] + [f"{name}: {values[name]}"]
    head = "\r\n".join(["POST /api/lease HTTP/1.1", f"Host: {live.host}", *lines, "Content-Length: 2"])
    status, _, body = parse_raw(live.raw(f"{head}\r\n\r\n{{}}".encode(), seconds=2))
    assert status == 400
    assert b"two" in body
    assert live.rows() == before


# --- tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in ROUTES if path not in ("/health", "/favicon.ico")])
def test_nothing_is_given_without_a_token(live, path):
    before = live.rows()
    method = ROUTES[path]
    wrong = ["x" * 43, "", "a b", "é" * 43, "'; DROP TABLE votes; --", "x" * 5000, live.tokens["anna"][:-1]]
    for token in [None, *wrong]:
        cookie = None if token is None else f"logratio-{live.port}={token}".encode()
        reply = live.ask(method, path, headers={"Cookie": cookie}, body={} if method == "POST" else None)
        assert reply.status == 401, (token, reply)
        assert_protected(reply)
    assert live.rows() == before


def test_a_cookie_of_another_name_or_port_is_none(live):
    token = live.tokens["anna"]
    for cookie in (f"logratio-1={token}", f"t={token}", token, f"logratio-{live.port}-owner={token}"):
        assert live.ask("GET", "/api/progress", headers={"Cookie": cookie}).status == 401
    wrong_first = f"logratio-{live.port}=wrong; other=1; logratio-{live.port}={token}"
    assert live.ask("GET", "/api/progress", headers={"Cookie": wrong_first}).status == 200


@pytest.mark.parametrize("value", ["Basic eDp5", "Bearer", "Token {t}", "Bearer {t} ", "Bearer  {t}"])
def test_a_bearer_is_written_one_way(live, value):
    headers = {"Authorization": value.format(t=live.tokens["anna"])}
    reply = live.ask("GET", "/api/progress", headers=headers)
    # A space at the end is not part of a header's value.
    assert reply.status == (200 if value == "Bearer {t} " else 401)


def test_a_token_in_the_address_becomes_a_cookie_that_scripts_do_not_see(live):
    reply = live.ask("GET", f"/?t={live.tokens['anna']}")
    assert (reply.status, reply.header("location"), reply.body) == (303, "/", b"")
    cookie = reply.header("set-cookie")
    assert cookie == f"logratio-{live.port}={live.tokens['anna']}; HttpOnly; SameSite=Strict; Path=/"
    assert_protected(reply)


def test_the_owners_link_leads_to_the_agreement_page_and_to_nothing_else(live):
    reply = live.ask("GET", f"/?t={live.owner_token}")
    assert (reply.status, reply.header("location")) == (303, "/agreement")
    assert reply.header("set-cookie").startswith(f"logratio-{live.port}-owner=")
    headers = {"Cookie": f"logratio-{live.port}-owner={live.owner_token}"}
    assert live.ask("GET", "/page.css", headers=headers).status == 200
    assert live.ask("POST", "/api/lease", headers=headers, body={}).status == 401
    assert live.ask("GET", "/agreement", token=live.tokens["anna"]).status == 401


def test_a_link_opened_from_another_site_leads_on_by_our_own_page(live):
    reply = live.ask("GET", f"/?t={live.tokens['anna']}", headers={"Sec-Fetch-Site": "cross-site"})
    assert reply.status == 200
    assert reply.header("set-cookie").startswith(f"logratio-{live.port}=")
    assert live.tokens["anna"].encode() not in reply.body
    assert b'href="/"' in reply.body
    assert_protected(reply)


@pytest.mark.parametrize("query", ["t=", "t=wrong", "t=" + "x" * 43, "t=%00", "t=a&t=b", "next=//evil"])
def test_a_wrong_link_says_what_to_do_and_leads_nowhere(live, query):
    reply = live.ask("GET", f"/?{query}")
    assert reply.status == 401
    assert b"Open the newest link" in reply.body
    assert reply.header("location") is None
    assert reply.header("set-cookie") is None
    assert_protected(reply)


def test_a_token_of_an_earlier_start_is_refused(tmp_path):
    data = write_completions(tmp_path / "c.jsonl", 4)
    with running(tmp_path / "labels.db", names=("anna",), data=data) as first:
        old, port = first.tokens["anna"], first.port
        assert first.ask("POST", "/api/lease", body={}, token=old).status == 200
    with running(tmp_path / "labels.db", names=("anna",), port=port) as second:
        before = second.rows()
        for path in POSTS:
            assert_refused(second.ask("POST", path, body={}, token=old), 401)
        assert second.ask("GET", f"/?t={old}").status == 401
        assert second.ask("GET", f"/?t={first.owner_token}").status == 401
        assert second.rows() == before
        assert second.ask("POST", "/api/lease", body={}, token=second.tokens["anna"]).status == 200


def test_the_owners_token_is_compared_by_its_hash():
    keys = TokenAuthenticator("c", lambda token: None, "owner-token-owner-token")
    assert keys.identify("owner-token-owner-token").is_owner
    assert not keys.identify("owner-token-owner-tokem").is_owner
    assert not TokenAuthenticator("c", lambda token: None).identify("").is_owner


def test_authorities():
    assert authorities(8734) == ("127.0.0.1:8734", "localhost:8734", "[::1]:8734")
    assert authorities(8734, host="Box.local")[-1] == "box.local:8734"
    assert authorities(8734, host="fe80::2")[-1] == "[fe80::2]:8734"
    assert set(authorities(80)) >= {"localhost", "localhost:80"}


# --- paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TRAVERSAL)
def test_no_path_leads_out(live, path):
    before = live.rows()
    cookie = f"logratio-{live.port}={live.tokens['anna']}"
    head = f"GET {path} HTTP/1.1\r\nHost: {live.host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
    status, headers, body = parse_raw(live.raw(head.encode("latin-1"), seconds=5))
    assert status in (400, 404), body
    assert set(headers) >= PROTECTION
    assert b"root:" not in body
    assert b"Traceback" not in body
    assert live.rows() == before


# --- bodies and framing -----------------------------------------------------------------------------


def head_of(live, *lines, path="/api/lease"):
    cookie = f"Cookie: logratio-{live.port}={live.tokens['anna']}"
    fixed = [f"Host: {live.host}", cookie, f"Origin: {live.origin}", "Content-Type: application/json"]
    return "\r\n".join([f"POST {path} HTTP/1.1", *fixed, *lines, "", ""]).encode()


def test_a_long_body_is_refused_at_its_announcement(live):
    before = live.rows()
    announced = head_of(live, f"Content-Length: {MAX_BODY_BYTES + 1}")
    assert parse_raw(live.raw(announced, seconds=2))[0] == 413
    assert live.rows() == before
    ten_megabytes = b"x" * 10_000_000
    received = live.raw([head_of(live, "Content-Length: 10000000"), ten_megabytes], seconds=2)
    assert received == b"" or parse_raw(received)[0] == 413
    for length in ("99999999999999999999", "0" * 30 + "70000"):
        assert parse_raw(live.raw(head_of(live, f"Content-Length: {length}"), seconds=2))[0] in (400, 413)


def test_a_long_chunked_body_is_refused_when_it_is_too_long(live):
    before = live.rows()
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    received = live.raw([head_of(live, "Transfer-Encoding: chunked"), chunk * 17], seconds=2)
    assert parse_raw(received)[0] == 413
    endless = live.raw([head_of(live, "Transfer-Encoding: chunked"), *[chunk] * 400], seconds=2)
    assert endless == b"" or parse_raw(endless)[0] == 413
    assert live.rows() == before


def test_a_body_of_the_largest_size_is_read(live):
    body = json.dumps({"nonce": "x" * 8, "ticket": "none"})
    padded = body + " " * (MAX_BODY_BYTES - len(body))
    assert_refused(live.ask("POST", "/api/undo", body=padded, token=live.tokens["anna"]), 400)
    assert_refused(live.ask("POST", "/api/undo", body=padded + " ", token=live.tokens["anna"]), 413)


def test_a_body_in_chunks_is_read(live):
    body = head_of(live, "Transfer-Encoding: chunked", path="/api/renew") + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    status, _, content = parse_raw(live.raw(body, seconds=2))
    assert (status, json.loads(content)["what"]) == (400, "the request lacks ticket")


def test_a_slow_body_is_given_up(live):
    before, began = live.rows(), time.monotonic()
    received = live.raw([head_of(live, "Content-Length: 50"), b"{", b" "], pauses=0.2)
    assert parse_raw(received)[0] == 408
    assert 0.9 < time.monotonic() - began < 60
    dribble = live.raw([head_of(live, "Content-Length: 50"), *[b" "] * 12], pauses=0.15)
    assert parse_raw(dribble)[0] == 408
    assert live.rows() == before


def test_others_are_answered_while_a_body_dribbles_in(tmp_path):
    with running(tmp_path / "labels.db", app_settings={"read_seconds": 60.0}) as live:  # noqa: SIM117
        with socket.create_connection(("127.0.0.1", live.port)) as slow:
            slow.sendall(head_of(live, "Content-Length: 50"))
            began = time.monotonic()
            assert live.ask("GET", "/api/progress", token=live.tokens["anna"]).status == 200
            assert time.monotonic() - began < 50


def test_a_slow_head_and_a_silent_connection_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("logratio.annotate.web.http_server.GRACE_SECONDS", 0.0)
    with running(tmp_path / "labels.db", app_settings={"read_seconds": 0.6}) as live:
        received = live.raw([b"GET / HT", b"TP/1.1\r\n", b"Host", b": x", b"y", b"z"], pauses=0.2)
        status, headers, _ = parse_raw(received)
        assert status == 408
        assert set(headers) >= PROTECTION
        began = time.monotonic()
        assert live.raw(b"", seconds=60) == b""
        assert time.monotonic() - began < 50
        # Between requests a connection may rest for longer than a request may take.
        with socket.create_connection(("127.0.0.1", live.port)) as kept:
            for _ in range(2):
                kept.sendall(f"GET /health HTTP/1.1\r\nHost: {live.host}\r\n\r\n".encode())
                received = kept.recv(4096)
                while not is_whole(received):
                    received += kept.recv(4096)
                assert received.startswith(b"HTTP/1.1 200")
                time.sleep(1.0)


def test_a_long_head_is_refused(live):
    for size in (20_000, 40_000, 400_000):
        content = f"GET /health HTTP/1.1\r\nHost: {live.host}\r\nX: {'x' * size}\r\n\r\n".encode()
        received = live.raw(content, seconds=2)
        # What is closed with bytes unread may be reset before the reply is read.
        assert received or size == 400_000
        if received:
            status, headers, _ = parse_raw(received)
            assert status == 431
            assert set(headers) >= PROTECTION


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: {host}\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : {host}\r\n\r\n",
        b"POST /api/lease HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /api/lease HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /api/lease HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2x\r\n\r\n{}",
        b"POST /api/lease HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_the_same_headers(live, content, caplog):
    before = live.rows()
    received = live.raw(content.replace(b"{host}", live.host.encode()), seconds=2)
    status, headers, body = parse_raw(received)
    assert 400 <= status < 500
    assert set(headers) >= PROTECTION
    assert b"Traceback" not in body
    assert "Traceback" not in caplog.text
    assert live.rows() == before


def test_bad_framing_in_the_middle_of_a_body_ends_the_connection(live, caplog):
    before = live.rows()
    content = [head_of(live, "Transfer-Encoding: chunked"), b"1\r\n{\r\n", b"zzzz\r\n"]
    received = live.raw(content, pauses=0.1, seconds=2)
    assert received == b"" or parse_raw(received)[0] == 400
    assert "Traceback" not in caplog.text
    assert live.rows() == before


def test_two_requests_in_one_are_two_requests(live):
    """What looks like a second request in a body stays a body."""
    inner = f"POST /api/undo HTTP/1.1\r\nHost: {live.host}\r\n\r\n".encode()
    received = live.raw(
        head_of(live, f"Content-Length: {len(inner)}", "Connection: close") + inner, seconds=5
    )
    assert received.count(b"HTTP/1.1 ") == 1
    assert parse_raw(received)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 1}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 60_000,
        b'{"a":' * 9_000,
        b'{"a": 1' + b"0" * 5000 + b"}",
        "{}".encode("utf-16"),
    ],
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(RejectedRequest) as caught:
        parse_object(body)
    assert caught.value.status == 400


# --- faults of our own ------------------------------------------------------------------------------


def test_a_fault_of_ours_is_a_number_to_the_client_and_a_traceback_in_the_log(tmp_path, caplog, monkeypatch):
    data = write_completions(tmp_path / "c.jsonl", 2)
    with running(tmp_path / "labels.db", data=data) as live:
        token = live.tokens["anna"]

        def fail(annotator):
            raise ZeroDivisionError("a secret of the server")

        monkeypatch.setattr(live.queue, "lease", fail)
        with caplog.at_level(logging.ERROR):
            reply = live.ask("POST", "/api/lease", body={}, token=token)
        assert_refused(reply, 500)
        assert b"secret" not in reply.body
        assert reply.json["request"] in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert token not in caplog.text
        assert "question" not in caplog.text


def test_no_log_holds_a_token_or_a_text(live, caplog):
    with caplog.at_level(logging.DEBUG):
        token = live.tokens["anna"]
        live.ask("GET", f"/?t={token}")
        live.ask("GET", f"/?t={token[:-1]}x")
        live.ask("POST", "/api/lease", body={}, token=token)
        live.ask("POST", "/api/vote", body={"note": "very private"}, token=token)
    assert token[:-1] not in caplog.text
    assert "question" not in caplog.text
    assert "very private" not in caplog.text


# --- at random --------------------------------------------------------------------------------------


def hostile_request(generator, live):
    """A request that lacks at least one thing that the page's own has; its parts are drawn one by one."""
    own = f"logratio-{live.port}={live.tokens['anna']}"

    def mostly(right, others, *, share=0.75):
        return right if generator.random() < share else generator.choice(others)

    target, method = generator.choice([*ROUTES.items()])
    target = mostly(target, TRAVERSAL[:20], share=0.9) + mostly("", ["?t=" + "y" * 43, "?a=%00&b[]=1", "#x"])
    method = mostly(method, ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PROPFIND"])
    host = mostly(live.host, [one.format(port=live.port) for one in FOREIGN_HOSTS], share=0.9)
    origin = mostly(live.origin, [one.format(port=live.port) for one in FOREIGN_ORIGINS])
    kind = mostly("application/json", ["text/plain", "multipart/form-data", ""])
    cookie = mostly(own, ["", "logratio=1", f"logratio-{live.port}=\x7f", own[:-1]])
    # No body here is one that the page would send: where all else is right, this is what is wrong.
    wrong = [b"", b"[]", b"null", b"{", b'{"pair": 1}', b'{"nonce": 5}', b"{" * 99, generator.randbytes(40)]
    choice = {"ticket": "x" * generator.randrange(300), "choice": generator.choice(["a", "left", None])}
    body = generator.choice([*wrong, json.dumps(choice).encode()])
    lines = [f"Host: {host}", f"Origin: {origin}", f"Content-Type: {kind}", f"Cookie: {cookie}"]
    lines.append(f"Content-Length: {len(body)}")
    further = [
        "Sec-Fetch-Site: cross-site",
        "X-Forwarded-Host: a",
        "Range: bytes=0-9",
        "Expect: 100-continue",
    ]
    lines += generator.sample(further, generator.randrange(3))
    generator.shuffle(lines)
    return (
        "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "Connection: close", "", ""]).encode("latin-1")
        + body
    )


def test_a_thousand_random_requests_change_nothing(live, caplog):
    live.ask("POST", "/api/lease", body={}, token=live.tokens["anna"])
    before, generator, seen = live.rows(), random.Random(6), {}
    for number in range(1000):
        request = hostile_request(generator, live)
        received = live.raw(request, seconds=10)
        assert received, (number, request)
        status, headers, body = parse_raw(received)
        if status == 100:
            status, headers, body = parse_raw(body)
        seen[status] = seen.get(status, 0) + 1
        assert status < 500, (number, request, received)
        assert set(headers) >= PROTECTION, (number, request, received)
        assert b"Traceback" not in body
    print("replies by status:", dict(sorted(seen.items())))
    assert live.rows() == before
    assert "Traceback" not in caplog.text
    assert {400, 401, 403, 404, 405, 415, 421} <= set(seen)


def test_get_changes_nothing(live):
    live.ask("POST", "/api/lease", body={}, token=live.tokens["anna"])
    before = live.rows()
    for path, method in ROUTES.items():
        for query in ("", f"?t={live.tokens['anna']}", "?ticket=x&choice=left&nonce=aaaaaaaa"):
            if method == "GET":
                live.ask("GET", path + query, token=live.tokens["anna"])
            else:
                assert_refused(live.ask("GET", path + query, token=live.tokens["anna"]), 405)
    assert live.rows() == before


def test_the_request_that_all_others_are_held_against_is_taken(live):
    """Without this, a server that refuses everything would pass."""
    pair = live.ask("POST", "/api/lease", body={}, token=live.tokens["anna"]).json["pair"]
    before = len(live.rows()["votes"])
    body = vote_on(pair, nonce="the-only-one")
    assert live.ask("POST", "/api/vote", body=body, token=live.tokens["anna"]).status == 200
    assert len(live.rows()["votes"]) == before + 1
