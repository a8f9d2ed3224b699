"""Twenty thousand verdicts of admission, each judged in exact arithmetic; a hundred thousand with SFM_TEST_THOROUGH=1.

No wrong acceptance at all; no wrong refusal outside the band of 2c that docstring and contract state.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from fractions import Fraction

import flint
import numpy as np
import pytest

from sfm_grpc.density.admission import Admitted, Bounds, admit
from sfm_grpc.density.matrix import from_array
from sfm_grpc.density.proof import margin
from sfm_grpc.errors import RhoNotHermitian, RhoNotPsd, RhoTrace
from sfm_grpc.model import Enforcement, Kind, Matrix, PsdMethod
from tests.unit.density.exact import Exact
from tests.unit.density.families import Families

BOUNDS = Bounds()
ENFORCE, OBSERVE = Enforcement.ENFORCE, Enforcement.OBSERVE
SEEDS = range(10 if os.environ.get("SFM_TEST_THOROUGH") == "1" else 2)
COUNT_PER_SEED = 10_000


def verdict(matrix: Matrix, enforcement: Enforcement = ENFORCE) -> Admitted | RhoNotHermitian | RhoTrace | RhoNotPsd:
    try:
        return admit(matrix, BOUNDS, key="rho", enforcement=enforcement, now_us=0)
    except (RhoNotHermitian, RhoTrace, RhoNotPsd) as refusal:
        return refusal


def judge(matrix: Matrix, exact: Exact, enforcement: Enforcement) -> str:
    """The class of the verdict; fails where exact arithmetic disagrees."""
    answer = verdict(matrix, enforcement)
    norm = math.sqrt(exact.norm_squared)
    epsilon = max(BOUNDS.epsilon_floor, 2 * matrix.dtype.unit_roundoff * norm)
    trace_error = abs(exact.trace - 1)
    if isinstance(answer, RhoNotHermitian):
        assert exact.asymmetry_squared > Fraction(answer.tolerance * (1 - 1e-13)) ** 2
        return "not Hermitian"
    assert exact.asymmetry_squared <= Fraction(epsilon * (1 + 1e-13)) ** 2
    if isinstance(answer, RhoTrace):
        assert answer.trace_error == float(trace_error) > BOUNDS.trace_tolerance
        return "trace"
    if isinstance(answer, RhoNotPsd):
        assert math.isclose(answer.epsilon, epsilon, rel_tol=1e-13)
        assert not exact.at_least(-answer.epsilon + 2 * margin(exact.n, float(exact.trace), answer.epsilon))
        return "not PSD"
    judge_certificate(answer, matrix, exact)
    if enforcement is ENFORCE:
        assert answer.certificate.valid
        assert float(trace_error) <= BOUNDS.trace_tolerance
    if answer.certificate.clamped:
        assert enforcement is ENFORCE
        assert exact.at_least(-epsilon * (1 + 1e-13))
        assert not exact.at_least(0), "a PSD matrix is never touched"
        return "clamped"
    assert answer.matrix is matrix
    return {PsdMethod.CHOLESKY: "untouched", PsdMethod.EIGENVALUES: "violation let in"}[answer.certificate.psd_method]


def judge_certificate(answer: Admitted, sent: Matrix, exact: Exact) -> None:
    """Every number of the certificate is true of the stored numbers."""
    said = answer.certificate
    if said.clamped:
        exact = Exact(answer.matrix.array())
        again = verdict(answer.matrix)
        assert isinstance(again, Admitted), "a clamped matrix is admitted"
        assert again.matrix is answer.matrix, "untouched"
        assert again.certificate.min_eigenvalue_bound == said.min_eigenvalue_bound
    norm = math.sqrt(exact.norm_squared)
    assert said.dtype is sent.dtype
    assert math.isclose(said.epsilon, max(BOUNDS.epsilon_floor, 2 * sent.dtype.unit_roundoff * norm), rel_tol=1e-13)
    assert said.trace_error == float(abs(exact.trace - 1))
    assert said.trace_ok == (said.trace_error <= BOUNDS.trace_tolerance)
    asymmetry = Fraction(said.asymmetry)
    # Differences below 1e-160 count as none: their squares are not numbers.
    assert asymmetry**2 >= exact.asymmetry_squared or exact.asymmetry_squared < Fraction(1e-159) ** 2
    assert asymmetry**2 <= exact.asymmetry_squared * Fraction(1 + 1e-13)
    assert exact.at_least(said.min_eigenvalue_bound), "the bound is a bound"
    assert said.psd_ok == (said.min_eigenvalue_bound >= -said.epsilon)
    assert said.valid == (said.psd_ok and said.trace_ok)
    if not said.psd_ok and said.trace_ok:
        assert not exact.at_least(-said.epsilon + 2 * margin(exact.n, float(exact.trace), said.epsilon)), "what holds is proved"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_verdict_is_wrong(seed: int, record_property: pytest.RecordProperty) -> None:
    counts: Counter[str] = Counter()
    for index, (family, numbers) in enumerate(itertools.islice(Families(seed), COUNT_PER_SEED)):
        matrix = from_array(numbers, kind=Kind.DENSITY)
        enforcement = OBSERVE if index % 5 == 4 else ENFORCE
        try:
            found = judge(matrix, Exact(numbers), enforcement)
        except AssertionError as wrong:
            raise AssertionError(f"{family} {enforcement} {numbers.dtype} {numbers.tolist()}: {wrong}") from wrong
        counts[f"{matrix.dtype.label}: {found}"] += 1
    print(dict(sorted(counts.items())))
    for name, count in sorted(counts.items()):
        record_property(name, count)
    verdicts = ("untouched", "clamped", "not PSD", "trace", "not Hermitian", "violation let in")
    for dtype in ("float64", "float32"):
        for name in verdicts:
            assert counts[f"{dtype}: {name}"] >= 40, f"{dtype} {name} is not exercised: {counts}"


@pytest.mark.parametrize("n", [64, 128, 256])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_bound_of_a_large_matrix_is_a_bound(n: int, dtype: type[np.floating]) -> None:
    """Interval arithmetic of 160 bits instead of exact numbers; rank-deficient, so that the bound is close to the truth."""
    vectors = np.random.default_rng(n).standard_normal((n // 8, n))
    rho = vectors.T @ vectors
    rho = ((rho + rho.T) / (2 * np.trace(rho))).astype(dtype)
    answer = verdict(from_array(rho, kind=Kind.DENSITY))
    assert isinstance(answer, Admitted)
    assert not answer.certificate.clamped
    assert interval_at_least(rho.astype(np.float64), answer.certificate.min_eigenvalue_bound)


@pytest.mark.parametrize("smallest", [-1e-8 * (1 + 1e-4), -1e-8 * (1 - 1e-4), -1e-12])
def test_the_verdict_on_a_large_matrix_is_right(smallest: float) -> None:
    n = 96
    basis = np.linalg.qr(np.random.default_rng(7).standard_normal((n, n)))[0]
    eigenvalues = np.full(n, (1.0 - smallest) / (n - 1))
    eigenvalues[0] = smallest
    rho = (basis * eigenvalues) @ basis.T
    rho = (rho + rho.T) / 2
    answer = verdict(from_array(rho, kind=Kind.DENSITY))
    assert interval_at_least(rho, -1e-8) == isinstance(answer, Admitted) == (smallest > -1e-8)
    if isinstance(answer, Admitted):
        assert answer.certificate.clamped
        assert interval_at_least(answer.matrix.array(), answer.certificate.min_eigenvalue_bound)


def interval_at_least(symmetric: np.ndarray, t: float) -> bool:
    """Whether symmetric − t·I is positive definite, by block elimination in ball arithmetic (160 bits)."""
    n = symmetric.shape[0]
    with flint.ctx.workprec(160):
        shifted = flint.arb_mat(symmetric.tolist()) - flint.arb_mat(
            n, n, [t if i == j else 0 for i in range(n) for j in range(n)]
        )
        return _positive_definite(shifted)


def _positive_definite(matrix: flint.arb_mat) -> bool:
    n = matrix.nrows()
    if n == 1:
        return bool(matrix[0, 0] > 0)
    rows, half = matrix.tolist(), n // 2
    top = flint.arb_mat([row[:half] for row in rows[:half]])
    if not _positive_definite(top):
        return False
    right = flint.arb_mat([row[half:] for row in rows[:half]])
    corner = flint.arb_mat([row[half:] for row in rows[half:]])
    return _positive_definite(corner - right.transpose() * top.solve(right))
