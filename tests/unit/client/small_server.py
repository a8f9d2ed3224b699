"""A small honest server of sfm.v1 on a real port: versions, CAS, request ids, conditional reads; no proofs, no disk.

It parses and writes with protobuf alone, so that the client's zero-copy wire is judged by somebody else. Tests reach into its
calls: `before` runs first and may fail, sleep or commit something in between.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from sfm.v1 import health_pb2, matrix_pb2, memory_store_pb2, pruner_pb2, rho_store_pb2

from sfm_grpc import wire
from sfm_grpc.errors import NotFound, SfmError, VersionConflict, VersionNotReached

MESSAGE_BYTES = 80 << 20
TIME_S = 1_700_000_000


@dataclass
class Kept:
    """One namespace: what each version held."""

    versions: list[dict[str, rho_store_pb2.NamedMatrix]] = field(default_factory=lambda: [{}])
    answers: dict[str, bytes] = field(default_factory=dict)

    @property
    def newest(self) -> int:
        return len(self.versions) - 1


@dataclass
class Seen:
    """One call as it arrived."""

    method: str
    raw: bytes
    request: Any
    metadata: dict[str, Any]
    reply_bytes: int = 0


class SmallServer:
    """Serves until `stop`. Everything is public: this is a test's to look at."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Kept] = {}
        self.seen: list[Seen] = []
        self.before: Callable[[Seen, grpc.ServicerContext], None] = lambda seen, context: None
        self.clamp = False
        self.aligned = True
        self.page_size = 3
        self.ending: list[SfmError] = []
        """What streams of WatchRho end with, one each."""
        self.streamed: list[bytes] = []
        """What the streams of MemoryStore tell, each of them."""
        self.holding = False
        """They stay open after that, until the caller ends them."""
        self.ended = threading.Event()
        """One of them is over."""
        self.told: dict[str, bytes] = {}
        """What the methods of MemoryStore and Pruner answer, by name; an empty message where nothing is said."""
        self._lock = threading.Lock()
        self.port = 0
        self.start()

    def start(self) -> None:
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.server(ThreadPoolExecutor(8), options=options)
        for service, methods in _SERVICES.items():
            handlers = {name: self._handler(name, kind) for name, kind in methods.items()}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def calls(self, method: str) -> list[Seen]:
        return [s for s in self.seen if s.method == method]

    def _handler(self, method: str, kind: Any) -> grpc.RpcMethodHandler:
        if method == "WatchRho":
            return grpc.unary_stream_rpc_method_handler(self._watched(kind))
        if method in ("VerifyIndex", "RepairIndex"):
            return grpc.unary_stream_rpc_method_handler(self._streamed(method, kind))

        def serve(raw: bytes, context: grpc.ServicerContext) -> bytes:
            seen = Seen(method, raw, kind.FromString(raw), dict(context.invocation_metadata()))
            self.seen.append(seen)
            try:
                self.before(seen, context)
                with self._lock:
                    reply: bytes = self.told.get(method, b"") if method in _TOLD else getattr(self, method)(seen.request)
            except SfmError as error:
                fail(context, error)
            seen.reply_bytes = len(reply)
            return reply

        return grpc.unary_unary_rpc_method_handler(serve)

    def _watched(self, kind: Any) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
        def serve(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            seen = Seen("WatchRho", raw, kind.FromString(raw), dict(context.invocation_metadata()))
            self.seen.append(seen)
            try:
                self.before(seen, context)
                yield from self.WatchRho(seen.request, context)
            except SfmError as error:
                fail(context, error)

        return serve

    def _streamed(self, method: str, kind: Any) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
        def serve(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            seen = Seen(method, raw, kind.FromString(raw), dict(context.invocation_metadata()))
            self.seen.append(seen)
            try:
                self.before(seen, context)
            except SfmError as error:
                fail(context, error)
            context.add_callback(self.ended.set)
            yield from self.streamed
            if self.holding:
                self.ended.wait(10)

        return serve

    # ---- the methods

    def WatchRho(self, request: rho_store_pb2.WatchRhoRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        """A bookmark at once where there is nothing to tell, and one after each version."""
        kept = self.namespaces.setdefault(request.namespace, Kept())
        at = request.after_version if request.HasField("after_version") else max(0, kept.newest - 1)
        told = -1
        while context.is_active():
            if self.ending:
                raise self.ending.pop()
            if at > kept.newest:
                raise VersionNotReached(namespace=request.namespace, min_version=at, current=kept.newest)
            if at < kept.newest:
                at = kept.newest if request.newest_only else at + 1
                yield self._told(request, at, kept.versions[at])
            elif told < at:
                told = at
                reply = rho_store_pb2.WatchRhoResponse(version=at, bookmark=True, as_of_time={"seconds": TIME_S + 200 + at})
                yield reply.SerializeToString()
            else:
                time.sleep(0.002)

    def _told(self, request: Any, version: int, held: dict[str, rho_store_pb2.NamedMatrix]) -> bytes:
        reply = rho_store_pb2.WatchRhoResponse(
            version=version, commit_time={"seconds": TIME_S + version}, as_of_time={"seconds": TIME_S + 100 + version},
            committer="c", metadata={"a": "b"}, changed_keys=list(held), valid=True,
        )  # fmt: skip
        for key in sorted(set(request.keys or held) & set(held)):
            named = reply.matrices.add()
            named.CopyFrom(held[key])
            if request.view != rho_store_pb2.VIEW_FULL:
                named.matrix.ClearField(named.matrix.WhichOneof("content"))
        return reply.SerializeToString()

    def CommitRho(self, request: rho_store_pb2.CommitRhoRequest) -> bytes:
        kept = self.namespaces.setdefault(request.namespace, Kept())
        if request.request_id in kept.answers:
            first = rho_store_pb2.CommitRhoResponse.FromString(kept.answers[request.request_id])
            first.replayed = True
            return first.SerializeToString()
        self._expect(kept, request)
        held = dict(kept.versions[-1])
        version = kept.newest + 1
        reply = rho_store_pb2.CommitRhoResponse(version=version, commit_time={"seconds": TIME_S + version, "nanos": 7000})
        for update in request.updates:
            if update.WhichOneof("change") == "delete":
                held.pop(update.key, None)
                reply.receipts.add(key=update.key, deleted=True)
                continue
            certificate = self._certificate(update.put)
            held[update.key] = rho_store_pb2.NamedMatrix(
                key=update.key, certificate=certificate, put_version=version, matrix=update.put
            )
            reply.receipts.add(key=update.key, digest=certificate.digest, clamped=self.clamp, certificate=certificate, step=0.5)
        if not request.validate_only:
            kept.versions.append(held)
            kept.answers[request.request_id] = reply.SerializeToString()
        return reply.SerializeToString()

    def GetRho(self, request: rho_store_pb2.GetRhoRequest) -> bytes:
        kept = self._kept(request.namespace)
        if request.freshness.min_version > kept.newest:
            raise VersionNotReached(namespace=request.namespace, min_version=request.freshness.min_version, current=kept.newest)
        version = request.version if request.WhichOneof("at") == "version" else kept.newest
        held = kept.versions[version]
        if absent := tuple(k for k in request.keys if k not in held):
            raise NotFound(what="key", namespace=request.namespace, names=absent, current=version)
        reply = rho_store_pb2.GetRhoResponse(
            version=version, commit_time={"seconds": TIME_S + version}, source=rho_store_pb2.SOURCE_CACHE
        )
        if request.WhichOneof("at") != "version":
            reply.as_of_time.seconds = TIME_S + 100
        if request.known_version == version:
            reply.not_modified = True
            return reply.SerializeToString()
        for key in sorted(request.keys or held):
            named = reply.matrices.add()
            named.CopyFrom(held[key])
            named.matrix.ClearField("padding")
            if request.view != rho_store_pb2.VIEW_FULL:
                named.matrix.ClearField(named.matrix.WhichOneof("content"))
        raw = reply.SerializeToString()
        if not self.aligned:
            return raw
        return wire.join(*_through_protobuf(raw))

    def ListRhoVersions(self, request: rho_store_pb2.ListRhoVersionsRequest) -> bytes:
        kept = self._kept(request.namespace)
        newest = int(request.page_token or kept.newest)
        oldest = max(1, newest - (request.page_size or self.page_size) + 1)
        reply = rho_store_pb2.ListRhoVersionsResponse(newest_version=kept.newest, oldest_version=1)
        reply.next_page_token = str(oldest - 1) if oldest > 1 else ""
        for version in range(newest, oldest - 1, -1):
            named = kept.versions[version].values()
            entries = [{"key": n.key, "certificate": n.certificate, "put_version": n.put_version} for n in named]
            reply.versions.add(
                version=version, commit_time={"seconds": TIME_S + version}, committer="c", metadata={"a": "b"}, entries=entries
            )
        return reply.SerializeToString()

    def RestoreRho(self, request: rho_store_pb2.RestoreRhoRequest) -> bytes:
        kept = self._kept(request.namespace)
        self._expect(kept, request)
        source = request.version if request.WhichOneof("target") == "version" else kept.newest - 1
        kept.versions.append(kept.versions[source])
        entries = [{"key": n.key, "certificate": n.certificate, "put_version": n.put_version} for n in kept.versions[-1].values()]
        reply = rho_store_pb2.RestoreRhoResponse(version=kept.newest, restored_version=source, entries=entries)
        return reply.SerializeToString()

    def GetHealth(self, request: health_pb2.GetHealthRequest) -> bytes:
        reply = health_pb2.GetHealthResponse(ok=True, live=True, namespaces=len(self.namespaces), start_time={"seconds": TIME_S})
        reply.rho.add(tenant="default", namespace=request.namespace or "n", version=3, psd_ok=True)
        reply.latencies.add(
            operation="read", p95={"nanos": 2_000_000}, bound={"nanos": 60_000_000}, window={"seconds": 60}, ok=True
        )
        reply.components.add(name="store", ok=True, detail="small")
        return reply.SerializeToString()

    def GetServerInfo(self, request: health_pb2.GetServerInfoRequest) -> bytes:
        reply = health_pb2.GetServerInfoResponse(version="3", store="small", epsilon=1e-8, services=["sfm.v1.RhoStore"])
        reply.limits.add(name="message_bytes_max", value=MESSAGE_BYTES)
        return reply.SerializeToString()

    # ---- inside

    def _kept(self, namespace: str) -> Kept:
        kept = self.namespaces.get(namespace)
        if kept is None or kept.newest == 0:
            raise NotFound(what="namespace", namespace=namespace)
        return kept

    def _expect(self, kept: Kept, request: Any) -> None:
        if request.expected_version != kept.newest:
            raise VersionConflict(
                namespace=request.namespace,
                expected=request.expected_version,
                current=kept.newest,
                committer="other",
                commit_time_us=0,
            )

    def _certificate(self, matrix: matrix_pb2.Matrix) -> matrix_pb2.Certificate:
        factor = matrix.HasField("factor")
        numbers = matrix.factor.data if factor else matrix.data
        matrix.digest = hashlib.sha256(numbers).digest()
        return matrix_pb2.Certificate(
            kind=matrix.kind, layout=2 if factor else 1, dtype=matrix.dtype, shape=matrix.shape, digest=matrix.digest,
            valid=True, clamped_mass=1e-9 if self.clamp else 0.0, certify_time={"seconds": TIME_S},
        )  # fmt: skip


def _through_protobuf(raw: bytes) -> tuple[bytes, wire.Spec, list[memoryview]]:
    skeleton, bodies = wire.split(raw, wire.GET_RESPONSE)
    return rho_store_pb2.GetRhoResponse.FromString(skeleton).SerializeToString(), wire.GET_RESPONSE, bodies


def fail(context: grpc.ServicerContext, error: SfmError) -> None:
    """Ends the call as the project's servers do: google.rpc.Status with one ErrorInfo, and the request id."""
    code = grpc.StatusCode[error.code.value]
    status = status_pb2.Status(code=code.value[0], message=error.sentence())
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain="sfm", metadata=error.facts()))
    status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "req-1")))
    context.abort(code, error.sentence())


_RHO_STORE = {
    "CommitRho": rho_store_pb2.CommitRhoRequest,
    "GetRho": rho_store_pb2.GetRhoRequest,
    "ListRhoVersions": rho_store_pb2.ListRhoVersionsRequest,
    "RestoreRho": rho_store_pb2.RestoreRhoRequest,
    "WatchRho": rho_store_pb2.WatchRhoRequest,
}
_HEALTH = {"GetHealth": health_pb2.GetHealthRequest, "GetServerInfo": health_pb2.GetServerInfoRequest}
_MEMORY_STORE = {
    method.name: getattr(memory_store_pb2, method.input_type.name)
    for method in memory_store_pb2.DESCRIPTOR.services_by_name["MemoryStore"].methods
}
_PRUNER = {
    method.name: getattr(pruner_pb2, method.input_type.name)
    for method in pruner_pb2.DESCRIPTOR.services_by_name["Pruner"].methods
}
_TOLD = _MEMORY_STORE | _PRUNER
_SERVICES = {
    "sfm.v1.RhoStore": _RHO_STORE,
    "sfm.v1.MemoryStore": _MEMORY_STORE,
    "sfm.v1.Pruner": _PRUNER,
    "sfm.v1.Health": _HEALTH,
}
