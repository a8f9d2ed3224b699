"""Brings events from the outbox to a sink, in order, each at least once.

How far the sink is lies in the store. One process at a time has the turn: it reads a batch, sends it, waits until the sink has
all of it, and only then moves the position on. Whatever goes wrong on the way, the next attempt begins at the position: nothing
is left out, the last batch may come again. No write ever waits for this: what cannot be sent stays in the outbox, within its
bound.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Sequence

from sfm_grpc.coordinator.outbox import Outbox
from sfm_grpc.coordinator.presence import Component
from sfm_grpc.errors import Overloaded, StoreUnavailable
from sfm_grpc.metrics import EventMetrics
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.events.contract import EventSink, SinkUnavailable
from sfm_grpc.storage.finishing import finished
from sfm_grpc.storage.outbox_contract import StoredEvent

_log = logging.getLogger(__name__)

# Whoever dies in a turn is followed after so long; whoever has it says that it goes on.
_TURN_S, _RENEW_S = 10.0, 3.0
# How often the sink is asked how it is, and the store what the sink lacks.
_LOOK_S = 5.0
# How often it is said that the sink is in use.
_KEEP_S = 60.0
_RETRY_MIN_S, _RETRY_MAX_S = 0.25, 5.0


class Relay:
    """One process's part in sending events. Where several serve one store, they take turns."""

    def __init__(self, store: Store, outbox: Outbox, sink: EventSink, metrics: EventMetrics) -> None:
        self._store = store
        self._outbox = outbox
        self._sink = sink
        self._metrics = metrics
        self._looked_s = self._kept_s = -_KEEP_S
        self._dropped: int | None = None
        """How many the sink has lost, at the last look; None: not looked yet."""
        self._failing = False
        """The last batch did not arrive: only one that does says that all is well."""
        self._component = Component(sink.name, ok=False, detail="not asked yet", needed=False)

    def component(self) -> Component:
        """How the sink is, as a part that no caller needs."""
        return self._component

    async def run(self) -> None:
        """Works until it is cancelled."""
        failed = 0
        while True:
            try:
                await self._step()
                failed = 0
            except SinkUnavailable as error:
                failed += 1
                self._set(ok=False, detail=str(error))
            except (StoreUnavailable, Overloaded):  # `presence` tells of it
                failed += 1
            except Exception:  # whatever is wrong just now, events must not lie there for ever
                failed += 1
                _log.exception("sending events failed")
            if failed:
                await asyncio.sleep(min(_RETRY_MAX_S, _RETRY_MIN_S * 2.0 ** min(failed - 1, 10)))
            else:
                await self._outbox.more()

    async def _step(self) -> None:
        """Looks around when it is time to, and sends all that there is, if nobody else does."""
        now_s = time.monotonic()
        if now_s - self._kept_s >= _KEEP_S:
            await self._store.outbox.keep(self._sink.name)
            self._kept_s = now_s
        if await self._store.outbox.waits(self._sink.name):
            await self._drain()
        if time.monotonic() - self._looked_s >= _LOOK_S:
            await self._look()

    # ---- sending

    async def _drain(self) -> None:
        name, owner, tables = self._sink.name, secrets.token_hex(8), self._store.outbox
        try:
            position = await tables.take(name, owner, lasts_s=_TURN_S)
            while position is not None and (events := await self._outbox.after(position)):
                await self._send(events, owner, position)
                position = await self._advance(owner, events[-1].event_id)
        finally:  # also where we gave up while we asked for it: nobody else's is over by that
            await finished(self._release(owner))

    async def _advance(self, owner: str, position: int) -> int | None:
        """The position, which is the store's now; None: the turn was lost, and another goes on from where it last was."""
        return position if await self._store.outbox.advance(self._sink.name, owner, position, lasts_s=_TURN_S) else None

    async def _send(self, events: Sequence[StoredEvent], owner: str, position: int) -> None:
        """Returns when the sink has all of them. Raises SinkUnavailable when it refuses, or the turn is lost meanwhile."""
        began_s = time.monotonic()
        sending = asyncio.create_task(self._sink.send(events))
        try:
            while not (await asyncio.wait({sending}, timeout=_RENEW_S))[0]:
                if await self._advance(owner, position) is None:
                    raise SinkUnavailable("it took so long that another process has the turn now")
                await self._look_while_waiting(time.monotonic() - began_s)
            sending.result()
        except BaseException as error:
            self._failing = True
            self._metrics.failed.inc()
            if isinstance(error, SinkUnavailable) and error.taken:
                await self._advance(owner, events[error.taken - 1].event_id)
            raise
        finally:
            sending.cancel()
            await asyncio.wait({sending})
        self._failing = False
        self._metrics.send_seconds.observe(time.monotonic() - began_s)
        for topic, count in Counter(e.topic for e in events).items():
            self._metrics.sent.labels(topic).inc(count)

    async def _look_while_waiting(self, waited_s: float) -> None:
        """Tells why nothing arrives: it may wait for as long as the sink is away."""
        self._failing = True
        try:
            await self._count()
            detail = f"{await self._sink.check()}; it has not taken the next events for {waited_s:.0f} s"
        except SinkUnavailable as error:
            detail = str(error)
        self._set(ok=False, detail=detail)

    async def _release(self, owner: str) -> None:
        try:
            await self._store.outbox.release(self._sink.name, owner)
        except (StoreUnavailable, Overloaded) as error:
            _log.info("the turn to send events ends by itself: %s", error)

    # ---- how it is

    async def _look(self) -> None:
        """Asks the sink how it is, and the store what it lacks."""
        self._looked_s = time.monotonic()
        await self._count()
        detail = await self._sink.check()
        if not self._failing:
            self._set(ok=True, detail=detail)

    async def _count(self) -> None:
        found = await self._store.outbox.backlog(self._sink.name)
        self._metrics.unsent.set(found.events)
        self._metrics.lag_seconds.set(max(0.0, time.time() - found.oldest_time_us / 1e6) if found.oldest_time_us else 0.0)
        self._metrics.dropped.set(found.dropped)
        if self._dropped is not None and found.dropped > self._dropped:
            _log.error(
                "%d events were taken away before %s had them: more than SFM_EVENTS_UNSENT_MAX waited",
                found.dropped - self._dropped,
                self._sink.name,
            )
        self._dropped = found.dropped

    def _set(self, *, ok: bool, detail: str) -> None:
        self._metrics.ok.set(ok)
        before, self._component = self._component, Component(self._sink.name, ok=ok, detail=detail, needed=False)
        if not ok and (before.ok or before.detail == "not asked yet"):
            _log.warning("events wait in the outbox: %s", detail)
        elif ok and not before.ok:
            _log.info("events are sent: %s", detail)
