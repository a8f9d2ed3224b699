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
from collections.abc import Iterable, Mapping, Sequence
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
APPLY_PRUNE_REQUEST: Spec = {15: COMMIT_REQUEST}  # commit
GET_RESPONSE: Spec = {15: {15: MATRIX}}  # matrices, matrix; a WatchRhoResponse has them in the same place
_PADDING_TAG = (14 << 3) | _BYTES


class WireError(ValueError):
    """The bytes are not a protobuf message."""


class SkeletonTooLarge(ValueError):  # noqa: N818  it says so
    """The message has too much besides its bodies."""


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


def split(message: Buffer, spec: Spec, *, skeleton_bytes_max: int | None = None) -> tuple[bytes, list[memoryview]]:
    """Takes the fields of `spec` out of a serialized message.

    Returns the skeleton and the bodies, views into `message`. Raises WireError when the bytes are no message, SkeletonTooLarge
    when what is not a body is more than `skeleton_bytes_max`: before it is copied, and before anybody parses it.
    """
    bodies: list[memoryview] = []
    skeleton = bytearray()
    _Splitter(message, bodies, len(message) if skeleton_bytes_max is None else skeleton_bytes_max).message(
        0, len(message), spec, skeleton
    )
    return bytes(skeleton), bodies


class _Splitter:
    """One pass over one message."""

    def __init__(self, message: Buffer, bodies: list[memoryview], skeleton_bytes_max: int) -> None:
        self._room = skeleton_bytes_max
        self._raw = message  # bytes are read faster through bytes than through a view
        self._view = memoryview(message)
        self._bodies = bodies
        self._fields = 0

    def message(self, at: int, end: int, spec: Spec, out: bytearray) -> None:
        raw, plain, fields = self._raw, at, self._fields
        while at < end:
            start = at
            # Nearly every tag and length is one byte: those are read in place.
            tag = raw[at]
            at += 1
            if tag > 0x7F:
                tag, at = read_varint(raw, start, end)
            if not 8 <= tag < 2**32:
                # A parser that cuts tags to 32 bits would find a placeholder here that is not ours.
                raise WireError(f"tag {tag}")
            fields += 1
            if tag & 7 == _BYTES:
                if at < end and raw[at] < 0x80:
                    size, body = raw[at], at + 1
                else:
                    size, body = read_varint(raw, at, end)
                at = body
                if size > end - at:
                    raise WireError(f"field {tag >> 3} promises {size} bytes, {end - at} are left")
                at += size
            else:
                body = at
                at = _skip(raw, at, end, tag & 7)
            inside = spec.get(tag >> 3)
            if inside is not None and self._descends(tag, inside):
                out += self._kept(plain, start)
                self._fields = fields
                self._field(tag, body, at, inside, out)
                fields = self._fields
                plain = at
            if fields > FIELDS_MAX:
                raise WireError(f"more than {FIELDS_MAX} fields")
        self._fields = fields
        out += self._kept(plain, end)

    def _kept(self, start: int, end: int) -> memoryview:
        self._room -= end - start
        if self._room < 0:
            raise SkeletonTooLarge
        return self._view[start:end]

    def _descends(self, tag: int, inside: Spec | Leaf) -> bool:
        return tag & 7 == _BYTES or (inside is Leaf.DOUBLES and tag & 7 == _FIXED64)

    def _field(self, tag: int, at: int, end: int, inside: Spec | Leaf, out: bytearray) -> None:
        if inside is Leaf.BYTES:
            inner: bytes | bytearray = placeholder(len(self._bodies))
            self._bodies.append(self._view[at:end])
        elif inside is Leaf.DOUBLES:
            if (end - at) % 8:
                raise WireError(f"{end - at} bytes are not whole doubles")
            inner = struct.pack("<d", len(self._bodies))
            self._bodies.append(self._view[at:end])
        else:
            inner = bytearray()
            self.message(at, end, inside, inner)
        # One number by itself becomes a packed field of one.
        out += varint((tag & ~7) | _BYTES) + varint(len(inner))
        out += inner


def _skip(raw: Buffer, at: int, end: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return read_varint(raw, at, end)[1]
    size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type)
    if size is None or size > end - at:
        raise WireError(f"wire type {wire_type} at byte {at}" if size is None else "cut short")
    return at + size


def read_varint(raw: Buffer, at: int, end: int) -> tuple[int, int]:
    """Reads a base-128 varint; returns it and the place after it."""
    value = shift = 0
    while at < end:
        byte = raw[at]
        at += 1
        if byte < 0x80:
            return value | byte << shift, at
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise WireError("a varint of more than ten bytes")
    raise WireError("cut short")


def varint(value: int) -> bytes:
    """A base-128 varint."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# ---- join ----------------------------------------------------------------------------------------------------------


def join(skeleton: bytes, spec: Spec, bodies: Sequence[Buffer]) -> bytes:
    """Puts the bodies where a skeleton has their placeholders: one message, one copy.

    The numbers of each Matrix are aligned to eight bytes from the message's start (by its field `padding`), so that a reader's
    view of them is an aligned array.
    """
    if not bodies:
        return skeleton
    root = _Message(skeleton, spec, bodies)
    # A padding may lengthen the lengths around it, which moves what follows. Paddings only grow, so this ends.
    while root.align(0):
        pass
    chunks: list[Buffer] = []
    root.write(chunks)
    return b"".join(chunks)


class _Message:
    """A message of the skeleton on the way to bodies: fields to fill, each with the bytes in front of it, and the rest."""

    def __init__(self, skeleton: bytes, spec: Spec, bodies: Sequence[Buffer]) -> None:
        self._is_matrix = spec is MATRIX
        self._fields: list[tuple[bytes, _Field]] = []
        plain, at, end = 0, 0, len(skeleton)
        while at < end:
            start = at
            tag, at = read_varint(skeleton, at, end)
            if tag & 7 != _BYTES:
                at = _skip(skeleton, at, end, tag & 7)
                continue
            length, at = read_varint(skeleton, at, end)
            at += length
            if (inside := spec.get(tag >> 3)) is not None:
                for content in _contents(skeleton[at - length : at], inside, bodies):
                    self._fields.append((skeleton[plain:start], _Field(tag, content)))
                    plain = start = at
        self._rest = skeleton[plain:]
        self.size: int = sum(len(before) + field.size for before, field in self._fields) + len(self._rest)

    def align(self, offset: int) -> bool:
        """Chooses the padding of each matrix, told where this message starts; True when one had to grow."""
        size = self.size
        for before, field in self._fields:
            offset += len(before)
            self.size += field.align(offset, pads=self._is_matrix)
            offset += field.size
        return self.size > size

    def before_body(self) -> int:
        """Bytes in front of the first body, which is not further down."""
        if not self._fields:
            return 0
        before, field = self._fields[0]
        return len(before) + len(field.head)

    def write(self, out: list[Buffer]) -> None:
        for before, field in self._fields:
            out.append(before)
            field.write(out)
        out.append(self._rest)


class _Field:
    """A field that is a body, or a message on the way to one, with the padding in front of it."""

    def __init__(self, tag: int, content: _Message | Buffer) -> None:
        self._tag = varint(tag)
        self._content = content
        self._padding = b""
        self._measure()

    def _measure(self) -> None:
        inner = self._content.size if isinstance(self._content, _Message) else len(self._content)
        self.head = self._padding + self._tag + varint(inner)
        self.size = len(self.head) + inner

    def align(self, offset: int, *, pads: bool) -> int:
        """Chooses the padding inside, or (`pads`) in front of this field, which starts at `offset`; returns the growth."""
        content, size = self._content, self.size
        body_at = offset + len(self.head)
        if pads:
            body_at += content.before_body() if isinstance(content, _Message) else 0
            if size >= _ALIGN_FROM_BYTES and body_at % _ALIGNMENT:
                self._padding = _padding(len(self._padding) + -body_at % _ALIGNMENT)
        elif isinstance(content, _Message):
            content.align(body_at)
        self._measure()
        return self.size - size

    def write(self, out: list[Buffer]) -> None:
        out.append(self.head)
        if isinstance(self._content, _Message):
            self._content.write(out)
        else:
            out.append(self._content)


def _contents(field: bytes, inside: Spec | Leaf, bodies: Sequence[Buffer]) -> Iterable[_Message | Buffer]:
    """What goes into a field of the skeleton. protobuf packs doubles that came in pieces into one field: as many fields again."""
    if inside is Leaf.BYTES:
        return (bodies[int.from_bytes(field, "little")],)
    if inside is Leaf.DOUBLES:
        return (bodies[int(index)] for (index,) in struct.iter_unpack("<d", field))
    return (_Message(field, inside, bodies),)


def _padding(size: int) -> bytes:
    """`size` bytes, or eight more, that are a field of their own: tag, length, zeros."""
    if size == 1:
        size += _ALIGNMENT
    return bytes((_PADDING_TAG, size - 2)) + bytes(size - 2)
