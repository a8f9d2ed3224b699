"""Memories as JSON Lines: what a line says, and how a memory is written as one. memory_store.proto describes the lines."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
import numpy as np
import orjson

from sfm_grpc.coordinator.sent_memories import MemoryBounds, SentMemory, json_depth
from sfm_grpc.errors import InvalidRequest, LimitExceeded, SfmError
from sfm_grpc.model import Buffer, Memory

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The end of the year 9999 in microseconds: RFC 3339 has no later ones.
_YEARS_END_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

_PLACE = re.compile(r"^(?:(?P<problem>.*) - at `\$\.?(?P<field>.*)`|Object contains unknown field `(?P<unknown>.*)`)$", re.DOTALL)
_KEY_SHOWN = 256


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line's fields. What is Raw is not looked into: a payload's own bytes are what is kept, with every digit."""

    key: str = ""
    payload_json: str | msgspec.UnsetType = msgspec.UNSET
    payload: msgspec.Raw = msgspec.Raw()
    memory_type: str = ""
    importance: float = 0.0
    coordinates: tuple[float, ...] = ()
    vector: bytes | list[float] | None = None
    expire_time: Annotated[datetime, msgspec.Meta(tz=True)] | int | None = None
    revision: msgspec.Raw = msgspec.Raw()
    create_time: msgspec.Raw = msgspec.Raw()
    update_time: msgspec.Raw = msgspec.Raw()


class _Named(msgspec.Struct):
    key: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_name = msgspec.json.Decoder(_Named).decode


@dataclass(frozen=True, slots=True, order=True)
class LineError:
    """Why a line was refused."""

    line: int
    key: str
    """As far as it could be read."""
    field: str
    """Of the line; "": the line as a whole."""
    reason: str
    problem: str


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(text: bytes, number: int, bounds: MemoryBounds) -> SentMemory:
    """What a line says, not yet checked. Raises InvalidRequest, LimitExceeded (`json_depth_max`)."""
    field = str(number)
    try:
        line = _decode_line(text)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), field) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(field=field, problem=f"is no JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(field=field, problem=f"is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise LimitExceeded(limit="json_depth_max", value=json_depth(text), maximum=bounds.json_depth_max, field=field) from None
    return SentMemory(
        field=field,
        key=line.key,
        payload_json=_payload_json(line, field),
        memory_type=line.memory_type,
        importance=line.importance,
        coordinates=line.coordinates,
        vector=_vector(line.vector),
        expire_time_us=_time_us(line.expire_time),
        ttl_us=None,
        mask=None,
        create_only=False,
        if_revision=None,
    )


def _misfit(told: str, field: str) -> InvalidRequest:
    """A value of another type, or a field that does not exist."""
    found = _PLACE.match(told)
    if found is None:
        return InvalidRequest(field=field, problem=f"is no memory: {told}")
    if (unknown := found["unknown"]) is not None:
        known = ", ".join(_Line.__struct_fields__)
        return InvalidRequest(field=f"{field}.memory.{unknown}", problem=f"is no field of a line; these are: {known}")
    return InvalidRequest(field=f"{field}.memory.{found['field']}", problem=found["problem"])


def _payload_json(line: _Line, field: str) -> str:
    raw = bytes(line.payload)
    if not raw:
        return line.payload_json or ""
    if line.payload_json is not msgspec.UNSET:
        raise InvalidRequest(field=f"{field}.memory.payload", problem="is said twice: say payload or payload_json")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8: {error.reason} at its byte {error.start}"
        raise InvalidRequest(field=f"{field}.memory.payload", problem=problem) from None


def _vector(said: bytes | list[float] | None) -> Buffer | None:
    if isinstance(said, list):
        # What float32 cannot hold becomes infinite, which is refused with its place.
        with np.errstate(over="ignore"):
            return np.array(said, "<f4").tobytes()
    return said


def _time_us(said: datetime | int | None) -> int | None:
    return (said - _EPOCH) // _MICROSECOND if isinstance(said, datetime) else said


def refusal(error: SfmError, text: bytes) -> LineError:
    """What is told of a line that is refused with `error`, whose field begins with the line's number."""
    try:
        key = _decode_name(text).key
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        key = ""
    return refused(error, key)


def refused(error: SfmError, key: str) -> LineError:
    """The same, where the key is known."""
    number, _, field = error.field_path.partition(".memory.")
    problem = error.problem if isinstance(error, InvalidRequest) else error.sentence()
    return LineError(int(number), key[:_KEY_SHOWN], field, error.reason, problem)


# ---- writing ---------------------------------------------------------------------------------------------------------


def written(memory: Memory) -> bytes:
    """A memory as a line. What is empty, 0 or none is left out."""
    fields: dict[str, object] = {"key": memory.key, "payload_json": memory.payload.decode()}
    if memory.memory_type:
        fields["memory_type"] = memory.memory_type
    if memory.importance:
        fields["importance"] = memory.importance
    if memory.coordinates:
        fields["coordinates"] = memory.coordinates
    if memory.vector is not None:
        fields["vector"] = binascii.b2a_base64(memory.vector, newline=False).decode()
    if memory.expire_time_us:
        fields["expire_time"] = _time(memory.expire_time_us)
    fields["revision"] = memory.revision
    fields["create_time"] = _time(memory.create_time_us)
    fields["update_time"] = _time(memory.update_time_us)
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


def _time(time_us: int) -> datetime | int:
    return _EPOCH + timedelta(microseconds=time_us) if time_us <= _YEARS_END_US else time_us
