"""Memories as they are sent, checked: what comes out may be kept."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from msgspec import Struct

from sfm_grpc.coordinator import names
from sfm_grpc.errors import InvalidRequest, LimitExceeded
from sfm_grpc.model import COORDINATES_MAX, Buffer, DeleteMemory, MemoryChange, Part, PutMemory

_PARTS = {
    "payload_json": Part.PAYLOAD,
    "memory_type": Part.TYPE,
    "importance": Part.IMPORTANCE,
    "coordinates": Part.COORDINATES,
    "vector": Part.VECTOR,
    "expiry": Part.EXPIRY,
    "expire_time": Part.EXPIRY,
    "ttl": Part.EXPIRY,
}
_BYTES_SHOWN = 40
# More than this is looked at on a thread.
_LARGE_BYTES = 256 * 1024
# In time for the largest integer of the stores, whatever is added.
_TIME_MAX_US = 1 << 62


@dataclass(frozen=True, slots=True)
class MemoryBounds:
    """What memories are held to."""

    batch_max: int
    payload_bytes_max: int
    json_depth_max: int
    vector_dimension_max: int


class SentMemory(Struct, frozen=True):
    """A memory to put, as it was sent."""

    field: str
    """Where it stands in the request."""
    key: str
    payload_json: str
    memory_type: str
    importance: float
    coordinates: tuple[float, ...]
    vector: Buffer | None
    expire_time_us: int | None
    ttl_us: int | None
    mask: tuple[str, ...] | None
    """Paths of its update mask; None: it has none."""
    create_only: bool
    if_revision: int | None

    def content(self, payload_digest: bytes) -> list[object]:
        """What was asked for, in the form that two requests are compared by."""
        vector = None if self.vector is None else hashlib.sha256(self.vector).digest()
        facts = [self.memory_type, self.importance, self.coordinates, vector, self.expire_time_us, self.ttl_us]
        # Where the payload is not taken, it may be different.
        return [self.key, payload_digest, *facts, self.mask, self.create_only, self.if_revision]


async def examined(
    sent: Sequence[SentMemory | DeleteMemory], field: str, rules: MemoryBounds, now_us: int
) -> tuple[list[MemoryChange], list[object]]:
    """The changes, and what was asked for in the form that two requests are compared by; `field` is where they stand.

    Raises InvalidRequest, LimitExceeded.
    """

    def look() -> tuple[list[MemoryChange], list[object]]:
        names.check_count(len(sent), field, "batch_max", rules.batch_max)
        changes: list[MemoryChange] = []
        content: list[object] = []
        for each in sent:
            if isinstance(each, SentMemory):
                put = checked(each, rules, now_us)
                changes.append(put)
                content.append(each.content(put.digest))
            else:
                names.check_name(each.key, each.field)
                changes.append(each)
                content.append(["delete", each.key])
        _check_each_once([each.key for each in sent], lambda place: _key_field(sent[place]))
        return changes, content

    large = sum(len(s.payload_json) + len(s.vector or b"") for s in sent if isinstance(s, SentMemory)) >= _LARGE_BYTES
    return await asyncio.to_thread(look) if large else look()


def check_keys(keys: Sequence[str], field: str, batch_max: int) -> None:
    """Names, each once, some, and not too many; `field` is where they stand. Raises InvalidRequest, LimitExceeded."""
    names.check_each(keys, field, "batch_max", batch_max)
    _check_each_once(keys, lambda place: f"{field}[{place}]")


def _check_each_once(keys: Sequence[str], field_of: Callable[[int], str]) -> None:
    """`field_of` says where a key stands, by its place."""
    if len(set(keys)) == len(keys):
        return
    seen: dict[str, int] = {}
    for place, key in enumerate(keys):
        if key in seen:
            problem = f"is {key!r}, as {field_of(seen[key])} is: each key may be there once"
            raise InvalidRequest(field=field_of(place), problem=problem)
        seen[key] = place


def _key_field(change: SentMemory | DeleteMemory) -> str:
    return f"{change.field}.memory.key" if isinstance(change, SentMemory) else change.field


def checked(sent: SentMemory, bounds: MemoryBounds, now_us: int, *, if_absent: bool = False) -> PutMemory:
    """The change. Where a field is named, its name is put together once it is wrong. Raises InvalidRequest, LimitExceeded."""
    names.check_name(sent.key, sent.field, ".memory.key")
    parts = Part.ALL if sent.mask is None else _parts(sent, sent.mask)
    payload = digest = b""
    if sent.mask is None or Part.PAYLOAD in parts:
        payload = _payload(sent, bounds)
        digest = hashlib.sha256(payload).digest()
    if sent.memory_type:
        names.check_name(sent.memory_type, sent.field, ".memory.memory_type")
    if not math.isfinite(sent.importance):
        raise InvalidRequest(field=f"{sent.field}.memory.importance", problem=f"is {sent.importance}; it must be finite")
    if sent.coordinates:
        _check_coordinates(sent.coordinates, f"{sent.field}.memory.coordinates")
    if sent.vector is not None:
        _check_vector(sent.vector, f"{sent.field}.memory.vector", bounds)
    if sent.if_revision is not None and sent.if_revision < 1:
        problem = f"is {sent.if_revision}; revisions start at 1, and create_only is for a key that is absent"
        raise InvalidRequest(field=f"{sent.field}.if_revision", problem=problem)
    return PutMemory(
        key=sent.key,
        payload=payload,
        digest=digest,
        memory_type=sent.memory_type,
        # SQLite knows one zero only, so there is one everywhere.
        importance=sent.importance + 0.0,
        coordinates=tuple([number + 0.0 for number in sent.coordinates]) if sent.coordinates else (),
        vector=sent.vector,
        expire_time_us=_expire_time_us(sent, now_us),
        parts=parts,
        partial=sent.mask is not None,
        create_only=sent.create_only,
        if_absent=if_absent,
        if_revision=sent.if_revision,
        field=sent.field,
    )


def _parts(sent: SentMemory, mask: tuple[str, ...]) -> Part:
    parts = Part(0)
    for path in mask:
        if path not in _PARTS:
            known = ", ".join(p for p in _PARTS if p not in ("expire_time", "ttl"))
            raise InvalidRequest(field=f"{sent.field}.update_mask", problem=f"names {path!r}; it may name {known}")
        parts |= _PARTS[path]
    if not parts:
        raise InvalidRequest(field=f"{sent.field}.update_mask", problem="names nothing; leave it out to put all of the memory")
    if sent.create_only:
        raise InvalidRequest(field=f"{sent.field}.create_only", problem="cannot be so with an update_mask, which needs a memory")
    return parts


def _payload(sent: SentMemory, bounds: MemoryBounds) -> bytes:
    payload, field = sent.payload_json.encode(), f"{sent.field}.memory.payload_json"
    if not payload:
        raise InvalidRequest(field=field, problem="is required: JSON text, for example {}")
    if len(payload) > bounds.payload_bytes_max:
        raise LimitExceeded(limit="payload_bytes_max", value=len(payload), maximum=bounds.payload_bytes_max, field=field)
    # No text is nested deeper than it has brackets.
    if payload.count(b"[") + payload.count(b"{") > bounds.json_depth_max:
        depth = json_depth(payload)
        if depth > bounds.json_depth_max:
            raise LimitExceeded(limit="json_depth_max", value=depth, maximum=bounds.json_depth_max, field=field)
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        near = error.doc[max(0, error.pos - _BYTES_SHOWN // 2) : error.pos + _BYTES_SHOWN // 2]
        problem = f"is no JSON: {error.msg} (near {near!r})"
        raise InvalidRequest(field=field, problem=problem) from None
    return payload


def json_depth(text: bytes) -> int:
    """How deep a text opens brackets outside of strings, whether it is JSON or not."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _check_coordinates(coordinates: Sequence[float], field: str) -> None:
    if len(coordinates) > COORDINATES_MAX:
        raise LimitExceeded(limit="coordinates_max", value=len(coordinates), maximum=COORDINATES_MAX, field=field)
    for place, number in enumerate(coordinates):
        if not math.isfinite(number):
            raise InvalidRequest(field=f"{field}[{place}]", problem=f"is {number}; it must be finite")


def _check_vector(vector: Buffer, field: str, bounds: MemoryBounds) -> None:
    size, rest = divmod(len(vector), 4)
    if rest or not size:
        problem = f"has {len(vector)} bytes, which are no float32 numbers; leave it out where there is no vector"
        raise InvalidRequest(field=field, problem=problem)
    if size > bounds.vector_dimension_max:
        raise LimitExceeded(limit="vector_dimension_max", value=size, maximum=bounds.vector_dimension_max, field=field)
    numbers = np.frombuffer(vector, "<f4")
    # One pass in the usual case; the squares of finite numbers may overflow, so only then each is looked at.
    if not math.isfinite(np.vdot(numbers, numbers)):
        finite = np.isfinite(numbers)
        if not finite.all():
            place = int(np.argmin(finite))
            raise InvalidRequest(field=field, problem=f"has {numbers[place]} at [{place}]; every number must be finite")


def _expire_time_us(sent: SentMemory, now_us: int) -> int:
    memory = f"{sent.field}.memory"
    if sent.ttl_us is not None:
        if not 0 < sent.ttl_us < _TIME_MAX_US:
            raise InvalidRequest(
                field=f"{memory}.ttl", problem=f"is {sent.ttl_us / 1e6:g} s; it must be positive, and end some day"
            )
        return now_us + sent.ttl_us
    if sent.expire_time_us is None:
        return 0
    if sent.expire_time_us <= now_us:
        ago = (now_us - sent.expire_time_us) / 1e6
        raise InvalidRequest(field=f"{memory}.expire_time", problem=f"was {ago:.3f} s ago; the memory would be absent at once")
    if sent.expire_time_us >= _TIME_MAX_US:
        problem = f"is in {sent.expire_time_us // 31_556_952_000_000} years; leave it out for what never expires"
        raise InvalidRequest(field=f"{memory}.expire_time", problem=problem)
    return sent.expire_time_us
