"""What is measured of a matrix before anything is proved: finite, ‖ρ‖_F, ‖ρ − ρᵀ‖_F, tr ρ.

Two passes over memory in all: one dot product, one comparison in 128×128 blocks (a whole transposed temporary costs four
times the Cholesky factorization). Every long call releases the GIL.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sfm_grpc.density.matrix import FloatArray

BLOCK = 128
_ROW_BLOCK_NUMBERS = 32768

# Unit roundoff of the arithmetic, whatever dtype the numbers came in.
U = 2.0**-53


@dataclass(frozen=True, slots=True)
class NonFinite:
    """The first number that is a NaN or an infinity, and how many there are."""

    row: int
    column: int
    value: float
    count: int


@dataclass(frozen=True, slots=True)
class WorstPair:
    """The pair ρ_ij, ρ_ji that differs most."""

    row: int
    column: int
    difference: float
    """ρ[row, column] − ρ[column, row]."""


def sum_of_squares(a: npt.NDArray[Any]) -> float:
    """Σ a_ij² in double precision, without scaling: not finite where a number is not, or where it overflows."""
    if a.dtype == np.float64:
        flat = a.reshape(-1)
        return float(np.dot(flat, flat))
    total = 0.0
    for _, rows in row_blocks(a):
        flat = rows.astype(np.float64).reshape(-1)
        total += float(np.dot(flat, flat))
    return total


def first_non_finite(a: npt.NDArray[Any]) -> NonFinite | None:
    """The full search, for when the sum of squares is not finite; None where it merely overflowed."""
    first: tuple[int, int] | None = None
    count = 0
    for top, rows in row_blocks(a):
        wrong = ~np.isfinite(rows)
        found = int(np.count_nonzero(wrong))
        if found and first is None:
            row, column = divmod(int(np.argmax(wrong)), a.shape[1])
            first = (top + row, column)
        count += found
    if first is None:
        return None
    return NonFinite(row=first[0], column=first[1], value=float(a[first]), count=count)


def frobenius(a: npt.NDArray[Any], squares: float) -> float:
    """‖a‖_F of a finite matrix from its sum of squares, again by scaling where that overflowed or vanished; never infinite."""
    if 2.0**-900 < squares < math.inf:
        return math.sqrt(squares)
    largest = max(float(np.max(np.abs(rows))) for _, rows in row_blocks(a))
    if largest == 0.0:
        return 0.0
    relative = sum(float(np.vdot(part, part)) for part in (rows.astype(np.float64) / largest for _, rows in row_blocks(a)))
    return min(largest * math.sqrt(relative), sys.float_info.max)


def asymmetry(a: FloatArray) -> float:
    """‖a − aᵀ‖_F of a finite matrix, rounded up; 0 where nothing differs by more than 1e-160.

    The sum has n² terms, each off by a few u and none negative, so its relative error is below (n² + 4)u, whatever the order.
    """
    n = a.shape[0]
    scratch = np.empty((min(n, BLOCK), min(n, BLOCK)))
    total: float = 0.0
    for i in range(0, n, BLOCK):
        for j in range(i, n, BLOCK):
            here = a[i : i + BLOCK, j : j + BLOCK]
            difference = scratch[: here.shape[0], : here.shape[1]]
            np.copyto(difference, a[j : j + BLOCK, i : i + BLOCK].T)
            np.subtract(here, difference, out=difference)
            square = float(np.vdot(difference, difference))
            total += square if i == j else 2.0 * square
    if total == 0.0:
        return 0.0
    if not 2.0**-900 < total < math.inf:
        return _scaled_asymmetry(a)
    rounded_up: float = math.sqrt(total) * (1.0 + (n * n + 4) * U)
    return rounded_up


def _scaled_asymmetry(a: FloatArray) -> float:
    """The same where squares overflow or vanish; infinite where the norm itself overflows."""
    half = 0.5 * a
    half -= half.T.copy()
    largest = float(np.max(np.abs(half)))
    if largest < 1e-160:
        return 0.0
    half /= largest
    return 2.0 * largest * float(np.linalg.norm(half)) * (1.0 + (half.size + 8) * U)


def worst_pair(a: FloatArray) -> WorstPair:
    """Where a − aᵀ is largest; for the error only."""
    worst = WorstPair(row=0, column=0, difference=0.0)
    with np.errstate(over="ignore"):
        for top, rows in row_blocks(a):
            difference = rows - a[:, top : top + rows.shape[0]].T
            row, column = divmod(int(np.argmax(np.abs(difference))), a.shape[1])
            if abs(difference[row, column]) > abs(worst.difference):
                worst = WorstPair(row=top + row, column=column, difference=float(difference[row, column]))
    return worst


def trace_and_error(a: npt.NDArray[Any]) -> tuple[float, float]:
    """The trace and |tr a − 1|, each the exact value rounded once (`math.fsum`); infinite only where the sum overflows."""
    diagonal: list[float] = a.diagonal().tolist()
    try:
        return math.fsum(diagonal), abs(math.fsum([*diagonal, -1.0]))
    except OverflowError:
        # A partial sum overflowed: at that scale the one that is subtracted is far below the last bit.
        try:
            trace = math.fsum(d * 2.0**-64 for d in diagonal) * 2.0**64
        except OverflowError:  # pragma: no cover - more than 2⁶⁴ rows
            trace = math.inf
        return trace, abs(trace - 1.0)


def hermitian_part(a: npt.NDArray[Any]) -> FloatArray:
    """(a + aᵀ)/2 as a new float64 array, symmetric bit by bit: each number is rounded once, and addition commutes."""
    half: FloatArray = a.astype(np.float64)
    half *= 0.5
    return half + half.T


def row_blocks(a: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Whole rows, about 256 KiB at a time, with the index of the first."""
    height = max(1, _ROW_BLOCK_NUMBERS // a.shape[1])
    for top in range(0, a.shape[0], height):
        yield top, a[top : top + height]
