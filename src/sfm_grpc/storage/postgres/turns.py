"""Commits of one namespace take turns within a process, before they take a connection."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from sfm_grpc.errors import DeadlineExceeded, StoreUnavailable
from sfm_grpc.model import Scope


class Turns:
    """Who may commit to a namespace now, in the order of asking."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._asking: dict[Scope, int] = {}

    @contextlib.asynccontextmanager
    async def of(self, scope: Scope, deadline: float) -> AsyncIterator[None]:
        """Waits for the turn, and holds it.

        Raises StoreUnavailable when it does not come for as long as a commit may wait for its namespace's row, DeadlineExceeded
        when `deadline` (time.monotonic()) passes first.
        """
        lock = self._locks.setdefault(scope, asyncio.Lock())
        self._asking[scope] = self._asking.get(scope, 0) + 1
        try:
            await self._wait(lock, scope, deadline)
            try:
                yield
            finally:
                lock.release()
        finally:
            self._asking[scope] -= 1
            if not self._asking[scope]:
                del self._asking[scope], self._locks[scope]

    async def _wait(self, lock: asyncio.Lock, scope: Scope, deadline: float) -> None:
        until = min(deadline, time.monotonic() + self._wait_s)
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await lock.acquire()
        except TimeoutError:
            if until == deadline:
                raise DeadlineExceeded from None
            raise StoreUnavailable(
                problem=f"other commits to {scope.namespace!r} take longer than SFM_POSTGRES_LOCK_TIMEOUT_MS ({self._wait_s:g} s)"
            ) from None
