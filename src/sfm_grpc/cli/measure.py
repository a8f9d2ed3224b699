"""What a matrix is, measured with numpy alone: it repeats what the server claims, with other code, and trusts nobody.

The certificate is what is checked. Its own bounds apply, unless the caller has stricter ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfm_grpc.model import Certificate, Kind, Layout

# Unit roundoff of double precision.
_U = 2.0**-53


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the caller holds density matrices to; None: what each certificate says that it was held to."""

    epsilon: float | None = None
    trace_tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the numbers themselves say."""

    digest: bytes
    finite: bool
    trace_error: float = 0.0
    """|tr ρ − 1|, summed by `math.fsum`."""
    asymmetry: float = 0.0
    """‖ρ − ρᵀ‖_F."""
    min_eigenvalue: float = 0.0
    """Of the Hermitian part, by `numpy.linalg.eigvalsh`; of a factor, from the singular values of S."""
    roundoff: float = 0.0
    """How far off the computed λ_min may be."""


def measure(array: np.ndarray[Any, Any], kind: Kind, layout: Layout) -> Measured:
    """Measures an array as what its certificate says that it is. O(n³) for a density matrix."""
    digest = hashlib.sha256(np.ascontiguousarray(array).data).digest()
    if not np.isfinite(array).all():
        return Measured(digest, finite=False)
    if kind is Kind.GENERIC:
        return Measured(digest, finite=True)
    exact = array.astype(np.float64)
    with np.errstate(all="ignore"):  # what overflows is infinite, and shows in every comparison
        return _measured_factor(exact, digest) if layout is Layout.FACTOR else _measured_dense(exact, digest)


def _measured_dense(rho: np.ndarray[Any, Any], digest: bytes) -> Measured:
    n = len(rho)
    eigenvalues = np.linalg.eigvalsh(rho * 0.5 + rho.T * 0.5)
    return Measured(
        digest,
        finite=True,
        trace_error=_trace_error(rho.diagonal().tolist()),
        asymmetry=float(np.linalg.norm(rho - rho.T)),
        min_eigenvalue=float(eigenvalues[0]),
        # Backward error of the QR algorithm, with room to spare.
        roundoff=4 * n * _U * float(np.abs(eigenvalues).max()),
    )


def _trace_error(diagonal: list[float]) -> float:
    try:
        return abs(math.fsum([*diagonal, -1.0]))
    except OverflowError:
        return math.inf


def _measured_factor(s: np.ndarray[Any, Any], digest: bytes) -> Measured:
    rows, columns = s.shape
    largest = float(np.abs(s).max())
    if largest == 0.0:
        return Measured(digest, finite=True, trace_error=1.0)
    squares = np.square(np.linalg.svd(s / largest, compute_uv=False))
    # Fewer rows than columns: the rest of the eigenvalues are zero by construction.
    smallest = float((squares / squares.sum()).min()) if rows >= columns else 0.0
    return Measured(digest, finite=True, min_eigenvalue=smallest, roundoff=4 * columns * _U)


def problems_of(found: Measured, shape: tuple[int, ...], claimed: Certificate, bounds: Bounds) -> list[str]:
    """Everything in which the numbers are not what their certificate claims, or not what a density matrix must be."""
    return list(_problems(found, shape, claimed, bounds))


def _problems(found: Measured, shape: tuple[int, ...], claimed: Certificate, bounds: Bounds) -> Iterator[str]:
    if shape != claimed.shape:
        yield f"the numbers are {_by(shape)}, the certificate is of {_by(claimed.shape)}"
    if found.digest != claimed.digest:
        yield f"the numbers have SHA-256 {found.digest.hex()[:16]}…, the certificate says {claimed.digest.hex()[:16]}…"
    if not found.finite:
        yield "there are numbers that are not finite"
    elif claimed.kind is Kind.DENSITY:
        yield from _density_problems(found, claimed, bounds)
    if not claimed.valid:
        yield "the certificate itself says that it is not valid (admitted in observe mode)"


def _density_problems(found: Measured, claimed: Certificate, bounds: Bounds) -> Iterator[str]:
    epsilon = claimed.epsilon if bounds.epsilon is None else bounds.epsilon
    tolerance = claimed.trace_tolerance if bounds.trace_tolerance is None else bounds.trace_tolerance
    # Each comparison is written so that a NaN fails it.
    if not found.asymmetry <= claimed.hermitian_tolerance:
        yield f"not Hermitian: ‖ρ − ρᵀ‖_F = {found.asymmetry:.3g} > {claimed.hermitian_tolerance:.3g}"
    elif not found.asymmetry <= claimed.asymmetry * (1 + 1e-9) + 1e-300:
        yield f"‖ρ − ρᵀ‖_F = {found.asymmetry:.6g}, certified ≤ {claimed.asymmetry:.6g}"
    if not found.trace_error <= tolerance:
        yield f"|tr ρ − 1| = {found.trace_error:.3g} > {tolerance:.3g}"
    if claimed.layout is Layout.DENSE and not abs(found.trace_error - claimed.trace_error) <= 4 * _U * (1 + claimed.trace_error):
        yield f"|tr ρ − 1| = {found.trace_error:.6g}, certified {claimed.trace_error:.6g}"
    if not found.min_eigenvalue >= -epsilon - found.roundoff:
        yield f"not positive semi-definite: λ_min = {found.min_eigenvalue:.6g} < −{epsilon:.3g}"
    if not found.min_eigenvalue >= claimed.min_eigenvalue_bound - found.roundoff:
        yield f"λ_min = {found.min_eigenvalue:.6g}, certified ≥ {claimed.min_eigenvalue_bound:.6g}"
    if claimed.psd_ok and not claimed.min_eigenvalue_bound >= -claimed.epsilon:
        yield f"the certificate contradicts itself: its bound {claimed.min_eigenvalue_bound:.6g} is below −{claimed.epsilon:.3g}"


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
