"""wire.py against protobuf itself: whatever goes around it must mean what protobuf says it means."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sfm.v1 import matrix_pb2, rho_store_pb2

from sfm_grpc import wire

SIZES = st.one_of(st.integers(0, 40), st.integers(1000, 1100), st.sampled_from([8176, 16_300, 16_384, 20_000]))


@st.composite
def matrices(draw):
    """A protobuf Matrix with its numbers in any form."""
    matrix = matrix_pb2.Matrix(
        kind=draw(st.sampled_from([0, 1, 2])), dtype=1, shape=draw(st.lists(st.integers(0, 2**62), max_size=3))
    )
    matrix.digest = draw(st.binary(max_size=32))
    form = draw(st.sampled_from(["data", "factor", "envelope", "double_values", None]))
    if form == "double_values":
        matrix.double_values.values.extend(draw(st.lists(st.floats(allow_nan=False), max_size=40)))
        matrix.double_values.SetInParent()
    elif form is not None:
        body = bytes(draw(SIZES)) + draw(st.binary(max_size=9))
        if form == "factor":
            matrix.factor.data = body
        else:
            setattr(matrix, form, body)
    return matrix


@st.composite
def commits(draw):
    """A protobuf CommitRhoRequest, keys of any length so that numbers start anywhere."""
    updates = []
    for matrix in draw(st.lists(matrices(), max_size=4)):
        update = rho_store_pb2.MatrixUpdate(key=draw(st.text(max_size=12)), put=matrix)
        if draw(st.booleans()):
            update.max_step = draw(st.floats(allow_nan=False))
        updates.append(update)
    if draw(st.booleans()):
        updates.append(rho_store_pb2.MatrixUpdate(key="gone", delete=rho_store_pb2.DeleteMatrix()))
    return rho_store_pb2.CommitRhoRequest(
        namespace=draw(st.text(max_size=140)),
        request_id="r",
        metadata=draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4))),
        updates=updates,
    )


def filled(skeleton: bytes, bodies) -> rho_store_pb2.CommitRhoRequest:
    """The message that a skeleton and its bodies stand for, built by protobuf."""
    message = rho_store_pb2.CommitRhoRequest.FromString(skeleton)
    for update in message.updates:
        match update.put.WhichOneof("content"):
            case "data":
                update.put.data = bytes(wire.body_of(update.put.data, bodies))
            case "envelope":
                update.put.envelope = bytes(wire.body_of(update.put.envelope, bodies))
            case "factor" if update.put.factor.data:
                update.put.factor.data = bytes(wire.body_of(update.put.factor.data, bodies))
            case "double_values":
                numbers = np.frombuffer(wire.bodies_of(update.put.double_values.values, bodies), "<f8")
                del update.put.double_values.values[:]
                update.put.double_values.values.extend(numbers.tolist())
    return message


def same(a, b) -> bool:
    """Equal by their bytes: NaN is not equal to itself, a NaN's bits are."""
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


def without_padding(message):
    for update in message.updates:
        if update.HasField("put"):
            update.put.ClearField("padding")
    return message


def join_through_protobuf(skeleton: bytes, bodies) -> bytes:
    """As both ends do it: the skeleton is a message that protobuf wrote."""
    again = rho_store_pb2.CommitRhoRequest.FromString(skeleton).SerializeToString()
    return wire.join(again, wire.COMMIT_REQUEST, bodies)


@given(commits())
def test_split_says_what_protobuf_says(message) -> None:
    skeleton, bodies = wire.split(message.SerializeToString(), wire.COMMIT_REQUEST)
    assert same(filled(skeleton, bodies), message)


@given(commits())
def test_join_is_the_inverse_of_split(message) -> None:
    raw = message.SerializeToString()
    joined = wire.join(*_swapped(*wire.split(raw, wire.COMMIT_REQUEST)))
    assert same(without_padding(rho_store_pb2.CommitRhoRequest.FromString(joined)), message)
    again = join_through_protobuf(*wire.split(raw, wire.COMMIT_REQUEST))
    assert same(without_padding(rho_store_pb2.CommitRhoRequest.FromString(again)), message)


def _swapped(skeleton, bodies):
    return skeleton, wire.COMMIT_REQUEST, bodies


@given(commits())
def test_large_numbers_are_aligned_wherever_they_start(message) -> None:
    joined = join_through_protobuf(*wire.split(message.SerializeToString(), wire.COMMIT_REQUEST))
    start = np.frombuffer(joined, np.uint8).ctypes.data
    for body in wire.split(joined, wire.COMMIT_REQUEST)[1]:
        if len(body) >= 1024 + 16:
            assert (np.frombuffer(body, np.uint8).ctypes.data - start) % 8 == 0


@pytest.mark.parametrize("form", ["data", "factor"])
@pytest.mark.parametrize("size", [*range(16_250, 16_400), *range(2_097_050, 2_097_160, 3)])
def test_alignment_where_padding_lengthens_a_length(form: str, size: int) -> None:
    """Around 2¹⁴ and 2²¹ bytes a padding makes the lengths in front of it longer, which moves the numbers again."""
    for name in range(9):
        message = rho_store_pb2.CommitRhoRequest(
            namespace="n" * name, updates=[{"key": "k", "put": {"dtype": 1, "shape": [1, 1]}}]
        )
        if form == "factor":
            message.updates[0].put.factor.data = wire.placeholder(0)
        else:
            message.updates[0].put.data = wire.placeholder(0)
        joined = wire.join(message.SerializeToString(), wire.COMMIT_REQUEST, [bytes(size)])
        (body,) = wire.split(joined, wire.COMMIT_REQUEST)[1]
        assert len(body) == size
        assert (np.frombuffer(body, np.uint8).ctypes.data - np.frombuffer(joined, np.uint8).ctypes.data) % 8 == 0


def test_bodies_are_views_not_copies() -> None:
    message = rho_store_pb2.CommitRhoRequest(updates=[{"key": "k", "put": {"data": bytes(range(64)) * 100}}])
    raw = message.SerializeToString()
    (body,) = wire.split(raw, wire.COMMIT_REQUEST)[1]
    assert body.obj is raw
    assert body.readonly


# ---- forms of doubles ----------------------------------------------------------------------------------------------


def message_with(matrix_bytes: bytes) -> bytes:
    put = wire.varint(15 << 3 | 2) + wire.varint(len(matrix_bytes)) + matrix_bytes
    return wire.varint(15 << 3 | 2) + wire.varint(len(put)) + put


def doubles_field(parts: bytes) -> bytes:
    return wire.varint(5 << 3 | 2) + wire.varint(len(parts)) + parts


@st.composite
def doubles_in_pieces(draw):
    """A DoubleValues on the wire, its numbers packed in pieces and unpacked, as the format allows."""
    parts = b""
    for piece in draw(st.lists(st.lists(st.floats(allow_nan=False), max_size=5), max_size=6)):
        numbers = np.asarray(piece, "<f8").tobytes()
        if draw(st.booleans()):
            parts += b"".join(wire.varint(1 << 3 | 1) + numbers[i : i + 8] for i in range(0, len(numbers), 8))
        else:
            parts += wire.varint(1 << 3 | 2) + wire.varint(len(numbers)) + numbers
    return parts


@given(st.lists(doubles_in_pieces(), min_size=1, max_size=3))
def test_doubles_in_pieces_are_one_matrix(messages) -> None:
    raw = message_with(b"".join(map(doubles_field, messages)))
    expected = rho_store_pb2.CommitRhoRequest.FromString(raw)
    skeleton, bodies = wire.split(raw, wire.COMMIT_REQUEST)
    assert same(filled(skeleton, bodies), expected)
    assert same(rho_store_pb2.CommitRhoRequest.FromString(join_through_protobuf(skeleton, bodies)), expected)


def test_doubles_that_are_not_whole_are_refused() -> None:
    raw = message_with(doubles_field(wire.varint(1 << 3 | 2) + wire.varint(7) + bytes(7)))
    with pytest.raises(wire.WireError, match="7 bytes are not whole doubles"):
        wire.split(raw, wire.COMMIT_REQUEST)


# ---- hostile bytes -------------------------------------------------------------------------------------------------


def judge(raw: bytes, *, as_strict: bool = False) -> None:
    """Either refused, or it means exactly what protobuf reads in it. Never another exception, never a foreign placeholder."""
    try:
        skeleton, bodies = wire.split(raw, wire.COMMIT_REQUEST)
        found = filled(skeleton, bodies)
    except (wire.WireError, DecodeError):
        if as_strict:
            with pytest.raises(DecodeError):
                rho_store_pb2.CommitRhoRequest.FromString(raw)
        return
    assert same(found, rho_store_pb2.CommitRhoRequest.FromString(raw))


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    judge(raw)


@settings(max_examples=400)
@given(commits(), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 2**16))
def test_mutilated_messages(message, changes, cut) -> None:
    raw = bytearray(message.SerializeToString())
    for place, value in changes:
        if raw:
            raw[place % len(raw)] = value
    judge(bytes(raw))
    judge(bytes(raw[: cut % (len(raw) + 1)]))


FIELDS = st.recursive(
    st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 14, 15]), st.sampled_from([0, 1, 2, 5]), st.binary(max_size=24)),
    lambda inner: st.tuples(st.sampled_from([5, 6, 15]), st.just(2), st.lists(inner, max_size=4)),
    max_leaves=20,
)


def encoded(field) -> bytes:
    number, wire_type, content = field
    tag = wire.varint(number << 3 | wire_type)
    if isinstance(content, list):
        content = b"".join(map(encoded, content))
    match wire_type:
        case 0:
            return tag + wire.varint(int.from_bytes(content[:8], "little"))
        case 1:
            return tag + content[:8].ljust(8, b"\0")
        case 5:
            return tag + content[:4].ljust(4, b"\0")
    return tag + wire.varint(len(content)) + content


@settings(max_examples=400)
@given(st.lists(FIELDS, max_size=5))
@example([(15, 2, [(15, 2, [(15, 2, b"first"), (5, 2, []), (15, 2, b"last")]), (15, 2, [(6, 2, [(15, 2, b"merged")])])])])
def test_any_fields_in_any_order(fields) -> None:
    """Repeated, out of order, of the wrong type, merged, one member of a oneof after the other."""
    judge(b"".join(map(encoded, fields)), as_strict=True)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\x0a", "cut short"),
        (b"\x0a\x05abc", "promises 5 bytes, 3 are left"),
        (b"\x80" * 11, "more than ten bytes"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "promises"),
        (b"\x09\x00", "cut short"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0e", "wire type 6"),
        (b"\x02\x00", "tag 2"),
        # Field 15 to a parser that cuts tags to 32 bits: its content would be taken for a placeholder.
        (wire.varint(2**32 + (15 << 3 | 2)) + b"\x00", "tag"),
    ],
)
def test_bytes_that_are_no_message(raw: bytes, problem: str) -> None:
    with pytest.raises(wire.WireError, match=problem):
        wire.split(raw, wire.COMMIT_REQUEST)
    with pytest.raises(wire.WireError, match=problem):
        wire.split(message_with(raw), wire.COMMIT_REQUEST)


def test_overlong_varints_mean_the_same() -> None:
    body = bytes(range(16))
    matrix = b"\xfa\x80\x00" + b"\x90\x80\x80\x00" + body  # tag 15|2 and length 16, each in more bytes than it needs
    raw = message_with(matrix)
    skeleton, bodies = wire.split(raw, wire.COMMIT_REQUEST)
    assert [bytes(b) for b in bodies] == [body]
    assert same(filled(skeleton, bodies), rho_store_pb2.CommitRhoRequest.FromString(raw))


@given(st.integers(0, 2**64 - 1))
def test_varint_round_trip(value: int) -> None:
    raw = wire.varint(value)
    assert wire.read_varint(memoryview(raw), 0, len(raw)) == (value, len(raw))


def test_the_number_of_fields_is_bounded() -> None:
    fields = b"\x08\x00" * wire.FIELDS_MAX
    wire.split(fields, wire.COMMIT_REQUEST)
    with pytest.raises(wire.WireError, match=f"more than {wire.FIELDS_MAX} fields"):
        wire.split(fields + b"\x08\x00", wire.COMMIT_REQUEST)
    # Counted over all depths: many small messages are as much work as one large one.
    with pytest.raises(wire.WireError, match="fields"):
        wire.split(message_with(b"\x08\x00" * 100) * (wire.FIELDS_MAX // 100), wire.COMMIT_REQUEST)


def test_nothing_to_put_in_leaves_the_skeleton() -> None:
    skeleton = rho_store_pb2.CommitRhoRequest(namespace="n").SerializeToString()
    assert wire.join(skeleton, wire.COMMIT_REQUEST, []) is skeleton
