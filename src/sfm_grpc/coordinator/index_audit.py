"""Compares what a vector index has of a namespace with its memories, and mends it.

Both sides are folded into a table of counts and sums first, which takes no room, whatever their order; only where these differ,
keys are looked at. It has the turn meanwhile, so that the index stays as it is; what is written meanwhile has a revision above
the turn's, and is not yet the index's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from sfm_grpc.coordinator import names
from sfm_grpc.coordinator.indexing import Indexer, Turn
from sfm_grpc.errors import IndexUnavailable, NotFound
from sfm_grpc.model import Scope
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.index_contract import Progress
from sfm_grpc.storage.vectors.contract import VectorIndex

_BUCKETS = 1024
_AT_ONCE = 2_000
# So many keys of each side are held to be compared.
_HELD_MAX = 200_000
_MENDED_AT_ONCE = 500
_SAMPLE_MAX = 100
_REFUSED_MAX = 100_000
_MASK = (1 << 64) - 1
# Odd, from the golden ratio: what is multiplied by it is spread over all bits.
_SPREAD = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Step:
    """How far it is."""

    phase: str
    done: int
    total: int


@dataclass(slots=True)
class Report:
    """What was found, and what was done about it."""

    indexed: int
    memories: int = 0
    points: int = 0
    memories_sum: int = 0
    points_sum: int = 0
    missing: int = 0
    orphaned: int = 0
    stale: int = 0
    refused: int = 0
    sample: list[str] = field(default_factory=list)
    mended: int = 0

    @property
    def wrong(self) -> int:
        """How many keys are not as they should be."""
        return self.missing + self.orphaned + self.stale


class Fold:
    """Keys and revisions, folded: the same whatever their order."""

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.sums = [0] * _BUCKETS

    def add(self, pairs: Sequence[tuple[str, int]]) -> None:
        """Takes in keys and their revisions."""
        for key, revision in pairs:
            hashed = _hashed(key)
            place = hashed % _BUCKETS
            self.counts[place] += 1
            self.sums[place] = (self.sums[place] + ((hashed ^ revision) * _SPREAD)) & _MASK

    @property
    def count(self) -> int:
        """Of all."""
        return sum(self.counts)

    @property
    def sum(self) -> int:
        """Over all: 64 bits."""
        return sum(self.sums) & _MASK

    def differing(self, other: Fold) -> list[int]:
        """Where the two are not the same."""
        return [i for i in range(_BUCKETS) if (self.counts[i], self.sums[i]) != (other.counts[i], other.sums[i])]


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Keys that are not as they should be."""

    missing: list[str]
    orphaned: list[str]
    stale: list[str]


class IndexAudit:
    """What VerifyIndex and RepairIndex ask for."""

    def __init__(self, store: Store, index: VectorIndex, indexer: Indexer) -> None:
        self._store = store
        self._index = index
        self._indexer = indexer

    async def verify(self, scope: Scope, *, mend: bool = False) -> AsyncGenerator[Step | Report, None]:
        """Compares, and with `mend` puts right what is wrong, and compares again: steps, and the report at the end.

        Raises InvalidRequest, NotFound (namespace), IndexUnavailable, StoreUnavailable.
        """
        names.check_name(scope.namespace, "namespace")
        progress = await self._progress(scope)
        if not progress.space.dimension:
            yield Report(progress.space.revision)
            return
        mended = 0
        async with self._indexer.turn(scope, progress.space) as turn:
            assert turn is not None, "it was waited for"
            yield Step("feeding", turn.indexed, progress.space.revision)
            await self._indexer.feed(turn, progress.space.revision)
            for again in (False, True):
                report = Report(turn.indexed, mended=mended)
                async for step in self._compare(turn, report, mend=mend and not again):
                    yield step
                mended = report.mended
                if not (mend and report.wrong) or again:
                    break
        yield report

    async def rebuild(self, scope: Scope) -> AsyncGenerator[Step | Report, None]:
        """Has all of it made anew, and verifies it. Raises as `verify`.

        Whoever asks may go away: it is fed all the same.
        """
        names.check_name(scope.namespace, "namespace")
        begun = await self._progress(scope)
        await self._store.indexing.forget(begun.space.number, self._index.identity)
        self._indexer.written()
        newest = begun.space.revision
        while begun.space.dimension:
            progress = await self._progress(scope)
            yield Step("feeding", progress.indexed, newest)
            if progress.indexed >= newest or progress.space.number != begun.space.number:
                break
            if not self._indexer.component().ok:
                raise IndexUnavailable(problem=self._indexer.component().detail)
            await self._indexer.advanced(1.0)
        async for each in self.verify(scope):
            yield each

    async def _progress(self, scope: Scope) -> Progress:
        found = await self._indexer.progress(scope)
        if found is None:
            raise NotFound(what="namespace", namespace=scope.namespace)
        return found

    # ---- comparing

    async def _compare(self, turn: Turn, report: Report, *, mend: bool) -> AsyncIterator[Step]:
        kept, pointed = Fold(), Fold()
        total = await self._index.count(turn.field)
        async for pairs in self._kept(turn):
            kept.add(pairs)
            yield Step("counting memories", kept.count, 0)
        async for pairs in self._pointed(turn):
            pointed.add(pairs)
            yield Step("counting points", pointed.count, total)
        report.memories, report.points = kept.count, pointed.count
        report.memories_sum, report.points_sum = kept.sum, pointed.sum
        groups = _groups(kept.differing(pointed), kept, pointed)
        for done, places in enumerate(groups):
            yield Step("comparing", done, len(groups))
            wrong = await self._differences(turn, places, report)
            if mend:
                await self._mend(turn, wrong, report)

    async def _kept(self, turn: Turn) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """What the index should have, up to the turn's revision."""
        after = ""
        while found := await self._store.indexing.pointed(turn.field.number, after=after, limit=_AT_ONCE):
            await self._indexer.renew(turn)
            yield [(key, revision) for key, revision in found if revision <= turn.indexed]
            after = found[-1][0]

    async def _pointed(self, turn: Turn) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """What the index has."""
        found, after = await self._index.scan(turn.field, after="", limit=_AT_ONCE)
        yield found
        while after:
            await self._indexer.renew(turn)
            found, after = await self._index.scan(turn.field, after=after, limit=_AT_ONCE)
            yield found

    async def _differences(self, turn: Turn, places: Collection[int], report: Report) -> _Wrong:
        kept = {key: revision async for pairs in self._kept(turn) for key, revision in pairs if _place(key) in places}
        pointed = {key: revision async for pairs in self._pointed(turn) for key, revision in pairs if _place(key) in places}
        refused = {each.key for each in await self._indexer.refused(turn.field.number, _REFUSED_MAX)}
        absent = [key for key in kept if key not in pointed]
        missing = [key for key in absent if key not in refused]
        stale = [key for key, revision in pointed.items() if kept.get(key, revision) != revision]
        orphaned = await self._orphaned(turn, [key for key in pointed if key not in kept])
        report.missing += len(missing)
        report.refused += len(absent) - len(missing)
        report.stale += len(stale)
        report.orphaned += len(orphaned)
        report.sample += [*missing, *stale, *orphaned][: _SAMPLE_MAX - len(report.sample)]
        return _Wrong(missing, orphaned, stale)

    async def _orphaned(self, turn: Turn, keys: Sequence[str]) -> list[str]:
        """Those of these keys of which the index should have noticed that there is nothing to be found any more."""
        orphaned: list[str] = []
        for some in _parts(keys):
            later = {m.key for m in await self._store.indexing.get(turn.field.number, some) if m.revision > turn.indexed}
            orphaned += [key for key in some if key not in later]
        return orphaned

    async def _mend(self, turn: Turn, wrong: _Wrong, report: Report) -> None:
        for some in _parts([*wrong.missing, *wrong.stale]):
            await self._indexer.apply(turn, await self._store.indexing.get(turn.field.number, some))
            await self._indexer.renew(turn)
            report.mended += len(some)
        for some in _parts(wrong.orphaned):
            await self._indexer.apply(turn, (), some)
            await self._indexer.renew(turn)
            report.mended += len(some)


def _hashed(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _place(key: str) -> int:
    return _hashed(key) % _BUCKETS


def _groups(differing: Sequence[int], kept: Fold, pointed: Fold) -> list[frozenset[int]]:
    """Places to be looked at together, few enough that their keys can be held."""
    groups: list[set[int]] = []
    held = _HELD_MAX
    for place in differing:
        size = kept.counts[place] + pointed.counts[place]
        if held + size > _HELD_MAX:
            groups.append(set())
            held = 0
        groups[-1].add(place)
        held += size
    return [frozenset(group) for group in groups]


def _parts(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[at : at + _MENDED_AT_ONCE] for at in range(0, len(keys), _MENDED_AT_ONCE)]
