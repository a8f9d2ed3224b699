"""Admission: what is proved of a matrix before it may be stored, and the certificate that says so.

The order is finite → Hermitian → trace → positive semi-definite. With u the unit roundoff of the dtype the numbers came in,
ε = max(epsilon_floor, 2u‖ρ‖_F), and likewise the Hermitian tolerance. float32 is promoted first, exactly; from then on
everything is double precision. Positive semi-definiteness is proved (`proof`), in at most two factorizations:

1. s = 2c (about 1e-13), for float32 2c + u‖ρ‖_F: within round-off of PSD, accepted untouched. The second term is what rounding
   a PSD matrix to float32 can take from λ_min (‖fl(ρ) − ρ‖_F ≤ u‖ρ‖_F): without it a clamped matrix, rounded to float32 for
   storage, would be clamped again, and rank-deficient float32 matrices would never come back bit for bit.
2. s = ε: proved within −ε, so clamped (`clamp`), proved again by 1, and reported with the mass that moved.

Otherwise it is refused, and only then eigenvalues are computed, to say what is wrong. LAPACK reads one triangle, the promise is
about the Hermitian part: either the triangle is factorized and ‖ρ − ρᵀ‖_F/2 subtracted from the bound, or, where that is more
than the round-off, the Hermitian part itself, less 2u‖ρ‖_F for forming it. A matrix whose Hermitian part has λ_min ≥ −ε + 2c is
never refused as not PSD, one with λ_min < −ε is never accepted.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sfm_grpc.density import clamp, measures, proof, scratch
from sfm_grpc.density.matrix import FloatArray, check_digest_length, digest_mismatch, digest_of, step_norm, step_work
from sfm_grpc.errors import MatrixMalformed, RhoNotFinite, RhoNotHermitian, RhoNotPsd, RhoTrace, SfmError
from sfm_grpc.model import Buffer, Certificate, Dtype, Enforcement, Kind, Layout, Matrix, PsdMethod

Numbers: TypeAlias = npt.NDArray[np.floating]

# ‖S‖²_F of a factor below this has lost bits to underflow: 2⁻¹⁰²² / 2⁻⁵³.
FACTOR_NORM_SQUARED_MIN = 2.0**-969

# A digest of fewer bytes than this is done before another thread has woken up.
_DIGEST_INLINE_BYTES_MAX = 96 * 1024

# Up to here eigenvalues take some tens of milliseconds, and a step of this much work too.
_SHORT_DIMENSION = 192
_SHORT_STEP_WORK = 10**9

_hashers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="sfm-digest")


class TakesLong(Exception):  # noqa: N818  not an error: the same call with `patient` goes through
    """What was asked for takes seconds of a core: eigenvalues of a large matrix, or the step between large factors."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What admission tolerates."""

    epsilon_floor: float = 1e-8
    """λ_min ≥ −ε is required with ε = max(this, 2u‖ρ‖_F). Not below 1e-10, or round-off alone (2c) exceeds it."""
    trace_tolerance: float = 1e-6
    """|tr ρ − 1| ≤ this."""
    hermitian_floor: float = 1e-8
    """‖ρ − ρᵀ‖_F ≤ max(this, 2u‖ρ‖_F)."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the checks found, all that a certificate says apart from digest and time."""

    valid: bool
    min_eigenvalue_bound: float = 0.0
    psd_method: PsdMethod = PsdMethod.UNSPECIFIED
    trace_error: float = 0.0
    asymmetry: float = 0.0
    epsilon: float = 0.0
    trace_tolerance: float = 0.0
    hermitian_tolerance: float = 0.0
    clamped_mass: float = 0.0
    psd_ok: bool = False
    trace_ok: bool = False


@dataclass(frozen=True, slots=True)
class Certified:
    """A matrix that passed the checks: the one that was sent, or the clamped one."""

    matrix: Matrix
    proof: Proof


@dataclass(frozen=True, slots=True)
class Admitted:
    """A matrix that may be stored, and what was proved of it."""

    matrix: Matrix
    certificate: Certificate
    sent_digest: bytes
    """SHA-256 of the numbers as they were sent; the certificate's own digest differs only after a clamp."""
    step: float | None = None
    """‖new − old‖_F; None without an earlier matrix to compare with."""


def admit(
    matrix: Matrix,
    bounds: Bounds,
    *,
    key: str,
    enforcement: Enforcement,
    now_us: int,
    sent_digest: bytes | None = None,
    claimed_digest: bytes = b"",
    previous: Matrix | None = None,
    patient: bool = True,
) -> Admitted:
    """The matrix as it may be stored, with its certificate.

    `sent_digest` is the SHA-256 of the numbers where the caller has computed it already; otherwise it is computed beside the
    checks, on another core. `claimed_digest` is one the sender sent along and nobody has compared yet (instead of
    `checked_matrix(digest=…)`, which is slower because it comes before the checks). `previous` is what the step is measured from.

    Raises MatrixMalformed (digest, factor norm), RhoNotFinite, RhoNotHermitian, and under `enforce` RhoTrace and RhoNotPsd; when
    not `patient`, TakesLong instead of computing the eigenvalues of a large matrix.
    """
    if claimed_digest:
        check_digest_length(claimed_digest, key=key)
    digest = _Digest(matrix.numbers, sent_digest)
    try:
        certified = certify(matrix, bounds, key=key, enforcement=enforcement, patient=patient)
    except SfmError:
        # Numbers that were damaged on the way are called damaged, not "not PSD".
        digest.check(claimed_digest, key)
        raise
    if previous is not None and not patient and step_work(previous, certified.matrix) > _SHORT_STEP_WORK:
        raise TakesLong
    step = step_norm(previous, certified.matrix) if previous is not None else None
    sent = digest.check(claimed_digest, key)
    stored = sent if certified.matrix is matrix else digest_of(certified.matrix.numbers)
    return Admitted(certified.matrix, _certificate(certified.matrix, certified.proof, stored, now_us), sent, step)


def certify(matrix: Matrix, bounds: Bounds, *, key: str, enforcement: Enforcement, patient: bool = True) -> Certified:
    """All checks of the matrix's kind, without digest and time. Raises as `admit` does."""
    with np.errstate(all="ignore"):  # overflow and NaN are what is looked for; they show in the results
        if matrix.kind is Kind.GENERIC:
            _check_finite(matrix, measures.sum_of_squares(matrix.array()), key)
            return Certified(matrix, Proof(valid=True))
        if matrix.layout is Layout.FACTOR:
            return Certified(matrix, _certify_factor(matrix, bounds, key))
        with scratch.square(matrix.dimension) as work:
            numbers = matrix.array()
            np.copyto(work, numbers)
            facts = _measure(matrix, numbers, work, bounds=bounds, key=key)
            if enforcement is Enforcement.ENFORCE and not facts.trace_ok:
                raise _trace_error(matrix, facts, bounds, key)
            return _certify_psd(matrix, work, facts, bounds=bounds, key=key, enforcement=enforcement, patient=patient)


def verify(matrix: Matrix, certificate: Certificate) -> str:
    """Checks stored numbers against their certificate again; '' or a sentence with what is wrong.

    Shape and digest always; of a valid certificate every check of its kind too, against the bounds it was admitted with. One
    that says itself that something is violated (`observe`) promises nothing more than its digest.
    """
    if (matrix.kind, matrix.layout, matrix.dtype, matrix.shape) != (
        certificate.kind,
        certificate.layout,
        certificate.dtype,
        certificate.shape,
    ):
        return (
            f"the numbers are {_described(matrix.layout, matrix.dtype, matrix.shape)}, "
            f"the certificate is of {_described(certificate.layout, certificate.dtype, certificate.shape)}"
        )
    found = digest_of(matrix.numbers)
    if found != certificate.digest:
        return f"the numbers have SHA-256 {found.hex()[:16]}…, the certificate says {certificate.digest.hex()[:16]}…"
    if not certificate.valid:
        return ""
    try:
        again = certify(matrix, _bounds_of(certificate), key="", enforcement=Enforcement.OBSERVE).proof
    except SfmError as error:
        return f"the certificate says valid, a new check says: {error}"
    if certificate.kind is Kind.DENSITY and not again.valid:
        return (
            f"the certificate says valid, a new check proves λ_min ≥ {again.min_eigenvalue_bound:.6g} "
            f"(bound −{again.epsilon:.3g}), |tr ρ − 1| = {again.trace_error:.6g} (bound {again.trace_tolerance:.3g})"
        )
    return ""


# ---- the checks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of a finite, Hermitian matrix before anything is proved."""

    trace: float
    trace_error: float
    trace_ok: bool
    norm: float
    asymmetry: float
    epsilon: float
    hermitian_tolerance: float
    roundoff: float
    """What the matrix's own dtype may have taken from λ_min: u‖ρ‖_F of float32; 0 of float64, where 2c covers it."""


def _measure(matrix: Matrix, numbers: Numbers, work: FloatArray, *, bounds: Bounds, key: str) -> _Facts:
    """`work` holds the numbers too, promoted and better placed for columns."""
    squares = measures.sum_of_squares(numbers)
    _check_finite(matrix, squares, key)
    norm = measures.frobenius(numbers, squares)
    u = matrix.dtype.unit_roundoff
    tolerance = max(bounds.hermitian_floor, 2.0 * u * norm)
    asymmetry = measures.asymmetry(work)
    if not asymmetry <= tolerance:
        raise _hermitian_error(matrix, work, asymmetry, tolerance, key)
    trace, trace_error = measures.trace_and_error(numbers)
    return _Facts(
        trace=trace,
        trace_error=trace_error,
        trace_ok=trace_error <= bounds.trace_tolerance,
        norm=norm,
        asymmetry=asymmetry,
        epsilon=max(bounds.epsilon_floor, 2.0 * u * norm),
        hermitian_tolerance=tolerance,
        # Rounded up, and relative to the norm before the rounding, which is what the error is relative to.
        roundoff=u * norm * (1.0 + 4.0 * u) if matrix.dtype is Dtype.FLOAT32 else 0.0,
    )


def _certify_psd(
    matrix: Matrix, work: FloatArray, facts: _Facts, *, bounds: Bounds, key: str, enforcement: Enforcement, patient: bool
) -> Certified:
    """`work` holds the numbers, promoted."""
    n = matrix.dimension
    source: Numbers = matrix.array()
    s = proof.roundoff_shift(n, facts.trace, facts.roundoff)
    slack = 0.5 * facts.asymmetry
    if slack > 0.125 * proof.margin(n, facts.trace, s):
        source = measures.hermitian_part(source)
        slack = 2.0 * measures.U * facts.norm
        np.copyto(work, source)
    enough = s + slack <= facts.epsilon  # always, unless ε or a trace far from one (`observe`) is out of proportion
    if enough and proof.proves(work, facts.trace, s):
        return Certified(matrix, _dense_proof(facts, bounds, -_up(s + slack), PsdMethod.CHOLESKY))
    if not patient and n > _SHORT_DIMENSION:
        raise TakesLong
    np.copyto(work, source)
    if proof.proves(work, facts.trace, facts.epsilon - slack):
        if enough and enforcement is Enforcement.ENFORCE:
            return _clamped(matrix, bounds, key)
        return Certified(matrix, _dense_proof(facts, bounds, -facts.epsilon, PsdMethod.CHOLESKY))
    eigenvalues = np.linalg.eigvalsh(measures.hermitian_part(matrix.array()))
    if enforcement is Enforcement.ENFORCE:
        raise _psd_error(matrix, facts, eigenvalues.astype(np.float64, copy=False), key)
    bound = _proved_near(float(eigenvalues[0]), source, work, facts, slack)
    return Certified(matrix, _dense_proof(facts, bounds, bound, PsdMethod.EIGENVALUES))


def _clamped(matrix: Matrix, bounds: Bounds, key: str) -> Certified:
    """The nearest density matrix in the same dtype, proved like any other."""
    sent = measures.hermitian_part(matrix.array())
    nearest = clamp.in_dtype_of(matrix, clamp.nearest(sent))
    certified = certify(nearest, bounds, key=key, enforcement=Enforcement.ENFORCE)
    # W·Wᵀ has λ_min ≥ −n·u and its rounding to float32 costs u‖ρ‖_F: step 1 covers both.
    assert certified.matrix is nearest, "a clamped matrix is admitted untouched"
    mass = clamp.mass_moved(nearest.array().astype(np.float64), sent)
    return Certified(nearest, replace(certified.proof, clamped_mass=mass))


def _proved_near(eigenvalue: float, source: Numbers, work: FloatArray, facts: _Facts, slack: float) -> float:
    """A lower bound that holds, close below a computed smallest eigenvalue (which is only as good as LAPACK)."""
    n = work.shape[0]
    s = max(0.0, -eigenvalue)
    for allowance in (2.0, 64.0, 4096.0):
        tried = _up(s + allowance * proof.margin(n, facts.trace, s))
        np.copyto(work, source)
        if proof.proves(work, facts.trace, tried):
            return -_up(tried + slack)
    return -_up(facts.norm * (1.0 + 2.0**-20)) if facts.norm < 1e300 else -math.inf  # |λ| ≤ ‖ρ‖_F


def _dense_proof(facts: _Facts, bounds: Bounds, bound: float, method: PsdMethod) -> Proof:
    psd_ok = bound >= -facts.epsilon
    return Proof(
        valid=psd_ok and facts.trace_ok,
        min_eigenvalue_bound=bound,
        psd_method=method,
        trace_error=facts.trace_error,
        asymmetry=facts.asymmetry,
        epsilon=facts.epsilon,
        trace_tolerance=bounds.trace_tolerance,
        hermitian_tolerance=facts.hermitian_tolerance,
        psd_ok=psd_ok,
        trace_ok=facts.trace_ok,
    )


def _certify_factor(matrix: Matrix, bounds: Bounds, key: str) -> Proof:
    """ρ = SᵀS/‖S‖²_F is a density matrix whatever S is, if only the norm can be computed."""
    squares = measures.sum_of_squares(matrix.array())
    _check_finite(matrix, squares, key)
    if not squares < math.inf:
        raise MatrixMalformed(
            problem="‖S‖²_F of the factor overflows double precision; scale S (only its direction matters)", key=key
        )
    if squares < FACTOR_NORM_SQUARED_MIN:
        size = (
            "is zero"
            if not matrix.array().any()
            else f"= {squares:.3g} underflows double precision; scale S (only its direction matters)"
        )
        raise MatrixMalformed(problem=f"‖S‖²_F of the factor {size}", key=key)
    return Proof(
        valid=True,
        psd_method=PsdMethod.FACTOR,
        epsilon=bounds.epsilon_floor,
        trace_tolerance=bounds.trace_tolerance,
        hermitian_tolerance=bounds.hermitian_floor,
        psd_ok=True,
        trace_ok=True,
    )


# ---- the errors, with their facts ----------------------------------------------------------------------------------


def _check_finite(matrix: Matrix, squares: float, key: str) -> None:
    """Raises RhoNotFinite; a sum of squares that is finite settles it, one that is not may merely have overflowed."""
    if math.isfinite(squares):
        return
    wrong = measures.first_non_finite(matrix.array())
    if wrong is not None:
        raise RhoNotFinite(row=wrong.row, column=wrong.column, value=wrong.value, count=wrong.count, key=key)


def _hermitian_error(matrix: Matrix, work: FloatArray, asymmetry: float, tolerance: float, key: str) -> RhoNotHermitian:
    worst = measures.worst_pair(work)
    return RhoNotHermitian(
        asymmetry=asymmetry,
        tolerance=tolerance,
        row=worst.row,
        column=worst.column,
        difference=worst.difference,
        dtype=matrix.dtype.label,
        dimension=matrix.dimension,
        key=key,
    )


def _trace_error(matrix: Matrix, facts: _Facts, bounds: Bounds, key: str) -> RhoTrace:
    return RhoTrace(
        trace=facts.trace,
        trace_error=facts.trace_error,
        tolerance=bounds.trace_tolerance,
        dtype=matrix.dtype.label,
        dimension=matrix.dimension,
        key=key,
    )


def _psd_error(matrix: Matrix, facts: _Facts, eigenvalues: FloatArray, key: str) -> RhoNotPsd:
    return RhoNotPsd(
        min_eigenvalue=float(eigenvalues[0]),
        epsilon=facts.epsilon,
        # At least the one that could not be proved, even where round-off shows it a hair above −ε.
        negative_count=max(1, int(np.count_nonzero(eigenvalues < -facts.epsilon))),
        trace=facts.trace,
        asymmetry=facts.asymmetry,
        dtype=matrix.dtype.label,
        dimension=matrix.dimension,
        key=key,
    )


# ---- digest and certificate ----------------------------------------------------------------------------------------


class _Digest:
    """SHA-256 of the numbers, under way on another core while the checks run (it costs more than the factorization)."""

    def __init__(self, numbers: Buffer, known: bytes | None) -> None:
        self._numbers = numbers
        self._known = known
        self._running: Future[bytes] | None = None
        if known is None and memoryview(numbers).nbytes > _DIGEST_INLINE_BYTES_MAX:
            self._running = _hashers.submit(digest_of, numbers)

    def check(self, claimed: bytes, key: str) -> bytes:
        """The digest. Raises MatrixMalformed where another one was claimed."""
        if self._known is None:
            self._known = self._running.result() if self._running is not None else digest_of(self._numbers)
        if claimed and claimed != self._known:
            raise digest_mismatch(claimed, self._known, key)
        return self._known


def _certificate(matrix: Matrix, found: Proof, digest: bytes, now_us: int) -> Certificate:
    return Certificate(
        kind=matrix.kind,
        layout=matrix.layout,
        dtype=matrix.dtype,
        shape=matrix.shape,
        digest=digest,
        valid=found.valid,
        min_eigenvalue_bound=found.min_eigenvalue_bound,
        psd_method=found.psd_method,
        trace_error=found.trace_error,
        asymmetry=found.asymmetry,
        epsilon=found.epsilon,
        trace_tolerance=found.trace_tolerance,
        hermitian_tolerance=found.hermitian_tolerance,
        clamped_mass=found.clamped_mass,
        psd_ok=found.psd_ok,
        trace_ok=found.trace_ok,
        certify_time_us=now_us,
    )


def _bounds_of(certificate: Certificate) -> Bounds:
    return Bounds(
        epsilon_floor=certificate.epsilon,
        trace_tolerance=certificate.trace_tolerance,
        hermitian_floor=certificate.hermitian_tolerance,
    )


def _described(layout: Layout, dtype: Dtype, shape: tuple[int, int]) -> str:
    return f"a {layout.name.lower()} {shape[0]}×{shape[1]} {dtype.label} matrix"


def _up(value: float) -> float:
    return math.nextafter(value, math.inf)
