"""Big bytes in and out of protobuf messages without copies.

protobuf copies a bytes field when it parses it and again each time it is read, and refuses buffers when it builds one. So the
few large fields travel around it: `split` takes them out of a message and leaves a small skeleton, in which each is a
placeholder (its number), for protobuf to parse; `join` is the inverse. A packed `repeated double` is a little-endian
buffer on the wire, so it goes the same way, as fast as bytes.

Wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias, Union

from sfm_grpc.model import Buffer

# A caller cannot make the scan long: real messages have a few dozen fields on the way to their matrices.
FIELDS_MAX = 20_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ALIGNMENT = 8
# Below this an unaligned array costs nobody anything.
_ALIGN_FROM_BYTES = 1024


class Leaf(enum.Enum):
    """What stands at the end of a path: a bytes field, or a packed `repeated double`."""

    BYTES = enum.auto()
    DOUBLES = enum.auto()


Spec: TypeAlias = Mapping[int, Union["Spec", Leaf]]
"""Field number → what to do inside it. Fields that are not named stay in the skeleton as they are."""

# sfm.v1.Matrix: double_values, factor.data, envelope, data. PADDING aligns what follows it.
MATRIX: Spec = {5: {1: Leaf.DOUBLES}, 6: {15: Leaf.BYTES}, 7: Leaf.BYTES, 15: Leaf.BYTES}
COMMIT_REQUEST: Spec = {15: {15: MATRIX}}  # updates, put
GET_RESPONSE: Spec = {15: {15: MATRIX}}  # matrices, matrix
_PADDING_TAG = (14 << 3) | _BYTES


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def placeholder(index: int) -> bytes:
    """What stands in a skeleton's bytes field for body `index`."""
    return index.to_bytes(4, "little")


def body_of(field: bytes, bodies: Sequence[memoryview]) -> memoryview:
    """The body that a skeleton's bytes field stands for."""
    return bodies[int.from_bytes(field, "little")]


def bodies_of(values: Sequence[float], bodies: Sequence[memoryview]) -> Buffer:
    """The buffer of doubles that a skeleton's `repeated double` stands for; one copy if it came in several pieces."""
    if len(values) == 1:
        return bodies[int(values[0])]
    return b"".join(bodies[int(v)] for v in values)


# ---- split ---------------------------------------------------------------------------------------------------------


def split(message: Buffer, spec: Spec) -> tuple[bytes, list[memoryview]]:
    """Takes the fields of `spec` out of a serialized message.

    Returns the skeleton and the bodies, views into `message`. Raises WireError when the bytes are no message.
    """
    bodies: list[memoryview] = []
    skeleton = bytearray()
    _Splitter(memoryview(message), bodies).message(0, len(message), spec, skeleton)
    return bytes(skeleton), bodies


class _Splitter:
    """One pass over one message."""

    def __init__(self, view: memoryview, bodies: list[memoryview]) -> None:
        self._view = view
        self._bodies = bodies
        self._fields = 0

    def message(self, at: int, end: int, spec: Spec, out: bytearray) -> None:
        view = self._view
        while at < end:
            self._fields += 1
            if self._fields > FIELDS_MAX:
                raise WireError(f"more than {FIELDS_MAX} fields")
            start = at
            tag, at = read_varint(view, at, end)
            inside = spec.get(tag >> 3)
            wire_type = tag & 7
            if wire_type != _BYTES:
                at = _skip(view, at, end, wire_type)
                if inside is Leaf.DOUBLES and wire_type == _FIXED64:
                    self._take(view[at - 8 : at], Leaf.DOUBLES, (tag & ~7) | _BYTES, out)
                else:
                    out += view[start:at]
                continue
            size, at = read_varint(view, at, end)
            if size > end - at:
                raise WireError(f"field {tag >> 3} promises {size} bytes, {end - at} are left")
            if inside is None:
                out += view[start : at + size]
            elif isinstance(inside, Leaf):
                self._take(view[at : at + size], inside, tag, out)
            else:
                inner = bytearray()
                self.message(at, at + size, inside, inner)
                out += varint(tag) + varint(len(inner)) + inner
            at += size

    def _take(self, body: memoryview, leaf: Leaf, tag: int, out: bytearray) -> None:
        if leaf is Leaf.DOUBLES and len(body) % 8:
            raise WireError(f"{len(body)} bytes are not whole doubles")
        index = len(self._bodies)
        mark = placeholder(index) if leaf is Leaf.BYTES else struct.pack("<d", index)
        out += varint(tag) + varint(len(mark)) + mark
        self._bodies.append(body)


def _skip(view: memoryview, at: int, end: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return read_varint(view, at, end)[1]
    size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type)
    if size is None or size > end - at:
        raise WireError(f"wire type {wire_type} at byte {at}" if size is None else "cut short")
    return at + size


def read_varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """Reads a base-128 varint; returns it and the place after it."""
    value = shift = 0
    while at < end:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise WireError("a varint of more than ten bytes")
    raise WireError("cut short")


def varint(value: int) -> bytes:
    """A base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# ---- join ----------------------------------------------------------------------------------------------------------


def join(skeleton: bytes, spec: Spec, bodies: Sequence[Buffer]) -> bytes:
    """Puts the bodies where a skeleton has their placeholders: one message, one copy.

    `Matrix.data` is aligned to eight bytes from the message's start (by its field `padding`), so that a reader's view of it
    is an aligned array.
    """
    if not bodies:
        return skeleton
    root = _Node(memoryview(skeleton), 0, len(skeleton), spec, bodies)
    # Padding may lengthen a length, which moves what follows: twice is enough, a third pass only confirms.
    for _ in range(3):
        if root.align(0) == 0:
            break
    chunks: list[Buffer] = []
    root.write(chunks)
    return b"".join(chunks)


class _Node:
    """A message of the skeleton on the way to a body: its parts in order, bytes or nodes or bodies."""

    def __init__(self, view: memoryview, at: int, end: int, spec: Spec, bodies: Sequence[Buffer]) -> None:
        self.parts: list[Buffer | tuple[int, _Node] | tuple[int, Buffer]] = []
        self.padding = b""
        self._alignable = spec is MATRIX
        plain = at
        while at < end:
            start = at
            tag, at = read_varint(view, at, end)
            inside = spec.get(tag >> 3)
            if tag & 7 != _BYTES:
                at = _skip(view, at, end, tag & 7)
                continue
            size, at = read_varint(view, at, end)
            if inside is not None:
                if start > plain:
                    self.parts.append(view[plain:start])
                if inside is Leaf.BYTES:
                    self.parts.append((tag, body_of(bytes(view[at : at + size]), bodies)))  # type: ignore[arg-type]
                elif inside is Leaf.DOUBLES:
                    (index,) = struct.unpack_from("<d", view, at)
                    self.parts.append((tag, bodies[int(index)]))
                else:
                    self.parts.append((tag, _Node(view, at, at + size, inside, bodies)))
                plain = at + size
            at += size
        if end > plain:
            self.parts.append(view[plain:end])
        self.size = 0
        self._measure()

    def _measure(self) -> None:
        self.size = len(self.padding)
        for part in self.parts:
            if isinstance(part, tuple):
                inner = part[1].size if isinstance(part[1], _Node) else len(part[1])
                self.size += len(varint(part[0])) + len(varint(inner)) + inner
            else:
                self.size += len(part)

    def align(self, offset: int) -> int:
        """Chooses the padding of each matrix, which starts at `offset` from the message's start; returns how many changed."""
        changed = 0
        for part in self.parts:
            if not isinstance(part, tuple):
                offset += len(part)
                continue
            tag, inner = part
            size = inner.size if isinstance(inner, _Node) else len(inner)
            offset += len(varint(tag)) + len(varint(size))
            if isinstance(inner, _Node):
                changed += inner.align(offset)
            elif self._alignable and tag >> 3 == 15 and size >= _ALIGN_FROM_BYTES:
                wanted = _padding(-offset % _ALIGNMENT)
                changed += self.padding != wanted
                self.padding = wanted
            offset += inner.size if isinstance(inner, _Node) else size
        self._measure()
        return changed

    def write(self, out: list[Buffer]) -> None:
        for part in self.parts:
            if not isinstance(part, tuple):
                out.append(part)
                continue
            tag, inner = part
            if isinstance(inner, _Node):
                out.append(varint(tag) + varint(inner.size))
                inner.write(out)
            else:
                if self.padding:
                    out.append(self.padding)
                out.append(varint(tag) + varint(len(inner)))
                out.append(inner)


def _padding(size: int) -> bytes:
    """`size` bytes, or eight more, that are a field of their own: tag, length, zeros."""
    if size == 0:
        return b""
    if size == 1:
        size += _ALIGNMENT
    return bytes((_PADDING_TAG, size - 2)) + bytes(size - 2)
