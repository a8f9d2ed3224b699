"""What must be so before a version is told: nothing older can be read from the cache any more, wherever and by whomever.

A version is told by the answer to a mutation (the first one, a replay, a conflict), by an event, by Watch. Before that it is
fenced in the registered cache; where that cannot be reached, the cache is drained: turned off in the store, and its last lease
waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from typing import Any

from sfm_grpc.coordinator.contents import Contents
from sfm_grpc.errors import Overloaded, SfmError, StoreUnavailable
from sfm_grpc.metrics import CacheMetrics
from sfm_grpc.model import CacheSeen, CacheState, PutMatrix, Scope, Transaction, Version
from sfm_grpc.storage.contract import CachedStore
from sfm_grpc.storage.leases import LEASE_S, MARGIN_S, CacheUnavailable, Planted
from sfm_grpc.storage.manifest import manifest_of, name_of

_log = logging.getLogger(__name__)

_TRY_AGAIN_S = 0.02
# A namespace whose cache was turned on here before waits so long until the next time, then twice as long, and so on: two servers
# with different caches would turn it on and off in turn.
_AGAIN_MIN_S, _AGAIN_MAX_S = 1.0, 300.0
_FORGIVEN_S = 600.0
_NAMESPACES_KEPT = 16_384
_TOLD_AT_ONCE = 32


class Fences:
    """Fences what is told, drains where it cannot, and turns caches on again."""

    def __init__(self, store: CachedStore, contents: Contents | None, metrics: CacheMetrics, *, fence_timeout_s: float) -> None:
        """`contents`: None where this process has no cache. Others may have one: before we tell, it is drained."""
        self._store = store
        self._contents = contents
        self._cache = contents.cache if contents is not None else None
        self._metrics = metrics
        self._fence_timeout_s = fence_timeout_s
        self._drains: dict[Scope, asyncio.Task[CacheSeen]] = {}
        self._turned_on: OrderedDict[Scope, tuple[int, float]] = OrderedDict()
        """How often a namespace's cache was turned on lately, and when it was last, on time.monotonic()."""
        self._under_way: set[asyncio.Task[Any]] = set()
        metrics.draining.set_function(lambda: len(self._drains))

    async def close(self) -> None:
        """Ends what is under way in the background. A drain that is cut off is finished by whoever commits next."""
        tasks = [*self._under_way, *self._drains.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- before a transaction is sent

    async def plant(self, scope: Scope, expected: int | None) -> Planted | None:
        """A writer's token, and whether the commit has lost already; None where the cache cannot be asked."""
        if self._cache is None:
            return None
        try:
            return await self._cache.plant(scope, expected)
        except CacheUnavailable:
            return None

    def stage(self, transaction: Transaction) -> None:
        """Brings the numbers of a transaction into the cache while it is executed, so that others find them there at once."""
        if self._cache is None or not self._cache.ok or transaction.validate_only:
            return
        puts = {c.certificate.digest: c.matrix.numbers for c in transaction.changes if isinstance(c, PutMatrix)}
        if puts:
            self._later(self._cache.stage(transaction.scope, puts))

    # ---- before a version is told

    async def tell(
        self,
        scope: Scope,
        number: int,
        seen: CacheSeen | None,
        *,
        planted: Planted | None = None,
        version: Version | None = None,
    ) -> None:
        """Returns when version `number` may be told; `seen` is of a look that saw it. With its `version` it may become live, too.

        A caller that gives up changes nothing about that. Raises StoreUnavailable when it can neither be fenced nor drained.
        """
        if seen is None or number == 0:
            return
        if seen.state is CacheState.DRAINED:
            if planted is not None:
                self.mend_soon(scope, seen, planted.name)
            return
        begun = time.monotonic()
        may_fill = planted is not None and version is not None and seen.state is CacheState.ON and planted.name == seen.name
        while not await self._fenced(scope, number, seen, planted if may_fill else None, version):
            seen = await self._drained(scope, seen)
            if seen.state is CacheState.DRAINED:
                break
            may_fill = False  # it is on again meanwhile: another epoch, of which this transaction knows nothing
        self._metrics.fence_seconds.observe(time.monotonic() - begun)

    async def tell_all(self, numbers: Mapping[Scope, int]) -> None:
        """The same of versions of many namespaces, each of which the store has by now. Raises StoreUnavailable."""
        seen = await self._store.caches_seen(numbers.keys())
        cached = [scope for scope, found in seen.items() if found.state is not CacheState.DRAINED]
        for at in range(0, len(cached), _TOLD_AT_ONCE):
            some = cached[at : at + _TOLD_AT_ONCE]
            await asyncio.gather(*(self.tell(s, min(seen[s].version, numbers[s]), seen[s]) for s in some))

    async def tell_refusal(self, scope: Scope, error: SfmError) -> None:
        """The same before a refusal that names the namespace's version."""
        current = getattr(error, "current", 0)
        if current:
            seen = error.seen if isinstance(error.seen, CacheSeen) else await self._store.cache_seen(scope)
            await self.tell(scope, min(seen.version, current), seen)

    async def _fenced(self, scope: Scope, number: int, seen: CacheSeen, planted: Planted | None, version: Version | None) -> bool:
        """Tries for as long as it may take; False: it cannot be fenced from here."""
        cache = self._cache
        if cache is None or not cache.is_ours(seen.name):
            return False
        name = name_of(manifest_of(version)) if version is not None else b""
        until = time.monotonic() + self._fence_timeout_s
        while not cache.gone:
            try:
                gone = await cache.publish(scope, planted, seen.name, number, name)
            except CacheUnavailable as error:
                if time.monotonic() + _TRY_AGAIN_S > until:
                    _log.warning("version %d of %r cannot be fenced: %s", number, scope.namespace, error)
                    return False
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            if gone is not None and version is not None and self._contents is not None:
                self._later(self._contents.became_live(scope, version, {}, gone))
            return gone is not None
        return False

    # ---- draining

    async def drain(self, scope: Scope) -> None:
        """Waits until no lease of the namespace stands; none will until a cache is registered again. Raises StoreUnavailable."""
        seen = await self._store.cache_seen(scope)
        if seen.state is not CacheState.DRAINED:
            await self._drained(scope, seen)

    async def _drained(self, scope: Scope, seen: CacheSeen) -> CacheSeen:
        """Waits until no lease of the epoch that was seen stands any more; what the row says then, drained or on again."""
        while True:
            task = self._drains.get(scope) or self._begin_drain(scope)
            try:
                found = await asyncio.shield(task)
            except (StoreUnavailable, Overloaded) as error:
                # It happened, and nobody may know before this is done: for the caller that is as unknown as it can be.
                problem = error.problem if isinstance(error, StoreUnavailable) else error.sentence()
                raise StoreUnavailable(problem=f"its cache could not be drained: {problem}", outcome_unknown=True) from error
            if found.state is not CacheState.OFF and found.epoch >= seen.epoch:
                return found

    def _begin_drain(self, scope: Scope) -> asyncio.Task[CacheSeen]:
        task = self._drains[scope] = asyncio.create_task(self._drain(scope))
        task.add_done_callback(lambda done: self._drain_ended(scope, done))
        return task

    async def _drain(self, scope: Scope) -> CacheSeen:
        """Off, wait, drained. One task for a namespace; it does not end with whoever began it."""
        seen = await self._store.cache_off(scope)
        while seen.state is CacheState.OFF:
            epoch = seen.epoch
            await asyncio.sleep(LEASE_S + MARGIN_S)
            seen = await self._store.cache_drained(scope, epoch)
            if seen.state is CacheState.DRAINED:
                self._metrics.drains.inc()
                _log.info("the cache of %r (tenant %r) is drained", scope.namespace, scope.tenant)
        return seen

    def _drain_ended(self, scope: Scope, task: asyncio.Task[CacheSeen]) -> None:
        if self._drains.get(scope) is task:
            del self._drains[scope]
        if not task.cancelled():
            task.exception()  # those who wait are told

    # ---- on again

    def mend_soon(self, scope: Scope, seen: CacheSeen, name: str) -> None:
        """In the background: registers the cache that answers here as `name` where it is not, once it has for long enough.

        Where another one is registered, or a drain was left unfinished, the namespace is drained first; the next look registers.
        """
        cache = self._cache
        if seen.held or (seen.state is CacheState.ON and seen.name == name) or cache is None or not cache.is_settled(name):
            return
        times, wait_s = self._waits_s(scope)
        if wait_s > 0:
            return
        if seen.state is not CacheState.DRAINED:
            if scope not in self._drains:
                self._begin_drain(scope)
            return
        self._turned_on[scope] = times + 1, time.monotonic()
        self._turned_on.move_to_end(scope)
        if len(self._turned_on) > _NAMESPACES_KEPT:
            self._turned_on.popitem(last=False)
        self._later(self._on(scope, name))

    def _waits_s(self, scope: Scope) -> tuple[int, float]:
        """How often the namespace's cache was turned on here lately, and how long to wait before it is again."""
        now = time.monotonic()
        times, last = self._turned_on.get(scope, (0, -_FORGIVEN_S))
        if times == 0 or now - last >= _FORGIVEN_S:
            return 0, 0.0
        return times, last + min(_AGAIN_MAX_S, _AGAIN_MIN_S * 2.0 ** min(times, 10)) - now

    async def _on(self, scope: Scope, name: str) -> None:
        seen = await self._store.cache_on(scope, name)
        if seen.state is CacheState.ON and seen.name == name:
            self._metrics.registrations.inc()

    def _later(self, work: Coroutine[Any, Any, object]) -> None:
        """In the background; where it fails, nothing is lost but time."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = isinstance(error, CacheUnavailable | SfmError)
            _log.log(logging.DEBUG if expected else logging.ERROR, "work beside a commit failed: %s", error, exc_info=error)
