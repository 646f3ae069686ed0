"""Sockets, the lock of a store, and the log of faults."""

import logging
import os
import socket
import stat
import subprocess
import sys

import pytest

from annotate.live_server import running
from logratio.annotate.web.http_server import MAX_CONNECTIONS, bind, hold, log_to
from logratio.errors import BadConfig, DatabaseBusyOrBroken, NotWritable, PortBusy, UnsafeArtifact


def close_all(sockets):
    for one in sockets:
        one.close()


def test_this_machine_alone_is_listened_at():
    sockets = bind("127.0.0.1", 0)
    try:
        addresses = {one.getsockname()[0] for one in sockets}
        assert addresses <= {"127.0.0.1", "::1"}
        assert len({one.getsockname()[1] for one in sockets}) == 1
        # Without it asyncio leaves small replies waiting for 40 ms.
        assert all(one.proto == socket.IPPROTO_TCP for one in sockets)
    finally:
        close_all(sockets)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_port_in_use_is_named_and_what_to_do(host):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortBusy, match=str(port)) as caught:
            bind(host, port)
        assert f"--port {port + 1}" in caught.value.action
    close_all(bind(host, port))


def test_a_port_that_another_program_has_on_ipv6_alone_is_in_use():
    try:
        other = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with other, pytest.raises(PortBusy):
        bind("127.0.0.1", other.getsockname()[1])


@pytest.mark.parametrize("host", ["192.0.2.1", "no such name", "999.1.1.1", "a" * 300, "\udce9"])
def test_an_address_that_is_not_this_machines_is_a_bad_setting(host):
    with pytest.raises(BadConfig) as caught:
        bind(host, 0)
    assert caught.value.where == "--host"


def test_one_server_at_a_time_holds_a_store(tmp_path):
    store = tmp_path / "labels.db"
    with hold(store):
        assert stat.S_IMODE(os.stat(tmp_path / "labels.db.lock").st_mode) == 0o600
        with pytest.raises(DatabaseBusyOrBroken, match=f"process {os.getpid()}"), hold(store):
            raise AssertionError
    assert list(tmp_path.iterdir()) == []
    with hold(store):
        pass


def test_a_lock_goes_with_its_process(tmp_path):
    code = (
        "import os, sys, pathlib; from logratio.annotate.web.http_server import hold\n"
        "with hold(pathlib.Path(sys.argv[1])): os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "labels.db")], check=False)
    assert (tmp_path / "labels.db.lock").exists()
    with hold(tmp_path / "labels.db"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_or_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "labels.db.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeArtifact, match="symbolic link"), hold(tmp_path / "labels.db"):
        raise AssertionError
    assert (tmp_path / "elsewhere").read_text() == "precious"
    with pytest.raises(NotWritable), hold(tmp_path / "elsewhere" / "labels.db"):
        raise AssertionError


def test_faults_go_to_a_private_file_that_is_made_with_the_first(tmp_path):
    path = tmp_path / "labels.db.log"
    with log_to(path):
        logging.getLogger("logratio.annotate").info("nothing")
        assert not path.exists()
        try:
            raise ZeroDivisionError("of ours")
        except ZeroDivisionError:
            logging.getLogger("logratio.annotate").exception("request 1 failed")
        assert "ZeroDivisionError: of ours" in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    logging.getLogger("logratio.annotate").error("after it")
    assert "after it" not in path.read_text()


def test_a_crowd_of_connections_is_refused_and_the_rest_answered(tmp_path):
    with running(tmp_path / "labels.db") as live:
        crowd = []
        try:
            for _ in range(MAX_CONNECTIONS + 20):
                crowd.append(socket.create_connection(("127.0.0.1", live.port)))
            crowd[0].sendall(f"GET /health HTTP/1.1\r\nHost: {live.host}\r\n\r\n".encode())
            assert crowd[0].recv(4096).startswith(b"HTTP/1.1 200")
            crowd[-1].settimeout(5)
            with pytest.raises(OSError, match=r"reset|Broken"):
                while crowd[-1].recv(4096) or crowd[-1].send(b"x"):
                    pass
        finally:
            close_all(crowd)
