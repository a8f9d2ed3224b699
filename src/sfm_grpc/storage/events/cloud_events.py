"""Events as CloudEvents 1.0 in Kafka messages, binary content mode: attributes are headers, the value is the data alone.

CloudEvents specification 1.0.2, and its Kafka protocol binding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import orjson

from sfm_grpc.model import Scope
from sfm_grpc.storage.outbox_contract import StoredEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Header: TypeAlias = tuple[str, str | bytes | None]


@dataclass(frozen=True, slots=True)
class Record:
    """An event as the rest of the world gets it."""

    topic: str
    key: bytes
    """Records of one key and topic arrive in the order in which they are sent."""
    value: bytes
    headers: list[_Header]


class CloudEvents:
    """Makes records of events."""

    def __init__(self, source: str, topics: Mapping[str, str]) -> None:
        """`source` and an event's id tell it from all others. `topics`: under which name a kind of event goes; else its own."""
        self._topics = topics
        self._always: list[_Header] = [
            ("ce_specversion", b"1.0"),
            ("ce_source", source.encode()),
            ("content-type", b"application/json"),
        ]
        self._kinds: dict[str, list[_Header]] = {}

    def record(self, event: StoredEvent) -> Record:
        """The record of an event."""
        always = self._kinds.get(event.topic)
        if always is None:
            always = self._kinds[event.topic] = [*self._always, ("ce_type", f"sfm.{event.topic}.v1".encode())]
        headers = [
            *always,
            ("ce_id", b"%d" % event.event_id),
            ("ce_time", _time(event.time_us)),
            ("ce_subject", event.scope.namespace.encode()),
            ("ce_tenant", event.scope.tenant.encode()),
        ]
        topic = self._topics.get(event.topic, event.topic)
        return Record(topic, key_of(event.scope), orjson.dumps(event.payload), headers)


def _time(time_us: int) -> bytes:
    """RFC 3339, to the microsecond."""
    return (_EPOCH + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()


def key_of(scope: Scope) -> bytes:
    """`tenant/namespace`, split at the first `/`: one in the tenant is `%2F`, and its `%` is `%25`."""
    tenant = scope.tenant.replace("%", "%25").replace("/", "%2F")
    return f"{tenant}/{scope.namespace}".encode()
