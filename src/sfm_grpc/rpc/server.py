"""The gRPC server: handlers from the proto's own descriptors, options, interceptors, reflection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import grpc
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import Server
from grpc_health.v1 import health_pb2 as probe_pb2
from grpc_health.v1 import health_pb2_grpc as probe_pb2_grpc
from grpc_reflection.v1alpha import reflection
from sfm.v1 import events_pb2, health_pb2, memory_store_pb2, pruner_pb2, rho_store_pb2

from sfm_grpc.rpc import convert
from sfm_grpc.rpc.caller import Context
from sfm_grpc.rpc.grpc_health import ProbeServicer
from sfm_grpc.rpc.interceptors import HEADROOM_BYTES, CallGuard
from sfm_grpc.settings import Settings, split_address

PACKAGE = "sfm.v1"
DESCRIPTORS: Mapping[str, ServiceDescriptor] = {
    d.name: d
    for d in (
        rho_store_pb2.DESCRIPTOR.services_by_name["RhoStore"],
        memory_store_pb2.DESCRIPTOR.services_by_name["MemoryStore"],
        events_pb2.DESCRIPTOR.services_by_name["Events"],
        pruner_pb2.DESCRIPTOR.services_by_name["Pruner"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
    )
}
SERVICES: Sequence[str] = tuple(d.full_name for d in DESCRIPTORS.values())

# Whose servicers take bytes: CommitRho and ApplyPrune for their numbers, GetRho because the same bytes ask the same, what puts
# memories because it may be larger than other requests.
RAW_REQUESTS = frozenset({"ApplyPrune", "CommitRho", "GetRho", "PutMemory", "BatchPutMemories", "ImportMemories"})


# Health checks and watches that a connection may have besides.
_HEALTH_STREAMS = 100


def build(settings: Settings, servicers: Mapping[str, Sequence[object]], probe: ProbeServicer, guard: CallGuard) -> Server:
    """A server with everything on it, not bound and not started. `servicers`: by service name, each has some of its methods."""
    server = grpc.aio.server(interceptors=(guard,), options=_options(settings))
    for name, parts in servicers.items():
        descriptor = DESCRIPTORS[name]
        handlers = _handlers(descriptor, parts, settings.fields_bytes_max)
        if name == "Health":
            # Known by name to gRPC, each method has a queue of its own there: its calls do not wait behind reads. For all
            # methods that would cost each call 20 µs.
            server.add_registered_method_handlers(descriptor.full_name, handlers)
        else:
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(descriptor.full_name, handlers),))
    probe_pb2_grpc.add_HealthServicer_to_server(probe, server)
    names = (*SERVICES, probe_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=cast(DescriptorPool, _ReflectedPool()))
    return server


class _ReflectedPool:
    """The default pool, which also knows in which file a method or a field is: `grpcurl describe` asks for them by name."""

    def __init__(self) -> None:
        self._pool = Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        """Raises KeyError when neither the symbol nor what it is a part of is known."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0])


def bind(server: Server, settings: Settings) -> str:
    """Opens the port; returns the address it listens on. Raises OSError with a sentence."""
    host, port = split_address(settings.listen)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if settings.tls_cert_file and settings.tls_key_file:
            bound = server.add_secure_port(address, _credentials(settings))
        else:
            bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{settings.listen} cannot be listened on: is it in use, or not this machine's?") from error
    return f"{address.rpartition(':')[0]}:{bound}"


def _handlers(
    descriptor: ServiceDescriptor, parts: Sequence[object], bytes_max: int
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in descriptor.methods:
        kind = None if method.name in RAW_REQUESTS else GetMessageClass(method.input_type)
        call = next(getattr(part, method.name) for part in parts if hasattr(part, method.name))
        if method.client_streaming:
            handlers[method.name] = grpc.stream_stream_rpc_method_handler(call)
        elif method.server_streaming:
            handlers[method.name] = grpc.unary_stream_rpc_method_handler(_streaming(call, kind, bytes_max))
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(_on_bytes(call, kind, bytes_max))
    return handlers


def _on_bytes(call: Callable[..., Any], kind: type[Message] | None, bytes_max: int) -> Callable[..., Any]:
    """`call` from bytes to bytes; `kind` None: it takes them itself, and checks their size itself.

    Under the guard, and not as gRPC's (de)serializers, whose failures the caller would be told of as UNKNOWN.
    """

    async def translated(raw: bytes, context: Context) -> bytes:
        answer = await call(raw if kind is None else convert.parsed(kind, raw, bytes_max), context)
        return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())

    return translated


def _streaming(call: Callable[..., Any], kind: type[Message] | None, bytes_max: int) -> Callable[..., Any]:
    """The same for a call that generates its answers, as bytes."""
    return lambda raw, context: call(raw if kind is None else convert.parsed(kind, raw, bytes_max), context)


def _options(settings: Settings) -> list[tuple[str, int]]:
    size = settings.message_bytes_max + HEADROOM_BYTES
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        # Two servers on one port would answer in turn with different stores.
        ("grpc.so_reuseport", 0),
        # Clients may ping an idle connection every ten seconds; more often is refused.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A connection's calls beyond this wait at the caller; those within are answered, if only with OVERLOADED.
        ("grpc.max_concurrent_streams", _streams_max(settings)),
        # A caller that is gone or stands still holds its answers' bytes no longer than this.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Counts the calls that gRPC has received: see `waiting`.
        ("grpc.enable_channelz", 1),
        ("grpc.max_channel_trace_event_memory_per_node", 0),
        # Errors carry their facts in trailing metadata.
        ("grpc.max_metadata_size", 64 * 1024),
    ]


def _streams_max(settings: Settings) -> int:
    streams = settings.watch_streams_max + settings.bulk_streams_max + settings.events_streams_max
    return 2 * (settings.concurrent_rpcs_max + streams) + _HEALTH_STREAMS


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_cert_file
    assert settings.tls_key_file
    pair = (settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes())
    authorities = settings.tls_client_ca_file.read_bytes() if settings.tls_client_ca_file else None
    return grpc.ssl_server_credentials([pair], root_certificates=authorities, require_client_auth=authorities is not None)
