"""Reads of matrices: which version, how fresh, from where.

The newest version is asked of the store at each read (`peek`, microseconds); only its numbers come from memory. So a read is
never older than anything that was answered before it, to anyone. Nor is it of a history that a backup or a standby replaced: a
store behind a network is also asked for a version by its number, and what it shows to be dead is forgotten.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sfm_grpc.coordinator.leased import Leases
from sfm_grpc.coordinator.names import check_keys, check_name
from sfm_grpc.coordinator.shared import SharedQuestions
from sfm_grpc.errors import NotFound, RhoCorrupt, StoreUnavailable, VersionCompacted, VersionNotReached
from sfm_grpc.model import Buffer, CacheSeen, Entry, Matrix, Scope, Transaction, Version
from sfm_grpc.storage.contract import Reading, Store
from sfm_grpc.storage.in_process import Snapshot, SnapshotCache, is_same_commit
from sfm_grpc.storage.leases import Live, Missed

# An error travels in trailing metadata, of which most clients take 8 KiB; a byte of a name may take eight of them.
_ABSENT_BYTES_TOLD = 640
# A caller that accepts an older answer waits no longer than this for the store.
_STALE_AFTER_S = 0.25


@dataclass(frozen=True, slots=True)
class Query:
    """What a read asks for."""

    scope: Scope
    keys: tuple[str, ...] = ()
    """None named: all."""
    version: int | None = None
    """None: the newest."""
    canonical: bool = False
    """The store says which version is the newest, and what it holds; numbers may come from memory, where their digests match."""
    min_version: int = 0
    max_staleness_us: int | None = None
    known_version: int = 0
    numbers: bool = True

    @property
    def wanted(self) -> tuple[str, ...] | None:
        """Whose numbers may have to be moved: () all, None none."""
        return self.keys if self.numbers else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a read found."""

    snapshot: Snapshot
    entries: tuple[Entry, ...]
    """Those that were asked for."""
    newest: bool
    """It was read as the newest version, and `snapshot.as_of_us` says when it was that."""
    cached: bool
    degraded: bool
    not_modified: bool

    @property
    def version(self) -> Version:
        """The version that is answered."""
        return self.snapshot.version


_Look: TypeAlias = tuple[Scope, tuple[str, ...], bool]
"""Whose newest version; which keys' numbers; whether any."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at the store found."""

    snapshot: Snapshot
    seen: CacheSeen | None
    known: bool
    """It is what memory held."""


class Reads:
    """Decides where an answer comes from."""

    def __init__(
        self,
        store: Store,
        cache: SnapshotCache,
        leases: Leases | None = None,
        *,
        keys_max: int,
        on_corrupt: Callable[[Scope, RhoCorrupt], None],
    ) -> None:
        """`leases`: where a cache says which version is live."""
        self._store = store
        self._cache = cache
        self._leases = leases
        self._keys_max = keys_max
        self._on_corrupt = on_corrupt
        self._looks: SharedQuestions[_Look, _Seen] = SharedQuestions(self._look)
        self._store_degraded = False

    @property
    def degraded(self) -> bool:
        """The fast path is not there: the cache does not answer, or the store did not to the last read that asked it."""
        return self._store_degraded or (self._leases is not None and not self._leases.ok)

    async def get(self, query: Query) -> Answer:
        """Answers a query.

        Raises InvalidRequest, LimitExceeded, NotFound (namespace, version, keys), VersionCompacted, VersionNotReached,
        RhoCorrupt, StoreUnavailable.
        """
        self._check(query)
        if query.version is not None:
            return await self._exact(query, query.version)
        if query.canonical:
            return await self._canonical(query, degraded=False)
        return await (self._peeked(query) if self._leases is None else self._leased(query, self._leases))

    async def _peeked(self, query: Query) -> Answer:
        """CACHED, where the store itself says at once which version is the newest, or nobody does."""
        number = self._store.peek(query.scope)
        degraded = number is None and self._store.peeks
        self._store_degraded = degraded
        live = self._live(query, number)
        if live is not None:
            return live
        try:
            return await self._canonical(query, degraded=degraded)
        except StoreUnavailable:
            self._store_degraded = True
            stale = self._stale(query, self._cache.get(query.scope))
            if stale is None:
                raise
            return stale

    async def _leased(self, query: Query, leases: Leases) -> Answer:
        """CACHED, where a cache says which version is live; the store, where it does not."""
        found = await leases.check(query.scope)
        if isinstance(found, Live):
            live = await self._of_live(query, found, leases)
            if live is not None:
                return live
        missed = found if isinstance(found, Missed) else None
        asking = self._canonical(query, degraded=found is None, missed=missed)
        if query.max_staleness_us is None:
            return await asking
        return await self._or_stale(query, asyncio.ensure_future(asking), leases, missed)

    async def _of_live(self, query: Query, found: Live, leases: Leases) -> Answer | None:
        """The live version's answer; None where it is older than the caller knows of, or not at hand whole."""
        if found.version < query.min_version:
            return None
        wanted = None if found.version == query.known_version else query.wanted
        snapshot = await leases.snapshot(query.scope, found.manifest, wanted)
        if snapshot is None:
            return None
        snapshot.as_of_us = max(snapshot.as_of_us, _now_us())
        return self._answer(query, snapshot, self._chosen(query, snapshot.version), cached=True)

    async def _or_stale(self, query: Query, asking: asyncio.Future[Answer], leases: Leases, missed: Missed | None) -> Answer:
        """What the store says; where it cannot, or not soon, what was true as lately as the caller wants it."""
        done, _ = await asyncio.wait({asking}, timeout=_STALE_AFTER_S)
        if done and not isinstance(asking.exception(), StoreUnavailable):
            return asking.result()
        stale = self._stale(query, self._cache.get(query.scope))
        if stale is None and missed is not None and missed.version and query.max_staleness_us is not None:
            since_us = _now_us() - int(missed.age_s * 1e6)
            expired = await leases.snapshot(query.scope, missed.manifest, query.wanted)
            stale = self._stale(query, replace(expired, as_of_us=since_us) if expired else None)
        if stale is None:
            return await asking
        asking.cancel()
        return stale

    def _check(self, query: Query) -> None:
        check_name(query.scope.namespace, "namespace")
        check_keys(query.keys, self._keys_max)

    def committed(self, scope: Scope, version: Version, transaction: Transaction) -> None:
        """Keeps what a commit has just made: its listener."""
        old = self._cache.get(scope)
        if old is not None and old.version.version >= version.version:
            # A read saw a later commit before this one was told, or what is kept is of a dead history. A commit does not know
            # when the store was asked, so it cannot tell which; the next read can.
            self._cache.drop(scope)
            return
        at_hand = dict(old.numbers) if old else {}
        for change in transaction.changes:
            matrix: Matrix | None = getattr(change, "matrix", None)
            certificate = getattr(change, "certificate", None)
            if matrix is not None and certificate is not None:
                at_hand[certificate.digest] = _own(matrix.numbers)
        self._cache.keep(scope, version, at_hand, as_of_us=_now_us(), asked_s=time.monotonic())

    async def matrices(self, scope: Scope, version: int, keys: Sequence[str]) -> Mapping[str, Matrix]:
        """Those of `keys` that `version` holds, to compare with what follows it; none where they cannot be read.

        Should the version no longer be the newest, the commit that compares with it fails anyway.
        """
        if version == 0 or not keys:
            return {}
        kept = self._cache.get(scope)
        if kept is not None and kept.version.version == version:
            # Not asked whether it still is that one: it would cost each commit a round trip. Where history was replaced, a step
            # is measured from the wrong matrix until a read has looked; what is stored is right all the same.
            entries = tuple(e for e in kept.version.entries if e.key in keys)
            if _at_hand(entries, kept.numbers):
                return _matrices(entries, kept.numbers)
        try:
            reading = await self._ask(scope, kept, number=version, keys=keys)
        except (NotFound, VersionCompacted, RhoCorrupt):
            # A corrupt head must not keep anyone from committing over it.
            return {}
        return _matrices(tuple(e for e in reading.version.entries if e.key in keys), _together(kept, reading))

    # ---- where an answer comes from

    def _live(self, query: Query, number: int | None) -> Answer | None:
        """From memory, if what is there is `number`, the newest; None when the store must be asked for more."""
        snapshot = self._cache.get(query.scope)
        if snapshot is None or number != snapshot.version.version:
            return None
        snapshot.as_of_us = _now_us()
        entries = self._chosen(query, snapshot.version)
        if query.numbers and not _at_hand(entries, snapshot.numbers) and query.known_version != number:
            return None
        return self._answer(query, snapshot, entries, cached=True)

    async def _canonical(self, query: Query, *, degraded: bool, missed: Missed | None = None) -> Answer:
        look = await self._looks.answer((query.scope, query.keys, query.numbers))
        if missed is not None and self._leases is not None:
            self._leases.looked(query.scope, missed, look.seen, look.snapshot)
        cached = look.known and not query.canonical and not self._store.peeks
        return self._answer(query, look.snapshot, self._chosen(query, look.snapshot.version), cached=cached, degraded=degraded)

    async def _look(self, asked: _Look) -> _Seen:
        """One look at the newest version, for all who wait for it."""
        scope, keys, numbers = asked
        kept = self._cache.get(scope)
        asked_us, asked_s = _now_us(), time.monotonic()
        try:
            reading = await self._ask(scope, kept, number=None, keys=keys, numbers=numbers)
        except StoreUnavailable:
            self._store_degraded = True
            raise
        self._store_degraded = self._store_degraded and self._leases is None  # else each read finds out anew
        # Asked for a version's number, the store said the one that memory holds: so memory answered.
        known = kept is not None and kept.version == reading.version and not reading.numbers
        together = _together(kept, reading)
        snapshot = self._cache.keep(scope, reading.version, together, as_of_us=asked_us, asked_s=asked_s)
        return _Seen(snapshot, reading.seen, known)

    async def _exact(self, query: Query, number: int) -> Answer:
        """A version never changes within its history: if memory holds it, it is asked at most whether it still is that one."""
        kept = self._cache.get(query.scope)
        if kept is not None and self._store.peeks and kept.version.version == number:
            entries = self._chosen(query, kept.version)
            if not query.numbers or _at_hand(entries, kept.numbers):
                return self._answer(query, kept, entries, cached=True)
        reading = await self._ask(query.scope, kept, number=number, keys=query.keys, numbers=query.numbers)
        if kept is not None and kept.version == reading.version and not reading.numbers:
            return self._answer(query, kept, self._chosen(query, kept.version), cached=not self._store.peeks)
        snapshot = Snapshot(reading.version, _together(kept, reading), as_of_us=0)
        return self._answer(query, snapshot, self._chosen(query, reading.version), cached=False)

    async def _ask(
        self, scope: Scope, kept: Snapshot | None, *, number: int | None, keys: Sequence[str], numbers: bool = True
    ) -> Reading:
        """What the store says; the numbers that `kept` has need not come. Forgets `kept` where it is of a dead history.

        `kept` was kept before this asks: a store that has no such version any more, or another one, saw its history replaced.
        """
        have = kept.numbers.keys() if kept else ()
        try:
            reading = await self._store.read(scope, number=number, keys=keys, have=have, numbers=numbers)
        except RhoCorrupt as error:
            self._on_corrupt(scope, error)
            raise
        except (NotFound, VersionCompacted) as error:
            if kept is not None and error.current < kept.version.version:
                self._forget(scope, kept)
            raise
        if kept is not None and not _may_follow(kept.version, reading):
            self._forget(scope, kept)
        return reading

    def _forget(self, scope: Scope, dead: Snapshot) -> None:
        if self._cache.get(scope) is dead:
            self._cache.drop(scope)

    def _stale(self, query: Query, kept: Snapshot | None) -> Answer | None:
        """What was the newest once, if the caller accepts an answer that old."""
        if kept is None or query.max_staleness_us is None or _now_us() - kept.as_of_us > query.max_staleness_us:
            return None
        if kept.version.version < query.min_version or any(kept.version.entry(key) is None for key in query.keys):
            return None  # the store may know better: that it cannot be asked is the truth
        entries = self._chosen(query, kept.version)
        if query.numbers and not _at_hand(entries, kept.numbers):
            return None
        return self._answer(query, kept, entries, cached=True, degraded=True)

    # ---- answers

    def _answer(
        self, query: Query, snapshot: Snapshot, entries: tuple[Entry, ...], *, cached: bool, degraded: bool = False
    ) -> Answer:
        number = snapshot.version.version
        if number < query.min_version:
            raise VersionNotReached(namespace=query.scope.namespace, min_version=query.min_version, current=number)
        return Answer(snapshot, entries, query.version is None, cached, degraded, not_modified=query.known_version == number)

    def _chosen(self, query: Query, version: Version) -> tuple[Entry, ...]:
        absent = tuple(key for key in query.keys if version.entry(key) is None)
        if absent:
            raise NotFound(what="key", namespace=query.scope.namespace, names=_told(absent), current=version.version)
        return version.chosen(query.keys)


def _told(names: Sequence[str]) -> tuple[str, ...]:
    """The first of the names, as many as an error can carry."""
    room = _ABSENT_BYTES_TOLD
    told: list[str] = []
    for name in names:
        room -= len(name.encode())
        if told and room < 0:
            break
        told.append(name)
    return tuple(told)


def _together(kept: Snapshot | None, reading: Reading) -> Mapping[bytes, Buffer]:
    """The numbers that were had and those that came."""
    return {**kept.numbers, **reading.numbers} if kept else reading.numbers


def _may_follow(version: Version, reading: Reading) -> bool:
    """Whether a later look at the history that `version` was the newest of can be this one."""
    if reading.version.version == version.version:
        return is_same_commit(version, reading.version)
    return reading.newest >= version.version


def _at_hand(entries: tuple[Entry, ...], numbers: Mapping[bytes, Buffer]) -> bool:
    return all(e.certificate.digest in numbers for e in entries)


def _matrices(entries: tuple[Entry, ...], numbers: Mapping[bytes, Buffer]) -> Mapping[str, Matrix]:
    return {e.key: _matrix(e, numbers[e.certificate.digest]) for e in entries}


def _matrix(entry: Entry, numbers: Buffer) -> Matrix:
    c = entry.certificate
    return Matrix(kind=c.kind, layout=c.layout, dtype=c.dtype, shape=c.shape, numbers=numbers)


def _own(numbers: Buffer) -> Buffer:
    """The numbers, without keeping a much larger request alive for them."""
    whole = numbers.obj if isinstance(numbers, memoryview) else numbers
    return bytes(numbers) if isinstance(whole, bytes) and len(whole) > 2 * len(numbers) else numbers


def _now_us() -> int:
    return time.time_ns() // 1000
