"""How a symmetric matrix lies in `rho_body.numbers`: its upper block triangle, half the bytes of the whole.

The matrix is cut into strips of 64 rows; of each strip the columns from its first row on are kept, one strip after the other,
C order. What is left of a strip's diagonal block is the transpose of a strip above it, so it need not be stored, provided that
the two agree bit by bit (0 and −0 are equal and differ). Blocks on the diagonal are kept whole. A matrix that is not symmetric
to the bit is stored as it is.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sfm_grpc.model import Buffer, Layout, Matrix

_STRIP = 64
# Smaller ones gain nothing: half of few pages is few pages.
_DIMENSION_MIN = 128
_DIMENSION_MAX = 65_536
_BITS: Mapping[int, np.dtype[np.unsignedinteger[Any]]] = {8: np.dtype("<u8"), 4: np.dtype("<u4")}


class Packing(enum.IntEnum):
    """How the numbers are stored; the values are in the database."""

    WHOLE = 0
    UPPER_8 = 1
    UPPER_4 = 2
    """The upper block triangle, of numbers of so many bytes."""


_UPPER = {8: Packing.UPPER_8, 4: Packing.UPPER_4}
_ITEMSIZE = {packing.value: itemsize for itemsize, packing in _UPPER.items()}


def is_packable(matrix: Matrix) -> bool:
    """Whether looking for symmetry is worth it."""
    rows, columns = matrix.shape
    return matrix.layout is Layout.DENSE and rows == columns >= _DIMENSION_MIN


def pack(matrix: Matrix) -> tuple[Packing, Buffer]:
    """The numbers as they are stored: the upper triangle where the matrix is symmetric bit by bit."""
    if not is_packable(matrix):
        return Packing.WHOLE, matrix.numbers
    n = matrix.dimension
    bits = _bits(matrix.numbers, matrix.dtype.numpy.itemsize).reshape(n, n)
    packed = np.empty(_count(n), bits.dtype)
    for strip, place in _strips(n):
        first, last = strip.start, strip.stop
        if not np.array_equal(bits[last:, strip], bits[strip, last:].T):
            return Packing.WHOLE, matrix.numbers
        packed[place].reshape(last - first, n - first)[:] = bits[strip, first:]
    return _UPPER[bits.itemsize], packed.data.cast("B")


def unpack(packing: int, numbers: Buffer) -> Buffer:
    """The numbers as they were put. What is not what it says is given back as it is: its digest will not match."""
    itemsize = _ITEMSIZE.get(packing)
    if itemsize is None:
        return numbers
    count, rest = divmod(len(numbers), itemsize)
    n = bisect_left(range(_DIMENSION_MAX + 1), count, key=_count)
    if rest or n > _DIMENSION_MAX or _count(n) != count:
        return numbers
    packed = _bits(numbers, itemsize)
    bits = np.empty((n, n), packed.dtype)
    for strip, place in _strips(n):
        first, last = strip.start, strip.stop
        bits[strip, first:] = packed[place].reshape(last - first, n - first)
        bits[last:, strip] = bits[strip, last:].T
    return bits.data.cast("B")


def _bits(numbers: Buffer, itemsize: int) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger[Any]]]:
    return np.frombuffer(numbers, dtype=_BITS[itemsize])


def _count(n: int) -> int:
    """Numbers that are kept of an n×n matrix: of q whole strips, and of what is left of r rows."""
    q, r = divmod(n, _STRIP)
    return _STRIP * (q * n - _STRIP * (q * (q - 1) // 2)) + r * r


def _strips(n: int) -> Iterator[tuple[slice, slice]]:
    """Each strip's rows, and where it lies in what is stored."""
    start = 0
    for first in range(0, n, _STRIP):
        last = min(n, first + _STRIP)
        stop = start + (last - first) * (n - first)
        yield slice(first, last), slice(start, stop)
        start = stop
