"""Connections to the file, its schema, and the one seam where SQLite's errors become ours."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sfm_grpc.errors import StoreUnavailable
from sfm_grpc.storage import statements

APPLICATION_ID = 0x53464D33  # "SFM3"
SCHEMA_VERSION = 1

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
}


def connect(path: Path, *, busy_timeout_s: float = _BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Opens a connection that may be handed between threads, one at a time."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the engine does it, off the commit's path
    return connection


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

    `committing` says that COMMIT itself is under way: an I/O error there leaves the outcome unknown.
    """
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        known = next((text for prefix, text in _PROBLEMS.items() if name.startswith(prefix)), None)
        if known is None:
            raise
        unknown = committing and name.startswith("SQLITE_IOERR")
        raise StoreUnavailable(problem=f"{known} ({name}: {error})", outcome_unknown=unknown) from error
