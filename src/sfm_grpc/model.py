"""The vocabulary of the data plane: frozen records that every floor speaks, and nothing that acts.

Times are integers, microseconds since the Unix epoch (`_us`). The numbers of a matrix are a read-only buffer, little-endian
and C order, in the dtype they came in; they are never copied on their way through.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

Buffer: TypeAlias = bytes | memoryview
Metadata: TypeAlias = Mapping[str, str]

NO_METADATA: Metadata = MappingProxyType({})


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
        return _NUMPY[self]

    @property
    def label(self) -> str:
        """`float64` or `float32`."""
        return self.name.lower()

    @property
    def unit_roundoff(self) -> float:
        """u: half the distance from 1 to the next larger number (2⁻⁵³ or 2⁻²⁴)."""
        return _UNIT_ROUNDOFF[self]


_NUMPY: Mapping[Dtype, np.dtype[np.floating]] = {Dtype.FLOAT64: np.dtype("<f8"), Dtype.FLOAT32: np.dtype("<f4")}
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
class Scope:
    """Whose namespace: nothing outside a scope can be seen from inside it."""

    tenant: str
    namespace: str


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


Change: TypeAlias = PutMatrix | DeleteMatrix | RestoreVersion


@dataclass(frozen=True, slots=True)
class RequestIdentity:
    """What makes a mutation the same one when it arrives again."""

    method: str
    request_id: str
    content_digest: bytes
    """SHA-256 over all that was asked for, as it was asked (before any clamp)."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the rest of the world is told of a commit."""

    topic: str
    payload: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Transaction:
    """One mutation: all of it happens, or nothing does. There is no write without its event: both are parameters."""

    scope: Scope
    changes: tuple[Change, ...]
    expected_version: int | None
    """None: the last writer wins (inside the process only; the wire requires a version)."""
    request: RequestIdentity | None
    """None: not remembered."""
    committer: str
    time_us: int
    """When it was admitted; the commit time is this, or the version's before it where that is later."""
    receipt: bytes
    """What the first answer says beyond version and time, kept for replays."""
    event_of: Callable[[Version], Event]
    """What the world is told of the version that is made."""
    deadline: float = math.inf
    """On time.monotonic(): a transaction that has not begun by then is not begun."""
    metadata: Metadata = field(default_factory=lambda: NO_METADATA)
    validate_only: bool = False


class CacheState(enum.IntEnum):
    """Whether a cache may serve a namespace; the values are in the database."""

    DRAINED = 0
    """No lease of it stands anywhere: what is committed may be told at once."""
    ON = 1
    """The registered cache may be filled: what is committed is fenced there before it is told."""
    OFF = 2
    """It may not be filled any more, and its last leases are running out."""


@dataclass(frozen=True, slots=True)
class CacheSeen:
    """What a head's row said of its cache, in the same look as its version."""

    version: int
    """The newest version at that look."""
    state: CacheState
    name: str
    """The registered cache: the one that may be filled while the state is ON."""
    epoch: int
    """Rises each time it is turned on."""
    held: bool
    """A person turned it off: only a person turns it on again."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a transaction did, or would have done."""

    version: Version | None
    """The version that was made, with its entries; None of a replay, which may be of one no longer kept, and of a validation."""
    number: int
    commit_time_us: int
    receipt: bytes
    """The transaction's own, or of a replay the first one's."""
    replayed: bool
    seen: CacheSeen | None = None
    """What the head's row said of its cache when this transaction locked it, or looked; None where no cache can stand between."""
