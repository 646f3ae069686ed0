"""The file of a label store: what is wrong with it has a name, and is left as it is."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from annotate import label_stores
from logratio.annotate.storage import database, schema
from logratio.annotate.storage.store import Store
from logratio.errors import (
    DatabaseBusyOrBroken,
    DiskFull,
    FileNotReadable,
    NotWritable,
    UnknownFormatVersion,
    UnsafeArtifact,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.db"


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read_the_files(path):
    before = os.umask(0)
    try:
        with label_stores.store(path, label_stores.pairs(1)):
            files = sorted(path.parent.iterdir())
            assert [file.name for file in files] == ["labels.db", "labels.db-shm", "labels.db-wal"]
            assert {mode_of(file) for file in files} == {0o600}
    finally:
        os.umask(before)
    path.chmod(0o644)
    with Store.create_or_open(path):
        assert mode_of(path) == 0o600


def test_settings_of_the_file(path):
    with label_stores.store(path, []) as store, store.reading() as connection:
        values = {
            name: connection.execute(statement).fetchone()[0]
            for name, statement in {
                "log": "PRAGMA journal_mode",
                "synchronous": "PRAGMA synchronous",
                "keys": "PRAGMA foreign_keys",
                "application": "PRAGMA application_id",
                "version": "PRAGMA user_version",
                "loose": "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND strict = 0"
                " AND name NOT LIKE 'sqlite_%'",
            }.items()
        }
    assert values == {
        "log": "wal",
        "synchronous": 2,
        "keys": 1,
        "application": schema.APPLICATION_ID,
        "version": len(schema.MIGRATIONS),
        "loose": 0,
    }


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("opener", [Store.create_or_open, Store.open])
def test_a_symbolic_link_is_refused(path, tmp_path, ending, opener):
    target = tmp_path / "elsewhere"
    if ending:
        label_stores.store(path, []).close()
    path.with_name(path.name + ending).symlink_to(target)
    with pytest.raises(UnsafeArtifact, match="symbolic link"):
        opener(path)
    assert not target.exists()


def test_a_store_that_is_not_there_is_not_made_to_be_read(path):
    with pytest.raises(FileNotReadable):
        Store.open(path)
    assert not path.exists()


def test_a_store_that_is_read_is_not_written(path):
    label_stores.store(path, label_stores.pairs(2)).close()
    with Store.open(path) as store:
        assert len(store.pairs()) == 2
        assert (store.votes(), store.log()) == ([], [])
        with pytest.raises(NotWritable, match=r"labels\.db"):
            store.set_meta("x", 1)


def test_a_store_is_read_while_another_process_writes(path):
    with label_stores.store(path, label_stores.pairs(2)) as writer, Store.open(path) as reader:
        queue = label_stores.queue(writer)
        queue.vote("anna", label_stores.ballot(queue.lease("anna")))
        assert reader.votes() == writer.votes()
        with writer.transaction():
            assert len(reader.votes()) == 1


def test_a_directory_and_a_pipe_are_no_stores(tmp_path):
    with pytest.raises(DatabaseBusyOrBroken, match="no file"):
        Store.create_or_open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatabaseBusyOrBroken, match="no file"):
        Store.open(tmp_path / "pipe")


def test_what_is_no_database_is_left_as_it_is(path):
    path.write_text("prompt,chosen,rejected\n" * 100)
    with pytest.raises(DatabaseBusyOrBroken, match="no database"):
        Store.create_or_open(path)
    assert path.read_text() == "prompt,chosen,rejected\n" * 100


def test_a_database_of_another_program_is_left_as_it_is(path):
    change(path, "CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(DatabaseBusyOrBroken, match="another program"):
        Store.create_or_open(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store_but_is_none_to_read(path):
    path.touch()
    with pytest.raises(DatabaseBusyOrBroken, match="empty"):
        Store.open(path)
    with Store.create_or_open(path) as store:
        assert store.pairs() == {}


def test_a_corrupt_page_is_found_at_the_start(path):
    label_stores.store(path, label_stores.pairs(500)).close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 512] = b"\xaa" * 512
    path.write_bytes(content)
    for opener in (Store.create_or_open, Store.open):
        with pytest.raises(DatabaseBusyOrBroken, match="damaged"):
            opener(path)
    assert path.read_bytes() == bytes(content)


def test_a_file_that_was_cut_off_is_noticed(path):
    label_stores.store(path, label_stores.pairs(100)).close()
    content = path.read_bytes()
    for length in (1, 50, 100, 4096, len(content) // 2, len(content) - 4096, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DatabaseBusyOrBroken):
            Store.create_or_open(path)


def test_a_store_that_is_held_by_another_program(path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with label_stores.store(path, label_stores.pairs(1)) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusyOrBroken, match="held by another program"):
            store.set_meta("x", 1)
        other.execute("ROLLBACK")
        store.set_meta("x", 1)
        other.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseBusyOrBroken, match="held by another program"):
        Store.create_or_open(path)
    other.close()


def test_a_full_disk(path):
    with label_stores.store(path, label_stores.pairs(1)) as store:
        with store.transaction() as connection:
            connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(DiskFull):
            store.add_file(
                "large.jsonl", label_stores.pair_file([label_stores.pair(1, texts=("x" * 100_000, "y"))])
            )
        assert (len(store.pairs()), len(store.files())) == (1, 1)
        store.set_meta("x", 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    label_stores.store(closed / "labels.db", label_stores.pairs(2)).close()
    closed.chmod(0o500)
    try:
        with pytest.raises(NotWritable):
            Store.create_or_open(closed / "new.db")
        with Store.open(closed / "labels.db") as store:
            assert len(store.pairs()) == 2
    finally:
        closed.chmod(0o700)


def test_a_read_only_disk(path, monkeypatch):
    label_stores.store(path, label_stores.pairs(2)).close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Store.open(path) as store:
        assert len(store.pairs()) == 2
        with pytest.raises(NotWritable):
            store.set_meta("x", 1)
    assert [file.name for file in path.parent.iterdir()] == ["labels.db"]
    path.with_name("labels.db-wal").write_bytes(b"not folded in")
    with pytest.raises(NotWritable, match="not closed"):
        Store.open(path)


def test_a_network_file_system_is_named(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\nserver:/home /net/home\\040of\\040all nfs4 rw 0 0\n"
        "/dev/vdb /net/home\\040of\\040all/local xfs rw 0 0\n"
    )
    kinds = [
        database.network_kind(Path(directory) / "labels.db", mounts)
        for directory in ("/work", "/net/home of all/anna", "/net/home of all/local/x", "/net")
    ]
    assert kinds == ["", "nfs4", "", ""]
    assert database.network_kind(Path("x.db"), tmp_path / "none") == ""


def test_a_store_on_a_network_file_system_is_refused(path, monkeypatch):
    monkeypatch.setattr(database, "network_kind", lambda _: "nfs4")
    with pytest.raises(DatabaseBusyOrBroken, match="network file system"):
        Store.create_or_open(path)
    assert not path.exists()


# --- versions ---


def test_a_newer_store_is_refused(path):
    label_stores.store(path, label_stores.pairs(1)).close()
    change(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    for opener in (Store.create_or_open, Store.open):
        with pytest.raises(UnknownFormatVersion, match="99"):
            opener(path)
    assert path.read_bytes() == before


def add_column(connection):
    connection.execute("ALTER TABLE votes ADD COLUMN mood TEXT")
    connection.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize("opener", [Store.create_or_open, Store.open])
def test_an_older_store_is_brought_up_to_date_and_a_copy_is_kept(path, monkeypatch, opener):
    with label_stores.store(path, label_stores.pairs(2)) as store:
        queue = label_stores.queue(store)
        queue.vote("anna", label_stores.ballot(queue.lease("anna")))
        log = store.log()
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_column])
    with opener(path) as store:
        assert store.log() == log
    with opener(path):
        pass
    (backup,) = path.parent.glob("*.backup")
    assert backup.name == "labels.db.v1-1.backup"
    assert mode_of(backup) == 0o600
    monkeypatch.undo()
    with Store.create_or_open(backup) as store:
        assert store.log() == log
    with pytest.raises(UnknownFormatVersion):
        Store.open(path)


def test_the_copy_holds_what_a_killed_process_left_in_the_write_ahead_log(path, monkeypatch):
    store = label_stores.store(path, label_stores.pairs(2))
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_column])
    with Store.create_or_open(path) as newer:
        assert len(newer.pairs()) == 2
    store.close()
    monkeypatch.undo()
    with Store.open(path.with_name("labels.db.v1-1.backup")) as copy:
        assert len(copy.pairs()) == 2


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    label_stores.store(path, label_stores.pairs(2)).close()

    def fail(connection):
        add_column(connection)
        raise RuntimeError

    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, fail])
    with pytest.raises(RuntimeError):
        Store.create_or_open(path)
    monkeypatch.undo()
    with Store.create_or_open(path) as store:
        assert len(store.pairs()) == 2


def test_many_open_a_new_store_at_once(path):
    failures = []
    gate = threading.Barrier(6)

    def work():
        gate.wait()
        try:
            Store.create_or_open(path).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
