"""Opening the file of a label store: whether it is one, whether it is whole, and of which version.

Write-ahead logging with `synchronous = FULL`: what is committed survives `kill -9` and a power cut.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from logratio.annotate.storage import schema
from logratio.errors import (
    DatabaseBusyOrBroken,
    DiskFull,
    FileNotReadable,
    LogratioError,
    NotWritable,
    UnknownFormatVersion,
    UnsafeArtifact,
)
from logratio.run_directory import disk_faults, sync_directory

BUSY_SECONDS = 10.0
"""How long to wait for another process that writes."""
MIN_FREE_BYTES = 1 << 16
"""Fewer free bytes than this explain an input or output error of the database."""
NETWORK_KINDS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "9p", "fuse.sshfs", "fuse.glusterfs")
COMPANIONS = ("", "-wal", "-shm", "-journal")


def open_database(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to a whole store of this version; an older one is brought up to date, with a backup.

    Args:
        path: the file.
        create: make the file where there is none, and write to it; otherwise it is only read.

    Raises:
        UnsafeArtifact: the path, or one of the files beside it, is a symbolic link.
        FileNotReadable: there is no such file, and it is not to be made.
        DatabaseBusyOrBroken: locked, damaged, of another kind, or on a network file system.
        UnknownFormatVersion: written by a newer version.
        NotWritable: no permission, or a read-only disk.
        DiskFull: no room left.
    """
    _ensure_local(path)
    _ensure_file(path, create=create)
    with database_faults(path):
        connection = _connect(path, create=create)
        try:
            _prepare(connection, path, create=create)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def database_faults(path: Path) -> Iterator[None]:
    """Turn the database's words into named faults; a broken constraint is our own mistake and passes."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.Error as error:
        raise _named_fault(error, path) from error


def _named_fault(error: sqlite3.Error, path: Path) -> LogratioError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    full = DiskFull(
        f"no room left to write {path.name}: {error}",
        where=str(path),
        action="free some space and go on; every acknowledged verdict is kept",
    )
    if code == sqlite3.SQLITE_FULL:
        return full
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
        return NotWritable(
            f"cannot write {path.name}: {error}",
            where=str(path),
            action="change the permissions of the file and its directory, or choose another --store",
        )
    if code == sqlite3.SQLITE_IOERR and _has_little_room(path):
        return full
    return _broken(path, code, str(error))


def _has_little_room(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < MIN_FREE_BYTES
    return False


def _broken(path: Path, code: int, words: str) -> DatabaseBusyOrBroken:
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what = f"{path.name} is held by another program for more than {BUSY_SECONDS:g} s: {words}"
        action = "close what else has it open, such as a backup or a database browser, and try again"
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        what = f"{path.name} is damaged, or no database: {words}"
        action = "put back a copy of it, or choose another --store; it was left as it is"
    else:
        what = f"{path.name} cannot be used: {words}"
        action = "look at the disk; a database must lie on a local one, not on a network file system"
    return DatabaseBusyOrBroken(what, where=str(path), action=action)


# --- the file ---------------------------------------------------------------------------------------


def _ensure_local(path: Path) -> None:
    kind = network_kind(path)
    if kind:
        raise DatabaseBusyOrBroken(
            f"{path.name} lies on a network file system ({kind}), where locks cannot be trusted",
            where=str(path),
            action="put the store on a local disk",
        )


def network_kind(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of network file system that holds `path`; empty where it is local or not known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = Path(os.path.abspath(path.parent)).resolve()
    result = Path(), ""
    for line in lines:
        _, mounted, kind, *_ = [*line.split(" "), "", "", ""]
        point = Path(mounted.replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= len(result[0].parts):
            result = point, kind
    return result[1] if result[1] in NETWORK_KINDS else ""


def _ensure_file(path: Path, *, create: bool) -> None:
    """A regular file that only its owner can read; made here, since SQLite would let the group read it."""
    for companion in COMPANIONS:
        _ensure_no_link(path.with_name(path.name + companion))
    if create:
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
                sync_directory(path.parent)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _unopened(path, error) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise DatabaseBusyOrBroken(
                f"{path.name} is no file", where=str(path), action="give the path of a label store"
            )
        if mode & 0o077:
            with suppress(OSError):
                os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _ensure_no_link(path: Path) -> None:
    if path.is_symlink():
        raise UnsafeArtifact(
            f"{path.name} is a symbolic link, which could lead to another's file",
            where=str(path),
            action="give the path of the store itself",
        )


def _unopened(path: Path, error: OSError) -> LogratioError:
    if error.errno == errno.ENOENT:
        return FileNotReadable(
            "there is no such label store", where=str(path), action="run `logratio annotate serve` first"
        )
    return NotWritable(
        f"cannot open {path.name}: {error.strerror}", where=str(path), action="change the permissions"
    )


# --- the connection ---------------------------------------------------------------------------------


def _connect(path: Path, *, create: bool) -> sqlite3.Connection:
    # A copy on a read-only disk has no room for the files that a reader of a write-ahead log needs.
    frozen = not create and not os.access(path.parent, os.W_OK)
    if frozen and _log_size(path):
        raise NotWritable(
            f"{path.name} was not closed, and cannot be recovered in a read-only directory",
            where=str(path),
            action="copy it, with the -wal file beside it, to where you can write",
        )
    address = "file:" + quote(os.path.abspath(path)) + ("?immutable=1" if frozen else "?mode=rw")
    return sqlite3.connect(
        address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _log_size(path: Path) -> int:
    log = path.with_name(path.name + "-wal")
    return log.stat().st_size if log.exists() else 0


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    version = _ensure_ours(connection, path, create=create)
    _check(connection, path)
    if create or version < len(schema.MIGRATIONS):
        _write_ahead(connection, path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # Without it, a row that is replaced is removed with no trigger.
        connection.execute("PRAGMA recursive_triggers = ON")
        if version < len(schema.MIGRATIONS):
            _migrate(connection, path)
    if not create:
        connection.execute("PRAGMA query_only = ON")


def _ensure_ours(connection: sqlite3.Connection, path: Path, *, create: bool) -> int:
    """The store's version; 0 for an empty file, such as a kill just after its making leaves."""
    # At one moment: another process may be making the tables.
    connection.execute("BEGIN")
    num_tables = _number(connection, "SELECT count(*) FROM sqlite_schema")
    application = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    connection.execute("COMMIT")
    empty = application == version == num_tables == 0
    if application != schema.APPLICATION_ID and not (create and empty):
        raise DatabaseBusyOrBroken(
            f"{path.name} is {'empty' if empty else 'a database of another program'}",
            where=str(path),
            action="give the path of a label store; this file was left as it is",
        )
    if version > len(schema.MIGRATIONS):
        raise UnknownFormatVersion(
            f"{path.name} has version {version}; this logratio knows versions up to {len(schema.MIGRATIONS)}",
            where=str(path),
            action="install a newer logratio; the store was left as it is",
        )
    return version


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


def _check(connection: sqlite3.Connection, path: Path) -> None:
    # The database fills a page that was cut off with zeros, and says nothing. With a write-ahead log it may
    # be one that the log holds whole.
    page_size = _number(connection, "PRAGMA page_size")
    if path.stat().st_size % page_size and not _log_size(path):
        raise _broken(path, sqlite3.SQLITE_CORRUPT, "the file is cut off")
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise _broken(path, sqlite3.SQLITE_CORRUPT, str(result))


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to write-ahead logging; another process that switches at this moment is waited for."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise _broken(path, 0, f"no write-ahead log on this file system (journal mode {mode!r})")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """All migrations that are due in one transaction, after a copy of what was there."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster.
        version = _number(connection, "PRAGMA user_version")
        if 0 < version < len(schema.MIGRATIONS):
            _back_up(path, version)
        for migration in schema.MIGRATIONS[version:]:
            migration(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _back_up(path: Path, version: int) -> Path:
    """Copy the store by a connection of its own, since the one that holds the lock may not be copied from."""
    for number in range(1, 1000):
        backup = path.with_name(f"{path.name}.v{version}-{number}.backup")
        with disk_faults(backup):
            try:
                os.close(os.open(backup, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
                break
            except FileExistsError:
                continue
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    return backup
