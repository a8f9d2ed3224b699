"""The nearest density matrix to one that is almost one: its eigenvalues projected onto the probability simplex.

J. A. Smolin, J. M. Gambetta, G. Smith, "Efficient method for computing the maximum-likelihood quantum state from measurements
with additive Gaussian noise", PRL 108, 070502 (2012): nearest in Frobenius norm among the matrices of trace one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sfm_grpc.density.matrix import FloatArray
from sfm_grpc.model import Matrix


def nearest(hermitian: FloatArray) -> FloatArray:
    """The nearest trace-one positive semi-definite matrix, symmetric bit by bit. O(n³), the GIL released.

    It is formed as W·Wᵀ, so whatever the eigenvectors' own errors are, its eigenvalues are at least −n·u: that is what makes
    the result pass admission untouched.
    """
    eigenvalues, vectors = np.linalg.eigh(hermitian)
    weights = onto_simplex(eigenvalues)
    kept = weights > 0.0
    root = vectors[:, kept] * np.sqrt(weights[kept])
    product: FloatArray = np.dot(root, root.T)
    product *= 0.5
    return product + product.T


def onto_simplex(values: FloatArray) -> FloatArray:
    """The nearest point with no negative number and sum one: max(0, v − t) with the one t that gives it."""
    descending = np.sort(values)[::-1]
    # t for each number of values kept; the largest number that keeps only positive ones is the right one.
    thresholds = (np.cumsum(descending) - 1.0) / np.arange(1, values.size + 1)
    last = int(np.flatnonzero(descending > thresholds)[-1])
    projected: FloatArray = np.maximum(values - thresholds[last], 0.0)
    return projected


def in_dtype_of(matrix: Matrix, numbers: FloatArray) -> Matrix:
    """`numbers` rounded to the matrix's own dtype: what was sent as float32 is stored as float32."""
    stored: npt.NDArray[np.floating] = np.ascontiguousarray(numbers, dtype=matrix.dtype.numpy)
    return Matrix(
        kind=matrix.kind,
        layout=matrix.layout,
        dtype=matrix.dtype,
        shape=matrix.shape,
        numbers=stored.data.toreadonly().cast("B"),
    )


def mass_moved(stored: FloatArray, sent: FloatArray) -> float:
    """½‖stored − sent‖_tr of two symmetric matrices; more than 0, because a clamp is only made where they differ."""
    mass = 0.5 * float(np.sum(np.abs(np.linalg.eigvalsh(stored - sent))))
    return max(mass, 2.0**-1022)
