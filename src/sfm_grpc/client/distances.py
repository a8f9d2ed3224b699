"""How far apart and how mixed density matrices are. The server stores them; what they say is computed here.

Each function takes d×d arrays (as in `snapshot["rho"]`) or `Factor`s. Factors are never made dense: all these quantities live in
the span of their rows, so that a k×d factor costs k²·d and not d³. float64 throughout; nobody's trace is checked.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sfm_grpc.client.records import Factor
from sfm_grpc.density.matrix import FloatArray

State: TypeAlias = npt.ArrayLike | Factor

_U = 2.0**-53


def trace_distance(rho: State, sigma: State) -> float:
    """½‖ρ − σ‖_tr, 0 (equal) to 1 (orthogonal): the largest difference of any probability that the two predict."""
    a, b = _pair(rho, sigma)
    return float(0.5 * np.abs(np.linalg.eigvalsh(a - b)).sum())


def frobenius(rho: State, sigma: State) -> float:
    """‖ρ − σ‖_F, 0 to √2: the step that `max_step` bounds."""
    a, b = _pair(rho, sigma)
    return float(np.linalg.norm(a - b))


def fidelity(rho: State, sigma: State) -> float:
    """F = (tr √(√ρ σ √ρ))², 0 (orthogonal) to 1 (equal): the squared convention (Jozsa 1994), a probability for pure states."""
    a, b = _pair(rho, sigma)
    root = float(np.linalg.svd(_root(a) @ _root(b), compute_uv=False).sum())
    # Cauchy–Schwarz; round-off may be over it.
    return min(root * root, float(np.trace(a) * np.trace(b)))


def purity(rho: State) -> float:
    """Tr ρ², 1/d (maximally mixed) to 1 (pure)."""
    if isinstance(rho, Factor):
        return float(np.square(_spectrum(rho)).sum())
    a = _square(rho)
    return float(np.vdot(a, a))


def entropy(rho: State, unit: Literal["nats", "bits"] = "nats") -> float:
    """The von Neumann entropy −tr ρ log ρ, 0 (pure) to log d; eigenvalues that are not positive count as 0."""
    if unit not in ("nats", "bits"):
        raise ValueError(f"unit {unit!r} is neither 'nats' nor 'bits'")
    values = _spectrum(rho)
    values = values[values > 0]
    return float(max(0.0, -(values * (np.log(values) if unit == "nats" else np.log2(values))).sum()))


def _spectrum(state: State) -> FloatArray:
    """The eigenvalues; of a factor those that are not zero by construction."""
    if isinstance(state, Factor):
        squares = np.square(np.linalg.svd(_unit(state), compute_uv=False))
        spectrum: FloatArray = squares / squares.sum()
        return spectrum
    return np.asarray(np.linalg.eigvalsh(_square(state)), dtype=np.float64)


def _pair(rho: State, sigma: State) -> tuple[FloatArray, FloatArray]:
    """Both as dense matrices of one size; two factors, as they are in an orthonormal basis of the rows of both."""
    if not (isinstance(rho, Factor) and isinstance(sigma, Factor)):
        a, b = _square(rho), _square(sigma)
        if a.shape != b.shape:
            raise ValueError(f"the matrices are {a.shape[0]}×{a.shape[0]} and {b.shape[0]}×{b.shape[0]}")
        return a, b
    s, t = _unit(rho), _unit(sigma)
    if s.shape[1] != t.shape[1]:
        raise ValueError(f"the factors are of {s.shape[1]}×{s.shape[1]} and {t.shape[1]}×{t.shape[1]} matrices")
    basis, _ = np.linalg.qr(np.concatenate((s, t)).T)
    s, t = s @ basis, t @ basis
    return s.T @ s, t.T @ t


def _square(state: State) -> FloatArray:
    if isinstance(state, Factor):
        return state.dense()
    a = np.asarray(state)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.size == 0:
        raise ValueError(f"a density matrix is square, this array has shape {a.shape}; a factor S goes in as Factor(S)")
    if a.dtype.kind not in "fiu":
        raise ValueError(f"dtype {a.dtype} is not real")
    return a.astype(np.float64, copy=False)


def _unit(factor: Factor) -> FloatArray:
    """S / ‖S‖_F, scaled first so that no square overflows."""
    s = np.asarray(factor.s, dtype=np.float64)
    if s.ndim != 2 or not (largest := float(np.max(np.abs(s), initial=0.0))):
        raise ValueError(f"a factor is a k×d array that is not all zero, this one has shape {s.shape}")
    s = s / largest
    unit: FloatArray = s / np.linalg.norm(s)
    return unit


def _root(a: FloatArray) -> FloatArray:
    """√ρ. Eigenvalues within round-off of zero count as zero: the root of 1e-17 is no longer small."""
    values, vectors = np.linalg.eigh(a)
    values = np.where(values > 4 * len(a) * _U * max(values[-1], 0.0), values, 0.0)
    root: FloatArray = (vectors * np.sqrt(values)) @ vectors.T
    return root
