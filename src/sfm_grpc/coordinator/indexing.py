"""Feeds the vector index with what was written, namespace by namespace, in the order of the revisions.

Nothing is queued: the store knows up to which revision an index has everything, and what was written after that, as it is now. So
an index that was away, is new or was emptied is fed with what it lacks, and a memory that was written ten times is sent once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence

from sfm_grpc.coordinator.presence import Component
from sfm_grpc.errors import IndexUnavailable, Overloaded, StoreUnavailable
from sfm_grpc.metrics import IndexMetrics
from sfm_grpc.model import Memory, Scope
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.memory_contract import Behind
from sfm_grpc.storage.vectors.contract import Field, Point, VectorIndex

_log = logging.getLogger(__name__)

# What others have written is looked for so often; what this process has is known at once.
_LOOK_S = 0.5
# How often it is asked how it is, where nothing else is asked of it.
_CHECK_S = 5.0
_NAMESPACES_AT_ONCE = 100
_MEMORIES_AT_ONCE = 500
# A turn lasts so much longer than one step may take; whoever dies in it is followed after that.
_TURN_S = 30.0
_RETRY_MIN_S, _RETRY_MAX_S = 0.25, 10.0
_REFUSALS_LOGGED = 5


class Indexer:
    """One process's part in feeding its index. Where several share one, they take turns."""

    def __init__(self, store: Store, index: VectorIndex, metrics: IndexMetrics) -> None:
        self._store = store
        self._index = index
        self._metrics = metrics
        self._owner = secrets.token_hex(8)
        self._written = asyncio.Event()
        self._advanced = asyncio.Event()
        self._opened = False
        self._checked_s = -_CHECK_S
        self._component = Component(index.name, ok=False, detail="not opened yet", needed=False)

    def component(self) -> Component:
        """How the index is, as a part that only search needs."""
        return self._component

    def written(self) -> None:
        """Something was written here: there is no need to wait for the next look."""
        self._written.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        failed = 0
        while True:
            try:
                await self._step()
                failed = 0
            except (IndexUnavailable, StoreUnavailable, Overloaded) as error:
                failed += 1
                self._set(ok=not isinstance(error, IndexUnavailable), detail=str(error))
            except Exception:  # whatever is wrong with one namespace, the others must not be left behind
                failed += 1
                _log.exception("feeding the vector index failed")
            await self._pause(failed)

    async def _step(self) -> None:
        """Opens the index if it is not, and feeds it with all that it lacks."""
        if not self._opened:
            await self._index.open()
            self._opened = True
        if not self._component.ok or time.monotonic() - self._checked_s >= _CHECK_S:
            self._set(ok=True, detail=await self._index.check())
            self._checked_s = time.monotonic()
        self._written.clear()
        found = await self._store.memories.behind(self._index.identity, _NAMESPACES_AT_ONCE)
        self._metrics.behind.set(sum(b.space.revision - b.indexed for b in found))
        for behind in found:
            await self._feed(behind.scope)

    async def _pause(self, failed: int) -> None:
        if failed:
            await asyncio.sleep(min(_RETRY_MAX_S, _RETRY_MIN_S * 2.0 ** min(failed - 1, 10)))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._written.wait()

    async def _feed(self, scope: Scope) -> None:
        """Brings the index up to the namespace's newest revision, if it is this process's turn."""
        name = self._index.identity
        turn = await self._store.memories.take_index(scope, name, self._owner, lasts_s=_TURN_S)
        if turn is None:
            return
        try:
            indexed = turn.indexed
            while changed := await self._store.memories.changed(scope, after=indexed, limit=_MEMORIES_AT_ONCE):
                await self._apply(turn, changed)
                indexed = changed[-1].revision
                if not await self._store.memories.advance_index(scope, name, self._owner, indexed, lasts_s=_TURN_S):
                    return  # it was begun anew
                self._tell_those_who_wait()
            if indexed < turn.space.revision:  # the newest write left nothing that is still there
                await self._store.memories.advance_index(scope, name, self._owner, turn.space.revision, lasts_s=_TURN_S)
                self._tell_those_who_wait()
        finally:
            with contextlib.suppress(StoreUnavailable, Overloaded):
                await self._store.memories.release_index(scope, name, self._owner)

    async def _apply(self, turn: Behind, changed: Sequence[Memory]) -> None:
        field = Field(turn.scope, turn.space.dimension, turn.space.distance)
        puts = [_point(m) for m in changed if m.vector is not None and not m.delete_time_us]
        put = {p.key for p in puts}
        began = time.monotonic()
        refused = await self._index.apply(field, puts, [m.key for m in changed if m.key not in put])
        self._metrics.apply_seconds.observe(time.monotonic() - began)
        self._metrics.applied.inc(len(changed))
        self._metrics.refused.inc(len(refused))
        for each in refused[:_REFUSALS_LOGGED]:
            _log.error("the vector index does not take %r of %r: %s", each.key, turn.scope.namespace, each.reason)

    # ---- those who wait for it

    async def until_indexed(self, scope: Scope, revision: int, until_s: float) -> bool:
        """Waits until the index has a revision, or until `until_s` on time.monotonic(); whether it has."""
        while await self._store.memories.indexed(scope, self._index.identity) < revision:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK_S, until_s - time.monotonic())):
                    await self._advanced.wait()
            if time.monotonic() >= until_s:
                return False
        return True

    def _tell_those_who_wait(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()

    def _set(self, *, ok: bool, detail: str) -> None:
        self._metrics.ok.set(ok)
        before, self._component = self._component, Component(self._index.name, ok=ok, detail=detail, needed=False)
        if not ok and (before.ok or before.detail != detail):
            _log.warning("%s", detail)
        elif ok and not before.ok:
            _log.info("the vector index is there: %s", detail)


def _point(m: Memory) -> Point:
    assert m.vector is not None
    return Point(
        key=m.key,
        revision=m.revision,
        vector=m.vector,
        memory_type=m.memory_type,
        importance=m.importance,
        coordinates=m.coordinates,
        create_time_us=m.create_time_us,
        update_time_us=m.update_time_us,
        expire_time_us=m.expire_time_us,
    )
