"""The engine: connections, the threads that use them, and the write-ahead log's checkpoints.

One thread writes, two read; SQLite lets the GIL go while it works. The event loop itself only peeks, which takes microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from sfm_grpc.errors import StoreRefused, StoreUnavailable
from sfm_grpc.model import Buffer, CommitResult, Entry, PutMatrix, PutMemory, Scope, Transaction, Version
from sfm_grpc.storage.contract import Reading, Retention, VersionPage
from sfm_grpc.storage.outbox_contract import StoredEvent
from sfm_grpc.storage.sqlite import commit, housekeeping, reads
from sfm_grpc.storage.sqlite.connection import connect, prepare, roll_back, translated, unstuck
from sfm_grpc.storage.sqlite.indexing import SqliteIndexing
from sfm_grpc.storage.sqlite.memories import SqliteMemories
from sfm_grpc.storage.sqlite.outbox import SqliteOutbox
from sfm_grpc.storage.sqlite.prunes import SqlitePrunes

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_READERS = 2
# A checkpoint copies the log into the file. Often enough that it stays short, seldom enough that it is worth its fsyncs.
_CHECKPOINT_BYTES = 16 << 20
# Readers can keep a passive checkpoint from ever finishing; past this the writer waits for one that does.
_LOG_BYTES_MAX = 256 << 20


class SqliteStore:
    """`storage.contract.Store` on one file."""

    name = "sqlite"
    peeks = True

    def __init__(self, path: Path, *, keys_per_namespace_max: int) -> None:
        self._path = path
        self._keys_max = keys_per_namespace_max
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="sqlite-write")
        self._reading = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-read")
        self._checkpointing = ThreadPoolExecutor(1, thread_name_prefix="sqlite-checkpoint")
        # Its own thread: a check that hangs on the disk must not take a reader with it, nor wait for one.
        self._checking = ThreadPoolExecutor(1, thread_name_prefix="sqlite-check")
        self._readers: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._writer: sqlite3.Connection | None = None
        self._peeker: sqlite3.Connection | None = None
        self._checkpointer: sqlite3.Connection | None = None
        self._checker: sqlite3.Connection | None = None
        self.memories = SqliteMemories(self._read, self._write_once)
        self.indexing = SqliteIndexing(self._read, self._write_once)
        self.outbox = SqliteOutbox(self._read, self._write_once)
        self.prunes = SqlitePrunes(self._read, self._write_once)
        self._file = (0, 0)
        """Device and inode of the file that is open: whether the path still means it."""
        self._log_bytes = 0

    async def open(self) -> None:
        """See the contract. A file does not come by itself: whatever is wrong, someone must act."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._writing, self._open)
        except StoreUnavailable as error:
            raise StoreRefused(problem=error.problem) from error

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(problem=f"{self._path.parent} cannot be created: {error.strerror}") from error
        prepare(self._path)
        with translated():
            self._writer, self._checkpointer, self._checker = (connect(self._path) for _ in range(3))
            self._file = _identity(self._path)
            self._peeker = connect(self._path, busy_timeout_s=0)
            for _ in range(_READERS):
                self._readers.put(connect(self._path))

    async def close(self) -> None:
        """See the contract."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        for pool in (self._writing, self._reading, self._checkpointing, self._checking):
            pool.shutdown(wait=True)
        for connection in (self._peeker, self._checkpointer, self._checker, self._writer):
            if connection is not None:
                connection.close()
        while not self._readers.empty():
            self._readers.get().close()
        self._peeker = self._checkpointer = self._checker = self._writer = None

    async def check(self) -> str:
        """See the contract."""
        return await self._run(self._checking, self._check)

    def _check(self) -> str:
        # An open file outlives its name, and its mode: it would be written to, and be gone after the next start.
        if _identity(self._path) != self._file:
            raise StoreUnavailable(problem=f"{self._path} is gone or was replaced while it was open; stop, put it back, start")
        if not (os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK)):
            raise StoreUnavailable(problem=f"{self._path} or its directory is read-only")
        _look(_opened(self._checker), lambda c: c.execute(reads.SQL["check"]).fetchone())
        return f"{self._path}, SQLite {sqlite3.sqlite_version}"

    # ---- writing

    async def commit(self, transaction: Transaction) -> CommitResult:
        """See the contract."""
        result = await self._write(lambda connection: commit.commit(connection, transaction, self._keys_max))
        self._wrote(_size(transaction))
        return result

    async def compact(self, scope: Scope, retention: Retention, now_us: int) -> int:
        """See the contract."""
        return await self._write_once(lambda c: housekeeping.compact(c, scope, retention, now_us))

    async def forget(self, retention: Retention, now_us: int) -> int:
        """See the contract."""
        return await self._write_once(lambda c: housekeeping.forget(c, retention, now_us))

    async def _write_once(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._write(lambda c: _transact(c, lambda: work(c)))

    async def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def write() -> _T:
            writer = self._writer = unstuck(_opened(self._writer), self._path)
            try:
                return work(writer)
            finally:
                # Not only before the next one: a transaction left open holds everybody's lock.
                with contextlib.suppress(StoreUnavailable):
                    self._writer = unstuck(writer, self._path)

        return await self._run(self._writing, write)

    def _wrote(self, size: int) -> None:
        """Counts what went into the log, and has it checkpointed when it is time."""
        self._log_bytes += size + 4096
        if self._log_bytes >= _CHECKPOINT_BYTES:
            self._log_bytes = 0
            self._checkpointing.submit(self._checkpoint)

    def _checkpoint(self) -> None:
        try:
            with translated():
                _opened(self._checkpointer).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._writing.submit(self._finish_checkpoint)
                log = self._path.with_name(self._path.name + "-wal")
                if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
                    self._writing.submit(self._truncate_log)
        except StoreUnavailable as error:
            # Nothing is lost: the log stays as it is, and the next checkpoint tries again.
            _log.warning("checkpoint failed: %s", error)

    def _finish_checkpoint(self) -> None:
        """Copies the little that was committed meanwhile, on the writer's thread: only a log wholly copied begins again."""
        with contextlib.suppress(StoreUnavailable), translated():
            _opened(self._writer).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _truncate_log(self) -> None:
        with contextlib.suppress(StoreUnavailable), translated():
            _opened(self._writer).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    # ---- reading

    def peek(self, scope: Scope) -> int | None:
        """See the contract. One indexed look-up, 5 µs: as cheap as asking whether the file changed at all."""
        if self._peeker is None:
            return None
        try:
            row = self._peeker.execute(reads.PEEK, (scope.tenant, scope.namespace)).fetchone()
        except sqlite3.Error:
            return None
        return row[0] if row else 0

    async def newest(self, scopes: Collection[Scope]) -> Mapping[Scope, int]:
        """See the contract."""
        return await self._read(lambda c: reads.newest(c, scopes))

    async def remembers(self, scope: Scope, method: str, request_id: str) -> bool:
        """See the contract."""
        return await self._read(lambda c: reads.remembers(c, scope, method, request_id))

    async def read(
        self,
        scope: Scope,
        *,
        number: int | None = None,
        keys: Sequence[str] = (),
        have: Collection[bytes] = (),
        numbers: bool = True,
    ) -> Reading:
        """See the contract."""
        return await self._read(lambda c: reads.read(c, scope, number, keys, have, numbers=numbers))

    async def body(self, scope: Scope, entry: Entry, *, number: int) -> Buffer:
        """See the contract."""
        return await self._read(lambda c: reads.body(c, scope, entry, number))

    async def versions(self, scope: Scope, *, before: int | None, limit: int) -> VersionPage:
        """See the contract."""
        return await self._read(lambda c: reads.versions(c, scope, before, limit))

    async def heads(self, *, after: Scope | None, limit: int) -> Sequence[tuple[Scope, Version]]:
        """See the contract."""
        return await self._read(lambda c: reads.heads(c, after, limit))

    async def events(self, *, after: int, limit: int) -> Sequence[StoredEvent]:
        """See the contract."""
        return await self._read(lambda c: reads.events(c, after, limit))

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def borrow() -> _T:
            connection = self._readers.get()
            try:
                connection = unstuck(connection, self._path)
                return _look(connection, work)
            finally:
                self._readers.put(connection)

        return await self._run(self._reading, borrow)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        if self._writer is None:
            raise StoreUnavailable(problem=f"{self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def _opened(connection: sqlite3.Connection | None) -> sqlite3.Connection:
    assert connection is not None, "the store is not open"
    return connection


def _look(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T]) -> _T:
    """Runs `work` on one snapshot of the file."""
    with translated():
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            roll_back(connection)


def _transact(connection: sqlite3.Connection, work: Callable[[], _T]) -> _T:
    """Runs `work` in one write transaction."""
    with translated():
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise
        return result


def _size(transaction: Transaction) -> int:
    """About how many bytes it writes."""
    matrices = sum(len(c.matrix.numbers) for c in transaction.changes if isinstance(c, PutMatrix))
    puts = [c for c in transaction.memories.changes if isinstance(c, PutMemory)] if transaction.memories else []
    return matrices + sum(len(p.payload) + len(p.vector or b"") for p in puts)


def _identity(path: Path) -> tuple[int, int]:
    """Which file a path means now; (0, 0): none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
