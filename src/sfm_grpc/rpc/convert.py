"""Between messages and records. Numbers pass as buffers: they go around protobuf, see `wire`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from sfm.v1 import matrix_pb2, rho_store_pb2

from sfm_grpc import wire
from sfm_grpc.coordinator.caches import CacheReport
from sfm_grpc.coordinator.reads import Answer, Query
from sfm_grpc.coordinator.receipts import Receipt
from sfm_grpc.coordinator.rho import History, Mutation, Update
from sfm_grpc.coordinator.sent import Form, SentMatrix
from sfm_grpc.coordinator.watches import Bookmark, Emission, Watch
from sfm_grpc.density.envelope import serialize_matrix
from sfm_grpc.errors import InvalidRequest, LimitExceeded
from sfm_grpc.model import Buffer, CacheState, Certificate, Dtype, Entry, Kind, Layout, Matrix, Scope, Version

_E = TypeVar("_E", Kind, Dtype)
_M = TypeVar("_M", bound=Message)

_BOOKMARK_MIN_S, _BOOKMARK_MAX_S = 0.1, 3600.0

MutationRequest = rho_store_pb2.CommitRhoRequest | rho_store_pb2.RestoreRhoRequest

# ---- requests --------------------------------------------------------------------------------------------------------


def parsed(kind: type[_M], raw: bytes, bytes_max: int, limit: str = "fields_bytes_max") -> _M:
    """The message. Raises LimitExceeded before it is parsed, InvalidRequest when the bytes are no such message."""
    if len(raw) > bytes_max:
        raise LimitExceeded(limit=limit, value=len(raw), maximum=bytes_max)
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequest(field="message", problem=f"is not a {kind.DESCRIPTOR.full_name}: {error}") from error


def commit_request(
    raw: bytes, fields_bytes_max: int, batch_bytes_max: int
) -> tuple[rho_store_pb2.CommitRhoRequest, list[memoryview]]:
    """A CommitRhoRequest, its numbers taken out. Raises as `parsed` does; only memories may have more than other fields."""
    try:
        skeleton, bodies = wire.split(raw, wire.COMMIT_REQUEST, skeleton_bytes_max=max(fields_bytes_max, batch_bytes_max))
    except wire.SkeletonTooLarge:
        raise LimitExceeded(limit="batch_bytes_max", value=len(raw), maximum=batch_bytes_max) from None
    except wire.WireError as error:
        raise InvalidRequest(field="message", problem=f"is not a sfm.v1.CommitRhoRequest: {error}") from error
    request = parsed(rho_store_pb2.CommitRhoRequest, skeleton, len(skeleton))
    if len(skeleton) > fields_bytes_max and not request.memories:
        raise LimitExceeded(limit="fields_bytes_max", value=len(skeleton), maximum=fields_bytes_max)
    return request, bodies


def mutation(request: MutationRequest, scope: Scope, committer: str, deadline: float) -> Mutation:
    """What every mutation says."""
    return Mutation(
        scope=scope,
        expected_version=request.expected_version if request.HasField("expected_version") else None,
        request_id=request.request_id,
        metadata=dict(request.metadata),
        committer=committer,
        validate_only=request.validate_only,
        deadline=deadline,
    )


def updates(sent: Sequence[rho_store_pb2.MatrixUpdate], bodies: Sequence[memoryview], field: str = "updates") -> list[Update]:
    """The changes of a commit. Raises InvalidRequest for one that says nothing."""
    return [_update(u, f"{field}[{place}]", bodies) for place, u in enumerate(sent)]


def _update(update: rho_store_pb2.MatrixUpdate, field: str, bodies: Sequence[memoryview]) -> Update:
    change = update.WhichOneof("change")
    if change is None:
        raise InvalidRequest(field=field, problem="says neither put nor delete")
    put = _sent(update.put, f"{field}.put", bodies) if change == "put" else None
    return Update(update.key, put, update.max_step if update.HasField("max_step") else None, field)


def _sent(matrix: matrix_pb2.Matrix, field: str, bodies: Sequence[memoryview]) -> SentMatrix:
    content = matrix.WhichOneof("content")
    body: Buffer
    match content:
        case "data":
            form, body = Form.DATA, wire.body_of(matrix.data, bodies)
        case "double_values":
            form, body = Form.DOUBLES, wire.bodies_of(matrix.double_values.values, bodies)
        case "factor":
            form, body = Form.FACTOR, wire.body_of(matrix.factor.data, bodies) if matrix.factor.data else b""
        case "envelope":
            form, body = Form.ENVELOPE, wire.body_of(matrix.envelope, bodies)
        case _:
            raise InvalidRequest(field=f"{field}.content", problem="is required: data, double_values, factor or envelope")
    return SentMatrix(
        form=form,
        kind=_member(Kind, matrix.kind, f"{field}.kind"),
        dtype=_member(Dtype, matrix.dtype, f"{field}.dtype"),
        shape=tuple(matrix.shape),
        digest=matrix.digest,
        body=body,
    )


def _member(enum: type[_E], number: int, field: str) -> _E | None:
    """The enum's member, None when unspecified. Raises InvalidRequest for a number it does not know."""
    if number == 0:
        return None
    try:
        return enum(number)
    except ValueError:
        known = ", ".join(f"{m.name} = {m.value}" for m in enum)
        raise InvalidRequest(field=field, problem=f"is {number}, which this server does not know; it knows {known}") from None


def query(request: rho_store_pb2.GetRhoRequest, scope: Scope) -> Query:
    """What a read asks for. Raises InvalidRequest."""
    for name in ("known_version", "version"):
        if getattr(request, name) < 0:
            raise InvalidRequest(field=name, problem=f"is {getattr(request, name)}; versions start at 1")
    exact = request.WhichOneof("at") == "version"
    if exact and request.version == 0:
        raise InvalidRequest(field="version", problem="is 0; versions start at 1, leave it out for the newest")
    freshness = request.freshness
    # A newer caller's wish that is not understood must not pass for a weaker one.
    _check_known(rho_store_pb2.View.DESCRIPTOR, request.view, "view")
    _check_known(matrix_pb2.MatrixForm.DESCRIPTOR, request.form, "form")
    _check_known(rho_store_pb2.Consistency.DESCRIPTOR, freshness.consistency, "freshness.consistency")
    canonical = freshness.consistency == rho_store_pb2.CONSISTENCY_CANONICAL
    if freshness.min_version < 0:
        raise InvalidRequest(field="freshness.min_version", problem=f"is {freshness.min_version}; it must be 0 or more")
    staleness_us: int | None = None
    if freshness.HasField("max_staleness"):
        staleness_us = freshness.max_staleness.ToMicroseconds()
        if staleness_us < 0 or canonical:
            raise InvalidRequest(field="freshness.max_staleness", problem="must be positive, and not with CONSISTENCY_CANONICAL")
    return Query(
        scope=scope,
        keys=tuple(sorted(request.keys)),
        version=request.version if exact else None,
        canonical=canonical,
        min_version=freshness.min_version,
        max_staleness_us=staleness_us,
        known_version=request.known_version,
        numbers=request.view == rho_store_pb2.VIEW_FULL,
    )


def watch(request: rho_store_pb2.WatchRhoRequest, scope: Scope) -> Watch:
    """What a stream asks for. Raises InvalidRequest."""
    after = request.after_version if request.HasField("after_version") else None
    if after is not None and after < 0:
        raise InvalidRequest(field="after_version", problem=f"is {after}; it must be 0 or more")
    _check_known(rho_store_pb2.View.DESCRIPTOR, request.view, "view")
    _check_known(matrix_pb2.MatrixForm.DESCRIPTOR, request.form, "form")
    asked = Watch(
        scope=scope,
        keys=tuple(sorted(request.keys)),
        after_version=after,
        newest_only=request.newest_only,
        numbers=request.view == rho_store_pb2.VIEW_FULL,
    )
    if not request.HasField("bookmark_interval"):
        return asked
    interval_s = request.bookmark_interval.seconds + request.bookmark_interval.nanos / 1e9
    if not _BOOKMARK_MIN_S <= interval_s <= _BOOKMARK_MAX_S:
        raise InvalidRequest(field="bookmark_interval", problem=f"is {interval_s:g} s; it must be 0.1 to 3600")
    return replace(asked, bookmark_interval_s=interval_s)


def _check_known(enum: EnumDescriptor, number: int, field: str) -> None:
    if number not in enum.values_by_number:
        raise InvalidRequest(field=field, problem=f"is {number}, which this server does not know as a {enum.full_name}")


# ---- answers ---------------------------------------------------------------------------------------------------------


def timestamp(time_us: int) -> Timestamp:
    """Microseconds since the epoch as a Timestamp."""
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def certificate(c: Certificate) -> matrix_pb2.Certificate:
    """A certificate, field by field."""
    return matrix_pb2.Certificate(
        kind=c.kind.value,  # type: ignore[arg-type]
        layout=c.layout.value,  # type: ignore[arg-type]
        dtype=c.dtype.value,  # type: ignore[arg-type]
        shape=c.shape,
        digest=c.digest,
        valid=c.valid,
        min_eigenvalue_bound=c.min_eigenvalue_bound,
        psd_method=c.psd_method.value,  # type: ignore[arg-type]
        trace_error=c.trace_error,
        asymmetry=c.asymmetry,
        epsilon=c.epsilon,
        trace_tolerance=c.trace_tolerance,
        hermitian_tolerance=c.hermitian_tolerance,
        clamped_mass=c.clamped_mass,
        psd_ok=c.psd_ok,
        trace_ok=c.trace_ok,
        certify_time=timestamp(c.certify_time_us),
    )


def receipt(r: Receipt) -> rho_store_pb2.MatrixReceipt:
    """What became of one key."""
    if r.certificate is None:
        return rho_store_pb2.MatrixReceipt(key=r.key, deleted=True)
    c = r.certificate
    return rho_store_pb2.MatrixReceipt(key=r.key, digest=c.digest, clamped=c.clamped, certificate=certificate(c), step=r.step)


def entries(found: Iterable[Entry]) -> list[rho_store_pb2.MatrixEntry]:
    """What a version holds."""
    return [
        rho_store_pb2.MatrixEntry(key=e.key, certificate=certificate(e.certificate), put_version=e.put_version) for e in found
    ]


def version(v: Version) -> rho_store_pb2.RhoVersion:
    """One version of a list."""
    return rho_store_pb2.RhoVersion(
        version=v.version,
        commit_time=timestamp(v.commit_time_us),
        committer=v.committer,
        metadata=dict(v.metadata),
        valid=v.valid,
        restored_version=v.restored_version,
        entries=entries(v.entries),
        changed_keys=v.changed_keys,
    )


def history(found: History) -> rho_store_pb2.ListRhoVersionsResponse:
    """A page of versions."""
    return rho_store_pb2.ListRhoVersionsResponse(
        versions=[version(v) for v in found.page.versions],
        next_page_token=found.next_page_token,
        newest_version=found.page.newest,
        oldest_version=found.page.oldest,
    )


_CACHE_STATES = {
    CacheState.DRAINED: rho_store_pb2.CACHE_STATE_DRAINED,
    CacheState.ON: rho_store_pb2.CACHE_STATE_ON,
    CacheState.OFF: rho_store_pb2.CACHE_STATE_OFF,
}


def cache_report(found: CacheReport) -> rho_store_pb2.GetRhoCacheResponse:
    """How the cache is."""
    return rho_store_pb2.GetRhoCacheResponse(
        configured=found.configured,
        ok=found.ok,
        detail=found.detail,
        namespaces=[
            rho_store_pb2.NamespaceCache(
                namespace=name,
                version=seen.version,
                state=_CACHE_STATES[seen.state],
                registered=seen.name,
                epoch=seen.epoch,
                held=seen.held,
            )
            for name, seen in found.namespaces
        ],
        next_page_token=found.next_page_token,
    )


def answer(found: Answer, form: matrix_pb2.MatrixForm.ValueType, *, numbers: bool) -> bytes:
    """A GetRhoResponse as bytes, its numbers joined in without passing through protobuf."""
    snapshot = found.snapshot
    response = rho_store_pb2.GetRhoResponse(
        version=found.version.version,
        commit_time=timestamp(found.version.commit_time_us),
        source=rho_store_pb2.SOURCE_CACHE if found.cached else rho_store_pb2.SOURCE_CANONICAL,
        degraded=found.degraded,
        not_modified=found.not_modified,
    )
    if found.newest:
        response.as_of_time.CopyFrom(timestamp(snapshot.as_of_us))
    entries = () if found.not_modified else found.entries
    return _with_matrices(response, entries, snapshot.numbers if numbers else None, form)


def emission(told: Emission, keys: tuple[str, ...], form: matrix_pb2.MatrixForm.ValueType, *, numbers: bool) -> bytes:
    """A version as a WatchRhoResponse, as bytes, its numbers joined in as those of a GetRhoResponse are."""
    v = told.version
    response = rho_store_pb2.WatchRhoResponse(
        version=v.version,
        commit_time=timestamp(v.commit_time_us),
        committer=v.committer,
        metadata=dict(v.metadata),
        changed_keys=v.changed_keys,
        restored_version=v.restored_version,
        valid=v.valid,
    )
    if told.as_of_us:
        response.as_of_time.CopyFrom(timestamp(told.as_of_us))
    return _with_matrices(response, told.version.chosen(keys), told.numbers if numbers else None, form)


def bookmark(told: Bookmark) -> bytes:
    """A bookmark as a WatchRhoResponse, as bytes."""
    message = rho_store_pb2.WatchRhoResponse(version=told.version, as_of_time=timestamp(told.as_of_us), bookmark=True)
    return message.SerializeToString()


def _with_matrices(
    response: rho_store_pb2.GetRhoResponse | rho_store_pb2.WatchRhoResponse,
    found: Iterable[Entry],
    numbers: Mapping[bytes, Buffer] | None,
    form: matrix_pb2.MatrixForm.ValueType,
) -> bytes:
    """The response as bytes, with an entry's matrix each; `numbers` None: without their numbers."""
    bodies: list[Buffer] = []
    for entry in found:
        named = response.matrices.add(key=entry.key, certificate=certificate(entry.certificate), put_version=entry.put_version)
        _describe(named.matrix, entry.certificate)
        if numbers is not None:
            _fill(named.matrix, entry.certificate, numbers, form, bodies)
    return wire.join(response.SerializeToString(), wire.GET_RESPONSE, bodies)


def _describe(matrix: matrix_pb2.Matrix, c: Certificate) -> None:
    matrix.kind = c.kind.value  # type: ignore[assignment]
    matrix.dtype = c.dtype.value  # type: ignore[assignment]
    matrix.shape.extend(c.shape)
    matrix.digest = c.digest


def _fill(
    matrix: matrix_pb2.Matrix,
    c: Certificate,
    numbers: Mapping[bytes, Buffer],
    form: matrix_pb2.MatrixForm.ValueType,
    bodies: list[Buffer],
) -> None:
    """Puts a placeholder into the message and the numbers into `bodies`."""
    body = numbers[c.digest]
    if form == matrix_pb2.MATRIX_FORM_ENVELOPE:
        body = serialize_matrix(Matrix(kind=c.kind, layout=c.layout, dtype=c.dtype, shape=c.shape, numbers=body))
        matrix.envelope = wire.placeholder(len(bodies))
    elif c.layout is Layout.FACTOR:
        matrix.factor.data = wire.placeholder(len(bodies))
    elif form == matrix_pb2.MATRIX_FORM_DOUBLE_VALUES:
        if c.dtype is not Dtype.FLOAT64:
            body = np.frombuffer(body, c.dtype.numpy).astype("<f8").tobytes()
        matrix.double_values.values.append(len(bodies))
    else:
        matrix.data = wire.placeholder(len(bodies))
    bodies.append(body)
