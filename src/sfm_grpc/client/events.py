"""Events as the server's outbox has them: a record, and the flow that receives them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sfm.v1 import events_pb2

from sfm_grpc.client.convert import believed, us_of
from sfm_grpc.client.memory_convert import names_of, sendable
from sfm_grpc.client.records import moment
from sfm_grpc.client.steps import Flow, Open, Receive, Stream

TAIL_EVENTS = "/sfm.v1.Events/TailEvents"
STREAMS = (TAIL_EVENTS,)


@dataclass(frozen=True, slots=True)
class Event:
    """What the server tells the rest of the world of one commit."""

    event_id: int
    """Rises; never used again. `ce_id` in Kafka."""
    topic: str
    """`rho.status`, `memory.event`, …"""
    namespace: str
    version: int
    """Of ρ the version, of memories the newest revision that it is about."""
    time: datetime
    payload: Mapping[str, Any]
    """What schemas/ promises; empty when what is stored cannot be read."""


class Tailing:
    """One stream of events. Its flows are performed one after the other; `cancel` may be called meanwhile."""

    def __init__(
        self, namespace: str, topics: str | Iterable[str], after: int, *, follow: bool, timeout_s: float | None = None
    ) -> None:
        """Raises InvalidRequest."""
        with sendable("after"):
            request = events_pb2.TailEventsRequest(
                namespace=namespace, topics=names_of(topics), after_event_id=after, follow=follow
            )
            self._request = request.SerializeToString()
        self._timeout_s = timeout_s
        self._stream: Stream | None = None
        self._cancelled = False

    def next(self) -> Flow[Event | None]:
        """The next event; None: that was all."""
        if self._stream is None:
            self._stream = cast(Stream, (yield Open(TAIL_EVENTS, self._request, self._timeout_s)))
            if self._cancelled:
                self._stream.cancel()
        reply = cast("bytes | None", (yield Receive(self._stream, self._timeout_s)))
        if reply is None:
            return None
        with believed("TailEvents"):
            return _event(events_pb2.TailEventsResponse.FromString(reply).event)

    def cancel(self) -> None:
        """Ends the stream; whoever waits for its next event is told so."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()


def _event(m: events_pb2.Event) -> Event:
    payload = json.loads(m.payload_json) if m.payload_json else {}
    return Event(m.event_id, m.topic, m.namespace, m.version, moment(us_of(m.time)), payload)
