"""The fast path of reads where a cache stands before the store: what it says is live, fetched, filled and renewed.

Nothing here is needed for an answer: where the cache cannot be asked, the store is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TypeAlias

from sfm_grpc.coordinator.contents import Contents
from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.coordinator.presence import Component
from sfm_grpc.coordinator.shared import SharedQuestions
from sfm_grpc.metrics import CacheMetrics
from sfm_grpc.model import CacheSeen, CacheState, Scope, Version
from sfm_grpc.storage.in_process import Snapshot, SnapshotCache
from sfm_grpc.storage.leases import CacheUnavailable, Live, Missed

_log = logging.getLogger(__name__)

_STRANGERS_KEPT = 1024

_Wanted: TypeAlias = tuple[Scope, bytes, tuple[str, ...] | None]


class Leases:
    """One process's view of its cache."""

    def __init__(self, contents: Contents, snapshots: SnapshotCache, fences: Fences, metrics: CacheMetrics) -> None:
        self._cache = contents.cache
        self._snapshots = snapshots
        self._fences = fences
        self._contents = contents
        self._checks: SharedQuestions[Scope, Live | Missed | None] = SharedQuestions(self._check)
        self._fetches: SharedQuestions[_Wanted, Snapshot | None] = SharedQuestions(self._fetch)
        self._filling: dict[Scope, asyncio.Task[None]] = {}
        self._strangers: dict[Scope, str] = {}
        """Namespaces whose registered cache is not this one, and which it is."""
        self._found = {name: metrics.checks.labels(name) for name in ("live", "miss", "trouble")}
        metrics.strange.set_function(lambda: len(self._strangers))

    @property
    def ok(self) -> bool:
        """The cache answers."""
        return self._cache.ok

    def component(self) -> Component:
        """How the cache is, as a part that reads can do without."""
        detail, strangers = self._cache.detail, len(self._strangers)
        if strangers:
            scope = next(iter(self._strangers))
            detail += f"; not the one that is registered for {strangers} namespaces, the first is {scope.namespace!r}"
        return Component("redis", ok=self._cache.ok and not strangers, detail=detail, needed=False)

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = list(self._filling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what is live

    async def check(self, scope: Scope) -> Live | Missed | None:
        """What the cache says now; None where it does not, in time. Those who wait for an answer share the next one."""
        return await self._checks.answer(scope)

    async def _check(self, scope: Scope) -> Live | Missed | None:
        try:
            found = await self._cache.check(scope)
        except CacheUnavailable:
            self._found["trouble"].inc()
            return None
        self._found["live" if isinstance(found, Live) else "miss"].inc()
        return found

    async def snapshot(self, scope: Scope, manifest: bytes, keys: tuple[str, ...] | None) -> Snapshot | None:
        """A version by its manifest, with the numbers of `keys` (() all, None none), from memory or from the cache.

        None where the cache has not all of it. What comes is checked against its digests.
        """
        kept = self._snapshots.get(scope)
        if kept is not None and kept.manifest_name == manifest and _wanted_of(kept.version, keys) <= kept.numbers.keys():
            return kept
        return await self._fetches.answer((scope, manifest, keys))

    async def _fetch(self, wanted: _Wanted) -> Snapshot | None:
        scope, manifest, keys = wanted
        asked_us, asked_s = time.time_ns() // 1000, time.monotonic()
        kept = self._snapshots.get(scope)
        have = kept.numbers if kept else {}
        try:
            known = kept.version if kept is not None and kept.manifest_name == manifest else None
            version = known or await self._contents.version(scope, manifest)
            if version is None:
                return None
            numbers = await self._contents.numbers(scope, _wanted_of(version, keys) - have.keys())
        except CacheUnavailable:
            return None
        if numbers is None:
            return None
        return self._snapshots.keep(scope, version, {**have, **numbers}, as_of_us=asked_us, asked_s=asked_s)

    # ---- filling

    def looked(self, scope: Scope, missed: Missed, seen: CacheSeen | None, snapshot: Snapshot) -> None:
        """After a miss the store was read: fills the cache, or has it mended where it may not be filled. Nobody waits for it."""
        if seen is None:
            return
        if seen.state is not CacheState.ON or seen.name != missed.name:
            self._note_stranger(scope, seen)
            self._fences.mend_soon(scope, seen, missed.name)
            return
        self._strangers.pop(scope, None)
        if missed.token and scope not in self._filling and snapshot.version.version == seen.version:
            task = self._filling[scope] = asyncio.create_task(self._fill(scope, missed, snapshot))
            task.add_done_callback(lambda done: self._filled(scope, done))

    async def _fill(self, scope: Scope, missed: Missed, snapshot: Snapshot) -> None:
        gone = await self._cache.fill(scope, missed, snapshot.version.version, snapshot.manifest_name)
        if gone is not None:
            await self._contents.became_live(scope, snapshot.version, snapshot.numbers, gone)

    def _filled(self, scope: Scope, task: asyncio.Task[None]) -> None:
        del self._filling[scope]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, CacheUnavailable):
            _log.error("filling the cache failed", exc_info=error)

    def _note_stranger(self, scope: Scope, seen: CacheSeen) -> None:
        if seen.state is CacheState.ON:
            if len(self._strangers) >= _STRANGERS_KEPT:
                self._strangers.clear()
            self._strangers[scope] = seen.name
        else:
            self._strangers.pop(scope, None)


def _wanted_of(version: Version, keys: tuple[str, ...] | None) -> set[bytes]:
    return set() if keys is None else version.digests(keys)
