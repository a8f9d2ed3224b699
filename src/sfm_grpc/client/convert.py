"""Between protobuf messages and records. Numbers are joined and split around protobuf (`sfm_grpc.wire`), never copied by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from sfm.v1 import health_pb2, matrix_pb2, pruner_pb2, rho_store_pb2

from sfm_grpc import wire
from sfm_grpc.client.records import (
    Array,
    Bookmark,
    Change,
    Component,
    Factor,
    HealthReport,
    Latency,
    Restored,
    RhoHealth,
    RhoVersion,
    ServerInfo,
    Snapshot,
    Source,
    VersionPage,
    WatchedSnapshot,
    frozen,
    moment,
)
from sfm_grpc.density.matrix import from_array
from sfm_grpc.errors import MatrixMalformed, UnexpectedStatus
from sfm_grpc.model import Buffer, Certificate, Dtype, Entry, Kind, Layout, Matrix, PsdMethod

# Looked up ten times as fast as an enum is called.
_KINDS = {int(k): k for k in Kind}
_LAYOUTS = {int(k): k for k in Layout}
_DTYPES = {int(k): k for k in Dtype}
_PSD_METHODS = {int(k): k for k in PsdMethod}
_NUMPY = {d: d.numpy for d in Dtype}

# A smaller message passes through protobuf in less time than around it.
_SMALL_BYTES = 128 * 1024

# ---- matrices out --------------------------------------------------------------------------------------------------


def matrix_of(key: str, change: Change, kind: Kind) -> Matrix:
    """The matrix to send; its numbers look into the caller's array. Raises MatrixMalformed naming the key."""
    try:
        if isinstance(change, Factor):
            return from_array(np.asarray(change.s), kind=kind, layout=Layout.FACTOR)
        return from_array(np.asarray(change), kind=kind)
    except MatrixMalformed as error:
        raise MatrixMalformed(problem=error.problem, key=key) from None


def joined_commit(request: rho_store_pb2.CommitRhoRequest, matrices: Iterable[Matrix]) -> bytes:
    """The request with the numbers of `matrices` where `put_skeleton` left room for them: the one copy they make."""
    return wire.join(request.SerializeToString(), wire.COMMIT_REQUEST, [m.numbers for m in matrices])


def joined_prune(request: pruner_pb2.ApplyPruneRequest, matrices: Iterable[Matrix]) -> bytes:
    """The same of a prune that matrices go with."""
    return wire.join(request.SerializeToString(), wire.APPLY_PRUNE_REQUEST, [m.numbers for m in matrices])


def put_skeleton(matrix: Matrix, index: int) -> matrix_pb2.Matrix:
    """The message of a matrix with a placeholder for its numbers, the body `index`."""
    room = wire.placeholder(index)
    message = matrix_pb2.Matrix(
        kind=matrix_pb2.MatrixKind.ValueType(matrix.kind), dtype=matrix_pb2.Dtype.ValueType(matrix.dtype), shape=matrix.shape
    )
    if matrix.layout is Layout.FACTOR:
        message.factor.data = room
    else:
        message.data = room
    return message


def sent_arrays(request: bytes, matrices: Mapping[str, Matrix]) -> dict[str, Array]:
    """The numbers as they stand in a request that `joined_commit` made, by key, without a copy."""
    _, bodies = wire.split(request, wire.COMMIT_REQUEST)
    return {key: _array(body, m.dtype, m.shape) for (key, m), body in zip(matrices.items(), bodies, strict=True)}


# ---- matrices in ---------------------------------------------------------------------------------------------------


def snapshot_of(namespace: str, reply: bytes, kept: Snapshot | None) -> Snapshot:
    """A GetRhoResponse as a snapshot, its arrays looking into `reply`; `not_modified` answers what was kept."""
    try:
        skeleton, bodies = (reply, None) if len(reply) <= _SMALL_BYTES else wire.split(reply, wire.GET_RESPONSE)
        response = rho_store_pb2.GetRhoResponse.FromString(skeleton)
        return _unmodified(response, kept) if response.not_modified else _snapshot(namespace, response, bodies)
    except _NOT_BELIEVED as error:  # `believed`, without the price of a context manager on the fast path
        raise _unbelievable("GetRho", error) from error


@contextmanager
def believed(method: str) -> Iterator[None]:
    """What cannot be understood of an answer is nobody's mistake but the server's, or a newer release's."""
    try:
        yield
    except _NOT_BELIEVED as error:
        raise _unbelievable(method, error) from error


_NOT_BELIEVED = (ValueError, LookupError, DecodeError, MatrixMalformed)


def _unbelievable(method: str, error: Exception) -> UnexpectedStatus:
    return UnexpectedStatus(status="OK", problem=f"the answer of {method} is not what it should be: {error!r}")


def watched_of(namespace: str, reply: bytes) -> WatchedSnapshot | Bookmark:
    """A WatchRhoResponse, its arrays looking into `reply`."""
    with believed("WatchRho"):
        skeleton, bodies = (reply, None) if len(reply) <= _SMALL_BYTES else wire.split(reply, wire.GET_RESPONSE)
        response = rho_store_pb2.WatchRhoResponse.FromString(skeleton)
        if response.bookmark:
            return Bookmark(response.version, us_of(response.as_of_time))
        matrices, certificates, put_versions = _held(response.matrices, bodies)
        return WatchedSnapshot(
            namespace=namespace,
            version=response.version,
            commit_time_us=us_of(response.commit_time),
            as_of_time_us=us_of(response.as_of_time),
            source="canonical",
            degraded=False,
            modified=True,
            matrices=matrices,
            certificates=certificates,
            put_versions=put_versions,
            committer=response.committer,
            metadata=frozen(dict(response.metadata)),
            changed_keys=tuple(response.changed_keys),
            restored_version=response.restored_version,
            valid=response.valid,
        )


def _held(
    messages: Iterable[rho_store_pb2.NamedMatrix], bodies: list[memoryview] | None
) -> tuple[Mapping[str, Array], Mapping[str, Certificate], Mapping[str, int]]:
    """Arrays, certificates and the versions that put them, by key."""
    named = {m.key: m for m in messages}
    matrices = {key: _array_of(m, bodies) for key, m in named.items() if m.matrix.WhichOneof("content")}
    return frozen(matrices), _Certificates(named), frozen({key: m.put_version for key, m in named.items()})


def _snapshot(namespace: str, response: rho_store_pb2.GetRhoResponse, bodies: list[memoryview] | None) -> Snapshot:
    matrices, certificates, put_versions = _held(response.matrices, bodies)
    return Snapshot(
        namespace=namespace,
        version=response.version,
        commit_time_us=us_of(response.commit_time),
        as_of_time_us=us_of(response.as_of_time),
        source=_source(response),
        degraded=response.degraded,
        modified=True,
        matrices=matrices,
        certificates=certificates,
        put_versions=put_versions,
    )


class _Certificates(Mapping[str, Certificate]):
    """Certificates by key, made when they are asked for: most reads want the numbers only."""

    __slots__ = ("_made", "_named")

    def __init__(self, named: Mapping[str, rho_store_pb2.NamedMatrix]) -> None:
        self._named = named
        self._made: dict[str, Certificate] = {}

    def __getitem__(self, key: str) -> Certificate:
        made = self._made.get(key)
        if made is None:
            message = self._named[key].certificate
            with believed("GetRho"):
                made = self._made[key] = certificate_of(message)
        return made

    def __contains__(self, key: object) -> bool:
        return key in self._named

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


def _unmodified(response: rho_store_pb2.GetRhoResponse, kept: Snapshot | None) -> Snapshot:
    if kept is None:
        raise LookupError("not modified since nothing")
    return Snapshot(
        namespace=kept.namespace,
        version=kept.version,
        commit_time_us=kept.commit_time_us,
        as_of_time_us=us_of(response.as_of_time),
        source=_source(response),
        degraded=response.degraded,
        modified=False,
        matrices=kept.matrices,
        certificates=kept.certificates,
        put_versions=kept.put_versions,
    )


def _source(response: rho_store_pb2.GetRhoResponse) -> Source:
    return "cache" if response.source == rho_store_pb2.SOURCE_CACHE else "canonical"


def _array_of(named: rho_store_pb2.NamedMatrix, bodies: list[memoryview] | None) -> Array:
    message = named.matrix
    field = message.factor.data if message.HasField("factor") else message.data
    rows, columns = message.shape
    return _array(field if bodies is None else wire.body_of(field, bodies), _DTYPES[message.dtype], (rows, columns))


def _array(numbers: Buffer, dtype: Dtype, shape: tuple[int, int]) -> Array:
    """A read-only view. Raises ValueError when the bytes are not as many as the shape needs."""
    array = np.frombuffer(numbers, dtype=_NUMPY[dtype]).reshape(shape)
    if not array.flags.aligned:
        # Small matrices only: large ones are aligned by the writer (`wire.join`).
        array = array.copy()
        array.flags.writeable = False
    return array


# ---- everything else in --------------------------------------------------------------------------------------------


def certificate_of(message: matrix_pb2.Certificate) -> Certificate:
    """A certificate as a record. Raises ValueError, LookupError for one of a later release."""
    rows, columns = message.shape
    return Certificate(
        kind=_KINDS[message.kind],
        layout=_LAYOUTS[message.layout],
        dtype=_DTYPES[message.dtype],
        shape=(rows, columns),
        digest=message.digest,
        valid=message.valid,
        min_eigenvalue_bound=message.min_eigenvalue_bound,
        psd_method=_PSD_METHODS.get(message.psd_method, PsdMethod.UNSPECIFIED),
        trace_error=message.trace_error,
        asymmetry=message.asymmetry,
        epsilon=message.epsilon,
        trace_tolerance=message.trace_tolerance,
        hermitian_tolerance=message.hermitian_tolerance,
        clamped_mass=message.clamped_mass,
        psd_ok=message.psd_ok,
        trace_ok=message.trace_ok,
        certify_time_us=us_of(message.certify_time),
    )


def restored_of(namespace: str, request_id: str, reply: bytes) -> Restored:
    """A RestoreRhoResponse."""
    with believed("RestoreRho"):
        response = rho_store_pb2.RestoreRhoResponse.FromString(reply)
        return Restored(
            namespace=namespace,
            version=response.version,
            commit_time=moment(us_of(response.commit_time)),
            restored_version=response.restored_version,
            entries=_entries(response.entries),
            replayed=response.replayed,
            request_id=request_id,
        )


def page_of(reply: bytes) -> VersionPage:
    """A ListRhoVersionsResponse."""
    with believed("ListRhoVersions"):
        response = rho_store_pb2.ListRhoVersionsResponse.FromString(reply)
        return VersionPage(
            versions=tuple(map(_version, response.versions)),
            next_page_token=response.next_page_token,
            newest_version=response.newest_version,
            oldest_version=response.oldest_version,
        )


def _version(message: rho_store_pb2.RhoVersion) -> RhoVersion:
    return RhoVersion(
        version=message.version,
        commit_time=moment(us_of(message.commit_time)),
        committer=message.committer,
        metadata=frozen(dict(message.metadata)),
        valid=message.valid,
        restored_version=message.restored_version,
        entries=_entries(message.entries),
        changed_keys=tuple(message.changed_keys),
    )


def _entries(messages: Iterable[rho_store_pb2.MatrixEntry]) -> tuple[Entry, ...]:
    return tuple(Entry(key=m.key, certificate=certificate_of(m.certificate), put_version=m.put_version) for m in messages)


def health_of(reply: bytes) -> HealthReport:
    """A GetHealthResponse."""
    with believed("GetHealth"):
        return _health(health_pb2.GetHealthResponse.FromString(reply))


def _health(response: health_pb2.GetHealthResponse) -> HealthReport:
    return HealthReport(
        ok=response.ok,
        live=response.live,
        ready=response.ready,
        psd_ok=response.psd_ok,
        trace_ok=response.trace_ok,
        trace_error=response.trace_error,
        degraded=response.degraded,
        sample_version=response.sample_version,
        namespaces=response.namespaces,
        rho=tuple(map(_rho_health, response.rho)),
        components=tuple(Component(name=c.name, ok=c.ok, detail=c.detail) for c in response.components),
        latencies=tuple(map(_latency, response.latencies)),
        start_time=moment(us_of(response.start_time)),
        verifications=response.verifications,
    )


def _rho_health(message: health_pb2.RhoHealth) -> RhoHealth:
    return RhoHealth(
        tenant=message.tenant,
        namespace=message.namespace,
        version=message.version,
        psd_ok=message.psd_ok,
        trace_error=message.trace_error,
        trace_ok=message.trace_ok,
        min_eigenvalue_bound=message.min_eigenvalue_bound,
        corrupt=message.corrupt,
        verify_time=moment(us_of(message.verify_time)) if message.HasField("verify_time") else None,
        problem=message.problem,
        certificate=certificate_of(message.certificate) if message.HasField("certificate") else None,
    )


def _latency(message: health_pb2.LatencyReport) -> Latency:
    return Latency(
        operation=message.operation,
        p95_s=message.p95.ToNanoseconds() / 1e9,
        count=message.count,
        bound_s=message.bound.ToNanoseconds() / 1e9,
        ok=message.ok,
        window_s=message.window.ToNanoseconds() / 1e9,
    )


def server_info_of(reply: bytes) -> ServerInfo:
    """A GetServerInfoResponse."""
    with believed("GetServerInfo"):
        response = health_pb2.GetServerInfoResponse.FromString(reply)
        return ServerInfo(
            version=response.version,
            store=response.store,
            rho_enforcement=response.rho_enforcement,
            node_id=response.node_id,
            limits=frozen({limit.name: limit.value for limit in response.limits}),
            services=tuple(response.services),
            epsilon=response.epsilon,
            trace_tolerance=response.trace_tolerance,
            index=response.index,
        )


def us_of(time: Timestamp) -> int:
    """Microseconds since the Unix epoch."""
    return time.seconds * 1_000_000 + time.nanos // 1000
