"""Matrices from untrusted parts and back to numpy: shapes, dtypes, byte counts and digests; never the values.

Nothing here copies numbers that are already little-endian and C order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sfm_grpc.errors import MatrixMalformed
from sfm_grpc.model import Buffer, Dtype, Kind, Layout, Matrix

FloatArray: TypeAlias = npt.NDArray[np.float64]

DIGEST_BYTES = 32

# Where no limit was given: more rows than any memory holds, so only the byte count decides.
DIMENSION_UNLIMITED = 2**31 - 1

# 256 KiB of float64: a block and its partner stay in the second-level cache.
_BLOCK_NUMBERS = 32768


def checked_matrix(
    *,
    kind: Kind,
    layout: Layout,
    dtype: Dtype,
    shape: Sequence[int],
    numbers: Buffer,
    dimension_max: int,
    digest: bytes = b"",
    key: str = "",
) -> Matrix:
    """The matrix that these parts describe, if they agree with each other. `numbers` is not copied and its values are not read.

    `digest`, when given, is compared with the SHA-256 of `numbers` (2.5 ns a byte). Raises MatrixMalformed.
    """
    rows, columns = checked_shape(kind=kind, layout=layout, shape=shape, dimension_max=dimension_max, key=key)
    view = memoryview(numbers)
    if not view.c_contiguous:
        raise MatrixMalformed(problem="the numbers are not one contiguous run of bytes", key=key)
    _check_length(view.nbytes, rows, columns, dtype, key)
    if digest:
        check_digest(digest, numbers, key=key)
    plain = numbers if isinstance(numbers, bytes) else view.toreadonly().cast("B")
    return Matrix(kind=kind, layout=layout, dtype=dtype, shape=(rows, columns), numbers=plain)


def checked_shape(*, kind: Kind, layout: Layout, shape: Sequence[int], dimension_max: int, key: str = "") -> tuple[int, int]:
    """Rows and columns, if a matrix of this kind and layout may have them. Raises MatrixMalformed.

    Python integers throughout: a shape of 2⁶² × 2⁶² is refused, it does not wrap around.
    """
    if len(shape) != 2:
        raise MatrixMalformed(problem=f"shape has {len(shape)} numbers, it must be [rows, columns]", key=key)
    rows, columns = int(shape[0]), int(shape[1])
    if rows < 1 or columns < 1:
        raise MatrixMalformed(problem=f"shape [{rows}, {columns}]: rows and columns must be at least 1", key=key)
    if max(rows, columns) > dimension_max:
        raise MatrixMalformed(problem=f"shape [{rows}, {columns}]: rows and columns may be at most {dimension_max}", key=key)
    if layout is Layout.FACTOR and kind is not Kind.DENSITY:
        raise MatrixMalformed(problem="a factor means the density matrix SᵀS/‖S‖²_F; a generic matrix is always dense", key=key)
    if kind is Kind.DENSITY and layout is Layout.DENSE and rows != columns:
        raise MatrixMalformed(problem=f"a density matrix is square, this is {rows}×{columns}", key=key)
    return rows, columns


def check_digest(digest: bytes, numbers: Buffer, *, key: str = "") -> None:
    """Raises MatrixMalformed unless `digest` is the SHA-256 of `numbers`."""
    check_digest_length(digest, key=key)
    found = digest_of(numbers)
    if found != digest:
        raise digest_mismatch(digest, found, key)


def digest_mismatch(claimed: bytes, found: bytes, key: str) -> MatrixMalformed:
    """The error for numbers that are not the ones whose digest was sent."""
    says = f"the numbers have SHA-256 {found.hex()[:16]}…, the digest sent with them says {claimed.hex()[:16]}…"
    return MatrixMalformed(problem=says, key=key)


def check_digest_length(digest: bytes, *, key: str = "") -> None:
    """Raises MatrixMalformed unless `digest` has the 32 bytes of a SHA-256."""
    if len(digest) != DIGEST_BYTES:
        raise MatrixMalformed(problem=f"digest has {len(digest)} bytes, a SHA-256 has {DIGEST_BYTES}", key=key)


def digest_of(numbers: Buffer) -> bytes:
    """SHA-256 of the raw numbers, 32 bytes. Releases the GIL."""
    return hashlib.sha256(numbers).digest()


def from_doubles(
    values: Sequence[float] | npt.NDArray[Any],
    *,
    kind: Kind,
    dtype: Dtype,
    shape: Sequence[int],
    dimension_max: int,
    digest: bytes = b"",
    key: str = "",
) -> Matrix:
    """A dense matrix from doubles, row after row: the wire form for grpcurl.

    For FLOAT32 each double must be a binary32 (NaN and infinities pass here, admission refuses them). Raises MatrixMalformed.
    """
    rows, columns = checked_shape(kind=kind, layout=Layout.DENSE, shape=shape, dimension_max=dimension_max, key=key)
    if len(values) != rows * columns:
        raise MatrixMalformed(problem=f"{len(values)} values for {rows}×{columns} = {rows * columns} numbers", key=key)
    doubles = np.asarray(values, dtype=np.float64)
    numbers = _narrowed(doubles, dtype, columns, key).data.toreadonly().cast("B")
    return checked_matrix(
        kind=kind,
        layout=Layout.DENSE,
        dtype=dtype,
        shape=shape,
        numbers=numbers,
        dimension_max=dimension_max,
        digest=digest,
        key=key,
    )


def from_array(array: npt.NDArray[Any], *, kind: Kind, layout: Layout = Layout.DENSE) -> Matrix:
    """The matrix of a two-dimensional float64 or float32 array.

    Copied only where it is not yet C order and little-endian; otherwise the matrix looks into the array's memory, so the array
    must not be changed while the matrix is in use. Raises MatrixMalformed for another dtype or shape.
    """
    given = np.asarray(array)
    dtype = _dtype_of(given)
    if given.ndim != 2:
        raise MatrixMalformed(
            problem=f"a matrix has two dimensions, this array has shape {given.shape}{_REMEDY.get(given.ndim, '')}"
        )
    shape = checked_shape(kind=kind, layout=layout, shape=given.shape, dimension_max=DIMENSION_UNLIMITED)
    ordered = np.ascontiguousarray(given, dtype=dtype.numpy)
    return Matrix(kind=kind, layout=layout, dtype=dtype, shape=shape, numbers=ordered.data.toreadonly().cast("B"))


def dense(matrix: Matrix) -> FloatArray:
    """The float64 matrix that is meant: d×d for a density matrix, SᵀS/‖S‖²_F of a factor; rows×columns of a generic one.

    A dense float64 matrix is a read-only view of its numbers; everything else is a new array. float32 is promoted exactly.
    """
    if matrix.layout is Layout.DENSE:
        return matrix.array().astype(np.float64, copy=False)
    factor = _unit_factor(matrix)
    gram: FloatArray = np.dot(factor.T, factor)
    return gram


def step_norm(old: Matrix, new: Matrix) -> float | None:
    """‖new − old‖_F of the matrices that are meant; None where they have no difference: another kind or another size.

    Dense matrices, and a factor against a dense one, are subtracted block by block: accurate to round-off, d² work (k·d² with
    a factor), no d×d temporary, the GIL released. Two factors of fewer rows than columns go through the Gram matrices SSᵀ, TTᵀ,
    STᵀ: k²·d work, accurate to about 1e-15/step, so a step under 1e-8 is lost in round-off (equal factors give exactly 0).
    """
    if old.kind is not new.kind or old.dimension != new.dimension:
        return None
    if old.layout is Layout.FACTOR and new.layout is Layout.FACTOR and max(old.shape[0], new.shape[0]) <= new.dimension:
        return _factor_step(old, new)
    if old.kind is Kind.GENERIC and old.shape != new.shape:
        return None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = sum(float(np.vdot(block, block)) for block in _differences(old, new, 1.0))
        if 2.0**-900 < squares < np.inf:
            return float(np.sqrt(squares))
        return _scaled_step(old, new)


def step_work(old: Matrix, new: Matrix) -> int:
    """About how many multiplications `step_norm` makes."""
    factors = [m.shape[0] for m in (old, new) if m.layout is Layout.FACTOR]
    d, k = new.dimension, max(factors, default=1)
    return len(factors) * k * d * min(k, d) if len(factors) == 2 else k * d * d


def _scaled_step(old: Matrix, new: Matrix) -> float:
    """The same where squares overflow or vanish: relative to the largest difference. Infinite only where the norm is."""
    largest = max(float(np.max(np.abs(block))) for block in _differences(old, new, 0.5))
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    squares = sum(float(np.vdot(part, part)) for part in (block / largest for block in _differences(old, new, 0.5)))
    return 2.0 * largest * float(np.sqrt(squares))


def _differences(old: Matrix, new: Matrix, scale: float) -> Iterator[FloatArray]:
    """The difference new − old in blocks of whole rows, times `scale`. A block lasts until the next one is asked for."""
    columns = new.dimension
    rows = new.shape[0] if new.layout is Layout.DENSE else columns
    height = max(1, _BLOCK_NUMBERS // columns)
    before, after = _Rows(old), _Rows(new)
    scratch: FloatArray = np.empty(
        (min(rows, height), columns)
    )  # one for all blocks: fresh memory costs more than the subtraction
    for top in range(0, rows, height):
        block = scratch[: min(height, rows - top)]
        np.subtract(after.block(top, top + height, scale), before.block(top, top + height, scale), out=block, dtype=np.float64)
        yield block.reshape(-1)


class _Rows:
    """Rows of the matrix that is meant, a block at a time."""

    def __init__(self, matrix: Matrix) -> None:
        self._factor = _unit_factor(matrix) if matrix.layout is Layout.FACTOR else None
        self._numbers = matrix.array()

    def block(self, top: int, bottom: int, scale: float) -> npt.NDArray[np.floating]:
        """Rows `top` to `bottom`, times `scale` (a power of two)."""
        if self._factor is not None:
            product: FloatArray = np.dot(self._factor[:, top:bottom].T, self._factor)
            return product if scale == 1.0 else product * scale
        rows: npt.NDArray[np.floating] = self._numbers[top:bottom]
        return rows if scale == 1.0 else rows * np.float64(scale)


def _factor_step(old: Matrix, new: Matrix) -> float:
    s, t = _unit_factor(old), _unit_factor(new)
    if s.shape == t.shape and np.array_equal(s, t):
        return 0.0
    grams = (np.dot(s, s.T), np.dot(t, t.T), np.dot(s, t.T))
    old_square, new_square, mixed_square = (float(np.vdot(g, g)) for g in grams)
    return float(np.sqrt(max(0.0, old_square + new_square - 2.0 * mixed_square)))


def _unit_factor(matrix: Matrix) -> FloatArray:
    """S/‖S‖_F as a new float64 array. Raises MatrixMalformed where S has no direction: zero, or not finite."""
    factor = matrix.array().astype(np.float64)
    largest = float(np.max(np.abs(factor)))
    if not 0.0 < largest < np.inf:
        raise MatrixMalformed(problem=f"a factor with largest number {largest} means no density matrix")
    # Scaled by a number of its own size first, so that no square overflows or vanishes.
    factor /= largest
    factor /= np.sqrt(np.vdot(factor, factor))
    return factor


_REMEDY = {
    0: "; send a 1×1 matrix as array.reshape(1, 1)",
    1: "; a vector v is the matrix v.reshape(1, -1), its density matrix np.outer(v, v) / (v @ v)",
}


def _dtype_of(array: npt.NDArray[Any]) -> Dtype:
    if array.dtype.kind == "f" and array.dtype.itemsize == 8:
        return Dtype.FLOAT64
    if array.dtype.kind == "f" and array.dtype.itemsize == 4:
        return Dtype.FLOAT32
    remedy = "send its real part" if array.dtype.kind == "c" else "convert it with array.astype(np.float64)"
    raise MatrixMalformed(problem=f"dtype {array.dtype} is not float64 or float32; {remedy}")


def _check_length(length: int, rows: int, columns: int, dtype: Dtype, key: str) -> None:
    expected = rows * columns * dtype.numpy.itemsize
    if length == expected:
        return
    fault = f"truncated by {expected - length}" if length < expected else f"over-long by {length - expected}"
    raise MatrixMalformed(
        problem=f"{length} bytes of numbers for {rows}×{columns} {dtype.label}, which take {expected}: {fault}",
        key=key,
    )


def _narrowed(doubles: FloatArray, dtype: Dtype, columns: int, key: str) -> npt.NDArray[np.floating]:
    """The doubles in `dtype`, if none of them changes. Raises MatrixMalformed with the first that would."""
    if dtype is Dtype.FLOAT64:
        return doubles.astype(dtype.numpy, copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        singles = doubles.astype(dtype.numpy)
        changed = (singles != doubles) & ~np.isnan(doubles)
    if changed.any():
        row, column = divmod(int(np.argmax(changed)), columns)
        value = float(doubles[row * columns + column])
        raise MatrixMalformed(
            problem=f"{int(changed.sum())} values are not float32, the first {value!r} at [{row}, {column}]; send float64",
            key=key,
        )
    return singles
