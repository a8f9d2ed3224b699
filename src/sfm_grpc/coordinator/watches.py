"""Following namespaces: each stream takes its next version when its caller is ready for it, so nothing is queued for anyone.

A stream is a cursor, and history is the queue: the store keeps it anyway. What is learned here is only how far a namespace has
come: of this process's commits at once, of everybody's by one look at the store for all namespaces that are followed. Streams
that are in step share one reading of a version; nothing of it is kept once the last of them has made its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sfm_grpc.coordinator import names
from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.errors import NotFound, Overloaded, RhoCorrupt, StoreUnavailable, VersionCompacted, VersionNotReached
from sfm_grpc.metrics import Metrics
from sfm_grpc.model import Buffer, Scope, Transaction, Version
from sfm_grpc.storage.contract import Store

_log = logging.getLogger(__name__)

_AFTER_DEFECT_S = 1.0

# A place in a namespace's history, keys, numbers or not: whoever asks for the same shares one reading.
_Asked: TypeAlias = tuple[int | None, tuple[str, ...], bool]


@dataclass(frozen=True, slots=True)
class Watch:
    """What a stream asks for."""

    scope: Scope
    keys: tuple[str, ...] = ()
    """None named: all. Those that a version does not hold are left out of it."""
    after_version: int | None = None
    """None: begin with the newest as it is now."""
    newest_only: bool = False
    """A caller that is slow skips what is no longer the newest."""
    numbers: bool = True
    bookmark_interval_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Bookmark:
    """There is nothing newer."""

    version: int
    """The newest that was emitted, or begun after."""
    as_of_us: int
    """When the store was asked."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Emission:
    """One version, as it is told to every stream that is ready for it at this moment."""

    version: Version
    numbers: Mapping[bytes, Buffer]
    """By digest: those that were asked for."""
    as_of_us: int
    """A time at which it was the newest; 0 where it was not, when it was read."""
    ready: dict[object, object] = field(default_factory=dict)
    """What a translator made of it and would make again."""


class Watches:
    """The streams of this process, and what they must know."""

    def __init__(
        self,
        store: Store,
        at_hand: Callable[[Scope], Mapping[bytes, Buffer]],
        metrics: Metrics,
        *,
        on_corrupt: Callable[[Scope, RhoCorrupt], None],
        keys_max: int,
        streams_max: int,
        poll_s: float,
        fences: Fences | None = None,
    ) -> None:
        """`at_hand` says which numbers of a namespace are in memory, by digest: those need not come from the store.

        `fences`: where a cache may stand before it.
        """
        self._store = store
        self._at_hand = at_hand
        self._on_corrupt = on_corrupt
        self._keys_max = keys_max
        self._streams_max = streams_max
        self._poll_s = poll_s
        self._fences = fences
        self._followed: dict[Scope, _Followed] = {}
        self._hurry = asyncio.Event()
        self._streams = 0
        metrics.watch_streams.set_function(lambda: self._streams)

    async def follow(self, watch: Watch) -> AsyncGenerator[Emission | Bookmark, None]:
        """Versions and bookmarks, for as long as they are asked for; close it, or it counts as a stream for ever.

        Raises InvalidRequest, LimitExceeded, Overloaded (`watch_streams_max`), VersionNotReached, VersionCompacted, RhoCorrupt.
        """
        names.check_name(watch.scope.namespace, "namespace")
        names.check_keys(watch.keys, self._keys_max)
        with self._following(watch.scope) as followed:
            stream = _Stream(watch, followed, self._read)
            try:
                await stream.begin()
                while True:
                    yield await stream.next()
            except (VersionNotReached, VersionCompacted) as error:
                if self._fences is not None:
                    await self._fences.tell_refusal(watch.scope, error)
                raise

    def committed(self, scope: Scope, version: Version, _transaction: Transaction) -> None:
        """Wakes whoever follows the namespace: a commit's listener."""
        followed = self._followed.get(scope)
        if followed is not None:
            followed.grew(version.version)

    async def run(self) -> None:
        """Looks for what others commit, again and again while anyone follows anything; never returns."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s if self._followed else None):
                    await self._hurry.wait()
            self._hurry.clear()
            if self._followed:
                await self._look()

    async def _look(self) -> None:
        scopes, asked_s, asked_us = list(self._followed), time.monotonic(), _now_us()
        try:
            found = await self._store.newest(scopes)
        except (StoreUnavailable, Overloaded):
            return  # the streams wait, and `presence` tells of it
        except Exception:  # whatever a store says that nobody expected, looking must go on
            _log.exception("looking for new versions failed")
            await asyncio.sleep(_AFTER_DEFECT_S)
            return
        for scope in scopes:
            if (followed := self._followed.get(scope)) is not None:
                followed.looked(found.get(scope, 0), asked_s, asked_us)

    @contextlib.contextmanager
    def _following(self, scope: Scope) -> Iterator[_Followed]:
        if self._streams >= self._streams_max:
            raise Overloaded(limit="watch_streams_max", value=self._streams + 1, maximum=self._streams_max, retry_after_s=1.0)
        followed = self._followed.setdefault(scope, _Followed())
        self._streams += 1
        followed.streams += 1
        self._hurry.set()
        try:
            yield followed
        finally:
            self._streams -= 1
            followed.streams -= 1
            if not followed.streams:
                del self._followed[scope]

    async def _read(self, watch: Watch, followed: _Followed, number: int | None) -> Emission | None:
        """Version `number` (None: the newest); None when there is none just now, or the store is away."""
        emission = followed.shared(watch, number)
        if emission is None:
            asked = (number, watch.keys, watch.numbers)
            task = followed.under_way.get(asked)
            if task is None:
                task = followed.under_way[asked] = asyncio.create_task(self._ask(watch, followed, number))
                task.add_done_callback(lambda ended: followed.arrived(asked, ended))
            try:
                # Others wait for the same.
                emission = await asyncio.shield(task)
            except (StoreUnavailable, Overloaded):
                return None
        return emission

    async def _ask(self, watch: Watch, followed: _Followed, number: int | None) -> Emission | None:
        scope, asked_s, asked_us = watch.scope, time.monotonic(), _now_us()
        kept = self._at_hand(scope) if watch.numbers else {}
        try:
            reading = await self._store.read(scope, number=number, keys=watch.keys, have=kept.keys(), numbers=watch.numbers)
        except NotFound as error:
            followed.saw(error.current, asked_s)
            return None
        except RhoCorrupt as error:
            self._on_corrupt(scope, error)
            raise
        followed.saw(reading.newest, asked_s)
        if self._fences is not None:
            await self._fences.tell(scope, reading.version.version, reading.seen)
        emission = Emission(reading.version, {}, asked_us if reading.version.version == reading.newest else 0)
        if watch.numbers:
            digests = reading.version.digests(watch.keys)
            emission.numbers = {d: kept[d] if d in kept else reading.numbers[d] for d in digests}
        return emission


class _Followed:
    """One namespace that is followed: how far it has come, as far as is known here, and who waits to hear of it."""

    def __init__(self) -> None:
        self.streams = 0
        self.newest = 0
        self.looked_s = -math.inf
        """When the store was asked for the last look that was answered, on time.monotonic()."""
        self.looked_us = 0
        self.under_way: dict[_Asked, asyncio.Task[Emission | None]] = {}
        self._learned_s = -math.inf
        """When `newest` was learned."""
        self._last: Callable[[], Emission | None] = lambda: None
        self._changed = asyncio.Event()
        self._heard = asyncio.Event()

    def grew(self, number: int) -> None:
        """A version was made; commits are not told in their order."""
        if number > self.newest:
            self._learn(number)

    def saw(self, number: int, asked_s: float) -> None:
        """`number` was the newest at some time after `asked_s`. Where that is later than what is known, history went back."""
        if number > self.newest or (number < self.newest and asked_s >= self._learned_s):
            self._learn(number)

    def looked(self, number: int, asked_s: float, asked_us: int) -> None:
        """The store was asked for nothing but this."""
        self.looked_s, self.looked_us = asked_s, asked_us
        self.saw(number, asked_s)
        self._heard.set()
        self._heard = asyncio.Event()

    def _learn(self, number: int) -> None:
        if number < self.newest:
            self._last = lambda: None
        self.newest, self._learned_s = number, time.monotonic()
        for event in (self._changed, self._heard):
            event.set()
        self._changed, self._heard = asyncio.Event(), asyncio.Event()

    async def changed(self, until_s: float) -> None:
        """Waits until another version is the newest, or until `until_s`, on time.monotonic()."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until_s - time.monotonic()):
                await self._changed.wait()

    async def heard(self) -> None:
        """Waits for the next look that is answered, or another newest version."""
        await self._heard.wait()

    def shared(self, watch: Watch, number: int | None) -> Emission | None:
        """What another stream is telling just now, if it is what is wanted here."""
        emission = self._last()
        if emission is None or emission.version.version != (self.newest if number is None else number):
            return None
        wanted = emission.version.digests(watch.keys) if watch.numbers else set()
        return emission if wanted <= emission.numbers.keys() else None

    def arrived(self, asked: _Asked, ended: asyncio.Task[Emission | None]) -> None:
        """A reading is there, to be shared while anyone holds it."""
        del self.under_way[asked]
        if ended.cancelled() or ended.exception() is not None:
            return  # its streams are told; all of them may be gone
        emission, last = ended.result(), self._last()
        if emission is not None and (last is None or last.version.version <= emission.version.version):
            self._last = weakref.ref(emission)


class _Stream:
    """A cursor into a namespace's history."""

    def __init__(
        self,
        watch: Watch,
        followed: _Followed,
        read: Callable[[Watch, _Followed, int | None], Awaitable[Emission | None]],
    ) -> None:
        self._watch = watch
        self._followed = followed
        self._read = read
        self._cursor = 0
        self._skips = watch.newest_only
        self._due_s = time.monotonic()
        """When a bookmark is due."""

    async def begin(self) -> None:
        """Waits for a look at the store that is asked from now on. Raises VersionNotReached."""
        while self._followed.looked_s < self._due_s:
            await self._followed.heard()
        if self._watch.after_version is None:
            self._skips |= self._followed.newest > 0
        else:
            self._cursor = self._watch.after_version
            self._check_history()

    def _check_history(self) -> None:
        if self._followed.newest < self._cursor:
            raise VersionNotReached(
                namespace=self._watch.scope.namespace, min_version=self._cursor, current=self._followed.newest
            )

    async def next(self) -> Emission | Bookmark:
        """What is to be told next, as soon as there is something. Raises VersionNotReached, VersionCompacted, RhoCorrupt."""
        followed = self._followed
        while True:
            self._check_history()
            if followed.newest > self._cursor:
                emission = await self._read(self._watch, followed, None if self._skips else self._cursor + 1)
                if emission is None:
                    await followed.heard()
                elif emission.version.version > self._cursor:
                    self._cursor, self._skips = emission.version.version, self._watch.newest_only
                    self._taken()
                    return emission
            elif followed.looked_s >= self._due_s:
                self._taken()
                return Bookmark(self._cursor, followed.looked_us)
            elif time.monotonic() < self._due_s:
                await followed.changed(self._due_s)
            else:
                await followed.heard()

    def _taken(self) -> None:
        self._due_s = time.monotonic() + self._watch.bookmark_interval_s


def _now_us() -> int:
    return time.time_ns() // 1000
