"""Events as CloudEvents 1.0 in Kafka messages, binary content mode: attributes are headers, the value is the data alone.

CloudEvents specification 1.0.2, and its Kafka protocol binding.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import orjson

from sfm_grpc.model import Scope
from sfm_grpc.storage.events.contract import Record
from sfm_grpc.storage.outbox_contract import StoredEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def record_of(event: StoredEvent, source: str, topics: Mapping[str, str]) -> Record:
    """The record of an event. `topics` says under which name one of ours goes; one that is not named keeps its own."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": str(event.event_id),
        "ce_source": source,
        "ce_type": f"sfm.{event.topic}.v1",
        "ce_subject": event.scope.namespace,
        "ce_time": (_EPOCH + timedelta(microseconds=event.time_us)).isoformat().replace("+00:00", "Z"),
        "ce_tenant": event.scope.tenant,
        "content-type": "application/json",
    }
    headers = [(name, value.encode()) for name, value in attributes.items()]
    return Record(topics.get(event.topic, event.topic), key_of(event.scope), orjson.dumps(event.payload), headers)


def key_of(scope: Scope) -> bytes:
    """`tenant/namespace`, split at the first `/`: one in the tenant is `%2F`, and its `%` is `%25`."""
    tenant = scope.tenant.replace("%", "%25").replace("/", "%2F")
    return f"{tenant}/{scope.namespace}".encode()
