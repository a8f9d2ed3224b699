"""Keeps history, remembered requests, outbox and memory within their bounds, in the background and in small pieces."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sfm_grpc.errors import Overloaded, StoreUnavailable
from sfm_grpc.metrics import Metrics
from sfm_grpc.model import Scope, Transaction, Version
from sfm_grpc.storage.contract import Retention, Store
from sfm_grpc.storage.in_process import SnapshotCache

_log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_SWEEP_S = 60.0
_HEADS_AT_ONCE = 500
# At most so long at one piece of work: under steady commits there is always something more to take away.
_AT_ONCE_S = 2.0


class Housekeeping:
    """Compacts namespaces soon after they were committed to, and all of them once an hour, when versions grow too old."""

    ALL_EVERY_S = 3600.0

    def __init__(
        self, store: Store, cache: SnapshotCache, retention: Retention, metrics: Metrics, is_whole: Callable[[Scope], bool]
    ) -> None:
        """`is_whole` says that a namespace's head was seen to be what was committed."""
        self._is_whole = is_whole
        self._store = store
        self._cache = cache
        self._retention = retention
        self._metrics = metrics
        self._dirty: set[Scope] = set()
        self._held: set[Scope] = set()

    def committed(self, scope: Scope, version: Version, _transaction: Transaction) -> None:
        """Notes a namespace that may have a version too many: a commit's listener."""
        if version.version > self._retention.versions:
            self._dirty.add(scope)

    async def run(self) -> None:
        """Works until it is cancelled."""
        swept = compacted_all = -self.ALL_EVERY_S
        while True:
            now = time.monotonic()
            try:
                if now - compacted_all >= self.ALL_EVERY_S:
                    compacted_all = now
                    await self._mark_all()
                if now - swept >= _SWEEP_S:
                    swept = now
                    await self._sweep()
                self._release()
                await self._compact_dirty()
            except (StoreUnavailable, Overloaded) as error:
                _log.warning("housekeeping waits for the store: %s", error)
                await asyncio.sleep(5)
            except Exception:  # whatever is wrong with one namespace, the others must not grow for ever
                _log.exception("housekeeping failed")
                await asyncio.sleep(5)
            self._metrics.cache_bytes.set(self._cache.size_bytes)
            await asyncio.sleep(_PAUSE_S)

    async def _compact_dirty(self) -> None:
        """Each once: under steady commits they are dirty again at once, and the rest of the work must have its turn."""
        for scope in list(self._dirty):
            self._dirty.discard(scope)
            try:
                await self._compact_if_whole(scope)
            except BaseException:
                self._dirty.add(scope)
                raise

    async def _compact_if_whole(self, scope: Scope) -> None:
        """While a head is not whole, nobody knows which older version is the one to go back to: all of them stay."""
        if self._is_whole(scope):
            await self.compact(scope)
        else:
            self._held.add(scope)

    def _release(self) -> None:
        """Marks again what was held back and is whole now."""
        whole = {scope for scope in self._held if self._is_whole(scope)}
        self._held -= whole
        self._dirty |= whole

    async def compact(self, scope: Scope) -> int:
        """Takes away versions of `scope` that retention no longer keeps; returns how many. Raises StoreUnavailable.

        What takes too long is left for the next round.
        """
        total, until = 0, time.monotonic() + _AT_ONCE_S
        while removed := await self._store.compact(scope, self._retention, time.time_ns() // 1000):
            total += removed
            if time.monotonic() > until:
                self._dirty.add(scope)
                break
        self._metrics.compacted.inc(total)
        return total

    async def _sweep(self) -> None:
        self._cache.sweep()
        until = time.monotonic() + _AT_ONCE_S
        while await self._store.forget(self._retention, time.time_ns() // 1000) and time.monotonic() < until:
            pass

    async def _mark_all(self) -> None:
        after: Scope | None = None
        while heads := await self._store.heads(after=after, limit=_HEADS_AT_ONCE):
            self._dirty.update(scope for scope, _ in heads)
            after = heads[-1][0]
