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
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator.presence import Component
from sfm_grpc.errors import IndexUnavailable, Overloaded, StoreUnavailable
from sfm_grpc.metrics import IndexMetrics
from sfm_grpc.model import Memory, Scope, Space
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.finishing import finished
from sfm_grpc.storage.index_contract import DeadLetter, Progress
from sfm_grpc.storage.vectors.contract import Field, IndexDamaged, Point, VectorIndex

_log = logging.getLogger(__name__)

# What others have written is looked for so often; what this process has is known at once.
_LOOK_S = 0.5
# How often it is asked how it is, where nothing else is asked of it.
_CHECK_S = 5.0
# How often it is said that it is there; one of which that was not said for so long is forgotten, and fed anew if it comes back.
_KEEP_S, _LOST_AFTER_S = 60.0, 7 * 86_400.0
_NAMESPACES_AT_ONCE = 100
_MEMORIES_AT_ONCE = 500
# A turn lasts so much longer than one step may take; whoever dies in it is followed after that.
_TURN_S = 30.0
_STEP_S = 15.0
_TURN_RETRY_S = 0.05
_RETRY_MIN_S, _RETRY_MAX_S = 0.25, 10.0
_REFUSALS_LOGGED = 5


@dataclass(slots=True)
class Turn:
    """Nobody else changes what the index has of a namespace."""

    field: Field
    index: str
    """Which one that is, by its identity."""
    owner: str
    """Whose turn it is: no other turn's, of this process or another."""
    indexed: int
    """The index has all revisions up to this one."""


class Indexer:
    """One process's part in feeding its index. Where several share one, they take turns."""

    def __init__(self, store: Store, index: VectorIndex, metrics: IndexMetrics) -> None:
        self._store = store
        self._index = index
        self._metrics = metrics
        self._written = asyncio.Event()
        self._advanced = asyncio.Event()
        self._opened = False
        self._checked_s = self._kept_s = -_KEEP_S
        self._kept = ""
        """Which index was said to be there."""
        self._component = Component(index.name, ok=False, detail="not opened yet", needed=False)

    def component(self) -> Component:
        """How the index is, as a part that only search needs."""
        return self._component

    def written(self) -> None:
        """Something was written here: there is no need to wait for the next look."""
        self._written.set()

    async def progress(self, scope: Scope) -> Progress | None:
        """How far the index is with a namespace; None: there is none. Raises StoreUnavailable."""
        return await self._store.indexing.progress(scope, self._index.identity)

    async def refused(self, number: int, limit: int) -> Sequence[DeadLetter]:
        """Memories of a namespace whose vectors the index does not take. Raises StoreUnavailable."""
        return await self._store.indexing.refused(number, self._index.identity, limit)

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
                await self._discard_if_damaged(error)
            except Exception:  # whatever is wrong with one namespace, the others must not be left behind
                failed += 1
                _log.exception("feeding the vector index failed")
            await self._pause(failed)

    async def _step(self) -> None:
        """Opens the index if it is not, and feeds it with all that it lacks."""
        if not self._opened:
            await self._index.open()
            if self._index.exclusive:  # whoever had a turn is no more
                await self._store.indexing.end_turns(self._index.identity)
            self._opened = True
        now_s = time.monotonic()
        if not self._component.ok or now_s - self._checked_s >= _CHECK_S:
            self._set(ok=True, detail=await self._index.check())
            self._checked_s = now_s
        if now_s - self._kept_s >= _KEEP_S or self._index.identity != self._kept:
            identity = self._index.identity
            await self._store.indexing.keep(identity, lost_after_s=_LOST_AFTER_S)
            self._kept, self._kept_s = identity, now_s
        self._written.clear()
        found = await self._store.indexing.behind(self._index.identity, _NAMESPACES_AT_ONCE)
        self._metrics.behind.set(sum(each.space.revision - each.indexed for each in found))
        if not found:
            self._metrics.lag_seconds.set(0)
        for each in found:
            async with self.turn(each.scope, each.space, wait=False) as turn:
                if turn is not None:
                    await self.feed(turn, each.space.revision)
        await self._let_go()

    async def _pause(self, failed: int) -> None:
        if failed:
            await asyncio.sleep(min(_RETRY_MAX_S, _RETRY_MIN_S * 2.0 ** min(failed - 1, 10)))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._written.wait()

    async def _discard_if_damaged(self, error: Exception) -> None:
        """What cannot be read any more is let go of, and fed anew."""
        if not isinstance(error, IndexDamaged) or error.geometry is None:
            return
        try:
            await self._index.discard(*error.geometry)
        except IndexUnavailable as again:
            _log.error("what is damaged of the vector index could not be removed: %s", again)
        else:
            _log.error("the vector index was damaged, and is made anew from the memories: %s", error)

    async def _let_go(self) -> None:
        """Lets go of what the index has of namespaces that were dropped."""
        name = self._index.identity
        for each in await self._store.indexing.dropped(name, _NAMESPACES_AT_ONCE):
            if await self._store.indexing.take(each.number, name, _an_owner(), lasts_s=_TURN_S) is None:
                continue
            if each.dimension:
                await self._index.drop(Field(each.scope, each.number, each.dimension, each.distance))
            await self._store.indexing.forget_dropped(each.number, name)

    # ---- turns

    @contextlib.asynccontextmanager
    async def turn(self, scope: Scope, space: Space, *, wait: bool = True) -> AsyncIterator[Turn | None]:
        """The turn to change what the index has of a namespace; where it is another's, waits for it, or (None) does not.

        Raises StoreUnavailable, IndexUnavailable.
        """
        name, owner, tables = self._index.identity, _an_owner(), self._store.indexing
        try:
            while (indexed := await tables.take(space.number, name, owner, lasts_s=_TURN_S)) is None and wait:
                await self.advanced(_TURN_RETRY_S)
            yield None if indexed is None else Turn(field_of(scope, space), name, owner, indexed)
        finally:  # also where we gave up while we asked for it: nobody else's is over by that
            await finished(self._release(space.number, name, owner))

    async def _release(self, number: int, name: str, owner: str) -> None:
        with contextlib.suppress(StoreUnavailable, Overloaded):
            await self._store.indexing.release(number, name, owner)

    async def renew(self, turn: Turn) -> None:
        """The turn lasts longer, and the index has all revisions up to the turn's. Raises IndexUnavailable where it was lost."""
        self._check_same(turn)
        if not await self._store.indexing.advance(turn.field.number, turn.index, turn.owner, turn.indexed, lasts_s=_TURN_S):
            raise IndexUnavailable(problem=f"the index of {turn.field.scope.namespace!r} was begun anew meanwhile")
        self._advanced.set()
        self._advanced = asyncio.Event()

    def _check_same(self, turn: Turn) -> None:
        """What is known of an index that was begun anew is no longer true. Raises IndexUnavailable."""
        if self._index.identity != turn.index:
            raise IndexUnavailable(problem="the index was begun anew meanwhile")

    async def feed(self, turn: Turn, newest: int) -> None:
        """Brings the index up to the `newest` revision, and what was written since. Raises as `turn`."""
        if turn.indexed == 0:
            await self._index.drop(turn.field)  # whatever it has of it from before is not known to be so
        tables = self._store.indexing
        while changed := await tables.changed(turn.field.number, after=turn.indexed, limit=_MEMORIES_AT_ONCE):
            self._metrics.lag_seconds.set(time.time() - changed[0].update_time_us / 1e6)
            await self.apply(turn, changed)
            turn.indexed = changed[-1].revision
            await self.renew(turn)
        if turn.indexed < newest:  # the newest write left nothing that is still there
            turn.indexed = newest
            await self.renew(turn)

    async def apply(self, turn: Turn, memories: Sequence[Memory], gone: Collection[str] = ()) -> None:
        """Makes the index have these as they are, and nothing of what is `gone`. Raises IndexUnavailable, StoreUnavailable."""
        puts = [_point(m) for m in memories if m.vector is not None and not m.delete_time_us]
        put = {p.key for p in puts}
        self._check_same(turn)
        began = time.monotonic()
        try:
            async with asyncio.timeout(_STEP_S):  # whoever has the next turn may know better by the time that this is done
                refused = await self._index.apply(turn.field, puts, [*(m.key for m in memories if m.key not in put), *gone])
        except TimeoutError as error:
            problem = f"{len(memories)} memories are not taken in within {_STEP_S:g} s; they are sent again"
            raise IndexUnavailable(problem=problem) from error
        self._metrics.apply_seconds.observe(time.monotonic() - began)
        self._metrics.applied.inc(len(memories))
        if not refused:
            return
        self._metrics.refused.inc(len(refused))
        for each in refused[:_REFUSALS_LOGGED]:
            _log.error("the vector index does not take %r of %r: %s", each.key, turn.field.scope.namespace, each.reason)
        now_us = time.time_ns() // 1000
        letters = [DeadLetter(each.key, each.revision, each.reason, now_us) for each in refused]
        await self._store.indexing.refuse(turn.field.number, turn.index, letters)

    # ---- those who wait for it

    async def until_indexed(self, scope: Scope, revision: int, until_s: float) -> bool:
        """Waits until the index has a revision, or until `until_s` on time.monotonic(); whether it has."""
        while not _has(await self.progress(scope), revision):
            await self.advanced(min(_LOOK_S, until_s - time.monotonic()))
            if time.monotonic() >= until_s:
                return False
        return True

    async def advanced(self, at_most_s: float) -> None:
        """Waits until this process has fed the index with something, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._advanced.wait()

    def _set(self, *, ok: bool, detail: str) -> None:
        self._metrics.ok.set(ok)
        before, self._component = self._component, Component(self._index.name, ok=ok, detail=detail, needed=False)
        if not ok and (before.ok or before.detail != detail):
            _log.warning("%s", detail)
        elif ok and not before.ok:
            _log.info("the vector index is there: %s", detail)


def _an_owner() -> str:
    return secrets.token_hex(8)


def field_of(scope: Scope, space: Space) -> Field:
    """Where the vectors of a namespace lie."""
    return Field(scope, space.number, space.dimension, space.distance)


def _has(progress: Progress | None, revision: int) -> bool:
    """Whether there is nothing of a namespace up to a revision that the index lacks; without a vector there is none."""
    return progress is None or progress.indexed >= revision or not progress.space.dimension


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
