"""Exact arithmetic that judges admission: floats are dyadic rationals, so nothing here rounds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from flint import fmpz_mat, fmpz_poly


class Exact:
    """One matrix, exactly. `twice` holds 2H·2^shift, H its Hermitian part, as integers."""

    def __init__(self, numbers: np.ndarray) -> None:
        n = numbers.shape[0]
        ratios = [[float(x).as_integer_ratio() for x in row] for row in numbers]
        self._shift = max(q.bit_length() - 1 for row in ratios for _, q in row)
        scaled = [[p << (self._shift - q.bit_length() + 1) for p, q in row] for row in ratios]
        self.n = n
        twice = fmpz_mat(n, n, [scaled[i][j] + scaled[j][i] for i in range(n) for j in range(n)])
        self._characteristic = twice.charpoly()
        self._unit = 1 << self._shift
        self.trace = Fraction(sum(scaled[i][i] for i in range(n)), self._unit)
        differences = sum((scaled[i][j] - scaled[j][i]) ** 2 for i in range(n) for j in range(n) if i != j)
        self.asymmetry_squared = Fraction(differences, self._unit**2)
        self.norm_squared = Fraction(sum(x * x for row in scaled for x in row), self._unit**2)

    def at_least(self, t: float | Fraction) -> bool:
        """Whether λ_min(H) ≥ t, exactly.

        2H − 2t is positive semi-definite iff all elementary symmetric functions of its (real) eigenvalues are non-negative:
        iff the coefficients of its characteristic polynomial alternate in sign, zeros allowed.
        """
        if t == -math.inf:
            return True
        p, q = Fraction(t).as_integer_ratio()
        # Everything times q: integers again.
        n = self.n
        scaled = fmpz_poly([int(self._characteristic[k]) * q ** (n - k) for k in range(n + 1)])
        shifted = scaled(fmpz_poly([2 * p * self._unit, 1]))
        return all(int(shifted[k]) * (-1) ** (n - k) >= 0 for k in range(n + 1))
