"""What lies in the cache beside the leases: manifests and numbers, kept while they are live, and let go when they are not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from sfm_grpc.model import Buffer, Scope, Version
from sfm_grpc.storage.leases import LeaseCache
from sfm_grpc.storage.manifest import manifest_of, name_of, version_from

_NAMESPACES_KEPT = 4096


class Contents:
    """Hygiene only: what is gone too early is read from the store, and what stays too long takes room for an hour."""

    def __init__(self, cache: LeaseCache) -> None:
        self._cache = cache
        self._named: OrderedDict[Scope, tuple[bytes, Collection[bytes]]] = OrderedDict()
        """The manifest that became live last, as far as this process knows, and what it names."""

    async def became_live(self, scope: Scope, version: Version, numbers: Mapping[bytes, Buffer], gone: bytes) -> None:
        """A version is live, instead of another manifest's (b"": of none): it stays, with those of its numbers that are at hand.

        Raises CacheUnavailable.
        """
        manifest = manifest_of(version)
        name, live = name_of(manifest), {e.certificate.digest for e in version.entries}
        known = self._named.get(scope)
        self._named[scope] = name, live
        self._named.move_to_end(scope)
        if len(self._named) > _NAMESPACES_KEPT:
            self._named.popitem(last=False)
        await self._cache.hold(scope, {name: manifest, **{digest: numbers.get(digest) for digest in live}})
        if gone and gone != name:
            named = known[1] if known is not None and known[0] == gone else await self._names_of(scope, gone)
            await self._cache.let_go(scope, {gone, *named} - live)

    async def _names_of(self, scope: Scope, manifest: bytes) -> Collection[bytes]:
        """What a manifest names that somebody else made live."""
        [found] = await self._cache.fetch(scope, [manifest])
        version = version_from(found, manifest) if found else None
        return {e.certificate.digest for e in version.entries} if version else ()
