"""The envelope: one matrix as bytes or JSON that describe and protect themselves. docs/ENVELOPE.md is the format.

Reads untrusted bytes: nothing is allocated before the sizes that are promised were compared with what is allowed and what is
there, and every way in which bytes can be wrong is a MatrixMalformed with its own sentence.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sfm_grpc.density.legacy_json import binary_of, dtype_named, matrix_of_lists, parsed, shape_of
from sfm_grpc.density.matrix import DIGEST_BYTES, DIMENSION_UNLIMITED, checked_matrix, digest_of, from_array
from sfm_grpc.errors import MatrixMalformed
from sfm_grpc.model import Buffer, Dtype, Kind, Layout, Matrix

Compression: TypeAlias = Literal["none", "zlib"]

BYTES_MAX = 64 * 1024 * 1024

# As in PNG: the high bit finds a 7-bit channel, CR LF and LF find a text-mode copy, 0x1A stops a terminal.
MAGIC = b"\x89SFM\r\n\x1a\n"
VERSION = 1

# magic, version, header length, compression, 3 zeros
# dtype, layout, dimensions, 5 zeros, rows, columns
# time, stored length, digest
_PREFIX = struct.Struct("<8sHHB3s")
_SUBJECT = struct.Struct("<BBB5sQQ")
_SUFFIX = struct.Struct("<qQ32s")
HEADER_BYTES = _PREFIX.size + _SUBJECT.size + _SUFFIX.size
_TIME_UNSET = -(2**63)

_COMPRESSION_CODE: dict[Compression, int] = {"none": 0, "zlib": 1}
_JSON_FORMAT = "sfm-matrix/1"
_JSON_KEYS = frozenset({"format", "dtype", "layout", "shape", "timestamp_us", "digest", "data"})


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope holds, after every check."""

    dtype: Dtype
    layout: Layout
    shape: tuple[int, int]
    numbers: Buffer
    """rows × columns numbers, little-endian, C order. A view of the envelope where it was not compressed."""
    numbers_digest: bytes
    """SHA-256 of `numbers`, computed while the envelope was checked."""
    timestamp_us: int | None
    """When the sender says it was made; not protected by the digest."""

    def matrix(self, kind: Kind, *, key: str = "") -> Matrix:
        """The matrix as `kind`. Raises MatrixMalformed where the kind may not have this layout or shape."""
        return checked_matrix(
            kind=kind,
            layout=self.layout,
            dtype=self.dtype,
            shape=self.shape,
            numbers=self.numbers,
            dimension_max=DIMENSION_UNLIMITED,
            key=key,
        )

    def array(self) -> npt.NDArray[np.floating]:
        """The numbers as a read-only array; of a factor, S itself as it was written."""
        array: npt.NDArray[np.floating] = np.frombuffer(self.numbers, dtype=self.dtype.numpy).reshape(self.shape)
        array.flags.writeable = False
        return array


# ---- writing -------------------------------------------------------------------------------------------------------


def serialize_matrix(
    matrix: npt.NDArray[Any] | Matrix,
    *,
    layout: Layout = Layout.DENSE,
    timestamp_us: int | None = None,
    compression: Compression = "none",
) -> bytes:
    """The binary envelope of a two-dimensional float64 or float32 array, or of a Matrix (which knows its own layout).

    `timestamp_us`: microseconds since the Unix epoch, None to leave it unset. Raises MatrixMalformed for another dtype or shape.
    """
    subject = _as_matrix(matrix, layout)
    body = _bytes_of(subject.numbers) if compression == "none" else zlib.compress(subject.numbers, 6)
    described = _subject_bytes(subject.dtype, subject.layout, subject.shape)
    digest = _envelope_digest(described, digest_of(subject.numbers))
    time = _TIME_UNSET if timestamp_us is None else timestamp_us
    prefix = _PREFIX.pack(MAGIC, VERSION, HEADER_BYTES, _COMPRESSION_CODE[compression], bytes(3))
    return b"".join((prefix, described, _SUFFIX.pack(time, len(body), digest), body))


def serialize_matrix_json(
    matrix: npt.NDArray[Any] | Matrix, *, layout: Layout = Layout.DENSE, timestamp_us: int | None = None
) -> str:
    """The JSON envelope: the same facts by name, the numbers in base64. Never compressed."""
    subject = _as_matrix(matrix, layout)
    described = _subject_bytes(subject.dtype, subject.layout, subject.shape)
    return json.dumps(
        {
            "format": _JSON_FORMAT,
            "dtype": subject.dtype.label,
            "layout": subject.layout.name.lower(),
            "shape": list(subject.shape),
            "timestamp_us": timestamp_us,
            "digest": _envelope_digest(described, digest_of(subject.numbers)).hex(),
            "data": base64.b64encode(subject.numbers).decode("ascii"),
        }
    )


# ---- reading -------------------------------------------------------------------------------------------------------


def deserialize_matrix(
    data: Buffer | str, *, bytes_max: int = BYTES_MAX, dimension_max: int = DIMENSION_UNLIMITED
) -> npt.NDArray[np.floating]:
    """The numbers of any form that `open_any` reads, bit for bit, as a read-only array."""
    return open_any(data, bytes_max=bytes_max, dimension_max=dimension_max).array()


def open_any(data: Buffer | str, *, bytes_max: int = BYTES_MAX, dimension_max: int = DIMENSION_UNLIMITED) -> Envelope:
    """A binary envelope, a JSON envelope, or what the predecessor wrote: [[…], …] or {"__np__": true, "data", "dtype", "shape"}.

    `bytes_max` bounds the numbers; JSON text may be four times as long. Raises MatrixMalformed.
    """
    if isinstance(data, str):
        return _open_text(data, bytes_max, dimension_max)
    head = bytes(memoryview(data).cast("B")[:16])
    if head.lstrip()[:1] in {b"{", b"["}:
        if memoryview(data).nbytes > 4 * bytes_max:
            raise MatrixMalformed(problem=f"{memoryview(data).nbytes} bytes of JSON, at most {4 * bytes_max} are read")
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise MatrixMalformed(problem=f"the JSON is not UTF-8 at byte {error.start}") from None
        return _open_text(text, bytes_max, dimension_max)
    return open_envelope(data, bytes_max=bytes_max, dimension_max=dimension_max)


def promised_bytes(data: Buffer, dimension_max: int) -> int:
    """Bytes of the numbers that a binary envelope promises, from its header alone. Raises MatrixMalformed."""
    view = memoryview(data).cast("B")
    _check_prefix(view)
    dtype, _, shape = _read_subject(bytes(view[_PREFIX.size : _PREFIX.size + _SUBJECT.size]), dimension_max)
    return shape[0] * shape[1] * dtype.numpy.itemsize


def open_envelope(data: Buffer, *, bytes_max: int = BYTES_MAX, dimension_max: int = DIMENSION_UNLIMITED) -> Envelope:
    """A binary envelope, checked: structure, sizes, digest. `bytes_max` bounds the numbers as they are in memory.

    Raises MatrixMalformed. What is compressed is never inflated beyond the size its header promises.
    """
    view = memoryview(data).cast("B").toreadonly()
    compression = _check_prefix(view)
    described = bytes(view[_PREFIX.size : _PREFIX.size + _SUBJECT.size])
    dtype, layout, shape = _read_subject(described, dimension_max)
    promised = shape[0] * shape[1] * dtype.numpy.itemsize
    if promised > bytes_max:
        raise MatrixMalformed(problem=f"the envelope promises {promised} bytes of numbers, at most {bytes_max} are allowed")
    time, stored, digest = _SUFFIX.unpack_from(view, _PREFIX.size + _SUBJECT.size)
    body = view[HEADER_BYTES:]
    _check_stored_length(len(body), stored, promised, compression)
    numbers = body if compression == "none" else _inflated(body, promised)
    numbers_digest = _check_envelope_digest(described, numbers, digest)
    return Envelope(
        dtype=dtype,
        layout=layout,
        shape=shape,
        numbers=numbers,
        numbers_digest=numbers_digest,
        timestamp_us=None if time == _TIME_UNSET else time,
    )


def _check_prefix(view: memoryview) -> Compression:
    """Magic, version, header length, reserved zeros; answers the compression."""
    start = bytes(view[: len(MAGIC)])
    if start != MAGIC:
        mangled = b"SFM" in start or start.startswith(MAGIC[:1])
        raise MatrixMalformed(
            problem="the envelope's magic is damaged, as by a text-mode or 7-bit copy"
            if mangled
            else f"not an envelope: it starts with {start!r}, not {MAGIC!r}"
        )
    if len(view) < _PREFIX.size:
        raise MatrixMalformed(problem=f"the envelope ends within its header ({len(view)} of {HEADER_BYTES} bytes)")
    _, version, header_length, code, zeros = _PREFIX.unpack_from(view)
    if version != VERSION:
        raise MatrixMalformed(problem=f"the envelope has format version {version}, this reader knows version {VERSION}")
    if header_length != HEADER_BYTES:
        raise MatrixMalformed(
            problem=f"the envelope's header says it has {header_length} bytes, version {VERSION} has {HEADER_BYTES}"
        )
    if len(view) < HEADER_BYTES:
        raise MatrixMalformed(problem=f"the envelope ends within its header ({len(view)} of {HEADER_BYTES} bytes)")
    if zeros.strip(b"\0"):
        raise MatrixMalformed(problem="reserved bytes 13 to 15 of the envelope are not zero")
    for name, known in _COMPRESSION_CODE.items():
        if code == known:
            return name
    raise MatrixMalformed(problem=f"unknown compression {code} (0 none, 1 zlib)")


def _read_subject(described: bytes, dimension_max: int) -> tuple[Dtype, Layout, tuple[int, int]]:
    dtype_code, layout_code, dimensions, zeros, rows, columns = _SUBJECT.unpack(described)
    if dtype_code not in Dtype.__members__.values():
        raise MatrixMalformed(problem=f"unknown dtype {dtype_code} (1 float64, 2 float32)")
    if layout_code not in Layout.__members__.values():
        raise MatrixMalformed(problem=f"unknown layout {layout_code} (1 dense, 2 factor)")
    if dimensions != 2:
        raise MatrixMalformed(problem=f"the envelope says {dimensions} dimensions, a matrix has 2")
    if zeros.strip(b"\0"):
        raise MatrixMalformed(problem="reserved bytes 19 to 23 of the envelope are not zero")
    return Dtype(dtype_code), Layout(layout_code), shape_of([rows, columns], dimension_max)


def _check_stored_length(found: int, stored: int, promised: int, compression: Compression) -> None:
    if found < stored:
        raise MatrixMalformed(problem=f"the envelope is truncated: {found} of {stored} bytes after the header")
    if found > stored:
        raise MatrixMalformed(problem=f"{found - stored} bytes follow the end of the envelope")
    if compression == "none" and stored != promised:
        raise MatrixMalformed(problem=f"the envelope stores {stored} bytes of numbers, its shape and dtype take {promised}")


def _inflated(body: memoryview, promised: int) -> bytes:
    """Exactly `promised` bytes, or MatrixMalformed; one byte more is the most that is ever inflated."""
    stream = zlib.decompressobj()
    try:
        numbers = stream.decompress(body, promised + 1)
    except zlib.error as error:
        raise MatrixMalformed(problem=f"the compressed numbers are damaged: {error}") from None
    if len(numbers) > promised:
        raise MatrixMalformed(problem=f"the numbers inflate to more than the {promised} bytes promised")
    if not stream.eof:
        raise MatrixMalformed(problem="the compressed numbers end early")
    if stream.unused_data:
        raise MatrixMalformed(problem=f"{len(stream.unused_data)} bytes follow the compressed numbers")
    if len(numbers) < promised:
        raise MatrixMalformed(problem=f"the numbers inflate to {len(numbers)} bytes, {promised} were promised")
    return numbers


# ---- JSON ----------------------------------------------------------------------------------------------------------


def _open_text(text: str, bytes_max: int, dimension_max: int) -> Envelope:
    value = parsed(text, 4 * bytes_max)
    if isinstance(value, list):
        return _from_legacy(matrix_of_lists(value, Dtype.FLOAT64, bytes_max, dimension_max))
    if isinstance(value, dict) and "format" in value:
        return _from_json_envelope(value, bytes_max, dimension_max)
    if isinstance(value, dict) and value.get("__np__") is True:
        return _from_legacy(_legacy_object(value, bytes_max, dimension_max))
    raise MatrixMalformed(
        problem=f'JSON, but no matrix: expected {{"format": "{_JSON_FORMAT}", …}}, {{"__np__": true, …}} or a list of rows'
    )


def _from_json_envelope(value: dict[str, Any], bytes_max: int, dimension_max: int) -> Envelope:
    if value["format"] != _JSON_FORMAT:
        raise MatrixMalformed(problem=f"JSON format {value['format']!r}, this reader knows {_JSON_FORMAT!r}")
    _check_keys(value, _JSON_KEYS)
    layouts = {known.name.lower(): known for known in Layout}
    layout = layouts.get(value["layout"]) if isinstance(value["layout"], str) else None
    if layout is None:
        raise MatrixMalformed(problem=f"unknown layout {value['layout']!r} (dense, factor)")
    time = value["timestamp_us"]
    if time is not None and not (type(time) is int and abs(time) < 2**63):
        raise MatrixMalformed(problem=f"timestamp_us is {str(time)[:40]}, not a 64-bit integer or null")
    dtype = dtype_named(value["dtype"])
    shape = shape_of(value["shape"], dimension_max)
    numbers = binary_of(value["data"], shape, dtype, bytes_max)
    try:
        digest = bytes.fromhex(value["digest"])
    except (TypeError, ValueError):
        raise MatrixMalformed(problem=f"digest is not {2 * DIGEST_BYTES} hexadecimal digits") from None
    found = _check_envelope_digest(_subject_bytes(dtype, layout, shape), numbers, digest)
    return Envelope(dtype=dtype, layout=layout, shape=shape, numbers=numbers, numbers_digest=found, timestamp_us=time)


def _legacy_object(value: dict[str, Any], bytes_max: int, dimension_max: int) -> Matrix:
    """{"__np__": true, "data": base64 or nested lists, "dtype", "shape"}."""
    _check_keys(value, frozenset({"__np__", "data", "dtype", "shape"}))
    dtype = dtype_named(value["dtype"])
    shape = shape_of(value["shape"], dimension_max)
    data = value["data"]
    if not isinstance(data, list):
        numbers = binary_of(data, shape, dtype, bytes_max)
        return Matrix(kind=Kind.GENERIC, layout=Layout.DENSE, dtype=dtype, shape=shape, numbers=numbers)
    matrix = matrix_of_lists(data, dtype, bytes_max, dimension_max)
    if matrix.shape != shape:
        raise MatrixMalformed(problem=f"shape says {list(shape)}, the lists are {list(matrix.shape)}")
    return matrix


def _check_keys(value: dict[str, Any], expected: frozenset[str]) -> None:
    missing, unknown = sorted(expected - value.keys()), sorted(value.keys() - expected)
    if missing:
        raise MatrixMalformed(problem=f"the JSON lacks {', '.join(missing)}")
    if unknown:
        raise MatrixMalformed(problem=f"the JSON has unknown keys: {', '.join(name[:40] for name in unknown[:5])}")


def _from_legacy(matrix: Matrix) -> Envelope:
    return Envelope(
        dtype=matrix.dtype,
        layout=Layout.DENSE,
        shape=matrix.shape,
        numbers=matrix.numbers,
        numbers_digest=digest_of(matrix.numbers),
        timestamp_us=None,
    )


# ---- what both forms share -----------------------------------------------------------------------------------------


def _as_matrix(matrix: npt.NDArray[Any] | Matrix, layout: Layout) -> Matrix:
    if isinstance(matrix, Matrix):
        return matrix
    # DENSITY is the kind that may be a factor; an envelope does not say a kind.
    return from_array(matrix, kind=Kind.DENSITY if layout is Layout.FACTOR else Kind.GENERIC, layout=layout)


def _subject_bytes(dtype: Dtype, layout: Layout, shape: tuple[int, int]) -> bytes:
    return _SUBJECT.pack(dtype, layout, 2, bytes(5), shape[0], shape[1])


def _envelope_digest(described: bytes, numbers_digest: bytes) -> bytes:
    """SHA-256(dtype, layout, shape ‖ SHA-256(numbers)): one pass over the numbers serves this digest and theirs."""
    return hashlib.sha256(described + numbers_digest).digest()


def _check_envelope_digest(described: bytes, numbers: Buffer, digest: bytes) -> bytes:
    """The SHA-256 of the numbers. Raises MatrixMalformed unless the envelope's digest agrees."""
    numbers_digest = digest_of(numbers)
    found = _envelope_digest(described, numbers_digest)
    if found != digest:
        raise MatrixMalformed(
            problem=f"the envelope is damaged: its digest says {digest.hex()[:16]}…, its content has {found.hex()[:16]}…"
        )
    return numbers_digest


def _bytes_of(numbers: Buffer) -> Buffer:
    return memoryview(numbers).cast("B")
