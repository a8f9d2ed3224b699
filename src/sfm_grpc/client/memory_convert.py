"""Between the messages of MemoryStore and records. Vectors are moved as bytes, never number by number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Unpack
from uuid import UUID

import numpy as np
import numpy.typing as npt
import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sfm.v1 import memory_pb2, memory_store_pb2

from sfm_grpc.client.convert import believed, us_of
from sfm_grpc.client.memory_records import (
    KEEP,
    FilterOptions,
    FoundMemories,
    ListOptions,
    MemoryDelete,
    MemoryPage,
    MemoryPut,
    MemoryReceipt,
    MemoryRecord,
    MemoryTypeStats,
    MemoryUpdate,
    Neighbour,
    NumberRange,
    OrderName,
    OutcomeName,
    RawJson,
    SearchResult,
    Time,
    TimeRange,
)
from sfm_grpc.client.records import Array, frozen, microseconds, moment
from sfm_grpc.errors import InvalidRequest

_ORDERS: Mapping[OrderName, memory_pb2.MemoryOrder.ValueType] = {
    "key": memory_pb2.MEMORY_ORDER_KEY,
    "create_time": memory_pb2.MEMORY_ORDER_CREATE_TIME,
    "update_time": memory_pb2.MEMORY_ORDER_UPDATE_TIME,
    "importance": memory_pb2.MEMORY_ORDER_IMPORTANCE,
}
_OUTCOMES: Mapping[int, OutcomeName] = {
    memory_pb2.MEMORY_OUTCOME_CREATED: "created",
    memory_pb2.MEMORY_OUTCOME_UPDATED: "updated",
    memory_pb2.MEMORY_OUTCOME_DELETED: "deleted",
    memory_pb2.MEMORY_OUTCOME_UNDELETED: "undeleted",
    memory_pb2.MEMORY_OUTCOME_PURGED: "purged",
    memory_pb2.MEMORY_OUTCOME_UNCHANGED: "unchanged",
}
_PARTS = ("payload", "memory_type", "importance", "coordinates", "vector", "ttl_s", "expire_time")
_PATHS = {"payload": "payload_json", "ttl_s": "expiry", "expire_time": "expiry"}
# The longest that a Duration means, ten thousand years.
_DURATION_MAX_S = 315_576_000_000
# What the module json does not know is not written either, but for UUIDs and enums.
_AS_JSON = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


@contextmanager
def sendable(field: str) -> Iterator[None]:
    """What a message cannot hold (half a surrogate pair, an integer of more than 64 bits) is the caller's mistake."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(field=field, problem=str(error)) from None


def names_of(keys: str | Iterable[str]) -> list[str]:
    """Keys; one that stands alone is one, not its letters."""
    return [keys] if isinstance(keys, str) else [*keys]


# ---- what is put -----------------------------------------------------------------------------------------------------


def batch_of(items: Iterable[MemoryPut | MemoryUpdate], vectors: npt.ArrayLike | None) -> list[memory_pb2.MemoryPut]:
    """The puts of a batch; row i of `vectors` is the vector of item i. Raises InvalidRequest."""
    puts = [*items]
    if vectors is None:
        return [put_of(item, f"puts[{place}]") for place, item in enumerate(puts)]
    rows = _floats(vectors, "vectors", (len(puts), None))
    if again := [place for place, item in enumerate(puts) if _has_vector(item)]:
        raise InvalidRequest(field=f"puts[{again[0]}].memory.vector", problem="is said twice: vectors has a row for it")
    return [put_of(item, f"puts[{place}]", row) for place, (item, row) in enumerate(zip(puts, rows, strict=True))]


def _has_vector(item: MemoryPut | MemoryUpdate) -> bool:
    return item.vector is not (KEEP if isinstance(item, MemoryUpdate) else None)


def changes_of(items: Iterable[MemoryPut | MemoryUpdate | MemoryDelete]) -> list[memory_pb2.MemoryChange]:
    """What a commit of matrices does to memories as well. Raises InvalidRequest."""
    return [_change(item, f"memories[{place}]") for place, item in enumerate(items)]


def _change(item: MemoryPut | MemoryUpdate | MemoryDelete, field: str) -> memory_pb2.MemoryChange:
    if not isinstance(item, MemoryDelete):
        return memory_pb2.MemoryChange(put=put_of(item, f"{field}.put"))
    with sendable(f"{field}.delete_key"):
        return memory_pb2.MemoryChange(delete_key=item.key)


def put_of(item: MemoryPut | MemoryUpdate, field: str, row: Array | None = None) -> memory_pb2.MemoryPut:
    """One put, its vector `row` where one is given; `field` is its place in the request. Raises InvalidRequest."""
    place = "memory"  # where we are in it, once something cannot be sent: a context manager for each part costs more than they do
    put = memory_pb2.MemoryPut()
    try:
        memory = put.memory
        memory.key = item.key
        if item.memory_type is not KEEP:
            memory.memory_type = item.memory_type
        if item.coordinates and item.coordinates is not KEEP:
            memory.coordinates.extend(item.coordinates)
        if item.importance is not KEEP:
            memory.importance = item.importance
        if item.payload is not KEEP:
            place = "memory.payload_json"
            memory.payload_json = payload_json_of(item.payload, f"{field}.memory.payload_json")
        vector = item.vector if row is None else row
        if vector is not None and vector is not KEEP:
            memory.vector.data = _floats(vector, f"{field}.memory.vector", (None,)).tobytes()
        _set_expiry(memory, item, f"{field}.memory")
        place = "if_revision"
        if isinstance(item, MemoryUpdate):
            put.update_mask.CopyFrom(FieldMask(paths=_paths(item, row)))
        elif item.create_only:
            put.create_only = True
            if item.if_revision is not None:
                problem = "cannot be so with create_only: a key is absent or is not"
                raise InvalidRequest(field=f"{field}.if_revision", problem=problem)
        if item.if_revision is not None:
            put.if_revision = item.if_revision
    except (ValueError, OverflowError) as error:  # as in `sendable`
        raise InvalidRequest(field=f"{field}.{place}", problem=str(error)) from None
    return put


def _paths(item: MemoryUpdate, row: Array | None) -> Iterable[str]:
    """What an update sets, each once."""
    said = [part for part in _PARTS if getattr(item, part) is not KEEP or (part == "vector" and row is not None)]
    return dict.fromkeys(_PATHS.get(part, part) for part in said)


def _set_expiry(memory: memory_pb2.Memory, item: MemoryPut | MemoryUpdate, field: str) -> None:
    ttl_s = None if item.ttl_s is KEEP else item.ttl_s
    expire_time = None if item.expire_time is KEEP else item.expire_time
    if ttl_s is not None and expire_time is not None:
        raise InvalidRequest(field=f"{field}.expiry", problem="is said twice: say ttl_s or expire_time")
    if ttl_s is not None:
        memory.ttl.CopyFrom(duration_of(ttl_s, f"{field}.ttl"))
    if expire_time is not None:
        memory.expire_time.CopyFrom(_timestamp(expire_time, f"{field}.expire_time"))


def payload_json_of(payload: object, field: str) -> str:
    """The text that is sent: orjson's, fifteen times faster than json's. Raises InvalidRequest for what is no JSON."""
    if isinstance(payload, RawJson):
        return payload.text
    try:
        text = orjson.dumps(payload, option=_AS_JSON)
        if b"null" not in text:  # as NaN is written: where it may be one, it is looked at more closely
            return text.decode()
    except (TypeError, ValueError, RecursionError):
        pass  # a subclass of float, an integer of more than 64 bits: known below, or refused there
    try:
        return _STRICT.encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        # ValueError: NaN, an infinity, something that contains itself.
        raise InvalidRequest(field=field, problem=f"cannot be written as JSON: {error}") from None


def _json_of(value: object) -> object:
    """As orjson writes it."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_of)
"""Knows an infinity from None."""


def _floats(numbers: npt.ArrayLike, field: str, shape: tuple[int | None, ...]) -> Array:
    """The numbers as float32, in C order; None in `shape`: any length. No copy of what is so already."""
    try:
        array = np.asarray(numbers)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(field=field, problem=f"is no array: {error}") from None
    if array.dtype.kind not in "fiu":
        raise InvalidRequest(field=field, problem=f"is an array of {array.dtype}; real numbers are needed, which become float32")
    if array.ndim != len(shape) or any(n not in (None, given) for n, given in zip(shape, array.shape, strict=True)):
        needed = ", ".join("d" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "")
        raise InvalidRequest(field=field, problem=f"has shape {array.shape}, not ({needed})")
    # What float32 cannot hold becomes infinite, which the server refuses with its place.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, "<f4")


def duration_of(seconds: float, field: str) -> Duration:
    """A length of time. Raises InvalidRequest for what is none."""
    if not (math.isfinite(seconds) and abs(seconds) <= _DURATION_MAX_S):
        raise InvalidRequest(field=field, problem=f"is {seconds} s, which is no length of time")
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1_000_000))
    return duration


def _timestamp(time: Time, field: str) -> Timestamp:
    if isinstance(time, datetime):
        if time.utcoffset() is None:
            raise InvalidRequest(
                field=field, problem=f"{time.isoformat()} has no time zone: say datetime.now(UTC), or microseconds"
            )
        time = microseconds(time)
    with sendable(field):
        seconds, rest = divmod(time, 1_000_000)
        return Timestamp(seconds=seconds, nanos=rest * 1000)


# ---- what is listed and sought ---------------------------------------------------------------------------------------


def listing_of(namespace: str, **options: Unpack[ListOptions]) -> memory_store_pb2.ListMemoriesRequest:
    """The first page of a list. Raises InvalidRequest."""
    order = options.get("order", "key")
    if order not in _ORDERS:
        raise InvalidRequest(field="order", problem=f"{order!r} is none of {', '.join(_ORDERS)}")
    with sendable("filter"):
        return memory_store_pb2.ListMemoriesRequest(
            namespace=namespace,
            filter=_filter_of(options),
            order=_ORDERS[order],
            descending=options.get("descending", False),
            page_size=options.get("page_size", 0),
            without_payloads=not options.get("payloads", True),
            with_vectors=options.get("with_vectors", False),
        )


def search_of(
    namespace: str, vector: npt.ArrayLike, limit: int, *, with_vectors: bool, chosen: FilterOptions
) -> memory_store_pb2.SearchMemoriesRequest:
    """A search. Raises InvalidRequest."""
    request = memory_store_pb2.SearchMemoriesRequest(with_vectors=with_vectors)
    with sendable("namespace"):
        request.namespace = namespace
    request.vector.data = _floats(vector, "vector", (None,)).tobytes()
    with sendable("filter"):
        request.filter.CopyFrom(_filter_of(chosen))
    with sendable("limit"):
        request.limit = limit
    return request


def counting_of(namespace: str, chosen: FilterOptions) -> memory_store_pb2.GetMemoryStatsRequest:
    """What is counted. Raises InvalidRequest."""
    with sendable("filter"):
        return memory_store_pb2.GetMemoryStatsRequest(namespace=namespace, filter=_filter_of(chosen))


def exporting_of(namespace: str, chosen: FilterOptions, *, with_vectors: bool) -> memory_store_pb2.ExportMemoriesRequest:
    """An export from its beginning. Raises InvalidRequest."""
    with sendable("filter"):
        return memory_store_pb2.ExportMemoriesRequest(
            namespace=namespace, filter=_filter_of(chosen), without_vectors=not with_vectors
        )


def _filter_of(options: FilterOptions) -> memory_pb2.MemoryFilter:
    chosen = memory_pb2.MemoryFilter(
        key_prefix=options.get("key_prefix", ""),
        memory_types=names_of(options.get("memory_types", ())),
        box=[_numbers(each) for each in options.get("box", ())],
    )
    if "importance" in options:
        chosen.importance.CopyFrom(_numbers(options["importance"]))
    if "create_time" in options:
        chosen.create_time.CopyFrom(_times(options["create_time"], "filter.create_time"))
    if "update_time" in options:
        chosen.update_time.CopyFrom(_times(options["update_time"], "filter.update_time"))
    return chosen


def _numbers(ends: NumberRange) -> memory_pb2.NumberRange:
    low, high = ends
    return memory_pb2.NumberRange(low=low, high=high)


def _times(ends: TimeRange, field: str) -> memory_pb2.TimeRange:
    start, end = (None if time is None else _timestamp(time, field) for time in ends)
    return memory_pb2.TimeRange(start=start, end=end)


# ---- what is answered ------------------------------------------------------------------------------------------------


def memory_of(reply: bytes) -> MemoryRecord:
    """A GetMemoryResponse. Raises UnexpectedStatus, as all of these, when it is none."""
    with believed("GetMemory"):
        return _record(memory_store_pb2.GetMemoryResponse.FromString(reply).memory)


def found_of(reply: bytes, *, with_vectors: bool) -> FoundMemories:
    """A BatchGetMemoriesResponse."""
    with believed("BatchGetMemories"):
        response = memory_store_pb2.BatchGetMemoriesResponse.FromString(reply)
        found = {m.key: _record(m) for m in response.memories}
        return FoundMemories(found=frozen(found), missing=tuple(response.missing), with_vectors=with_vectors)


def page_of(reply: bytes) -> MemoryPage:
    """A ListMemoriesResponse."""
    with believed("ListMemories"):
        response = memory_store_pb2.ListMemoriesResponse.FromString(reply)
        return MemoryPage(memories=tuple(map(_record, response.memories)), next_page_token=response.next_page_token)


def result_of(reply: bytes) -> SearchResult:
    """A SearchMemoriesResponse."""
    with believed("SearchMemories"):
        response = memory_store_pb2.SearchMemoriesResponse.FromString(reply)
        return SearchResult(
            neighbours=tuple(Neighbour(_record(n.memory), n.score) for n in response.neighbours),
            indexed_revision=response.indexed_revision,
            newest_revision=response.newest_revision,
        )


def stats_of(reply: bytes) -> tuple[MemoryTypeStats, ...]:
    """A GetMemoryStatsResponse."""
    with believed("GetMemoryStats"):
        return tuple(map(_type_stats, memory_store_pb2.GetMemoryStatsResponse.FromString(reply).types))


def _type_stats(m: memory_store_pb2.MemoryTypeStats) -> MemoryTypeStats:
    return MemoryTypeStats(
        memory_type=m.memory_type,
        memories=m.memories,
        vectors=m.vectors,
        payload_bytes=m.payload_bytes,
        expiring=m.expiring,
        importance_min=m.importance_min,
        importance_mean=m.importance_mean,
        importance_max=m.importance_max,
        oldest_time=moment(us_of(m.oldest_time)),
        newest_time=moment(us_of(m.newest_time)),
    )


def _record(m: memory_pb2.Memory) -> MemoryRecord:
    return MemoryRecord(
        key=m.key,
        revision=m.revision,
        payload_json=m.payload_json,
        payload_digest=m.payload_digest,
        memory_type=m.memory_type,
        importance=m.importance,
        coordinates=tuple(m.coordinates),
        # Bytes cannot be written to, so the array that looks into them cannot.
        vector=np.frombuffer(m.vector.data, "<f4") if m.HasField("vector") else None,
        expire_time_us=us_of(m.expire_time),
        create_time=moment(us_of(m.create_time)),
        update_time=moment(us_of(m.update_time)),
    )


def receipt_of(m: memory_pb2.MemoryReceipt, *, replayed: bool, request_id: str, indexed: bool = False) -> MemoryReceipt:
    """What became of one change."""
    return MemoryReceipt(
        key=m.key,
        outcome=_OUTCOMES.get(m.outcome, "unknown"),
        revision=m.revision,
        payload_digest=m.payload_digest,
        create_time=moment(us_of(m.create_time)) if m.HasField("create_time") else None,
        update_time=moment(us_of(m.update_time)) if m.HasField("update_time") else None,
        replayed=replayed,
        request_id=request_id,
        indexed=indexed,
    )
