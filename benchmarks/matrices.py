"""Density matrices to measure with: full rank, trace one, symmetric bit by bit, the same ones in every run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def density(n: int, seed: int = 0) -> Array:
    """A random n×n density matrix."""
    factor = np.random.default_rng([n, seed]).standard_normal((n, n))
    product: Array = factor @ factor.T
    product += product.T.copy()
    product /= np.trace(product)
    return product


def steps(n: int, count: int) -> list[Array]:
    """Some density matrices to commit in turn, each a small step from the one before it."""
    rng = np.random.default_rng([n, 7])
    current, made = density(n), []
    for _ in range(count):
        vector = rng.standard_normal(n)
        current = 0.98 * current + 0.02 * np.outer(vector, vector) / (vector @ vector)
        made.append(current)
    return made
