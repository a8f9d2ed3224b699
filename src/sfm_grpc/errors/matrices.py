"""What is wrong with a matrix."""

from __future__ import annotations

from dataclasses import dataclass

from sfm_grpc.errors.base import Code, SfmError


@dataclass(eq=False, kw_only=True)
class MatrixMalformed(SfmError):
    """The bytes, shape, dtype or digest do not describe a matrix."""

    code = Code.INVALID_ARGUMENT
    reason = "MATRIX_MALFORMED"
    problem: str
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return f"matrix {self.key!r}: {self.problem}" if self.key else self.problem


@dataclass(eq=False, kw_only=True)
class RhoNotFinite(SfmError):
    """A NaN or an infinity."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_NOT_FINITE"
    row: int
    column: int
    value: float
    count: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return f"matrix {self.key!r} holds {self.count} numbers that are not finite, the first {self.value} at [{self.row}, {self.column}]"


@dataclass(eq=False, kw_only=True)
class RhoNotHermitian(SfmError):
    """‖ρ − ρᵀ‖_F is over the tolerance."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_NOT_HERMITIAN"
    asymmetry: float
    tolerance: float
    row: int
    column: int
    difference: float
    dtype: str
    dimension: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return (
            f"matrix {self.key!r} ({self.dimension}×{self.dimension} {self.dtype}) is not Hermitian: ‖ρ − ρᵀ‖_F = {self.asymmetry:.3g} "
            f"> {self.tolerance:.3g}, worst at [{self.row}, {self.column}] ({self.difference:.3g}); send (ρ + ρᵀ)/2"
        )


@dataclass(eq=False, kw_only=True)
class RhoTrace(SfmError):
    """|tr ρ − 1| is over the tolerance."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_TRACE"
    trace: float
    trace_error: float
    tolerance: float
    dtype: str
    dimension: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return (
            f"matrix {self.key!r} ({self.dimension}×{self.dimension} {self.dtype}) has trace {self.trace:.17g}: |tr ρ − 1| = "
            f"{self.trace_error:.3g} > {self.tolerance:.3g}; divide it by its trace"
        )


@dataclass(eq=False, kw_only=True)
class RhoNotPsd(SfmError):
    """An eigenvalue is below −epsilon."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_NOT_PSD"
    min_eigenvalue: float
    epsilon: float
    negative_count: int
    """Eigenvalues below −epsilon."""
    trace: float
    asymmetry: float
    dtype: str
    dimension: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        below = "1 eigenvalue is" if self.negative_count == 1 else f"{self.negative_count} eigenvalues are"
        return (
            f"matrix {self.key!r} ({self.dimension}×{self.dimension} {self.dtype}) is not positive semi-definite: λ_min = "
            f"{self.min_eigenvalue:.6g} < −{self.epsilon:.3g} ({below} below the bound); project it onto the "
            "density matrices (sfm_grpc.client.normalized) or find what made it negative"
        )


@dataclass(eq=False, kw_only=True)
class KindChanged(SfmError):
    """The key was first committed as another kind."""

    code = Code.INVALID_ARGUMENT
    reason = "KIND_CHANGED"
    namespace: str
    key: str
    kind: str
    requested: str
    field: str = ""

    def sentence(self) -> str:
        return f"{self.key!r} in {self.namespace!r} is {self.kind} since its first commit and cannot become {self.requested}; use another key"


@dataclass(eq=False, kw_only=True)
class StepTooLarge(SfmError):
    """‖Δρ‖_F is over the caller's or the server's bound."""

    code = Code.FAILED_PRECONDITION
    reason = "STEP_TOO_LARGE"
    namespace: str
    key: str
    step: float
    bound: float

    def sentence(self) -> str:
        return f"{self.key!r} in {self.namespace!r} would move by ‖Δ‖_F = {self.step:.6g} > {self.bound:.6g}; raise max_step or take a smaller step"


@dataclass(eq=False, kw_only=True)
class RhoCorrupt(SfmError):
    """Stored numbers fail their digest, or what is stored with them cannot be read."""

    code = Code.DATA_LOSS
    reason = "RHO_CORRUPT"
    namespace: str
    version: int
    key: str
    expected_digest: str
    found_digest: str
    damaged: str = "numbers"
    """`numbers`, `certificate` (the numbers are what was put), or `version` (its record; `key` and digests are empty)."""

    def sentence(self) -> str:
        if self.damaged == "version":
            return f"the stored record of {self.namespace!r} version {self.version} cannot be read; restore LAST_VALID"
        if self.damaged == "certificate":
            return (
                f"the stored certificate of {self.key!r} in {self.namespace!r} version {self.version} is damaged, its numbers are not "
                f"(SHA-256 {self.found_digest[:16]}…); restore LAST_VALID, or commit them again"
            )
        return (
            f"the stored numbers of {self.key!r} in {self.namespace!r} version {self.version} fail their digest (SHA-256 {self.found_digest[:16]}…, "
            f"certified {self.expected_digest[:16]}…); restore LAST_VALID"
        )
