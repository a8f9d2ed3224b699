"""What lies in the cache beside the leases: manifests and numbers, kept while they are live, let go when they are not."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping

from sfm_grpc.model import Buffer, Scope, Version
from sfm_grpc.storage.leases import LeaseCache
from sfm_grpc.storage.manifest import manifest_of, name_of, version_from

_NAMESPACES_KEPT = 4096
# Fewer bytes than these are hashed sooner than they are handed to a thread.
_HANDED_OVER_BYTES = 64 * 1024


class Contents:
    """Hygiene only: what is gone too early is read from the store, and what stays too long takes room for an hour."""

    def __init__(self, cache: LeaseCache) -> None:
        self.cache = cache
        self._named: OrderedDict[Scope, tuple[bytes, Collection[bytes]]] = OrderedDict()
        """The manifest that became live last, as far as this process knows, and what it names."""

    async def became_live(self, scope: Scope, version: Version, numbers: Mapping[bytes, Buffer], gone: bytes) -> None:
        """A version is live, instead of another manifest's (b"": of none): it stays, with those of its numbers that are at hand.

        Raises CacheUnavailable.
        """
        manifest = manifest_of(version)
        name, live = name_of(manifest), version.digests()
        known = self._named.get(scope)
        self._named[scope] = name, live
        self._named.move_to_end(scope)
        if len(self._named) > _NAMESPACES_KEPT:
            self._named.popitem(last=False)
        await self.cache.hold(scope, {name: manifest, **{digest: numbers.get(digest) for digest in live}})
        if gone and gone != name:
            named = known[1] if known is not None and known[0] == gone else await self._names_of(scope, gone)
            await self.cache.let_go(scope, {gone, *named} - live)

    async def version(self, scope: Scope, manifest: bytes) -> Version | None:
        """The version of a manifest, by its name; None where it is not in the cache. Raises CacheUnavailable."""
        [found] = await self.cache.fetch(scope, [manifest])
        return version_from(found, manifest) if found else None

    async def numbers(self, scope: Scope, digests: Collection[bytes]) -> Mapping[bytes, Buffer] | None:
        """All of these, each as it is named; None where one is not there, or is something else. Raises CacheUnavailable."""
        found = dict(zip(digests, await self.cache.fetch(scope, list(digests)), strict=True))
        numbers = {digest: body for digest, body in found.items() if body is not None}
        return numbers if len(numbers) == len(found) and await _are_as_named(numbers) else None

    async def _names_of(self, scope: Scope, manifest: bytes) -> Collection[bytes]:
        """What a manifest names that somebody else made live."""
        version = await self.version(scope, manifest)
        return version.digests() if version else ()


async def _are_as_named(numbers: Mapping[bytes, Buffer]) -> bool:
    if sum(map(len, numbers.values())) < _HANDED_OVER_BYTES:
        return _hashed(numbers)
    return await asyncio.to_thread(_hashed, numbers)


def _hashed(numbers: Mapping[bytes, Buffer]) -> bool:
    return all(hashlib.sha256(body).digest() == digest for digest, body in numbers.items())
