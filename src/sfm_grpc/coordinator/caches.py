"""A person's view of the cache before the store, and a person's word on it: `sfm cache status`, `off`, `on`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.coordinator.names import check_name
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import CacheSeen, Scope
from sfm_grpc.storage.contract import CachedStore
from sfm_grpc.storage.leases import LeaseCache

PAGE_SIZE_DEFAULT = 50
_AT_ONCE = 200
_DIGEST_BYTES = 16


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
        if not 0 <= page_size <= self._page_size_max:
            raise InvalidRequest(field="page_size", problem=f"is {page_size}; it must be 1 to {self._page_size_max}, or 0")
        size = page_size or min(PAGE_SIZE_DEFAULT, self._page_size_max)
        found = await self._store.caches(tenant, after=_after(tenant, page_token), limit=size)
        return CacheReport(configured, ok, detail, found, _token(tenant, found[-1][0]) if len(found) == size else "")

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


def _token(tenant: str, name: str) -> str:
    return base64.urlsafe_b64encode(_digest(tenant) + name.encode()).decode()


def _after(tenant: str, token: str) -> str:
    """The name that a token continues after. Raises InvalidRequest for another list's."""
    if not token:
        return ""
    try:
        raw = base64.urlsafe_b64decode(token.encode())
        if raw[:_DIGEST_BYTES] == _digest(tenant):
            return raw[_DIGEST_BYTES:].decode()
    except (ValueError, binascii.Error):
        pass
    raise InvalidRequest(field="page_token", problem="is not a token of this list; send next_page_token unchanged")


def _digest(tenant: str) -> bytes:
    return hashlib.sha256(f"caches of {tenant}".encode()).digest()[:_DIGEST_BYTES]
