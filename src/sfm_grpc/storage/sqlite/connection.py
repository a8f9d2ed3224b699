"""Connections to the file, its schema, and the one seam where SQLite's errors become ours."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sfm_grpc.errors import LimitExceeded, StoreUnavailable
from sfm_grpc.storage import statements

_log = logging.getLogger(__name__)

APPLICATION_ID = 0x53464D33  # "SFM3"
SCHEMA_VERSION = 5

# Large pages for large bodies: 16 KiB measured 1.5 to 2 times faster than 4, 8, 32 or 64 KiB for 1 and 8 MiB of numbers.
_PAGE_BYTES = 16_384
_BUSY_TIMEOUT_S = 5.0
# Holds the largest usual body, which is written in two steps, until it is committed.
_CACHE_KIB = 32 * 1024

_PROBLEMS = {
    "SQLITE_FULL": "the disk is full; free some space (nothing was changed)",
    "SQLITE_BUSY": "another process holds the file's write lock",
    "SQLITE_READONLY": "the file or its directory is read-only",
    "SQLITE_CANTOPEN": "the file cannot be opened; does its directory exist and may this user write there?",
    "SQLITE_CORRUPT": "the file is damaged; restore a backup",
    "SQLITE_NOTADB": "the file is not an SQLite database",
    "SQLITE_IOERR": "the disk reports an error",
    "SQLITE_NOMEM": "memory ran out",
    "SQLITE_PROTOCOL": "the file's locks do not work; use a local disk",
    "SQLITE_LOCKED": "another statement holds the table",
    "SQLITE_PERM": "this user may not use the file",
}
# SQLite's own default for one value; it does not say how large the refused one was.
_VALUE_BYTES_MAX = 1_000_000_000


def connect(path: Path, *, busy_timeout_s: float = _BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Opens a connection that may be handed between threads, one at a time."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    # Text that is not UTF-8 is damage in one row, and must not fail the whole page of rows: this makes it text that is no JSON.
    connection.text_factory = _text
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the engine does it, off the commit's path
    return connection


def _text(stored: bytes) -> str:
    return stored.decode(errors="backslashreplace")


def roll_back(connection: sqlite3.Connection) -> None:
    """Ends a transaction that failed. Never raises: the first error is what is told, and `unstuck` sees to the rest."""
    if not connection.in_transaction:
        return  # SQLite itself rolls back after some errors (a full disk among them)
    try:
        connection.execute("ROLLBACK")
    except (sqlite3.Error, MemoryError) as error:
        _log.error("rolling back failed: %s", error)


def unstuck(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """The connection, or another in its place where it could not leave its transaction. Raises StoreUnavailable."""
    if not connection.in_transaction:
        return connection
    with translated():
        fresh = connect(path)
        connection.close()
    return fresh


def prepare(path: Path) -> None:
    """Creates the file and its schema, or checks them. Raises StoreUnavailable for a file that is not ours or too new."""
    with translated(), contextlib.closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreUnavailable(
                problem=f"{path}: write-ahead logging is not possible there (journal mode {mode}); use a local disk"
            )
        connection.execute("BEGIN IMMEDIATE")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if tables == 0:
            for statement in statements.text(__package__, "schema.sql").split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif application != APPLICATION_ID:
            raise StoreUnavailable(problem=f"{path} is a database of something else; name another directory in SFM_DATA_DIR")
        elif version != SCHEMA_VERSION:
            raise StoreUnavailable(problem=f"{path} has schema {version}, this release needs {SCHEMA_VERSION}")
        connection.execute("COMMIT")


@contextlib.contextmanager
def translated(*, committing: bool = False) -> Iterator[None]:
    """Turns SQLite's operating errors into StoreUnavailable; programming errors pass, they are defects.

    A value larger than SQLite takes is LimitExceeded: no retry will change that. `committing` says that COMMIT itself is under
    way: an I/O error there leaves the outcome unknown.
    """
    try:
        yield
    except MemoryError as error:  # how Python says SQLITE_NOMEM
        raise StoreUnavailable(problem=_PROBLEMS["SQLITE_NOMEM"], outcome_unknown=committing) from error
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name == "SQLITE_TOOBIG":
            at_least = _VALUE_BYTES_MAX + 1
            raise LimitExceeded(limit="sqlite_value_bytes_max", value=at_least, maximum=_VALUE_BYTES_MAX) from error
        known = next((text for prefix, text in _PROBLEMS.items() if name.startswith(prefix)), None)
        if known is None:
            raise
        unknown = committing and name.startswith("SQLITE_IOERR")
        raise StoreUnavailable(problem=f"{known} ({name}: {error})", outcome_unknown=unknown) from error
