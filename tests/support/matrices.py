"""Matrices for tests: valid ones, nearly valid ones, and wrong ones of each kind."""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def density(d: int = 6, seed: int = 0, dtype: str = "<f8") -> Array:
    """A random density matrix of full rank, symmetric bit by bit."""
    x = np.random.default_rng(seed).standard_normal((d, d))
    gram = x @ x.T
    return normalized(gram).astype(dtype)


def normalized(m: Array) -> Array:
    """The Hermitian part, divided by its trace."""
    m = (m + m.T) / 2
    return m / np.trace(m)


def with_eigenvalue(smallest: float, d: int = 6, seed: int = 0) -> Array:
    """A trace-one Hermitian matrix whose smallest eigenvalue is `smallest` and whose others are equal."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    eigenvalues = np.full(d, (1.0 - smallest) / (d - 1))
    eigenvalues[0] = smallest
    m = (q * eigenvalues) @ q.T
    return (m + m.T) / 2


def rank_one(d: int = 6, seed: int = 0) -> Array:
    """vvᵀ/‖v‖²: its other eigenvalues are zero, give or take round-off."""
    v = np.random.default_rng(seed).standard_normal(d)
    return np.outer(v, v) / (v @ v)


def sketch(k: int = 4, d: int = 6, seed: int = 0, dtype: str = "<f8") -> Array:
    """Any finite k×d matrix."""
    return np.random.default_rng(seed).standard_normal((k, d)).astype(dtype)


def diagonal(*values: float) -> Array:
    """A diagonal matrix."""
    return np.diag(np.array(values, dtype="<f8"))


def sha256(numbers: Array | bytes) -> bytes:
    """The digest of the numbers as they lie in memory."""
    raw = numbers if isinstance(numbers, bytes) else np.ascontiguousarray(numbers).tobytes()
    return hashlib.sha256(raw).digest()
