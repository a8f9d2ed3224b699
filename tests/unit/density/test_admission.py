"""Admission of matrices as they occur: untouched bit for bit, clamped once, or refused with the facts."""

from __future__ import annotations

import hashlib
import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfm_grpc.density import clamp, measures, scratch
from sfm_grpc.density.admission import Admitted, Bounds, admit, certify, verify
from sfm_grpc.density.matrix import digest_of, from_array
from sfm_grpc.errors import MatrixMalformed, RhoNotFinite, RhoNotHermitian, RhoNotPsd, RhoTrace, SfmError
from sfm_grpc.model import Certificate, Enforcement, Kind, Layout, Matrix, PsdMethod

ENFORCE, OBSERVE = Enforcement.ENFORCE, Enforcement.OBSERVE
DTYPES = [np.float64, np.float32]


def density(array: np.ndarray) -> Matrix:
    return from_array(array, kind=Kind.DENSITY)


def admitted(array: np.ndarray, enforcement: Enforcement = ENFORCE, **options: Any) -> Admitted:
    return admit(density(array), Bounds(), key="rho", enforcement=enforcement, now_us=42, **options)


def untouched(array: np.ndarray, enforcement: Enforcement = ENFORCE) -> Certificate:
    """The certificate of a matrix that must come back bit for bit."""
    before = array.tobytes()
    found = admitted(array, enforcement)
    assert bytes(found.matrix.numbers) == before == array.tobytes()
    assert found.certificate.digest == found.sent_digest == hashlib.sha256(before).digest()
    assert not found.certificate.clamped
    assert found.certificate.certify_time_us == 42
    return found.certificate


def with_spectrum(eigenvalues: np.ndarray, seed: int = 0) -> np.ndarray:
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((eigenvalues.size, eigenvalues.size)))[0]
    rho = (basis * eigenvalues) @ basis.T
    return (rho + rho.T) / 2


def slightly_negative(n: int, smallest: float, dtype: type[np.floating] = np.float64) -> np.ndarray:
    eigenvalues = np.zeros(n)
    eigenvalues[0], eigenvalues[-3:] = smallest, (1.0 - smallest) / 3
    return with_spectrum(eigenvalues).astype(dtype)


# ---- untouched -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 7, 127, 128, 129, 256, 300])
def test_rank_one_is_untouched(n: int, dtype: type[np.floating]) -> None:
    v = np.random.default_rng(n).standard_normal(n)
    rho = (np.outer(v, v) / (v @ v)).astype(dtype)
    certificate = untouched(rho)
    assert certificate.valid
    assert certificate.psd_method is PsdMethod.CHOLESKY
    assert -certificate.epsilon <= certificate.min_eigenvalue_bound < 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_moving_average_is_untouched_at_every_step(dtype: type[np.floating]) -> None:
    """As the cognitive manager updates ρ: float32 unit vectors, an exponential moving average, the trace left to itself."""
    rng = np.random.default_rng(3)
    n = 48
    rho = np.eye(n, dtype=dtype) / dtype(n)
    for _ in range(300):
        v = rng.standard_normal(n).astype(np.float32)
        v /= np.linalg.norm(v)
        rho = (dtype(0.95) * rho + dtype(0.05) * np.outer(v, v).astype(dtype)).astype(dtype)
        certificate = untouched(rho)
        assert 0 <= certificate.trace_error < 1e-6


def test_importance_weights_leave_a_tiny_asymmetry_and_are_untouched() -> None:
    rng = np.random.default_rng(5)
    vectors, weights = rng.standard_normal((20, 64)), rng.random(20)
    rho = (vectors * weights[:, None]).T @ vectors
    rho = (rho + rho.T) / (2 * np.trace(rho))
    rho[3, 5] += 4e-19 + np.spacing(rho[3, 5])
    certificate = untouched(rho)
    assert 0 < certificate.asymmetry < 1e-17


def test_a_matrix_asymmetric_within_the_tolerance_is_judged_by_its_hermitian_part() -> None:
    rho = slightly_negative(40, 0.0)
    rho[0, 1] += 3e-9  # either triangle alone has an eigenvalue of about −3e-9
    rho[1, 0] -= 3e-9
    certificate = untouched(rho)
    assert certificate.asymmetry == pytest.approx(6e-9 * math.sqrt(2))
    assert certificate.min_eigenvalue_bound > -1e-13


def test_a_trace_of_float32_vectors_is_untouched() -> None:
    rho = np.diag([0.5 + 6e-8, 0.5])
    assert untouched(rho).trace_error == pytest.approx(6e-8, rel=1e-6)
    for n in (2, 64):
        assert untouched(np.eye(n) / n).trace_error == 0


def test_minus_zero_and_denormals_are_numbers() -> None:
    untouched(np.array([[1.0, -0.0], [0.0, 0.0]]))
    untouched(np.array([[1.0, 5e-324], [5e-324, -0.0]]))
    untouched(np.array([[1.0, 1e-45], [1e-45, 0.0]], dtype=np.float32))


def test_any_memory_order_of_the_sender_is_admitted() -> None:
    rho = slightly_negative(6, 0.0)
    assert admitted(np.asfortranarray(rho)).certificate.digest == admitted(rho).certificate.digest


@given(hnp.arrays(np.float64, (4, 6), elements=st.floats(-1e3, 1e3)))
@settings(max_examples=300)
def test_any_gram_matrix_is_untouched(vectors: np.ndarray) -> None:
    gram = vectors.T @ vectors
    if np.trace(gram) > 1e-100:
        rho = gram / np.trace(gram)
        assert untouched((rho + rho.T) / 2).valid


# ---- clamped -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "smallest"), [(np.float64, -1e-12), (np.float64, -9.9e-9), (np.float32, -5e-8), (np.float32, -6.5e-8)]
)
@pytest.mark.parametrize("n", [4, 64, 200])
def test_a_clamp_is_made_once(n: int, dtype: type[np.floating], smallest: float) -> None:
    sent = slightly_negative(n, smallest, dtype)
    first = admitted(sent)
    certificate = first.certificate
    assert certificate.clamped
    assert certificate.valid
    assert first.matrix.dtype.numpy == sent.dtype
    assert certificate.digest == digest_of(first.matrix.numbers) != first.sent_digest == digest_of(density(sent).numbers)
    stored = first.matrix.array()
    assert stored.tobytes() == stored.T.tobytes()
    moved = stored.astype(np.float64) - sent.astype(np.float64)
    assert certificate.clamped_mass == pytest.approx(np.linalg.norm(moved, "nuc") / 2, rel=1e-6)
    again = untouched(stored)
    assert again.min_eigenvalue_bound == certificate.min_eigenvalue_bound


def test_a_clamp_is_the_nearest_density_matrix() -> None:
    sent = np.diag([0.6, 0.4 + 5e-9, -5e-9])
    stored = admitted(sent).matrix.array()
    assert np.allclose(stored, np.diag([0.6 - 2.5e-9, 0.4 + 2.5e-9, 0.0]), rtol=0, atol=1e-15)


def test_a_clamp_of_an_asymmetric_matrix_is_symmetric() -> None:
    sent = slightly_negative(5, -5e-9)
    sent[0, 1] += 1e-9
    found = admitted(sent)
    assert found.certificate.clamped
    assert found.certificate.asymmetry == 0


@given(hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(-3, 3)))
def test_the_simplex_projection(values: np.ndarray) -> None:
    found = clamp.onto_simplex(values)
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-14)
    assert (found >= 0).all()
    # Nearest: one threshold was taken from all that stay positive, and the others were below it.
    threshold = (values - found)[found > 0]
    assert np.ptp(threshold) < 1e-14
    assert (values[found == 0] <= threshold[0] + 1e-14).all()


# ---- refused -------------------------------------------------------------------------------------------------------


def refused(array: np.ndarray, error: type[SfmError], enforcement: Enforcement = ENFORCE) -> Any:
    with pytest.raises(error) as refusal:
        admitted(array, enforcement)
    assert "'rho'" in str(refusal.value)
    return refusal.value


@pytest.mark.parametrize("enforcement", [ENFORCE, OBSERVE])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite(value: float, dtype: type[np.floating], enforcement: Enforcement) -> None:
    rho = (np.eye(300) / 300).astype(dtype)
    rho[170, 3] = rho[290, 290] = value
    error = refused(rho, RhoNotFinite, enforcement)
    assert (error.row, error.column, error.count) == (170, 3, 2)
    assert np.array_equal(error.value, value, equal_nan=True)


@pytest.mark.parametrize("enforcement", [ENFORCE, OBSERVE])
def test_a_matrix_that_is_not_hermitian(enforcement: Enforcement) -> None:
    rho = np.eye(300) / 300
    rho[5, 290] = 2e-8
    error = refused(rho, RhoNotHermitian, enforcement)
    assert error.asymmetry == pytest.approx(2e-8 * math.sqrt(2))
    assert (error.row, error.column, error.difference, error.tolerance) == (5, 290, 2e-8, 1e-8)
    assert (error.dtype, error.dimension) == ("float64", 300)


def test_a_trace_that_is_not_one() -> None:
    error = refused(np.eye(3) / 2, RhoTrace)
    assert (error.trace, error.trace_error, error.tolerance) == (1.5, 0.5, 1e-6)
    assert refused(np.zeros((2, 2)), RhoTrace).trace_error == 1
    assert refused(np.diag([1e308, 1e308, 1e308]), RhoTrace).trace == math.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_that_is_not_psd(dtype: type[np.floating]) -> None:
    error = refused(np.diag([0.7, 0.5, -0.1, -0.1]).astype(dtype), RhoNotPsd)
    assert error.min_eigenvalue == pytest.approx(-0.1)
    assert error.negative_count == 2
    assert error.trace == pytest.approx(1.0)
    assert error.epsilon == pytest.approx(max(1e-8, 2 * density(np.eye(2, dtype=dtype)).dtype.unit_roundoff * math.sqrt(0.76)))


def test_a_finite_matrix_whose_squares_overflow_is_not_called_infinite() -> None:
    refused(np.array([[0.5, 1e200], [1e200, 0.5]]), RhoNotPsd)
    refused(np.array([[0.5, 1e308], [-1e308, 0.5]]), RhoNotHermitian)
    refused(np.array([[0.5, 1.7e308], [1.7e308, 0.5]]), RhoNotPsd)
    assert untouched(np.array([[1.0, 1e-200], [1e-200, 1e-300]])).valid


# ---- observe -------------------------------------------------------------------------------------------------------


def test_observe_lets_violations_in_and_tells_the_truth() -> None:
    certificate = untouched(np.diag([1.5, -0.5]), OBSERVE)
    assert (certificate.valid, certificate.psd_ok, certificate.trace_ok) == (False, False, True)
    assert certificate.psd_method is PsdMethod.EIGENVALUES
    assert -0.5 - 1e-12 < certificate.min_eigenvalue_bound <= -0.5
    certificate = untouched(np.eye(4), OBSERVE)
    assert (certificate.valid, certificate.psd_ok, certificate.trace_ok, certificate.trace_error) == (False, True, False, 3.0)


def test_observe_never_clamps() -> None:
    certificate = untouched(slightly_negative(30, -5e-9), OBSERVE)
    assert certificate.valid
    assert certificate.min_eigenvalue_bound == -certificate.epsilon


@pytest.mark.parametrize(
    "rho", [np.zeros((3, 3)), np.diag([-1.0, -1.0]), np.eye(2) * 1e300, -np.eye(2) * 1e300, np.full((2, 2), 1e308)]
)
def test_observe_survives_every_scale(rho: np.ndarray) -> None:
    certificate = untouched(rho, OBSERVE)
    assert not certificate.valid
    assert certificate.min_eigenvalue_bound <= np.linalg.eigvalsh(rho)[0]


# ---- factors and generic matrices ----------------------------------------------------------------------------------


def test_a_factor_is_psd_by_construction() -> None:
    s = np.random.default_rng(1).standard_normal((3, 20)).astype(np.float32)
    found = admit(from_array(s, kind=Kind.DENSITY, layout=Layout.FACTOR), Bounds(), key="rho", enforcement=ENFORCE, now_us=0)
    certificate = found.certificate
    assert bytes(found.matrix.numbers) == s.tobytes()
    assert (certificate.valid, certificate.psd_ok, certificate.trace_ok) == (True, True, True)
    assert (certificate.min_eigenvalue_bound, certificate.psd_method) == (0.0, PsdMethod.FACTOR)
    assert (certificate.trace_error, certificate.asymmetry) == (0.0, 0.0)
    assert verify(found.matrix, certificate) == ""


@pytest.mark.parametrize(
    ("scale", "error", "sentence"),
    [
        (0.0, MatrixMalformed, "‖S‖²_F of the factor is zero"),
        (1e160, MatrixMalformed, "overflows"),
        (1e-160, MatrixMalformed, "underflows"),
        (5e-324, MatrixMalformed, "underflows"),
        (np.nan, RhoNotFinite, "not finite"),
        (np.inf, RhoNotFinite, "not finite"),
    ],
)
def test_a_factor_without_a_norm_is_refused(scale: float, error: type[SfmError], sentence: str) -> None:
    s = np.full((2, 3), scale)
    for enforcement in (ENFORCE, OBSERVE):
        with pytest.raises(error, match=sentence):
            admit(from_array(s, kind=Kind.DENSITY, layout=Layout.FACTOR), Bounds(), key="rho", enforcement=enforcement, now_us=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_generic_matrix_need_only_be_finite(dtype: type[np.floating]) -> None:
    sketch = np.full((3, 5), np.finfo(dtype).max)
    matrix = from_array(sketch, kind=Kind.GENERIC)
    found = admit(matrix, Bounds(), key="fd_sketch", enforcement=ENFORCE, now_us=0)
    assert found.matrix is matrix
    assert found.certificate.valid
    assert found.certificate.psd_method is PsdMethod.UNSPECIFIED
    assert verify(matrix, found.certificate) == ""
    sketch[2, 4] = np.inf
    with pytest.raises(RhoNotFinite, match=r"1 numbers that are not finite, the first inf at \[2, 4\]"):
        certify(from_array(sketch, kind=Kind.GENERIC), Bounds(), key="fd_sketch", enforcement=OBSERVE)


# ---- digests and re-verification -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 200])
def test_a_claimed_digest_is_compared(n: int) -> None:
    rho = np.eye(n) / n
    digest = hashlib.sha256(rho.tobytes()).digest()
    assert admitted(rho, claimed_digest=digest).sent_digest == digest
    assert admitted(rho, sent_digest=digest).certificate.digest == digest
    with pytest.raises(MatrixMalformed, match="digest sent with them"):
        admitted(rho, claimed_digest=bytes(32))
    with pytest.raises(MatrixMalformed, match="digest has 5 bytes"):
        admitted(rho, claimed_digest=bytes(5))
    rho[0, 0] = np.nan  # damaged on the way: said before anything else
    with pytest.raises(MatrixMalformed, match="digest sent with them"):
        admitted(rho, claimed_digest=digest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_numbers_are_verified(dtype: type[np.floating]) -> None:
    for sent in (slightly_negative(50, 0.0, dtype), slightly_negative(50, -6e-9 if dtype is np.float64 else -6.5e-8, dtype)):
        found = admitted(sent)
        assert verify(found.matrix, found.certificate) == ""
        numbers = bytearray(found.matrix.numbers)
        numbers[17] ^= 1
        damaged = Matrix(kind=Kind.DENSITY, layout=Layout.DENSE, dtype=found.matrix.dtype, shape=(50, 50), numbers=bytes(numbers))
        assert "the numbers have SHA-256" in verify(damaged, found.certificate)


def test_a_certificate_that_is_not_of_these_numbers_is_noticed() -> None:
    good = admitted(np.eye(2) / 2)
    other = admitted(np.eye(3) / 3)
    assert "a dense 3×3 float64 matrix" in verify(good.matrix, other.certificate)
    bad = admitted(np.diag([1.5, -0.5]), OBSERVE)
    assert verify(bad.matrix, bad.certificate) == ""
    forged = Certificate(
        **{name: getattr(good.certificate, name) for name in Certificate.__slots__} | {"digest": bad.certificate.digest}
    )
    assert "a new check proves λ_min ≥ -0.5" in verify(bad.matrix, forged)
    asymmetric = density(np.array([[0.5, 0.1], [0.0, 0.5]]))
    forged = Certificate(
        **{name: getattr(good.certificate, name) for name in Certificate.__slots__} | {"digest": digest_of(asymmetric.numbers)}
    )
    assert "is not Hermitian" in verify(asymmetric, forged)


# ---- below admission -----------------------------------------------------------------------------------------------


def test_many_threads_share_the_workspaces() -> None:
    matrices = [slightly_negative(60 + i, -5e-9 if i % 2 else 0.0) for i in range(8)]
    expected = [admitted(m).certificate for m in matrices]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(10) if admitted(matrices[index]).certificate != expected[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < scratch.idle_bytes() <= scratch.IDLE_BYTES_MAX


def test_a_workspace_too_large_to_keep_is_not_kept() -> None:
    with scratch.square(3000) as work:
        assert work.shape == (3000, 3000)
    assert scratch.idle_bytes() <= scratch.IDLE_BYTES_MAX


@pytest.mark.parametrize("n", [1, 100, 128, 131, 270])
def test_asymmetry_is_rounded_up_and_found(n: int) -> None:
    a = np.random.default_rng(n).standard_normal((n, n))
    expected = np.linalg.norm(a - a.T)
    assert expected <= measures.asymmetry(a) <= expected * (1 + 1e-10)
    assert measures.asymmetry(a + a.T) == 0
    tiny = np.zeros((2, 2))
    tiny[0, 1] = 1e-155
    assert measures.asymmetry(tiny) == pytest.approx(1e-155 * math.sqrt(2))
