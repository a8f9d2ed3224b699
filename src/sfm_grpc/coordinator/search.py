"""Search: the index names candidates, the store says which of them are true."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfm_grpc.coordinator import names
from sfm_grpc.coordinator.indexing import field_of
from sfm_grpc.coordinator.memories import check_filter
from sfm_grpc.errors import IndexUnavailable, InvalidRequest, NotFound
from sfm_grpc.model import Buffer, Distance, Memory, MemoryFilter, Scope
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.vectors.contract import Field, Hit, VectorIndex

LIMIT_DEFAULT = 10
# So many more are asked for than are wanted: some may be gone since they were indexed. Where more were, it is asked again.
_SPARE, _SPARE_SHARE = 4, 0.25
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What is looked for."""

    scope: Scope
    vector: Buffer
    """float32, little-endian."""
    chosen: MemoryFilter
    limit: int
    vectors: bool


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The answer to a search."""

    found: tuple[tuple[Memory, float], ...]
    """Nearest first, each with what the geometry says."""
    indexed_revision: int
    """The index has everything up to here..."""
    newest_revision: int
    """...of everything up to here."""


class MemorySearch:
    """Answers never show what was deleted, has expired, or was written since it was indexed."""

    def __init__(self, store: Store, index: VectorIndex, *, limit_max: int) -> None:
        self._store = store
        self._index = index
        self._limit_max = limit_max

    async def search(self, query: SearchQuery) -> Neighbours:
        """The nearest memories. Raises InvalidRequest, LimitExceeded, NotFound, IndexUnavailable, StoreUnavailable."""
        names.check_name(query.scope.namespace, "namespace")
        check_filter(query.chosen)
        limit = self._limit(query.limit)
        # Before the index is asked: whatever it has by then, it had.
        identity = self._index.identity
        progress = await self._store.indexing.progress(query.scope, identity)
        if progress is None:
            raise NotFound(what="namespace", namespace=query.scope.namespace)
        space = progress.space
        if space.dimension == 0:
            return Neighbours((), space.revision, space.revision)
        _check_vector(query, space.dimension, space.distance)
        found = await self._nearest(query, field_of(query.scope, space), limit)
        if self._index.identity != identity:
            raise IndexUnavailable(problem="it was begun anew while it was searched")
        return Neighbours(found, progress.indexed, space.revision)

    async def _nearest(self, query: SearchQuery, field: Field, limit: int) -> tuple[tuple[Memory, float], ...]:
        now_us, asked = time.time_ns() // 1000, limit + _SPARE + int(limit * _SPARE_SHARE)
        true: list[tuple[Memory, float]] = []
        for _ in range(_ROUNDS):
            hits = await self._index.search(field, query.vector, query.chosen, now_us=now_us, limit=asked)
            true = await self._true(query, hits, now_us)
            if len(true) >= limit or len(hits) < asked:
                break
            asked *= 4
        return tuple(true[:limit])

    async def _true(self, query: SearchQuery, hits: Sequence[Hit], now_us: int) -> list[tuple[Memory, float]]:
        """Those of the hits that are so in the store now."""
        if not hits:
            return []
        keys = [h.key for h in hits]
        found = {m.key: m for m in await self._store.memories.get(query.scope, keys, now_us=now_us, vectors=query.vectors)}
        return [(found[h.key], h.score) for h in hits if h.key in found and found[h.key].revision == h.revision]

    def _limit(self, limit: int) -> int:
        if not 0 <= limit <= self._limit_max:
            raise InvalidRequest(
                field="limit", problem=f"is {limit}; it must be 1 to {self._limit_max}, or 0 for {LIMIT_DEFAULT}"
            )
        return limit or min(LIMIT_DEFAULT, self._limit_max)


def _check_vector(query: SearchQuery, dimension: int, distance: Distance) -> None:
    size, rest = divmod(len(query.vector), 4)
    if rest or size != dimension:
        problem = f"has {size} numbers; the vectors of {query.scope.namespace!r} have {dimension}"
        raise InvalidRequest(field="vector", problem=problem)
    numbers = np.frombuffer(query.vector, "<f4")
    if not np.isfinite(numbers).all():
        raise InvalidRequest(field="vector", problem="has a number that is not finite")
    if distance is Distance.COSINE and not numbers.any():
        raise InvalidRequest(field="vector", problem="is zero; under COSINE it needs a length")
