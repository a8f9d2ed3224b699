"""The engine: the pool, the one connection that only checks, and a thread for work on many numbers."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from psycopg import AsyncConnection

from sfm_grpc.errors import StoreUnavailable
from sfm_grpc.metrics import StoreMetrics
from sfm_grpc.model import Buffer, CacheSeen, CommitResult, Entry, PutMatrix, Scope, Transaction, Version
from sfm_grpc.storage.contract import Reading, Retention, VersionPage
from sfm_grpc.storage.outbox_contract import StoredEvent
from sfm_grpc.storage.postgres import cache, commit, durability, housekeeping, migrate, packing, reads
from sfm_grpc.storage.postgres.both import commit_with_memories
from sfm_grpc.storage.postgres.connection import connect, is_gone, place, watched
from sfm_grpc.storage.postgres.errors import Sent, translated
from sfm_grpc.storage.postgres.heads import Heads
from sfm_grpc.storage.postgres.indexing import PostgresIndexing
from sfm_grpc.storage.postgres.memories import PostgresMemories
from sfm_grpc.storage.postgres.options import PostgresOptions
from sfm_grpc.storage.postgres.outbox import PostgresOutbox
from sfm_grpc.storage.postgres.pool import Pool
from sfm_grpc.storage.postgres.prunes import PostgresPrunes
from sfm_grpc.storage.postgres.turns import Turns

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_THREADS = 2
# Fewer bytes than these are hashed and unpacked sooner than they are handed to a thread.
_HANDED_OVER_BYTES = 64 * 1024
# How long a check may take before the connection it uses is given up.
_CHECK_S = 2.5


class PostgresStore:
    """`storage.contract.CachedStore` on a Postgres database."""

    name = "postgres"
    peeks = False

    def __init__(self, options: PostgresOptions, metrics: StoreMetrics, *, keys_per_namespace_max: int) -> None:
        self._options = options
        self._keys_max = keys_per_namespace_max
        self._pool = Pool(options, metrics)
        self._heads = Heads()
        self._turns = Turns(options.lock_timeout_s)
        self._memory_turns = Turns(options.lock_timeout_s)
        self.memories = PostgresMemories(self._pool.run)
        self.indexing = PostgresIndexing(self._pool.run)
        self.outbox = PostgresOutbox(self._pool.run)
        self.prunes = PostgresPrunes(self._pool.run)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="postgres-numbers")
        self._checker: AsyncConnection | None = None
        self._checking = asyncio.Lock()
        self.identity = ""

    # ---- life

    async def open(self) -> None:
        """See the contract."""
        try:
            await self._open()
        except StoreUnavailable as error:
            self._pool.trouble = error.problem  # what callers are told until it works
            raise
        self._pool.trouble = ""

    async def _open(self) -> None:
        if self._options.migrate:
            await migrate.migrate(self._options)
        connection = await connect(self._options)
        try:
            with watched(connection, _CHECK_S), translated():
                unsafe = await durability.check(connection, allow_unsafe=self._options.allow_unsafe_durability)
                await migrate.check(connection)
                await durability.check_rights(connection)
                self.identity = await durability.identity(connection)
            await self._pool.open()
        finally:
            await connection.close()
        if unsafe:
            _log.warning("Postgres may lose what it acknowledges (%s), and this was allowed", unsafe)

    async def close(self) -> None:
        """See the contract. The threads stay for answers that are still being checked, and end with the store."""
        await self._pool.close()
        async with self._checking:
            await self._drop_checker()

    async def check(self) -> str:
        """See the contract. On a connection of its own: it neither waits for the pool nor takes from it."""
        async with self._checking:
            if not self._pool.is_open:
                raise StoreUnavailable(problem="Postgres: not opened yet, or closed")
            try:
                said = await self._ask()
            except StoreUnavailable as error:
                self._pool.trouble = error.problem
                await self._drop_checker()
                raise
            except asyncio.CancelledError:
                self._pool.trouble = "Postgres does not answer"
                await self._drop_checker()
                raise
            self._pool.trouble = ""
            return said

    async def _ask(self) -> str:
        if self._checker is None or is_gone(self._checker):
            await self._drop_checker()
            self._checker = await connect(self._options)
        with watched(self._checker, _CHECK_S), translated():
            # Also what it promises: that may be changed, and another server may answer there, while we are connected.
            await durability.check(self._checker, allow_unsafe=self._options.allow_unsafe_durability)
            await durability.check_rights(self._checker)
            self.identity = await durability.identity(self._checker)
            await self._checker.execute(reads.SQL["check"])
        return f"{place(self._options)}, Postgres {self._checker.info.server_version // 10_000}"

    async def _drop_checker(self) -> None:
        if self._checker is not None:
            await self._checker.close()
            self._checker = None

    # ---- writing

    async def commit(self, transaction: Transaction) -> CommitResult:
        """See the contract."""
        packed = {c.key: await self._packed(c) for c in transaction.changes if isinstance(c, PutMatrix)}
        sent = Sent()
        execute = commit.commit if transaction.memories is None else commit_with_memories
        turns = self._turns if transaction.changes else self._memory_turns
        # One at a time of each namespace: the others would wait for its row, each on a connection that others need.
        async with turns.of(transaction.scope, transaction.deadline):
            return await self._pool.run(
                lambda c: execute(c, transaction, packed, self._heads, keys_max=self._keys_max, sent=sent),
                deadline=transaction.deadline,
                sent=sent,
            )

    async def _packed(self, put: PutMatrix) -> tuple[packing.Packing, Buffer]:
        if not packing.is_packable(put.matrix):
            return packing.Packing.WHOLE, put.matrix.numbers
        return await self._in_thread(lambda: packing.pack(put.matrix))

    async def compact(self, scope: Scope, retention: Retention, now_us: int) -> int:
        """See the contract."""
        return await self._pool.run(lambda c: housekeeping.compact(c, scope, retention, now_us))

    async def forget(self, retention: Retention, now_us: int) -> int:
        """See the contract."""
        return await self._pool.run(lambda c: housekeeping.forget(c, retention, now_us))

    # ---- reading

    def peek(self, _scope: Scope) -> int | None:
        """See the contract: there is a network between."""
        return None

    async def newest(self, scopes: Collection[Scope]) -> Mapping[Scope, int]:
        """See the contract."""
        return await self._pool.run(lambda c: reads.newest(c, scopes))

    async def remembers(self, scope: Scope, method: str, request_id: str) -> bool:
        """See the contract."""
        return await self._pool.run(lambda c: reads.remembers(c, scope, method, request_id))

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
        found = await self._pool.run(lambda c: reads.read(c, scope, number, keys, have, numbers=numbers))
        return await self._checked(found.size, lambda: found.checked(scope))

    async def body(self, scope: Scope, entry: Entry, *, number: int) -> Buffer:
        """See the contract."""
        stored = await self._pool.run(lambda c: reads.body(c, scope, entry, number))
        return await self._checked(stored.size, lambda: stored.checked(scope, number))

    async def versions(self, scope: Scope, *, before: int | None, limit: int) -> VersionPage:
        """See the contract."""
        return await self._in_thread(await self._pool.run(lambda c: reads.versions(c, scope, before, limit)))

    async def heads(self, *, after: Scope | None, limit: int) -> Sequence[tuple[Scope, Version]]:
        """See the contract. In slices: all at once could be any number of certificates."""
        found: list[tuple[Scope, Version]] = []
        while len(found) < limit:
            last, left = found[-1][0] if found else after, limit - len(found)
            some = await self._in_thread(await self._pool.run(functools.partial(reads.heads, after=last, limit=left)))
            if not some:
                break
            found += some
        return found

    async def events(self, *, after: int, limit: int) -> Sequence[StoredEvent]:
        """See the contract."""
        return await self._pool.run(lambda c: reads.events(c, after, limit))

    # ---- its cache

    async def cache_seen(self, scope: Scope) -> CacheSeen:
        """See the contract."""
        return await self._pool.run(lambda c: cache.see(c, scope))

    async def caches_seen(self, scopes: Collection[Scope]) -> Mapping[Scope, CacheSeen]:
        """See the contract."""
        return await self._pool.run(lambda c: cache.see_all(c, scopes))

    async def cache_on(self, scope: Scope, name: str) -> CacheSeen:
        """See the contract."""
        return await self._pool.run(lambda c: cache.change(c, scope, "on", cache=name))

    async def cache_off(self, scope: Scope) -> CacheSeen:
        """See the contract."""
        return await self._pool.run(lambda c: cache.change(c, scope, "off"))

    async def cache_drained(self, scope: Scope, epoch: int) -> CacheSeen:
        """See the contract."""
        return await self._pool.run(lambda c: cache.change(c, scope, "drained", epoch=epoch))

    async def cache_hold(self, tenant: str, namespace: str, *, held: bool) -> int:
        """See the contract."""
        return await self._pool.run(lambda c: cache.hold(c, tenant, namespace, held=held))

    async def caches(self, tenant: str, *, after: str, limit: int) -> Sequence[tuple[str, CacheSeen]]:
        """See the contract."""
        return await self._pool.run(lambda c: cache.listed(c, tenant, after, limit))

    # ---- numbers

    async def _checked(self, size: int, check: Callable[[], _T]) -> _T:
        return check() if size < _HANDED_OVER_BYTES else await self._in_thread(check)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
