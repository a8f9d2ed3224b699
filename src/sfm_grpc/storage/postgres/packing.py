"""How a symmetric matrix lies in `rho_body.numbers`: its upper block triangle, half the bytes of the whole.

The matrix is cut into strips of 64 rows; of each strip the columns from its first row on are kept, one strip after the other,
C order. What is left of a strip's diagonal block is the transpose of a strip above it, so it need not be stored, provided that
the two agree bit by bit (0 and −0 are equal and differ). Blocks on the diagonal are kept whole. A matrix that is not symmetric
to the bit is stored as it is.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sfm_grpc.model import Buffer, Certificate, Layout, Matrix

_STRIP = 64
# Smaller ones gain nothing: half of few pages is few pages.
_DIMENSION_MIN = 128
_BITS: Mapping[int, np.dtype[np.unsignedinteger[Any]]] = {8: np.dtype("<u8"), 4: np.dtype("<u4")}


class Packing(enum.IntEnum):
    """How the numbers are stored; the values are in the database."""

    WHOLE = 0
    UPPER = 1


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
    return Packing.UPPER, packed.data.cast("B")


def unpack(packing: int, numbers: Buffer, certificate: Certificate) -> Buffer:
    """The numbers as they were put. What is not what it says is given back as it is: its digest will not match."""
    n, itemsize = certificate.shape[1], certificate.dtype.numpy.itemsize
    if packing != Packing.UPPER or len(numbers) != _count(n) * itemsize:
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
    """Numbers that are kept of an n×n matrix."""
    return sum(place.stop - place.start for _, place in _strips(n))


def _strips(n: int) -> Iterator[tuple[slice, slice]]:
    """Each strip's rows, and where it lies in what is stored."""
    start = 0
    for first in range(0, n, _STRIP):
        last = min(n, first + _STRIP)
        stop = start + (last - first) * (n - first)
        yield slice(first, last), slice(start, stop)
        start = stop
