"""What the client answers with: frozen records, numpy arrays that cannot be written to, aware datetimes in UTC."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from sfm_grpc.density.matrix import FloatArray, dense, digest_of, from_array
from sfm_grpc.errors import RhoCorrupt
from sfm_grpc.model import Certificate, Entry, Kind, Layout, Matrix, Metadata

if TYPE_CHECKING:
    from sfm_grpc.client.memory_records import MemoryReceipt

Array: TypeAlias = npt.NDArray[Any]
Source: TypeAlias = Literal["cache", "canonical"]
Consistency: TypeAlias = Literal["cached", "canonical"]
KindName: TypeAlias = Literal["density", "generic"]

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@functools.lru_cache(maxsize=256)  # what is written at once has one time
def moment(time_us: int) -> datetime:
    """Microseconds since the Unix epoch as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=time_us)


def microseconds(time: datetime) -> int:
    """The inverse of `moment`."""
    return (time - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """S (k×d), float64 or float32: a density matrix ρ = SᵀS/‖S‖²_F that is stored and sent as S."""

    s: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, d)."""
        return np.shape(self.s)

    def dense(self) -> FloatArray:
        """ρ itself, d×d float64. Raises MatrixMalformed when S is no k×d array of floats."""
        return dense(from_array(self.s, kind=Kind.DENSITY, layout=Layout.FACTOR))


Change: TypeAlias = npt.ArrayLike | Factor | None
"""What becomes of a key: these numbers, or None: it goes away."""
Changes: TypeAlias = Mapping[str, Change]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The matrices of one version of a namespace. `snapshot["rho"]` is an array that cannot be written to.

    The arrays look into the message they came in, without a copy, and stay valid as long as somebody holds them. Of a factor the
    array is S as it is stored; `dense` answers what it means.
    """

    namespace: str
    version: int
    """0: nothing was ever committed to the namespace (only inside `update`)."""
    commit_time_us: int
    as_of_time_us: int
    """0: unknown."""
    source: Source
    degraded: bool
    """The server answered without its fast path or its canonical store."""
    modified: bool
    """False: the numbers were already here and did not travel."""
    matrices: Mapping[str, Array]
    """By key; empty when `describe` answered."""
    certificates: Mapping[str, Certificate]
    """By key: what was proved when the matrix was committed."""
    put_versions: Mapping[str, int]
    """By key: the version whose commit put these numbers."""

    @property
    def commit_time(self) -> datetime:
        """When the version was committed; the epoch for version 0."""
        return moment(self.commit_time_us)

    @property
    def as_of_time(self) -> datetime | None:
        """A time at which the version was known to be the newest; None when it was asked for by its number."""
        return moment(self.as_of_time_us) if self.as_of_time_us else None

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """By key: DENSE, or FACTOR where the array is S."""
        return {key: certificate.layout for key, certificate in self.certificates.items()}

    def __getitem__(self, key: str) -> Array:
        try:
            return self.matrices[key]
        except KeyError:
            if key in self.certificates:
                raise KeyError(f"{key!r} was described, not read: read() brings its numbers") from None
            held = ", ".join(map(repr, self.certificates)) or "nothing"
            raise KeyError(f"version {self.version} of {self.namespace!r} holds no {key!r} here, it holds {held}") from None

    def get(self, key: str) -> Array | None:
        """The array of `key`, None when there is none."""
        return self.matrices.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self.certificates

    def __iter__(self) -> Iterator[str]:
        return iter(self.certificates)

    def __len__(self) -> int:
        return len(self.certificates)

    def value(self, key: str) -> Array | Factor | None:
        """What could be committed again: the array, a Factor around S, None when there is no such key."""
        array = self.matrices.get(key)
        return Factor(array) if array is not None and self.certificates[key].layout is Layout.FACTOR else array

    def dense(self, key: str) -> FloatArray:
        """The float64 matrix that is meant: d×d for a density matrix (SᵀS/‖S‖²_F of a factor), rows×columns for a generic one.

        A float64 matrix that is stored dense is the read-only array itself; everything else is a new array.
        """
        array, certificate = self[key], self.certificates[key]
        return dense(
            Matrix(
                kind=certificate.kind,
                layout=certificate.layout,
                dtype=certificate.dtype,
                shape=certificate.shape,
                numbers=_bytes_of(array),
            )
        )

    def verify(self) -> None:
        """Compares the SHA-256 of all numbers with their certificates (2.5 ns a byte). Raises RhoCorrupt."""
        for key, array in self.matrices.items():
            expected, found = self.certificates[key].digest, digest_of(_bytes_of(array))
            if found != expected:
                raise RhoCorrupt(
                    namespace=self.namespace,
                    key=key,
                    version=self.version,
                    expected_digest=expected.hex(),
                    found_digest=found.hex(),
                )

    def restricted(self, keys: Iterable[str]) -> Snapshot:
        """The same version, with those of `keys` that it holds."""
        wanted = set(keys)
        return replace(
            self,
            matrices=frozen({k: v for k, v in self.matrices.items() if k in wanted}),
            certificates=frozen({k: v for k, v in self.certificates.items() if k in wanted}),
            put_versions=frozen({k: v for k, v in self.put_versions.items() if k in wanted}),
        )

    def __repr__(self) -> str:
        held = ", ".join(f"{k}: {c.shape[0]}×{c.shape[1]} {c.dtype.label}" for k, c in self.certificates.items())
        return f"<Snapshot {self.namespace!r} version {self.version} ({held})>"


@dataclass(frozen=True, slots=True, eq=False)
class WatchedSnapshot(Snapshot):
    """A version as a watch tells it: its matrices, and what its commit said."""

    committer: str
    metadata: Metadata
    changed_keys: tuple[str, ...]
    """All that the commit put or deleted, whether or not it was asked for."""
    restored_version: int
    """The version this one restored; 0 for an ordinary commit."""
    valid: bool
    """Every certificate of the version is valid, also those that were not asked for."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A watch's word that there was nothing newer than `version`."""

    version: int
    as_of_time_us: int


def _bytes_of(array: Array) -> memoryview:
    return memoryview(array.data).cast("B")


def frozen(items: dict[str, T]) -> Mapping[str, T]:
    """A view of `items` that cannot be written to."""
    return MappingProxyType(items)


def empty_snapshot(namespace: str) -> Snapshot:
    """What is known of a namespace that does not exist: version 0, nothing in it."""
    return Snapshot(
        namespace=namespace,
        version=0,
        commit_time_us=0,
        as_of_time_us=0,
        source="canonical",
        degraded=False,
        modified=True,
        matrices=frozen({}),
        certificates=frozen({}),
        put_versions=frozen({}),
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one key of a commit."""

    deleted: bool
    digest: bytes
    """SHA-256 of the numbers as stored; empty for a deletion."""
    clamped: bool
    """The stored numbers are not the sent ones: read them back before using them."""
    certificate: Certificate | None
    """None for a deletion."""
    step: float | None
    """‖new − old‖_F; None where there was no earlier matrix of the same dimension."""


@dataclass(frozen=True, slots=True)
class Commit:
    """An acknowledged commit; of a validation, the one that would have been made."""

    namespace: str
    version: int
    commit_time: datetime
    receipts: Mapping[str, Receipt]
    """By key, in the order of the changes."""
    replayed: bool
    """The request id had been used with the same content: this is the first answer again."""
    request_id: str
    memories: tuple[MemoryReceipt, ...] = ()
    """Of the memories that were committed with it, in their order."""


@dataclass(frozen=True, slots=True)
class Restored:
    """An acknowledged restore: a new version that holds what an earlier one held."""

    namespace: str
    version: int
    commit_time: datetime
    restored_version: int
    entries: tuple[Entry, ...]
    """What the new version holds, by key."""
    replayed: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class RhoVersion:
    """One kept version of a namespace, without numbers."""

    version: int
    commit_time: datetime
    committer: str
    metadata: Metadata
    valid: bool
    """Every certificate is valid."""
    restored_version: int
    """The version this one restored; 0 for an ordinary commit."""
    entries: tuple[Entry, ...]
    changed_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionPage:
    """One page of `versions`."""

    versions: tuple[RhoVersion, ...]
    """Newest first."""
    next_page_token: str
    """Empty on the last page."""
    newest_version: int
    oldest_version: int
    """The oldest version that can be read."""


@dataclass(frozen=True, slots=True)
class RhoHealth:
    """What is known of one namespace's ρ."""

    tenant: str
    namespace: str
    version: int
    psd_ok: bool
    trace_error: float
    trace_ok: bool
    min_eigenvalue_bound: float
    corrupt: bool
    verify_time: datetime | None
    """When the stored numbers were last re-read and proved again; None: not yet."""
    problem: str
    certificate: Certificate | None
    """Of the density matrix with the smallest bound."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The measured latency of one kind of call, on the replica that answered."""

    operation: str
    p95_s: float
    count: int
    bound_s: float
    ok: bool
    window_s: float


@dataclass(frozen=True, slots=True)
class Component:
    """One part the server depends on."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The whole truth about the server: `sfm.v1.GetHealthResponse`, field by field."""

    ok: bool
    live: bool
    ready: bool
    psd_ok: bool
    trace_ok: bool
    trace_error: float
    degraded: bool
    sample_version: int
    namespaces: int
    rho: tuple[RhoHealth, ...]
    """The worst namespaces first, or the one that was asked for."""
    components: tuple[Component, ...]
    latencies: tuple[Latency, ...]
    start_time: datetime
    verifications: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server is and which limits it enforces."""

    version: str
    store: str
    rho_enforcement: str
    node_id: str
    limits: Mapping[str, int]
    """Name (unit last) → the largest accepted value."""
    services: tuple[str, ...]
    epsilon: float
    trace_tolerance: float
    index: str
    """`qdrant-edge` or `qdrant`; "" from a server that is older than the field."""
