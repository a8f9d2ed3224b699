"""Takes away memories that have come to their end: expired ones become tombstones, and tombstones go when they may."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict

from sfm_grpc.coordinator import events
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.errors import Overloaded, StoreUnavailable
from sfm_grpc.metrics import Metrics
from sfm_grpc.model import ExpireMemory, MemoryWrites, Outcome, Scope, Transaction
from sfm_grpc.storage.contract import Store

_log = logging.getLogger(__name__)

_PAUSE_S = 5.0
_BURY_EVERY_S = 60.0
_AT_ONCE = 500
# At most so long at one piece of work: puts of the same namespace wait meanwhile.
_AT_ONCE_S = 2.0


class MemoryUpkeep:
    """Reads do not need it, expired memories are absent at once; room, counts and the index do."""

    def __init__(self, store: Store, commits: CommitPath, metrics: Metrics, *, undelete_s: int, node_id: str) -> None:
        self._store = store
        self._commits = commits
        self._metrics = metrics
        self._undelete_s = undelete_s
        self._node_id = node_id

    async def run(self) -> None:
        """Works until it is cancelled."""
        buried = -_BURY_EVERY_S
        while True:
            try:
                await self.expire()
                await self.clear_dropped()
                if time.monotonic() - buried >= _BURY_EVERY_S:
                    buried = time.monotonic()
                    await self.bury()
            except (StoreUnavailable, Overloaded) as error:
                _log.warning("taking away what has expired waits for the store: %s", error)
            except Exception:  # whatever is wrong with one memory, the others must not stay for ever
                _log.exception("taking away what has expired failed")
            await asyncio.sleep(_PAUSE_S)

    async def expire(self) -> int:
        """Purges what has expired, each namespace's in transactions of its own; how many. Raises StoreUnavailable."""
        total, until = 0, time.monotonic() + _AT_ONCE_S
        while time.monotonic() < until:
            now_us = time.time_ns() // 1000
            found = await self._store.memories.expired(now_us, _AT_ONCE)
            by_scope: dict[Scope, list[str]] = defaultdict(list)
            for scope, key in found:
                by_scope[scope].append(key)
            for scope, keys in by_scope.items():
                total += await self._expire(scope, keys, now_us)
            if len(found) < _AT_ONCE:
                break
        self._metrics.expired.inc(total)
        return total

    async def _expire(self, scope: Scope, keys: list[str], now_us: int) -> int:
        changes = tuple(ExpireMemory(key) for key in keys)
        writes = MemoryWrites(changes, events.memory_event(self._node_id, scope, now_us))
        done = await self._commits.commit(Transaction.of_memories(scope, writes, now_us))
        return sum(r.outcome is Outcome.EXPIRED for r in done.memories)

    async def bury(self) -> int:
        """Takes away tombstones that nobody may undelete any more; how many. Raises StoreUnavailable."""
        total, until = 0, time.monotonic() + _AT_ONCE_S
        while time.monotonic() < until:
            before_us = time.time_ns() // 1000 - self._undelete_s * 1_000_000
            buried = await self._store.memories.bury(before_us, _AT_ONCE)
            total += buried
            if buried < _AT_ONCE:
                break
        self._metrics.buried.inc(total)
        return total

    async def clear_dropped(self) -> None:
        """Takes away what is left of dropped namespaces, for a while. Raises StoreUnavailable."""
        until = time.monotonic() + _AT_ONCE_S
        while await self._store.memories.clear_dropped() and time.monotonic() < until:
            pass
