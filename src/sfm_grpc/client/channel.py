"""Where the server is and how calls travel: the options of a gRPC channel, for the blocking and the asyncio client alike."""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from sfm_grpc.allocator import keep_large_blocks
from sfm_grpc.errors import InvalidRequest

MIB = 1 << 20

# What stands around the numbers in a message: names, certificates, metadata.
_MESSAGE_SLACK_BYTES = MIB
_SERVICES = ("sfm.v1.RhoStore", "sfm.v1.MemoryStore", "sfm.v1.Pruner", "sfm.v1.Events", "sfm.v1.Health")
# UNAVAILABLE only: every write carries a request id, so that its repetition is the same write. At most about 2 s in all.
_RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# Pings are sent while a call waits only. The time-out is also TCP_USER_TIMEOUT: a peer that is gone is noticed this soon.
_KEEPALIVE_TIME_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 5_000
# gRPC would wait longer and longer, up to two minutes, before it tries a server again that is back after seconds.
_RECONNECT_MS, _RECONNECT_MAX_MS = 100, 1_000

ChannelOptions: TypeAlias = list[tuple[str, str | int]]


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust and who to be. All PEM; nothing given: the system's authorities, no certificate of one's own."""

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    """With `certificate_chain`, for servers that ask for one."""
    certificate_chain: bytes | None = None
    server_name: str = ""
    """The name the server's certificate must carry, where it is not the target's."""

    @classmethod
    def from_files(
        cls,
        root_certificates: str | Path | None = None,
        private_key: str | Path | None = None,
        certificate_chain: str | Path | None = None,
        *,
        server_name: str = "",
    ) -> Tls:
        """The same from files. Raises OSError."""
        roots, key, chain = (Path(p).read_bytes() if p else None for p in (root_certificates, private_key, certificate_chain))
        return cls(roots, key, chain, server_name)

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC wants them."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server as one caller sees it."""

    target: str
    """`host:port`, or any gRPC name (`dns:///…`, `unix:…`).

    `ipv4:ADDRESS:PORT,ADDRESS:PORT` (`ipv6:[ADDRESS]:PORT,…`) are servers of one store: the first that can be reached is called
    until it is gone, then the next. With TLS, `Tls.server_name` is a name that the certificates of all of them carry.
    """
    tenant: str
    name: str
    """Who commits, `x-soma-client`."""
    timeout_s: float
    """The deadline of each call that names none."""
    tls: Tls | None
    message_bytes_max: int
    wait_for_ready: bool

    def __post_init__(self) -> None:
        keep_large_blocks()
        for field in ("tenant", "name"):
            text = getattr(self, field)
            if not (text.isascii() and text.isprintable()):
                raise InvalidRequest(field=field, problem=f"{text!r} must be printable ASCII: it travels as gRPC metadata")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What accompanies each call."""
        return (("x-soma-tenant", self.tenant), ("x-soma-client", self.name))

    @property
    def options(self) -> ChannelOptions:
        """The channel's options."""
        message_bytes = min(self.message_bytes_max + _MESSAGE_SLACK_BYTES, 2**31 - 1)
        options: ChannelOptions = [
            ("grpc.max_send_message_length", message_bytes),
            ("grpc.max_receive_message_length", message_bytes),
            # gRPC keeps what it may have to send again; above 256 KiB it would silently give up retrying.
            ("grpc.per_rpc_retry_buffer_size", message_bytes),
            # An error's facts travel in trailing metadata; gRPC's own limit is 8 KiB.
            ("grpc.max_metadata_size", 64 * 1024),
            ("grpc.service_config", _service_config()),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", _RECONNECT_MAX_MS),
            ("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_MS),
            ("grpc.primary_user_agent", "sfm-grpc-client"),
        ]
        if is_loopback(self.target):
            # A proxy of the environment cannot reach this machine's own loopback.
            options.append(("grpc.enable_http_proxy", 0))
        if self.tls and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options


def default_name() -> str:
    """`<program>@<host>`."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-", "-c", "-m") else "python"
    name = f"{program}@{socket.gethostname()}"
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)


def is_loopback(target: str) -> bool:
    """The target, or each of a list of them, is this machine's loopback, by address or by the name `localhost`."""
    scheme, _, listed = target.partition(":")
    addresses = listed.split(",") if scheme in ("ipv4", "ipv6") else [target.removeprefix("dns:///")]
    return all(_is_loopback_host(address.rsplit(":", 1)[0].strip("[]")) for address in addresses)


def _is_loopback_host(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _service_config() -> str:
    return json.dumps({"methodConfig": [{"name": [{"service": s} for s in _SERVICES], "retryPolicy": _RETRY_POLICY}]})
