"""Rump's proof of positive semi-definiteness: one Cholesky factorization in floating point, and what it guarantees.

S. M. Rump, "Verification of positive definiteness", BIT 46 (2006); S. M. Rump and C.-P. Jeannerod, "Improved backward error
bounds for LU and Cholesky factorizations", SIAM J. Matrix Anal. Appl. 35 (2014): if the factorization of a symmetric B runs to
completion, then λ_min(B) ≥ −(n + 1)u/(1 − (n + 1)u) · tr B, in whatever order it is evaluated. With B = fl(M + (s − c)I),
tr B ≤ (tr M + ns)(1 + u) and one more u·tr B for the rounding of the diagonal, λ_min(M) ≥ −s follows for any
c ≥ (n + 3)u(tr M + ns). We take twice that, 2(n + 4)u(tr M + ns): it also covers a LAPACK that multiplies by the rounded
reciprocal of the pivot, the rounding of s − c and of c itself, and underflow.

The other direction (Demmel 1989; Higham, "Accuracy and Stability", theorem 10.7): the factorization of B cannot break down where
λ_min(B) > (n + 3)u · tr B. So a matrix with λ_min(M) ≥ −s + 2c is always proved; only a band of 2c is undecided.
"""

from __future__ import annotations

import math

import numpy as np

from sfm_grpc.density.cholesky import factorizes
from sfm_grpc.density.matrix import FloatArray
from sfm_grpc.density.measures import U

# Stands for a trace that is zero or smaller (`observe` only): its margin is far above underflow and far below all else.
_TRACE_MIN = 2.0**-900

_ROUND_UP = 1.0 + 2.0**-40


def margin(n: int, trace: float, s: float) -> float:
    """The margin c = 2(n + 4)u(tr M + ns), rounded up: what the factorization may hide."""
    return _relative_margin(n) * (max(trace, _TRACE_MIN) + n * s) * _ROUND_UP


def roundoff_shift(n: int, trace: float, extra: float = 0.0) -> float:
    """The smallest s that is worth trying: s = 2c(s) + extra, solved for s and rounded up. About 1e-13 at n = 256, trace 1."""
    relative = _relative_margin(n) * _ROUND_UP
    return (2.0 * relative * max(trace, _TRACE_MIN) + extra) / (1.0 - 2.0 * relative * n) * _ROUND_UP


def proves(work: FloatArray, trace: float, s: float) -> bool:
    """Whether λ_min ≥ −s is proved for the symmetric matrix in the upper triangle of `work`, which is overwritten."""
    n = work.shape[0]
    shift = s - margin(n, trace, s)
    # A finite sum means that no shifted diagonal number overflows either: they are positive wherever the factorization succeeds.
    if not (math.isfinite(shift) and math.isfinite(trace + n * s)):
        return False
    diagonal = np.einsum("ii->i", work)  # a view
    diagonal += shift
    return factorizes(work)


def _relative_margin(n: int) -> float:
    return 2.0 * (n + 4) * U
