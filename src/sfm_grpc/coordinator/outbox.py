"""The outbox as it may be told: in order, and of a ρ only what no cached read can contradict any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator import names
from sfm_grpc.coordinator.events import RHO_STATUS
from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.errors import Overloaded
from sfm_grpc.metrics import EventMetrics
from sfm_grpc.model import Scope
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.outbox_contract import StoredEvent

# A batch is a few milliseconds of the event loop, and of a transaction that moves a position on.
_AT_ONCE = 500
# What others have written is looked for so often; what this process has is known at once.
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class TailQuery:
    """What a stream of events asks for."""

    scope: Scope
    """An empty namespace: all of the tenant's."""
    topics: tuple[str, ...] = ()
    """None named: all."""
    after: int = 0
    """The event that was told last."""
    follow: bool = False
    """Goes on with what is written."""


class Outbox:
    """Reads events, and tells whoever waits for them that there are some."""

    def __init__(self, store: Store, fences: Fences | None, metrics: EventMetrics, *, streams_max: int) -> None:
        """`fences`: where a cache may stand before the store."""
        self._store = store
        self._fences = fences
        self._metrics = metrics
        self._streams_max = streams_max
        self._streams = 0
        self._written = asyncio.Event()

    def written(self) -> None:
        """Something was written here: there is no need to wait for the next look."""
        self._written.set()
        self._written = asyncio.Event()

    async def more(self) -> None:
        """Waits until something was written here, or it is time to look for what others have written."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._written.wait()

    async def after(self, event_id: int) -> Sequence[StoredEvent]:
        """The next events of all tenants, some of them. Raises StoreUnavailable, also where they may not be told yet."""
        return await self._fenced(await self._store.events(after=event_id, limit=_AT_ONCE))

    async def tail(self, query: TailQuery) -> AsyncGenerator[StoredEvent, None]:
        """A tenant's events, oldest first, to the end or for as long as they are asked for.

        Raises InvalidRequest, Overloaded (`events_streams_max`), StoreUnavailable.
        """
        if query.scope.namespace:
            names.check_name(query.scope.namespace, "namespace")
        tenant, after = query.scope.tenant, query.after
        with self._streaming():
            while True:
                found = await self._store.outbox.tail(
                    tenant, namespace=query.scope.namespace, topics=query.topics, after=after, limit=_AT_ONCE
                )
                for event in await self._fenced(found.events):
                    yield event
                after = max(after, found.upto)
                if len(found.events) == _AT_ONCE:
                    continue
                if not query.follow:
                    return
                await self.more()

    async def _fenced(self, events: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        """The same, once nothing older than what they say can be read: see `fences`."""
        if self._fences is not None:
            newest: dict[Scope, int] = {}
            for event in events:
                if event.topic == RHO_STATUS:
                    newest[event.scope] = max(event.version, newest.get(event.scope, 0))
            if newest:
                await self._fences.tell_all(newest)
        return events

    @contextlib.contextmanager
    def _streaming(self) -> Iterator[None]:
        if self._streams >= self._streams_max:
            raise Overloaded(limit="events_streams_max", value=self._streams + 1, maximum=self._streams_max, retry_after_s=1.0)
        self._streams += 1
        self._metrics.streams.set(self._streams)
        try:
            yield
        finally:
            self._streams -= 1
            self._metrics.streams.set(self._streams)
