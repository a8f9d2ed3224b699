"""From any nearly right matrix to a density matrix, before it is committed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sfm_grpc.density.matrix import FloatArray

_U = 2.0**-53
_BLOCK = 256


def normalized(rho: npt.ArrayLike, *, project: bool = False) -> FloatArray:
    """The symmetric part of a d×d matrix over its trace, as a new float64 array: (ρ + ρᵀ) / 2 tr ρ.

    With `project`, when an eigenvalue is negative beyond round-off: the nearest trace-one positive semi-definite matrix in the
    Frobenius norm instead (Smolin, Gambetta, Smith, PRL 108, 070502, 2012), at the price of an eigendecomposition. Without it
    eigenvalues are left alone; the server has the last word. Idempotent, bit for bit.

    Raises ValueError when the array is not square, real and finite, or its trace is not positive.
    """
    symmetric = _symmetric(rho)
    scaled = _unit_trace(symmetric)
    return _projected(scaled) if project else scaled


def _symmetric(rho: npt.ArrayLike) -> FloatArray:
    given = np.asarray(rho)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or given.size == 0:
        raise ValueError(f"a density matrix is square, this array has shape {given.shape}")
    if given.dtype.kind not in "fiu":
        raise ValueError(f"dtype {given.dtype} is not real; send the real part")
    exact = given.astype(np.float64, copy=False)
    if not np.isfinite(exact).all():
        row, column = np.argwhere(~np.isfinite(exact))[0]
        raise ValueError(f"{exact[row, column]} at [{row}, {column}]: every number must be finite")
    return _symmetric_part(exact)


def _symmetric_part(a: FloatArray) -> FloatArray:
    """(a + aᵀ) / 2, block by block: a whole transposed matrix is read across its rows, at twice the time."""
    symmetric = np.empty_like(a, order="C")
    for top in range(0, len(a), _BLOCK):
        rows = slice(top, top + _BLOCK)
        for left in range(0, top + 1, _BLOCK):
            columns = slice(left, left + _BLOCK)
            with np.errstate(over="ignore"):
                block = a[rows, columns] + a[columns, rows].T
            block *= 0.5
            symmetric[rows, columns] = block
            symmetric[columns, rows] = block.T
    return symmetric


def _unit_trace(symmetric: FloatArray) -> FloatArray:
    """Divided by the exact trace, in place; untouched where a division would only repeat its own rounding."""
    diagonal = symmetric.diagonal()
    trace = math.fsum(diagonal) if np.isfinite(diagonal).all() else math.inf
    if not 0.0 < trace < math.inf:
        raise ValueError(f"the trace is {trace}; only a matrix of positive finite trace can be normalized")
    if abs(trace - 1.0) > 4 * _U * max(1.0, math.fsum(np.abs(diagonal))):
        with np.errstate(over="ignore"):
            symmetric /= trace
    if not np.isfinite(symmetric).all():
        raise ValueError(f"the trace {trace} is too small beside the other numbers: dividing by it overflows")
    return symmetric


def _projected(rho: FloatArray) -> FloatArray:
    eigenvalues, vectors = np.linalg.eigh(rho)
    # Twice the server's rounding bound: what a sum of rank-one terms leaves below zero is accepted there untouched.
    if eigenvalues[0] >= -4 * (len(rho) + 4) * _U:
        return rho
    weights = simplex(eigenvalues)
    kept = weights > 0
    part = vectors[:, kept]
    return _unit_trace(_symmetric((part * weights[kept]) @ part.T))


def simplex(values: FloatArray) -> FloatArray:
    """The nearest point with no negative coordinate and sum one: max(v − τ, 0) with the τ that makes it so."""
    descending = np.sort(values)[::-1]
    shifts = (np.cumsum(descending) - 1.0) / np.arange(1, len(values) + 1)
    shift = shifts[np.nonzero(descending > shifts)[0][-1]]
    nearest: FloatArray = np.maximum(values - shift, 0.0)
    return nearest
