"""A person's view of the cache before the store, and a person's word on it: `sfm cache status`, `off`, `on`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator import pages
from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.coordinator.names import check_name
from sfm_grpc.coordinator.pages import PageTokens
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import CacheSeen, Scope
from sfm_grpc.storage.contract import CachedStore
from sfm_grpc.storage.leases import LeaseCache

_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class CacheReport:
    """How the cache is, and a page of the namespaces before which it may stand."""

    configured: bool
    ok: bool
    detail: str
    namespaces: Sequence[tuple[str, CacheSeen]]
    next_page_token: str


class Caches:
    """What GetRhoCache and SetRhoCache ask for."""

    def __init__(self, store: CachedStore | None, fences: Fences | None, cache: LeaseCache | None, *, page_size_max: int) -> None:
        """`store`: None where no cache can stand before it."""
        self._store = store
        self._fences = fences
        self._cache = cache
        self._page_size_max = page_size_max

    async def report(self, tenant: str, namespace: str, page_size: int, page_token: str) -> CacheReport:
        """Raises InvalidRequest, NotFound, StoreUnavailable."""
        configured, ok = self._cache is not None, self._cache is None or self._cache.ok
        detail = self._cache.detail if self._cache else "none is configured" if self._store else "the embedded store needs none"
        if self._store is None:
            return CacheReport(configured, ok, detail, (), "")
        if namespace:
            check_name(namespace, "namespace")
            return CacheReport(configured, ok, detail, [(namespace, await self._store.cache_seen(Scope(tenant, namespace)))], "")
        size, tokens = pages.size(page_size, self._page_size_max), PageTokens("caches", tenant)
        found = await self._store.caches(tenant, after=tokens.name(page_token), limit=size + 1)
        token = tokens.after(found[size - 1][0]) if len(found) > size else ""
        return CacheReport(configured, ok, detail, found[:size], token)

    async def set(self, tenant: str, namespace: str, *, every: bool, enabled: bool) -> int:
        """Turns it off and waits until it is drained, or lets it be used; how many namespaces there are.

        Raises InvalidRequest, NotFound, StoreUnavailable.
        """
        if self._store is None or self._fences is None:
            raise InvalidRequest(field="namespace", problem="is in the embedded store, before which no cache stands")
        if bool(namespace) is every:
            raise InvalidRequest(field="namespace", problem="is required, or `all` without one")
        if namespace:
            check_name(namespace, "namespace")
            await self._store.cache_seen(Scope(tenant, namespace))  # raises NotFound
        count = await self._store.cache_hold(tenant, namespace, held=not enabled)
        if not enabled:
            await self._drain(self._store, self._fences, tenant, namespace)
        return count

    async def _drain(self, store: CachedStore, fences: Fences, tenant: str, namespace: str) -> None:
        if namespace:
            await fences.drain(Scope(tenant, namespace))
            return
        after = ""
        while found := await store.caches(tenant, after=after, limit=_AT_ONCE):
            await asyncio.gather(*(fences.drain(Scope(tenant, name)) for name, _ in found))
            after = found[-1][0]
