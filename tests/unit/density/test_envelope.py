"""The envelope: golden bytes, and one test for each way in which bytes or text can be wrong."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfm_grpc.density.envelope import (
    HEADER_BYTES,
    deserialize_matrix,
    open_any,
    open_envelope,
    serialize_matrix,
    serialize_matrix_json,
)
from sfm_grpc.density.matrix import digest_of, from_array
from sfm_grpc.errors import MatrixMalformed
from sfm_grpc.model import Dtype, Kind, Layout

ARRAY = np.array([[0.5, -0.0], [5e-324, 0.5]])
GOLDEN = bytes.fromhex(
    "8953464d0d0a1a0a010058000000000001010200000000000200000000000000020000000000000001401e18240a0600"
    "20000000000000008c49c616d9d06058a87bc5b6adb751ffd9e85e39d1b1f1d72ff87a6c95cd7408000000000000e03f"
    "00000000000000800100000000000000000000000000e03f"
)
GOLDEN_ZLIB = bytes.fromhex(
    "8953464d0d0a1a0a010058000100000001010200000000000200000000000000020000000000000001401e18240a0600"
    "17000000000000008c49c616d9d06058a87bc5b6adb751ffd9e85e39d1b1f1d72ff87a6c95cd7408789c6360008107f6"
    "0c10d0c0c8800c1ed80300279602c0"
)
TIME_US = 1_700_000_000_000_001
TIME_FIELD = range(40, 48)
DOCUMENT = Path(__file__).parents[3] / "docs" / "ENVELOPE.md"


def changed(offset: int, new: bytes, envelope: bytes = GOLDEN) -> bytes:
    return envelope[:offset] + new + envelope[offset + len(new) :]


def test_the_bytes_are_golden() -> None:
    assert serialize_matrix(ARRAY, timestamp_us=TIME_US) == GOLDEN
    for envelope in (GOLDEN, GOLDEN_ZLIB):
        opened = open_envelope(envelope)
        assert bytes(opened.numbers) == ARRAY.tobytes()
        assert (opened.dtype, opened.layout, opened.shape, opened.timestamp_us) == (Dtype.FLOAT64, Layout.DENSE, (2, 2), TIME_US)
        assert opened.numbers_digest == digest_of(ARRAY.tobytes())


def test_the_document_s_reader_reads() -> None:
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    scope: dict[str, Any] = {}
    exec(code.group(1), scope)
    for envelope in (GOLDEN, GOLDEN_ZLIB, serialize_matrix(ARRAY)):
        assert scope["read"](envelope).tobytes() == ARRAY.tobytes()


MATRICES = st.one_of(
    *(
        hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(width=width))
        for dtype, width in ((np.float64, 64), (np.float32, 32))
    )
)


@given(MATRICES, st.sampled_from(["none", "zlib"]), st.none() | st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_round_trip_is_bit_exact(array: np.ndarray, compression: Any, timestamp_us: int | None) -> None:
    forms: list[bytes | str] = [serialize_matrix(array, compression=compression, timestamp_us=timestamp_us)]
    forms.append(serialize_matrix_json(array, timestamp_us=timestamp_us))
    for form in forms:
        opened = open_any(form)
        assert opened.array().tobytes() == array.tobytes()
        assert opened.array().dtype == array.dtype
        assert opened.timestamp_us == timestamp_us
        assert opened.numbers_digest == digest_of(array.tobytes())


@given(st.integers(0, 2**64 - 1))
def test_each_pattern_of_bits_survives(bits: int) -> None:
    """Signalling NaNs and their payloads included."""
    array = np.frombuffer(struct.pack("<Q", bits), dtype="<f8").reshape(1, 1)
    for form in (serialize_matrix(array), serialize_matrix(array, compression="zlib"), serialize_matrix_json(array)):
        assert deserialize_matrix(form).tobytes() == array.tobytes()


def test_a_factor_stays_a_factor() -> None:
    s = np.arange(6, dtype=np.float32).reshape(2, 3)
    matrix = from_array(s, kind=Kind.DENSITY, layout=Layout.FACTOR)
    for form in (serialize_matrix(matrix), serialize_matrix(s, layout=Layout.FACTOR), serialize_matrix_json(matrix)):
        opened = open_any(form)
        assert opened.layout is Layout.FACTOR
        assert opened.matrix(Kind.DENSITY).dimension == 3
        assert deserialize_matrix(form).tobytes() == s.tobytes()
        with pytest.raises(MatrixMalformed, match="a generic matrix is always dense"):
            opened.matrix(Kind.GENERIC, key="k")


def test_the_digest_covers_neither_time_nor_compression() -> None:
    digests = {
        serialize_matrix(ARRAY, timestamp_us=time, compression=how)[56:88] for time in (None, 0, 5) for how in ("none", "zlib")
    }
    assert len(digests) == 1
    others = (ARRAY.T, ARRAY.reshape(1, 4), ARRAY.astype(np.float32))
    assert digests.isdisjoint(serialize_matrix(other)[56:88] for other in others)
    assert digests.isdisjoint({serialize_matrix(ARRAY, layout=Layout.FACTOR)[56:88]})


def test_numbers_are_a_view_of_the_envelope() -> None:
    array = deserialize_matrix(GOLDEN)
    assert np.shares_memory(array, np.frombuffer(GOLDEN, dtype=np.uint8))
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("envelope", "sentence"),
    [
        (b"", "not an envelope: it starts with b''"),
        (b"PK\x03\x04 something else", "not an envelope"),
        (GOLDEN.replace(b"\r\n", b"\n"), "magic is damaged, as by a text-mode"),
        (changed(0, b"\x09"), "magic is damaged"),
        (GOLDEN[:8], r"ends within its header \(8 of 88 bytes\)"),
        (GOLDEN[:87], r"ends within its header \(87 of 88 bytes\)"),
        (changed(8, b"\x02\x00"), "format version 2, this reader knows version 1"),
        (changed(10, b"\x60\x00"), "header says it has 96 bytes"),
        (changed(12, b"\x02"), "unknown compression 2"),
        (changed(12, b"\x01"), "the compressed numbers are damaged"),
        (changed(15, b"\x01"), "reserved bytes 13 to 15"),
        (changed(16, b"\x00"), "unknown dtype 0"),
        (changed(16, b"\x04"), "unknown dtype 4"),
        (changed(17, b"\x03"), "unknown layout 3"),
        (changed(18, b"\x01"), "1 dimensions"),
        (changed(20, b"\x01"), "reserved bytes 19 to 23"),
        (changed(24, bytes(8)), r"shape \[0, 2\]"),
        (changed(24, b"\xff" * 8), r"shape \[18446744073709551615, 2\]: rows and columns may be at most"),
        (changed(24, struct.pack("<QQ", 5000, 5000)), "promises 200000000 bytes of numbers, at most 67108864"),
        (changed(24, struct.pack("<QQ", 2, 3)), "stores 32 bytes of numbers, its shape and dtype take 48"),
        (changed(16, b"\x02"), "stores 32 bytes of numbers, its shape and dtype take 16"),
        (changed(24, struct.pack("<QQ", 1, 4)), "the envelope is damaged: its digest says"),
        (changed(17, b"\x02"), "the envelope is damaged"),
        (changed(56, b"\x00"), "the envelope is damaged"),
        (changed(100, b"\x01"), "the envelope is damaged"),
        (GOLDEN[:-1], "truncated: 31 of 32 bytes"),
        (GOLDEN[:HEADER_BYTES], "truncated: 0 of 32 bytes"),
        (GOLDEN + b"\0", "1 bytes follow the end"),
    ],
)
def test_damaged_bytes_are_refused(envelope: bytes, sentence: str) -> None:
    with pytest.raises(MatrixMalformed, match=sentence):
        open_envelope(envelope)


def compressed(body: bytes, rows: int = 2) -> bytes:
    """The golden envelope with another compressed body."""
    return changed(48, struct.pack("<Q", len(body)), changed(24, struct.pack("<Q", rows), GOLDEN_ZLIB))[:HEADER_BYTES] + body


@pytest.mark.parametrize(
    ("envelope", "sentence"),
    [
        (compressed(b"not zlib"), "the compressed numbers are damaged"),
        (compressed(b""), "the compressed numbers end early"),
        (compressed(zlib.compress(ARRAY.tobytes())[:-2]), "the compressed numbers end early"),
        (compressed(zlib.compress(ARRAY.tobytes()) + b"x"), "1 bytes follow the compressed numbers"),
        (compressed(zlib.compress(bytes(31))), "inflate to 31 bytes, 32 were promised"),
        (compressed(zlib.compress(bytes(33))), "inflate to more than the 32 bytes promised"),
        (compressed(zlib.compress(bytes(100_000_000))), "inflate to more than the 32 bytes promised"),
        (compressed(zlib.compress(bytes(32))), "the envelope is damaged"),
        (compressed(zlib.compress(bytes(10)), rows=2**31 - 1), "at most 67108864 are allowed"),
    ],
)
def test_damaged_compressed_bytes_are_refused(envelope: bytes, sentence: str) -> None:
    with pytest.raises(MatrixMalformed, match=sentence):
        open_envelope(envelope)


def test_limits_are_the_caller_s() -> None:
    with pytest.raises(MatrixMalformed, match="promises 32 bytes of numbers, at most 31"):
        open_envelope(GOLDEN, bytes_max=31)
    with pytest.raises(MatrixMalformed, match="rows and columns may be at most 1"):
        open_any(GOLDEN, dimension_max=1)
    with pytest.raises(MatrixMalformed, match="characters of JSON, at most 8"):
        deserialize_matrix("[[1.0,2.0]]", bytes_max=2)
    with pytest.raises(MatrixMalformed, match="bytes of JSON, at most 8"):
        deserialize_matrix(b"[[1.0,2.0]]", bytes_max=2)
    with pytest.raises(MatrixMalformed, match="promises 16 bytes of numbers, at most 15"):
        deserialize_matrix("[[1.0,2.0]]", bytes_max=15)


@pytest.mark.parametrize("envelope", [GOLDEN, GOLDEN_ZLIB])
def test_no_flipped_byte_goes_unnoticed(envelope: bytes) -> None:
    """Every byte but the time's, against each of its 255 other values: refused, or the same numbers."""
    for offset in range(len(envelope)):
        if offset in TIME_FIELD:
            continue
        for value in range(256):
            flipped = changed(offset, bytes([value]), envelope)
            try:
                opened = open_any(flipped)
            except MatrixMalformed:
                continue
            assert (bytes(opened.numbers), opened.shape, opened.dtype) == (ARRAY.tobytes(), (2, 2), Dtype.FLOAT64)


@pytest.mark.parametrize("form", ["json", "legacy"])
def test_no_flipped_character_raises_anything_else(form: str) -> None:
    text = serialize_matrix_json(ARRAY).encode() if form == "json" else legacy(data=[[0.5, 0], [1, 2]]).encode()
    for offset in range(len(text)):
        for value in range(0, 256, 5):
            try:
                opened = open_any(changed(offset, bytes([value]), text))
            except MatrixMalformed:
                continue
            assert form == "legacy" or bytes(opened.numbers) == ARRAY.tobytes()


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, GOLDEN[:HEADER_BYTES] + noise, GOLDEN[:8] + noise, b"{" + noise, b"[[" + noise):
        if data != GOLDEN:
            with pytest.raises(MatrixMalformed):
                open_any(data)


# ---- JSON ----------------------------------------------------------------------------------------------------------


def legacy(**change: Any) -> str:
    value = {"__np__": True, "data": base64.b64encode(ARRAY.tobytes()).decode(), "dtype": "float64", "shape": [2, 2]}
    return json.dumps(value | change)


def test_what_the_predecessor_wrote_is_read() -> None:
    assert deserialize_matrix("[[0.5, 0.25], [1, -0]]").tobytes() == np.array([[0.5, 0.25], [1, -0.0]]).tobytes()
    assert deserialize_matrix(legacy()).tobytes() == ARRAY.tobytes()
    assert deserialize_matrix(legacy().encode()).tobytes() == ARRAY.tobytes()
    assert deserialize_matrix(memoryview(b"  " + legacy().encode())).tobytes() == ARRAY.tobytes()
    assert deserialize_matrix(legacy(data=ARRAY.tolist())).tobytes() == ARRAY.tobytes()
    singles = np.array([[0.1, 0.2]], dtype=np.float32)
    for data in (base64.b64encode(singles.tobytes()).decode(), singles.tolist()):
        assert deserialize_matrix(legacy(data=data, dtype="float32", shape=[1, 2])).tobytes() == singles.tobytes()


def enveloped(**change: Any) -> str:
    return json.dumps(json.loads(serialize_matrix_json(ARRAY)) | change)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not an envelope|not JSON"),
        ("[[1.0, 2.0]", "not JSON: Expecting ',' delimiter at line 1 column 12"),
        ("[[1.0]] x", "not JSON: Extra data"),
        ("3.5", "JSON, but no matrix"),
        ('{"a": 1}', "JSON, but no matrix"),
        ('{"__np__": false}', "JSON, but no matrix"),
        ('{"__np__": 1}', "JSON, but no matrix"),
        ("[]", r"shape \[0, 0\]"),
        ("[1.0]", r"shape \[1, 0\]"),
        ("[[]]", r"shape \[1, 0\]"),
        ("[[1.0, 2.0], [3.0]]", "ragged: row 1 has 1 numbers, row 0 has 2"),
        ("[[1.0], 2.0]", "row 1 is not a list"),
        ("[[1.0, true]]", r"\[0, 1\] is not a number"),
        ('[[1.0], ["2.0"]]', r"\[1, 0\] is not a number"),
        ("[[[1.0]]]", r"\[0, 0\] is not a number"),
        ("[[null]]", r"\[0, 0\] is not a number"),
        ("[[NaN]]", "NaN is not JSON"),
        ("[[-Infinity]]", "-Infinity is not JSON"),
        ("[[1e999]]", "1e999 is beyond double precision"),
        ("[[9007199254740993]]", "has no exact double"),
        ("[[" + "9" * 500 + "]]", "has 500 digits"),
        ("[[" + "9" * 309 + "]]", "has no exact double"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100 + "1" + "]" * 100, "is not a number"),
        ('{"__np__": true, "__np__": true}', "'__np__' appears twice"),
        ('{"__np__": true, "data": "", "dtype": "float64"}', "lacks shape"),
        (legacy(extra=1), "unknown keys: extra"),
        (legacy(dtype="int64"), "dtype 'int64'"),
        (legacy(dtype=["float64"]), "is not float64 or float32"),
        (legacy(shape=[4]), r"shape is \[4\]"),
        (legacy(shape=[2.0, 2.0]), r"shape is \[2.0, 2.0\]"),
        (legacy(shape=[True, 2]), "shape is"),
        (legacy(shape=[2, -2]), r"shape \[2, -2\]"),
        (legacy(shape=[2, 3]), "characters of base64"),
        (legacy(shape=[50_000, 50_000]), "promises 20000000000 bytes"),
        (legacy(data="*" * 44), "data is not base64"),
        (legacy(data="A" * 44), "33 bytes of numbers, shape and dtype take 32"),
        (legacy(data=5), "data is not base64 text"),
        (legacy(data=[[1.0, 2.0]]), r"shape says \[2, 2\], the lists are \[1, 2\]"),
        (legacy(data=[[1e300, 1], [1, 1]], dtype="float32"), "beyond the range of float32"),
        (enveloped(format="sfm-matrix/2"), "format 'sfm-matrix/2'"),
        (enveloped(layout="sparse"), "unknown layout 'sparse'"),
        (enveloped(layout=[1]), "unknown layout"),
        (enveloped(layout="factor"), "the envelope is damaged"),
        (enveloped(timestamp_us=1.5), "timestamp_us is 1.5"),
        (enveloped(timestamp_us=2**63), "timestamp_us is 9223372036854775808"),
        (enveloped(digest="zz"), "digest is not 64 hexadecimal digits"),
        (enveloped(digest=None), "digest is not 64 hexadecimal digits"),
        (enveloped(digest="00" * 32), "the envelope is damaged"),
        (enveloped(shape=[1, 4]), "the envelope is damaged"),
        (enveloped(data=base64.b64encode(bytes(32)).decode()), "the envelope is damaged"),
        (enveloped(more=1), "unknown keys: more"),
        ("\ud800", "not JSON"),
    ],
)
def test_text_that_is_no_matrix_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(MatrixMalformed, match=sentence):
        deserialize_matrix(text)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(MatrixMalformed, match="not UTF-8 at byte 2"):
        deserialize_matrix(b"[[\xff]]")
