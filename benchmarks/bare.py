"""The peer of reads and uploads: gRPC and nothing on it. Identity serializers, handlers that return or take bytes."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks.matrices import Array, density
from sfm_grpc.allocator import keep_large_blocks
from sfm_grpc.client.channel import Endpoint
from sfm_grpc.rpc import server as product
from sfm_grpc.settings import load

SIZES = (64, 256, 384, 1024)
"""Dimensions whose bytes it serves: 32 KiB, 512 KiB, 1.1 MiB, 8 MiB."""

_SERVICE = "bare.Bytes"


async def started() -> tuple[grpc.aio.Server, int]:
    """A started server, with the product's own options, and its port."""
    server = grpc.aio.server(options=product._options(load()))
    bodies = {n: density(n).tobytes() for n in SIZES}

    def giver(body: bytes) -> Any:
        async def give(_request: bytes, _context: Any) -> bytes:
            return body

        return give

    async def take(_request: bytes, _context: Any) -> bytes:
        return b"ok"

    handlers: dict[str, Any] = {f"Get{n}": grpc.unary_unary_rpc_method_handler(giver(body)) for n, body in bodies.items()}
    handlers["Put"] = grpc.unary_unary_rpc_method_handler(take)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


def channel_options(address: str) -> list[tuple[str, str | int]]:
    """The options that our client gives its channel to `address`."""
    keep_large_blocks()
    return Endpoint(address, "default", "bench", 10.0, None, 64 << 20, wait_for_ready=False).options


class BareClient:
    """gRPC's blocking client with identity serializers."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, channel_options(address))
        self._get: dict[int, Any] = {n: self._channel.unary_unary(f"/{_SERVICE}/Get{n}") for n in SIZES}
        self._put: Any = self._channel.unary_unary(f"/{_SERVICE}/Put")

    def read(self, n: int) -> Array:
        """The n×n matrix, a view of the message."""
        return np.frombuffer(self._get[n](b"", timeout=10.0), np.float64).reshape(n, n)

    def upload(self, body: bytes) -> bytes:
        """Sends bytes."""
        answer: bytes = self._put(body, timeout=10.0)
        return answer

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()
