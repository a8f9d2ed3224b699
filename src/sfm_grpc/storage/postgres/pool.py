"""The connections that calls share: who waits for one, for how long, and what is said when there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from sfm_grpc.errors import DeadlineExceeded, Overloaded, StoreUnavailable
from sfm_grpc.metrics import StoreMetrics
from sfm_grpc.storage.postgres.connection import bounded, configure, connect, is_gone, parameters
from sfm_grpc.storage.postgres.errors import Sent, connecting, translated
from sfm_grpc.storage.postgres.options import PostgresOptions

_T = TypeVar("_T")
Work = Callable[[AsyncConnection], Awaitable[_T]]

# The pool itself tries to connect twice and no more: after that we find out why not, and whoever needs a connection tries.
_RECONNECT_S = 0.05
logging.getLogger("psycopg").setLevel(logging.ERROR)
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # that it could not is told to who needs it


class Pool:
    """Runs work on a connection, one at a time each."""

    def __init__(self, options: PostgresOptions, metrics: StoreMetrics) -> None:
        self._options = options
        self._metrics = metrics
        self._pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._busy = 0
        self._waiting = 0  # the pool's own count includes those who wait no more
        self._passed = 0.0  # when a connection that works was last lent or given back, on time.monotonic()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._finding_out: asyncio.Task[None] | None = None
        self.trouble = ""
        """Why Postgres could not be reached when it was last tried; '' while it can."""
        metrics.busy.set_function(lambda: self._busy)
        metrics.connections.set_function(self._size)
        metrics.connections_max.set(options.pool_max)
        metrics.waiting.set_function(lambda: self._waiting)

    @property
    def is_open(self) -> bool:
        """Whether there is a pool at all."""
        return self._pool is not None

    async def open(self) -> None:
        """Makes the pool and its first connections. Raises StoreUnavailable."""
        options = self._options
        pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            kwargs={**parameters(options), "autocommit": True},
            min_size=options.pool_min,
            max_size=options.pool_max,
            reconnect_timeout=_RECONNECT_S,
            reconnect_failed=self._given_up,
            configure=self._configure,
            open=False,
            name="sfm",
        )
        try:
            await pool.open(wait=True, timeout=options.connect_timeout_s)
        except BaseException as error:
            await pool.close()
            if not isinstance(error, PoolTimeout):
                raise
            slow = f"Postgres gives no {options.pool_min} connections within {options.connect_timeout_s:g} s"
            raise StoreUnavailable(problem=self.trouble or slow) from None
        self._pool = pool

    async def _configure(self, connection: AsyncConnection) -> None:
        await configure(connection, self._options, commits=True)
        self.trouble = ""

    async def close(self) -> None:
        """Finishes what is under way and closes every connection. Idempotent."""
        pool, self._pool = self._pool, None
        if self._under_way:
            await asyncio.wait(list(self._under_way))
        if pool is not None:
            await pool.close()

    async def run(self, work: Work[_T], *, deadline: float = math.inf, sent: Sent | None = None) -> _T:
        """Runs `work` on a connection that nobody else uses meanwhile.

        A caller that gives up does not interrupt it: it comes to its end, within the statement timeout, and is forgotten.

        Raises StoreUnavailable (`outcome_unknown` when what was `sent` may have been committed), Overloaded when every
        connection is busy, DeadlineExceeded when `deadline` (time.monotonic()) passes before there is one, or while `work` is
        under way and Postgres undid it.
        """
        task = asyncio.ensure_future(self._run(work, deadline, sent or Sent()))
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone, and is the only one who would care

    async def _run(self, work: Work[_T], deadline: float, sent: Sent) -> _T:
        pool = self._pool
        if pool is None:
            raise StoreUnavailable(problem=self.trouble or "Postgres: not opened yet, or closed")
        connection = await self._borrow(pool, deadline)
        self._busy += 1
        try:
            with translated(sent):
                async with bounded(connection, self._options, deadline, sent):
                    return await work(connection)
        finally:
            self._busy -= 1
            if not connection.closed:
                self._passed = time.monotonic()
            await pool.putconn(connection)

    async def _borrow(self, pool: AsyncConnectionPool[AsyncConnection], deadline: float) -> AsyncConnection:
        asked = time.monotonic()
        until = asked + self._options.pool_wait_s
        while True:
            if time.monotonic() > deadline:
                raise DeadlineExceeded
            if self.trouble and not self._busy and not self._stat("pool_available"):
                await self._find_out(until)
            connection = await self._next(pool, asked, min(until, deadline))
            if not is_gone(connection):
                self._passed = time.monotonic()
                self._metrics.wait_seconds.observe(self._passed - asked)
                return connection
            await connection.close()
            await pool.putconn(connection)

    async def _find_out(self, until: float) -> None:
        """Tries to connect, once for all callers who wait: sooner, and with better reasons, than the pool would.

        Raises StoreUnavailable when it does not work, or not in time.
        """
        if self._finding_out is None:
            self._finding_out = asyncio.create_task(self._try())
            self._finding_out.add_done_callback(self._found_out)
        try:
            async with asyncio.timeout(max(0.001, until - time.monotonic())):
                await asyncio.shield(self._finding_out)
        except TimeoutError:
            raise StoreUnavailable(problem=self.trouble or "Postgres does not answer") from None

    async def _try(self) -> None:
        try:
            connection = await connect(self._options, commits=True)
        except StoreUnavailable as error:
            self.trouble = error.problem
            raise
        self.trouble = ""
        await connection.close()

    async def _given_up(self, pool: AsyncConnectionPool[AsyncConnection]) -> None:
        """The pool could not connect: finds out why. Where it was a moment only, has it try again for those who wait."""
        with contextlib.suppress(StoreUnavailable):
            await self._find_out(time.monotonic() + self._options.connect_timeout_s)
            if self._waiting:
                await pool.check()

    def _found_out(self, task: asyncio.Task[None]) -> None:
        self._finding_out = None
        if not task.cancelled():
            task.exception()

    async def _next(self, pool: AsyncConnectionPool[AsyncConnection], asked: float, until: float) -> AsyncConnection:
        if self._waiting >= self._options.pool_waiting_max and not self._stat("pool_available"):
            raise self._overloaded("postgres_pool_waiting_max", self._options.pool_waiting_max)
        self._waiting += 1
        try:
            return await pool.getconn(timeout=max(0.001, until - time.monotonic()))
        except PoolTimeout:
            if until < asked + self._options.pool_wait_s:
                raise DeadlineExceeded from None
            raise self._none_left(asked) from None
        except PoolClosed:
            raise StoreUnavailable(problem="Postgres: closed") from None
        except psycopg.Error as error:
            raise connecting(error) from error
        finally:
            self._waiting -= 1

    def _none_left(self, asked: float) -> Overloaded | StoreUnavailable:
        """All are in use, or went from one caller to the next since `asked`; or there are none, because Postgres gives none."""
        if not self.trouble and (self._busy == self._options.pool_max or self._passed > asked):
            return self._overloaded("postgres_pool_max", self._options.pool_max)
        return StoreUnavailable(problem=self.trouble or f"Postgres gives no connection within {self._options.pool_wait_s:g} s")

    def _overloaded(self, limit: str, maximum: int) -> Overloaded:
        self._metrics.exhausted.inc()
        return Overloaded(limit=limit, value=maximum, maximum=maximum, retry_after_s=0.25)

    def _size(self) -> int:
        return self._stat("pool_size")

    def _stat(self, name: str) -> int:
        return int(self._pool.get_stats().get(name, 0)) if self._pool else 0
