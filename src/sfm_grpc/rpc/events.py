"""sfm.v1.Events: check, call, translate."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import orjson
from sfm.v1 import events_pb2

from sfm_grpc.coordinator.outbox import Outbox, TailQuery
from sfm_grpc.rpc import convert
from sfm_grpc.rpc.caller import Context, scope_of
from sfm_grpc.storage.outbox_contract import StoredEvent


class EventsServicer:
    """The RPCs of Events."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def TailEvents(  # noqa: N802
        self, request: events_pb2.TailEventsRequest, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """See events.proto."""
        scope = scope_of(context, request.namespace)
        query = TailQuery(scope, tuple(request.topics), request.after_event_id, request.follow)
        async with contextlib.aclosing(self._outbox.tail(query)) as events:
            async for event in events:
                yield events_pb2.TailEventsResponse(event=_event(event)).SerializeToString()


def _event(event: StoredEvent) -> events_pb2.Event:
    return events_pb2.Event(
        event_id=event.event_id,
        topic=event.topic,
        namespace=event.scope.namespace,
        version=event.version,
        time=convert.timestamp(event.time_us),
        payload_json=orjson.dumps(event.payload).decode() if event.payload else "",
    )
