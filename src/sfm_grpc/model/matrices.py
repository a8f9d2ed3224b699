"""What is known of matrices and versions.

The numbers of a matrix are a read-only buffer, little-endian and C order, in the dtype they came in; they are never copied on
their way through.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sfm_grpc.model.basics import Buffer, Metadata

if TYPE_CHECKING:  # numpy comes with the first array: whoever has none starts in a third of the time
    import numpy as np


class Kind(enum.IntEnum):
    """What is checked before a matrix is stored; the values are `sfm.v1.MatrixKind`'s."""

    DENSITY = 1
    GENERIC = 2

    @property
    def label(self) -> str:
        """`density` or `generic`."""
        return self.name.lower()


class Layout(enum.IntEnum):
    """How the numbers are laid out; the values are `sfm.v1.MatrixLayout`'s."""

    DENSE = 1
    FACTOR = 2


class Dtype(enum.IntEnum):
    """The type of one number; the values are `sfm.v1.Dtype`'s."""

    FLOAT64 = 1
    FLOAT32 = 2

    @property
    def numpy(self) -> np.dtype[np.floating]:
        """The same as a little-endian numpy dtype."""
        return _numpy(self)

    @property
    def label(self) -> str:
        """`float64` or `float32`."""
        return self.name.lower()

    @property
    def unit_roundoff(self) -> float:
        """u: half the distance from 1 to the next larger number (2⁻⁵³ or 2⁻²⁴)."""
        return _UNIT_ROUNDOFF[self]


@functools.cache
def _numpy(dtype: Dtype) -> np.dtype[np.floating]:
    import numpy as np

    return np.dtype({Dtype.FLOAT64: "<f8", Dtype.FLOAT32: "<f4"}[dtype])


_UNIT_ROUNDOFF = {Dtype.FLOAT64: 2.0**-53, Dtype.FLOAT32: 2.0**-24}


class PsdMethod(enum.IntEnum):
    """How λ_min was bounded; the values are `sfm.v1.PsdMethod`'s."""

    UNSPECIFIED = 0
    CHOLESKY = 1
    FACTOR = 2
    EIGENVALUES = 3


class Enforcement(enum.StrEnum):
    """What happens to a density matrix that violates trace or PSD: refused, or let in and told (the dark launch)."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix as it is sent and stored. Built by `density.matrix`, which has checked that the parts agree."""

    kind: Kind
    layout: Layout
    dtype: Dtype
    shape: tuple[int, int]
    """Rows and columns of `numbers`: (d, d) of a dense density matrix, (k, d) of a factor."""
    numbers: Buffer
    """rows × columns numbers, little-endian, C order."""

    @property
    def dimension(self) -> int:
        """D of the d×d matrix that is meant; the columns, for a factor as for a dense one."""
        return self.shape[1]

    def array(self) -> np.ndarray:
        """The numbers as a read-only array of `shape`, without a copy."""
        import numpy as np

        return np.frombuffer(self.numbers, dtype=self.dtype.numpy).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was proved of one matrix when it was admitted: `sfm.v1.Certificate`, field by field."""

    kind: Kind
    layout: Layout
    dtype: Dtype
    shape: tuple[int, int]
    digest: bytes
    """SHA-256 of the stored numbers."""
    valid: bool
    """All checks of the kind hold."""
    min_eigenvalue_bound: float
    """λ_min ≥ this, of the Hermitian part; 0 for a generic matrix."""
    psd_method: PsdMethod
    trace_error: float
    """|tr ρ − 1|, summed exactly."""
    asymmetry: float
    """‖ρ − ρᵀ‖_F, rounded up."""
    epsilon: float
    trace_tolerance: float
    hermitian_tolerance: float
    clamped_mass: float
    """½‖ρ_stored − ρ_sent‖_tr; 0 when the numbers are untouched."""
    psd_ok: bool
    trace_ok: bool
    certify_time_us: int

    @property
    def clamped(self) -> bool:
        """The stored numbers are not the ones that were sent."""
        return self.clamped_mass > 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of one version: what it is, not its numbers."""

    key: str
    certificate: Certificate
    put_version: int
    """The version whose commit put these numbers."""


@dataclass(frozen=True, slots=True)
class Version:
    """One committed version of a namespace: what it holds and where it came from."""

    version: int
    commit_time_us: int
    committer: str
    metadata: Metadata
    valid: bool
    """Every certificate is valid."""
    restored_version: int
    """The version this one restored; 0 for an ordinary commit."""
    entries: tuple[Entry, ...]
    """By key, in the order of their UTF-8 bytes."""
    changed_keys: tuple[str, ...]
    unreadable: str = ""
    """What of its stored record cannot be read, '' when all can. Such a version is not valid, and no read answers it."""

    def entry(self, key: str) -> Entry | None:
        """The entry of `key`, if this version holds it."""
        return next((e for e in self.entries if e.key == key), None)

    def chosen(self, keys: tuple[str, ...]) -> tuple[Entry, ...]:
        """The entries of those of `keys` that this version holds; none named: all."""
        return tuple(e for e in self.entries if e.key in keys) if keys else self.entries

    def digests(self, keys: tuple[str, ...] = ()) -> set[bytes]:
        """What the numbers of `keys` are named by; none named: all."""
        return {e.certificate.digest for e in self.chosen(keys)}


@dataclass(frozen=True, slots=True)
class PutMatrix:
    """A change: the key becomes this matrix."""

    key: str
    matrix: Matrix
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class DeleteMatrix:
    """A change: the key goes away; nothing happens where it is absent."""

    key: str


@dataclass(frozen=True, slots=True)
class RestoreVersion:
    """A change: the namespace holds again exactly what `version` held. Always a transaction's only change."""

    version: int


MatrixChange: TypeAlias = PutMatrix | DeleteMatrix | RestoreVersion
