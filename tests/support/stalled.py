"""A caller that asks and does not take the answers: HTTP/2 by hand, with the windows left as they are."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4


@contextlib.asynccontextmanager
async def stalled_calls(address: str, method: str, request: bytes, count: int) -> AsyncIterator[None]:
    """`count` calls of one connection that stay open, their answers with the server, until the end of the block.

    The connection itself is read, as a healthy client's is: only flow control holds the answers back.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
    message = b"\0" + struct.pack(">I", len(request)) + request
    for stream in range(1, 2 * count, 2):
        writer.write(_frame(_HEADERS, _END_HEADERS, stream, _headers(method)))
        writer.write(_frame(_DATA, _END_STREAM, stream, message))
    reading = asyncio.create_task(_read(reader))
    try:
        await writer.drain()
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(method: str) -> bytes:
    """Literal fields without indexing (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "test",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in fields.items())
