"""Small matrices around every bound of admission, from one seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sfm_grpc.density.admission import Bounds
from sfm_grpc.density.proof import roundoff_shift

EPSILON = Bounds().epsilon_floor
TRACE_TOLERANCE = Bounds().trace_tolerance
N_MAX = 6


class Families:
    """Endless matrices, each family in turn; two of five rounded to float32."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._bases = {
            n: [np.linalg.qr(self._rng.standard_normal((n, n)))[0] for _ in range(40)] + [np.eye(n)] for n in range(1, N_MAX + 1)
        }

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        families = (
            self.spectrum,
            self.spectrum,
            self.near_epsilon,
            self.trace,
            self.asymmetric,
            self.low_rank,
            self.scaled,
            self.pattern,
        )
        while True:
            for family in families:
                matrix = family(int(self._rng.integers(1, N_MAX + 1)))
                if self._rng.random() < 0.4 and np.max(np.abs(matrix)) < 1e38:
                    with np.errstate(under="ignore"):
                        matrix = matrix.astype(np.float32)
                yield family.__name__, matrix

    def spectrum(self, n: int) -> np.ndarray:
        """λ_min around zero, the round-off bound 2c and the float32 round-off; trace one."""
        s = roundoff_shift(n, 1.0)
        target = self._one_of(0.0, -s, -0.5 * s, -s / 4, -2 * s, s, -6e-8, -9e-8, -1.19e-7, -1.3e-7, -1e-13, 1e-17, -5e-9)
        return self._from_spectrum(n, target * self._about_one(), 1.0)

    def near_epsilon(self, n: int) -> np.ndarray:
        """λ_min within a few c of −ε, and on it exactly where the matrix is diagonal."""
        c = roundoff_shift(n, 1.0) / 2
        target = -EPSILON + c * self._one_of(-3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 1.9, 2.1, 4.0)
        if n > 1 and self._rng.random() < 0.3:
            matrix = np.zeros((n, n))
            matrix[0, 0], matrix[1, 1] = 1.0 - target, np.nextafter(target, self._one_of(-1.0, target, 0.0))
            return matrix
        return self._from_spectrum(n, target, 1.0)

    def trace(self, n: int) -> np.ndarray:
        """The trace within some last bits of 1 ± tolerance, and 6e-8 off, as float32 unit vectors give it."""
        off = self._one_of(TRACE_TOLERANCE, -TRACE_TOLERANCE, 6e-8, -6e-8, 2e-6, -1.0, 0.5) * (
            1.0 + self._one_of(0, 1e-10, -1e-10, 1e-9)
        )
        return self._from_spectrum(n, float(self._rng.random()) / (2 * n), 1.0 + off)

    def asymmetric(self, n: int) -> np.ndarray:
        """‖ρ − ρᵀ‖_F around the tolerance, around the round-off, and at 4e-19 as importance weights leave it."""
        matrix = self._from_spectrum(n, self._one_of(0.0, 0.1 / n, -EPSILON / 2, -9.999e-9, -EPSILON), 1.0)
        wedge = np.triu(self._rng.standard_normal((n, n)), 1)
        size = self._one_of(1e-8, 1e-8 * (1 + 1e-9), 1e-8 * (1 - 1e-9), 1e-9, 1e-14, 4e-19, 1.2e-7, 1e-6)
        norm = float(np.linalg.norm(wedge - wedge.T))
        return matrix + wedge * (size / norm if norm else 0.0)

    def low_rank(self, n: int) -> np.ndarray:
        """Σ w vvᵀ of fewer vectors than rows, divided by its trace: real, singular, within round-off of PSD."""
        vectors = self._rng.standard_normal((int(self._rng.integers(1, n + 1)), n))
        if self._rng.random() < 0.5:
            vectors = vectors.astype(np.float32).astype(np.float64)
        matrix = (vectors.T * self._rng.random(vectors.shape[0])) @ vectors
        return matrix / np.trace(matrix)

    def scaled(self, n: int) -> np.ndarray:
        """Beside trace one: numbers far too large or too small, and subnormals off the diagonal."""
        matrix = self._from_spectrum(n, self._one_of(0.0, 0.01, -1e-9), 1.0)
        if self._rng.random() < 0.5:
            return np.diag(np.diag(matrix)) + self._one_of(5e-324, 1e-310, 1e-160, 1e-30) * (np.ones((n, n)) - np.eye(n))
        return matrix * 2.0 ** int(self._one_of(-1000, -500, -100, -40, 20, 100, 400))

    def pattern(self, n: int) -> np.ndarray:
        """Small dyadic fractions: exact ties, exact zeros, exact singularity; some indefinite."""
        matrix = self._rng.integers(-2, 3, (n, n)) / 8.0
        matrix = matrix + matrix.T
        np.fill_diagonal(matrix, 0.0)
        parts = np.sort(self._rng.integers(0, 17, n - 1)) / 16.0
        np.fill_diagonal(matrix, np.diff([0.0, *parts, 1.0]))
        if self._rng.random() < 0.4:
            row = self._rng.integers(-1, 2, n).astype(np.float64)
            if row.any():
                matrix = np.outer(row, row) / float(row @ row)
        return matrix

    def _from_spectrum(self, n: int, smallest: float, trace: float) -> np.ndarray:
        rest = self._rng.random(n - 1) * (self._rng.random(n - 1) < 0.7)
        if n == 1:
            return np.array([[trace]])
        if not rest.any():
            rest[0] = 1.0
        eigenvalues = np.concatenate([[smallest], rest * ((trace - smallest) / rest.sum())])
        bases = self._bases[n]
        basis = bases[int(self._rng.integers(len(bases)))]
        matrix = (basis * eigenvalues) @ basis.T
        return (matrix + matrix.T) / 2 if self._rng.random() < 0.8 else matrix

    def _one_of(self, *values: float) -> float:
        return values[int(self._rng.integers(len(values)))]

    def _about_one(self) -> float:
        return float(1.0 + self._rng.uniform(-0.2, 0.2))
