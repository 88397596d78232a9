"""SQLite as the store's database: the one module that knows its pragmas, files and errors.

WAL with synchronous=FULL: a commit is on disk when it returns, readers never wait for a writer, and a writer of
another process is waited for (`BUSY_TIMEOUT`). Transactions are begun explicitly, writing ones with BEGIN
IMMEDIATE, so that none fails half-way because another wrote first.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from hsmbridge.core.errors import Status, StoreError

BUSY_TIMEOUT = 10.0
"""Seconds that a transaction waits for one of another process."""

WRITING = "hsmbridge_writing"
"""The execution option of a connection whose next transaction writes."""

_PRAGMAS = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)

_SYNCHRONOUS = "hsmbridge_synchronous"
_FULL, _NORMAL = "FULL", "NORMAL"


def database_path(url: sa.URL) -> Path:
    """The file of a store. Raises StoreError (STORE_UNAVAILABLE) where the URL names none."""
    if url.get_backend_name() != "sqlite" or not url.database or not Path(url.database).is_absolute():
        raise _unavailable("The store's URL is not of the form sqlite:////absolute/path; correct it.")
    return Path(url.database)


def prepare_file(path: Path) -> None:
    """Make the store's file, for its owner alone, unless it is there.

    Raises:
        StoreError: STORE_UNAVAILABLE, saying what is wrong with the directory or the file.
    """
    directory = path.parent
    if not directory.is_dir():
        raise _unavailable("The store's directory does not exist; create it or correct its path.", directory)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        # It is not opened here: closing a second descriptor would drop SQLite's locks on it (fcntl(2)).
        if not path.is_file():
            raise _unavailable("The store's path is not a file; correct it.", path) from None
        if not os.access(path, os.R_OK | os.W_OK) or not os.access(directory, os.W_OK | os.X_OK):
            raise _unavailable(_READ_ONLY, path) from None
    except OSError as failure:
        raise _unavailable(_READ_ONLY, path, failure) from failure
    else:
        os.close(fd)
        _sync_directory(directory)


def open_engine(path: Path) -> sa.Engine:
    """An engine on the store's file; no connection is made yet."""
    engine = sa.create_engine(
        sa.URL.create("sqlite+pysqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT},
        pool_size=4,
        max_overflow=0,
    )
    sa.event.listen(engine, "connect", _configure)
    sa.event.listen(engine, "begin", _begin)
    return engine


def use_write_ahead_log(connection: sa.Connection) -> None:
    """Switch the file to WAL, outside of a transaction. It stays so."""
    mode = _raw(connection).execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise _unavailable("The store's file system cannot hold a SQLite write-ahead log; choose a local one.")


def set_durable(connection: sa.Connection, durable: bool) -> None:
    """Whether commits of this connection wait for the disk; to be called outside of a transaction."""
    wanted = _FULL if durable else _NORMAL
    if connection.info.get(_SYNCHRONOUS, _FULL) != wanted:
        _raw(connection).execute(f"PRAGMA synchronous = {wanted}")
        connection.info[_SYNCHRONOUS] = wanted


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into StoreError; integrity errors, which say something of the data, pass."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except DBAPIError as failure:
        raise _store_error(failure) from failure
    except sa.exc.TimeoutError as failure:
        raise _unavailable("The store is busy; try again.", failure=failure) from failure


_READ_ONLY = "The store's directory or file cannot be written; give its owner read and write access."
_LOCKED = "Another process holds the store locked; end it, or try again."
_DAMAGED = "The store's file is damaged; stop the daemon and restore the file from a backup."
_MESSAGES = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: "The store's file cannot be opened; check that it and its directory can be written.",
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: "The store's file is not a hsmbridge store; correct its path or restore a backup.",
    sqlite3.SQLITE_FULL: "The disk that holds the store is full; free some space.",
    sqlite3.SQLITE_IOERR: "The disk that holds the store reports errors; check it.",
}


def _store_error(failure: DBAPIError) -> StoreError:
    code = getattr(failure.orig, "sqlite_errorcode", None)
    message = _MESSAGES.get(code & 0xFF, "") if isinstance(code, int) else ""
    return _unavailable(message or "The store cannot be read or written; the log says why.", failure=failure.orig)


def _unavailable(message: str, path: Path | None = None, failure: BaseException | None = None) -> StoreError:
    origin = ": ".join(str(part) for part in (path, failure) if part is not None)
    return StoreError(Status.STORE_UNAVAILABLE, message, origin=origin)


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.isolation_level = None
        connection.text_factory = _text
        for pragma in _PRAGMAS:
            connection.execute(pragma)


def _text(value: bytes) -> str:
    # Only an edited row holds what is not UTF-8; it must fail its own MAC and not the whole query.
    return value.decode("utf-8", "backslashreplace")


def _begin(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get(WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _raw(connection: sa.Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):
        raise TypeError("not a SQLite connection")
    return raw


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
