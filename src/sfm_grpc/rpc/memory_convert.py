"""Between the messages of MemoryStore and records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sfm.v1 import memory_pb2, memory_store_pb2

from sfm_grpc.coordinator.index_audit import Report, Step
from sfm_grpc.coordinator.links import LinkListing, SentLink
from sfm_grpc.coordinator.memories import Listing
from sfm_grpc.coordinator.namespaces import Described
from sfm_grpc.coordinator.search import Neighbours, SearchQuery
from sfm_grpc.coordinator.sent_memories import SentMemory
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import (
    Between,
    Buffer,
    DeleteMemory,
    Distance,
    Link,
    Memory,
    MemoryFilter,
    MemoryOrder,
    MemoryReceipt,
    Scope,
    Space,
    TypeStats,
)
from sfm_grpc.rpc.convert import timestamp

# In microseconds, whatever is added: what the stores' integers take.
_TIME_MAX_US = 1 << 62

_E = TypeVar("_E", Distance, MemoryOrder)

# ---- requests --------------------------------------------------------------------------------------------------------


def sent(puts: Sequence[memory_pb2.MemoryPut], fields: Sequence[str]) -> list[SentMemory]:
    """The memories to put; `fields` says where each stands. Raises InvalidRequest."""
    return [_sent(put, field) for put, field in zip(puts, fields, strict=True)]


def sent_changes(changes: Sequence[memory_pb2.MemoryChange]) -> list[SentMemory | DeleteMemory]:
    """What a commit does to memories. Raises InvalidRequest for a change that says nothing."""
    return [_sent_change(change, f"memories[{place}]") for place, change in enumerate(changes)]


def _sent_change(change: memory_pb2.MemoryChange, field: str) -> SentMemory | DeleteMemory:
    match change.WhichOneof("change"):
        case "put":
            return _sent(change.put, f"{field}.put")
        case "delete_key":
            return DeleteMemory(change.delete_key, field=f"{field}.delete_key")
    raise InvalidRequest(field=field, problem="says neither put nor delete_key")


def _sent(put: memory_pb2.MemoryPut, field: str) -> SentMemory:
    m = put.memory
    expiry = m.WhichOneof("expiry")
    condition = put.WhichOneof("condition")
    return SentMemory(
        field=field,
        key=m.key,
        payload_json=m.payload_json,
        memory_type=m.memory_type,
        importance=m.importance,
        coordinates=tuple(m.coordinates),
        vector=vector_of(m.vector, f"{field}.memory.vector") if m.HasField("vector") else None,
        expire_time_us=_time_us(m.expire_time) if expiry == "expire_time" else None,
        ttl_us=_duration_us(m.ttl) if expiry == "ttl" else None,
        mask=tuple(put.update_mask.paths) if put.HasField("update_mask") else None,
        create_only=condition == "create_only" and put.create_only,
        if_revision=put.if_revision if condition == "if_revision" else None,
    )


def vector_of(vector: memory_pb2.Vector, field: str) -> Buffer:
    """Its numbers as float32, little-endian. Raises InvalidRequest for a vector that says nothing."""
    match vector.WhichOneof("content"):
        case "data":
            return vector.data
        case "float_values":
            return np.array(vector.float_values.values, "<f4").tobytes()
    raise InvalidRequest(field=field, problem="has neither data nor float_values; leave it out where there is no vector")


def listing(request: memory_store_pb2.ListMemoriesRequest, scope: Scope) -> Listing:
    """What a list asks for. Raises InvalidRequest."""
    return Listing(
        scope=scope,
        chosen=memory_filter(request.filter, "filter"),
        order=_member(MemoryOrder, request.order or MemoryOrder.KEY, "order"),
        descending=request.descending,
        page_size=request.page_size,
        page_token=request.page_token,
        payloads=not request.without_payloads,
        vectors=request.with_vectors,
    )


def memory_filter(asked: memory_pb2.MemoryFilter, field: str) -> MemoryFilter:
    """Which memories. Raises InvalidRequest."""
    return MemoryFilter(
        key_prefix=asked.key_prefix,
        memory_types=tuple(asked.memory_types),
        importance=_numbers(asked.importance, f"{field}.importance"),
        create_time_us=_times(asked.create_time, f"{field}.create_time"),
        update_time_us=_times(asked.update_time, f"{field}.update_time"),
        box=tuple(_numbers(each, f"{field}.box[{place}]") for place, each in enumerate(asked.box)),
    )


def distance(number: int) -> Distance:
    """COSINE where none is said. Raises InvalidRequest."""
    return _member(Distance, number or Distance.COSINE, "distance")


def _numbers(asked: memory_pb2.NumberRange, field: str) -> Between:
    low = asked.low if asked.HasField("low") else None
    high = asked.high if asked.HasField("high") else None
    for name, end in (("low", low), ("high", high)):
        if end is not None and math.isnan(end):
            raise InvalidRequest(field=f"{field}.{name}", problem="is nan; leave it out where there is no end")
    return Between(low, high)


def _times(asked: memory_pb2.TimeRange, field: str) -> Between:
    start = _time_us(asked.start) if asked.HasField("start") else None
    end = _time_us(asked.end) if asked.HasField("end") else None
    for name, time_us in (("start", start), ("end", end)):
        if time_us is not None and abs(time_us) >= _TIME_MAX_US:
            raise InvalidRequest(field=f"{field}.{name}", problem="is too far away; leave it out where there is no end")
    return Between(start, end)


def _member(kind: type[_E], number: int, field: str) -> _E:
    try:
        return kind(number)
    except ValueError:
        known = ", ".join(f"{m.name} = {m.value}" for m in kind)
        raise InvalidRequest(field=field, problem=f"is {number}, which this server does not know; it knows {known}") from None


def _time_us(time: Timestamp) -> int:
    return time.seconds * 1_000_000 + time.nanos // 1000


def _duration_us(duration: Duration) -> int:
    return duration.seconds * 1_000_000 + int(duration.nanos / 1000)


def wait_of(request: memory_store_pb2.PutMemoryRequest | memory_store_pb2.BatchPutMemoriesRequest) -> float | None:
    """How long to wait for the index, in seconds; None: not at all. Raises InvalidRequest."""
    if not request.HasField("wait_indexed"):
        return None
    wait_us = _duration_us(request.wait_indexed)
    if wait_us < 0:
        raise InvalidRequest(field="wait_indexed", problem=f"is {wait_us / 1e6:g} s; it must be 0 or more")
    return wait_us / 1e6


def search(request: memory_store_pb2.SearchMemoriesRequest, scope: Scope) -> SearchQuery:
    """What is looked for. Raises InvalidRequest."""
    return SearchQuery(
        scope=scope,
        vector=vector_of(request.vector, "vector"),
        chosen=memory_filter(request.filter, "filter"),
        limit=request.limit,
        vectors=request.with_vectors,
    )


# ---- answers ---------------------------------------------------------------------------------------------------------


def memory(m: Memory) -> memory_pb2.Memory:
    """A memory."""
    message = memory_pb2.Memory(
        key=m.key,
        payload_json=m.payload.decode(),
        payload_digest=m.digest,
        memory_type=m.memory_type,
        importance=m.importance,
        coordinates=m.coordinates,
        revision=m.revision,
        create_time=timestamp(m.create_time_us),
        update_time=timestamp(m.update_time_us),
    )
    if m.vector is not None:
        message.vector.data = bytes(m.vector)
    if m.expire_time_us:
        message.expire_time.CopyFrom(timestamp(m.expire_time_us))
    return message


def memories(found: Iterable[Memory]) -> list[memory_pb2.Memory]:
    """Memories."""
    return [memory(m) for m in found]


def neighbours(found: Neighbours) -> memory_store_pb2.SearchMemoriesResponse:
    """The answer to a search."""
    return memory_store_pb2.SearchMemoriesResponse(
        neighbours=[memory_store_pb2.Neighbour(memory=memory(m), score=score) for m, score in found.found],
        indexed_revision=found.indexed_revision,
        newest_revision=found.newest_revision,
    )


def receipts(told: Iterable[MemoryReceipt]) -> list[memory_pb2.MemoryReceipt]:
    """What became of changes. All that a transaction writes has the same time, so it is made once."""
    times: dict[int, Timestamp] = {}
    return [_receipt(r, times) for r in told]


def receipt(r: MemoryReceipt) -> memory_pb2.MemoryReceipt:
    """What became of one."""
    return _receipt(r, {})


def _receipt(r: MemoryReceipt, times: dict[int, Timestamp]) -> memory_pb2.MemoryReceipt:
    for time_us in (r.create_time_us, r.update_time_us):
        if time_us and time_us not in times:
            times[time_us] = timestamp(time_us)
    return memory_pb2.MemoryReceipt(
        key=r.key,
        outcome=memory_pb2.MemoryOutcome.ValueType(r.outcome),
        revision=r.revision,
        payload_digest=r.digest,
        create_time=times.get(r.create_time_us),
        update_time=times.get(r.update_time_us),
    )


def namespace(name: str, space: Space) -> memory_store_pb2.Namespace:
    """A namespace."""
    return memory_store_pb2.Namespace(
        name=name,
        dimension=space.dimension,
        distance=memory_pb2.Distance.ValueType(space.distance),
        revision=space.revision,
        memories=space.memories,
        vectors=space.vectors,
        payload_bytes=space.payload_bytes,
        tombstones=space.tombstones,
        create_time=timestamp(space.create_time_us),
        update_time=timestamp(space.update_time_us),
    )


def described(name: str, found: Described) -> memory_store_pb2.Namespace:
    """A namespace, and how far the index is."""
    message = namespace(name, found.space)
    message.indexed_revision = found.indexed
    message.refused.extend(
        memory_store_pb2.RefusedVector(key=r.key, revision=r.revision, reason=r.reason, time=timestamp(r.time_us))
        for r in found.refused
    )
    return message


def type_stats(s: TypeStats) -> memory_store_pb2.MemoryTypeStats:
    """What there is of a type."""
    return memory_store_pb2.MemoryTypeStats(
        memory_type=s.memory_type,
        memories=s.memories,
        vectors=s.vectors,
        payload_bytes=s.payload_bytes,
        expiring=s.expiring,
        importance_min=s.importance_min,
        importance_mean=s.importance_mean,
        importance_max=s.importance_max,
        oldest_time=timestamp(s.oldest_time_us),
        newest_time=timestamp(s.newest_time_us),
    )


# ---- links


def sent_links(links: Iterable[memory_store_pb2.Link]) -> list[SentLink]:
    """Links as they were sent."""
    return [SentLink((each.source_key, each.link_type, each.target_key), each.weight) for each in links]


def link_listing(request: memory_store_pb2.ListLinksRequest, scope: Scope) -> LinkListing:
    """What a list of links asks for. Raises InvalidRequest."""
    if request.direction not in memory_store_pb2.LinkDirection.values():
        raise InvalidRequest(field="direction", problem=f"is {request.direction}, which this server does not know")
    return LinkListing(
        scope=scope,
        key=request.key,
        incoming=request.direction == memory_store_pb2.LINK_DIRECTION_INCOMING,
        link_types=tuple(request.link_types),
        page_size=request.page_size,
        page_token=request.page_token,
    )


def link(found: Link) -> memory_store_pb2.Link:
    """A link."""
    source, link_type, target = found.name
    return memory_store_pb2.Link(
        source_key=source,
        link_type=link_type,
        target_key=target,
        weight=found.weight,
        create_time=timestamp(found.create_time_us),
        update_time=timestamp(found.update_time_us),
    )


# ---- the index


def index_progress(step: Step) -> memory_store_pb2.IndexProgress:
    """How far a comparison is."""
    return memory_store_pb2.IndexProgress(phase=step.phase, done=step.done, total=step.total)


def index_report(r: Report) -> memory_store_pb2.IndexReport:
    """What it found."""
    return memory_store_pb2.IndexReport(
        indexed_revision=r.indexed,
        memories=r.memories,
        points=r.points,
        memories_hash=r.memories_sum.to_bytes(8, "big"),
        points_hash=r.points_sum.to_bytes(8, "big"),
        missing=r.missing,
        orphaned=r.orphaned,
        stale=r.stale,
        refused=r.refused,
        sample_keys=r.sample,
        mended=r.mended,
    )
