"""One set of questions, several doors: what tests/contract asks is asked in-process and over gRPC, in the same words.

A driver raises the errors of `sfm_grpc.errors`, whichever door it uses.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sfm.v1 import matrix_pb2, rho_store_pb2

from sfm_grpc.app import App
from sfm_grpc.coordinator.reads import Query
from sfm_grpc.coordinator.rho import Mutation, Update
from sfm_grpc.coordinator.sent import Form, SentMatrix
from sfm_grpc.density.envelope import serialize_matrix
from sfm_grpc.model import Certificate, Dtype, Entry, Kind, Layout, PsdMethod, Scope, Version
from sfm_grpc.settings import Settings
from tests.support.matrices import Array, density
from tests.support.refusals import refusal_of
from tests.support.servers import CHANNEL_OPTIONS

LAST_VALID = -1

# ---- what is asked -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """The key becomes this matrix, sent in one of the wire forms."""

    key: str
    array: Array
    form: str = "data"
    """`data`, `doubles`, `factor`, `envelope`, `zlib` or `factor_envelope`."""
    kind: Kind | None = None
    max_step: float | None = None
    digest: bytes = b""

    @property
    def dtype(self) -> Dtype:
        return Dtype.FLOAT32 if self.array.dtype.itemsize == 4 else Dtype.FLOAT64

    @property
    def described(self) -> bool:
        """The envelope says itself what it holds."""
        return self.form in {"envelope", "zlib", "factor_envelope"}

    def body(self) -> bytes:
        """The bytes of the form."""
        if self.form == "doubles":
            return self.array.astype("<f8").tobytes()
        if self.described:
            layout = Layout.FACTOR if self.form == "factor_envelope" else Layout.DENSE
            return serialize_matrix(self.array, layout=layout, compression="zlib" if self.form == "zlib" else "none")
        return np.ascontiguousarray(self.array).tobytes()


@dataclass(frozen=True, slots=True)
class Delete:
    """The key goes away."""

    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What a mutation says besides its changes."""

    namespace: str
    expected: int | None
    request_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    validate_only: bool = False
    tenant: str = "default"
    committer: str = ""


# ---- what is answered --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one key."""

    key: str
    certificate: Certificate | None
    step: float | None
    digest: bytes
    clamped: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """The answer to a commit."""

    version: int
    time_us: int
    receipts: tuple[Receipt, ...]
    replayed: bool

    def __getitem__(self, key: str) -> Receipt:
        return next(r for r in self.receipts if r.key == key)


@dataclass(frozen=True, slots=True)
class Held:
    """One matrix of an answer."""

    certificate: Certificate
    put_version: int
    numbers: bytes | None


@dataclass(frozen=True, slots=True)
class Read:
    """The answer to a read."""

    version: int
    time_us: int
    as_of_us: int
    cached: bool
    degraded: bool
    not_modified: bool
    matrices: Mapping[str, Held]

    def __getitem__(self, key: str) -> Held:
        return self.matrices[key]

    def digests(self) -> dict[str, bytes]:
        return {key: held.certificate.digest for key, held in self.matrices.items()}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of history."""

    versions: Sequence[Version]
    next_page_token: str
    newest: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The answer to a restore."""

    version: int
    time_us: int
    restored_version: int
    entries: Sequence[Entry]
    replayed: bool


class Driver(Protocol):
    """A door to a running server."""

    settings: Settings

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def commit(self, ask: Ask, *changes: Put | Delete) -> Commit: ...

    async def restore(self, ask: Ask, version: int) -> Restored: ...

    async def get(self, namespace: str, *keys: str, tenant: str = "default", **how: Any) -> Read: ...

    async def versions(self, namespace: str, *, page_size: int = 0, page_token: str = "", tenant: str = "default") -> Page: ...


async def restart(driver: Driver) -> None:
    """Stops the server and starts it again on the same store."""
    await driver.close()
    await driver.open()


# ---- in-process --------------------------------------------------------------------------------------------------------

_FORMS = {
    "data": Form.DATA,
    "doubles": Form.DOUBLES,
    "factor": Form.FACTOR,
    "envelope": Form.ENVELOPE,
    "zlib": Form.ENVELOPE,
    "factor_envelope": Form.ENVELOPE,
}


class InProcess:
    """Asks the coordinator itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = App(settings)

    async def open(self) -> None:
        self.app = await App(self.settings).__aenter__()

    async def close(self) -> None:
        await self.app.__aexit__(None, None, None)

    async def commit(self, ask: Ask, *changes: Put | Delete) -> Commit:
        updates = [_update(change, place) for place, change in enumerate(changes)]
        done = await self.app.rho.commit(_mutation(ask), updates)
        receipts = tuple(
            Receipt(r.key, c, r.step, c.digest if c else b"", c.clamped if c else False, c is None)
            for r in done.receipts
            for c in [r.certificate]
        )
        return Commit(done.result.number, done.result.commit_time_us, receipts, done.result.replayed)

    async def restore(self, ask: Ask, version: int) -> Restored:
        done = await self.app.rho.restore(_mutation(ask), None if version == LAST_VALID else version)
        return Restored(done.version, done.commit_time_us, done.restored_version, done.entries, done.replayed)

    async def get(
        self,
        namespace: str,
        *keys: str,
        tenant: str = "default",
        version: int | None = None,
        canonical: bool = False,
        min_version: int = 0,
        max_staleness_s: float | None = None,
        known_version: int = 0,
        numbers: bool = True,
    ) -> Read:
        query = Query(
            scope=Scope(tenant, namespace),
            keys=keys,
            version=version,
            canonical=canonical,
            min_version=min_version,
            max_staleness_us=None if max_staleness_s is None else int(max_staleness_s * 1e6),
            known_version=known_version,
            numbers=numbers,
        )
        found = await self.app.reads.get(query)
        at_hand = found.snapshot.numbers
        matrices = {
            e.key: Held(e.certificate, e.put_version, bytes(at_hand[e.certificate.digest]) if numbers else None)
            for e in ([] if found.not_modified else found.entries)
        }
        return Read(
            version=found.version.version,
            time_us=found.version.commit_time_us,
            as_of_us=found.snapshot.as_of_us if found.newest else 0,
            cached=found.cached,
            degraded=found.degraded,
            not_modified=found.not_modified,
            matrices=matrices,
        )

    async def versions(self, namespace: str, *, page_size: int = 0, page_token: str = "", tenant: str = "default") -> Page:
        found = await self.app.rho.history(Scope(tenant, namespace), page_size, page_token)
        return Page(found.page.versions, found.next_page_token, found.page.newest, found.page.oldest)


def _mutation(ask: Ask) -> Mutation:
    return Mutation(
        scope=Scope(ask.tenant, ask.namespace),
        expected_version=ask.expected,
        request_id=ask.request_id,
        metadata=ask.metadata,
        committer=ask.committer,
        validate_only=ask.validate_only,
    )


def _update(change: Put | Delete, place: int) -> Update:
    if isinstance(change, Delete):
        return Update(change.key, None, None, f"updates[{place}]")
    sent = SentMatrix(
        form=_FORMS[change.form],
        kind=change.kind,
        dtype=None if change.described else change.dtype,
        shape=() if change.described else change.array.shape,
        digest=change.digest,
        body=change.body(),
    )
    return Update(change.key, sent, change.max_step, f"updates[{place}]")


# ---- over gRPC ---------------------------------------------------------------------------------------------------------


class OverGrpc:
    """Asks a real server on a free port; behind Redis three of them, each question another one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._open = contextlib.AsyncExitStack()

    async def open(self) -> None:
        apps = [await self._open.enter_async_context(App(self.settings)) for _ in range(3 if self.settings.redis_url else 1)]
        opened = (grpc.aio.insecure_channel(app.address, options=CHANNEL_OPTIONS) for app in apps)
        channels = [await self._open.enter_async_context(channel) for channel in opened]
        self.app, self.channel = apps[0], channels[0]
        self._channels = itertools.cycle(channels)

    async def close(self) -> None:
        await self._open.aclose()

    async def _call(self, method: str, request: Any, response: Any, tenant: str, committer: str = "") -> Any:
        metadata = [("x-soma-tenant", tenant)] if tenant != "default" else []
        if committer:
            metadata.append(("x-soma-client", committer))
        call = next(self._channels).unary_unary(
            f"/sfm.v1.RhoStore/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return await call(request, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            raise refusal_of(error).error from error

    async def commit(self, ask: Ask, *changes: Put | Delete) -> Commit:
        request = rho_store_pb2.CommitRhoRequest(updates=[update_message(c) for c in changes], **_asked(ask))
        done = await self._call("CommitRho", request, rho_store_pb2.CommitRhoResponse, ask.tenant, ask.committer)
        return Commit(done.version, us_of(done.commit_time), tuple(map(_receipt, done.receipts)), done.replayed)

    async def restore(self, ask: Ask, version: int) -> Restored:
        request = rho_store_pb2.RestoreRhoRequest(**_asked(ask))
        if version == LAST_VALID:
            request.last_valid.SetInParent()
        else:
            request.version = version
        done = await self._call("RestoreRho", request, rho_store_pb2.RestoreRhoResponse, ask.tenant, ask.committer)
        return Restored(done.version, us_of(done.commit_time), done.restored_version, _entries(done.entries), done.replayed)

    async def get(
        self,
        namespace: str,
        *keys: str,
        tenant: str = "default",
        version: int | None = None,
        canonical: bool = False,
        min_version: int = 0,
        max_staleness_s: float | None = None,
        known_version: int = 0,
        numbers: bool = True,
    ) -> Read:
        request = rho_store_pb2.GetRhoRequest(
            namespace=namespace,
            keys=keys,
            known_version=known_version,
            view=rho_store_pb2.VIEW_FULL if numbers else rho_store_pb2.VIEW_SUMMARY,
        )
        if version is not None:
            request.version = version
        elif canonical or min_version or max_staleness_s is not None:
            request.freshness.min_version = min_version
            if canonical:
                request.freshness.consistency = rho_store_pb2.CONSISTENCY_CANONICAL
            if max_staleness_s is not None:
                request.freshness.max_staleness.CopyFrom(Duration(seconds=int(max_staleness_s)))
        found = await self._call("GetRho", request, rho_store_pb2.GetRhoResponse, tenant)
        return Read(
            version=found.version,
            time_us=us_of(found.commit_time),
            as_of_us=us_of(found.as_of_time),
            cached=found.source == rho_store_pb2.SOURCE_CACHE,
            degraded=found.degraded,
            not_modified=found.not_modified,
            matrices={m.key: held_of(m) for m in found.matrices},
        )

    async def versions(self, namespace: str, *, page_size: int = 0, page_token: str = "", tenant: str = "default") -> Page:
        request = rho_store_pb2.ListRhoVersionsRequest(namespace=namespace, page_size=page_size, page_token=page_token)
        found = await self._call("ListRhoVersions", request, rho_store_pb2.ListRhoVersionsResponse, tenant)
        return Page([_version(v) for v in found.versions], found.next_page_token, found.newest_version, found.oldest_version)


# ---- one of many -------------------------------------------------------------------------------------------------------


class Guest:
    """A door to a server that others use too: its tenants are not theirs."""

    def __init__(self, driver: Driver, tenant: str) -> None:
        self._driver = driver
        self._tenant = tenant
        self.settings = driver.settings

    def _own(self, tenant: str) -> str:
        return f"{self._tenant}-{tenant}"

    def _asked(self, ask: Ask) -> Ask:
        return replace(ask, tenant=self._own(ask.tenant))

    async def open(self) -> None:
        """It is."""

    async def close(self) -> None:
        """It stays open, for the others."""

    async def commit(self, ask: Ask, *changes: Put | Delete) -> Commit:
        return await self._driver.commit(self._asked(ask), *changes)

    async def restore(self, ask: Ask, version: int) -> Restored:
        return await self._driver.restore(self._asked(ask), version)

    async def get(self, namespace: str, *keys: str, tenant: str = "default", **how: Any) -> Read:
        return await self._driver.get(namespace, *keys, tenant=self._own(tenant), **how)

    async def versions(self, namespace: str, *, page_size: int = 0, page_token: str = "", tenant: str = "default") -> Page:
        return await self._driver.versions(namespace, page_size=page_size, page_token=page_token, tenant=self._own(tenant))


def update_message(change: Put | Delete) -> rho_store_pb2.MatrixUpdate:
    """One change as its message."""
    if isinstance(change, Delete):
        return rho_store_pb2.MatrixUpdate(key=change.key, delete=rho_store_pb2.DeleteMatrix())
    return rho_store_pb2.MatrixUpdate(key=change.key, max_step=change.max_step, put=matrix_message(change))


def matrix_message(put: Put) -> matrix_pb2.Matrix:
    """One matrix as its message."""
    matrix = matrix_pb2.Matrix(kind=put.kind.value if put.kind else 0, digest=put.digest)
    if put.described:
        matrix.envelope = put.body()
        return matrix
    matrix.dtype = put.dtype.value
    matrix.shape.extend(put.array.shape)
    if put.form == "data":
        matrix.data = put.body()
    elif put.form == "factor":
        matrix.factor.data = put.body()
    else:
        matrix.double_values.values.extend(put.array.astype("<f8").ravel())
        matrix.double_values.SetInParent()
    return matrix


def _asked(ask: Ask) -> dict[str, Any]:
    return {
        "namespace": ask.namespace,
        "expected_version": ask.expected,
        "request_id": ask.request_id,
        "metadata": ask.metadata,
        "validate_only": ask.validate_only,
    }


def us_of(time: Timestamp) -> int:
    return time.ToMicroseconds()


def certificate_of(c: matrix_pb2.Certificate) -> Certificate:
    """The certificate of a message, field by field."""
    rows, columns = c.shape
    return Certificate(
        kind=Kind(c.kind),
        layout=Layout(c.layout),
        dtype=Dtype(c.dtype),
        shape=(rows, columns),
        digest=c.digest,
        valid=c.valid,
        min_eigenvalue_bound=c.min_eigenvalue_bound,
        psd_method=PsdMethod(c.psd_method),
        trace_error=c.trace_error,
        asymmetry=c.asymmetry,
        epsilon=c.epsilon,
        trace_tolerance=c.trace_tolerance,
        hermitian_tolerance=c.hermitian_tolerance,
        clamped_mass=c.clamped_mass,
        psd_ok=c.psd_ok,
        trace_ok=c.trace_ok,
        certify_time_us=us_of(c.certify_time),
    )


def _receipt(r: rho_store_pb2.MatrixReceipt) -> Receipt:
    certificate = certificate_of(r.certificate) if r.HasField("certificate") else None
    return Receipt(r.key, certificate, r.step if r.HasField("step") else None, r.digest, r.clamped, r.deleted)


def _entries(found: Any) -> tuple[Entry, ...]:
    return tuple(Entry(e.key, certificate_of(e.certificate), e.put_version) for e in found)


def _version(v: rho_store_pb2.RhoVersion) -> Version:
    return Version(
        version=v.version,
        commit_time_us=us_of(v.commit_time),
        committer=v.committer,
        metadata=dict(v.metadata),
        valid=v.valid,
        restored_version=v.restored_version,
        entries=_entries(v.entries),
        changed_keys=tuple(v.changed_keys),
    )


def held_of(named: rho_store_pb2.NamedMatrix) -> Held:
    """One matrix of an answer, whose description must agree with its certificate."""
    m, c = named.matrix, certificate_of(named.certificate)
    assert (m.kind, m.dtype, tuple(m.shape), m.digest) == (c.kind, c.dtype, c.shape, c.digest)
    content = m.WhichOneof("content")
    numbers = {None: None, "data": m.data, "factor": m.factor.data}[content]
    if content is not None:
        assert (content == "factor") == (c.layout is Layout.FACTOR)
    return Held(c, named.put_version, numbers)


DRIVERS: dict[str, type[Driver]] = {
    "in_process": InProcess,
    "grpc": OverGrpc,
}


async def put(driver: Driver, namespace: str, expected: int, *changes: Put | Delete, **said: Any) -> Commit:
    """Commits changes at `expected`."""
    return await driver.commit(Ask(namespace=namespace, expected=expected, **said), *changes)


async def series(driver: Driver, namespace: str, count: int, *, start: int = 0, **said: Any) -> list[Array]:
    """Commits `count` different ρ, one after the other; returns them."""
    sent = [density(seed=start + place + 1) for place in range(count)]
    for place, rho in enumerate(sent):
        await put(driver, namespace, start + place, Put("rho", rho), **said)
    return sent
