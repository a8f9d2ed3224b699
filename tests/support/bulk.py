"""ImportMemories and ExportMemories as a test asks them: over gRPC, in few words."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
from sfm.v1 import memory_store_pb2

from tests.support.memories import Memories
from tests.support.refusals import Refusal, refusal_of

Request = memory_store_pb2.ImportMemoriesRequest


def line_of(key: str, payload: object = None, **how: Any) -> bytes:
    """A line; `vector` may be numbers, which become base64. What is None is left out."""
    said: dict[str, Any] = {"key": key, "payload": {} if payload is None else payload} | how
    if isinstance(said.get("vector"), tuple):
        said["vector"] = base64.b64encode(np.array(said["vector"], "<f4").tobytes()).decode()
    if "payload_json" in said:
        del said["payload"]
    return json.dumps({name: value for name, value in said.items() if value is not None}, ensure_ascii=False).encode()


def joined(*lines: bytes | str) -> bytes:
    return b"\n".join(line.encode() if isinstance(line, str) else line for line in lines)


class Import:
    """A stream of lines that is open."""

    def __init__(self, memories: Memories, **header: Any) -> None:
        self._header: Any = {"namespace": memories.namespace} | header
        metadata = (("x-soma-tenant", memories.tenant),)
        self.call: Any = memories.stub.ImportMemories(metadata=metadata, timeout=60)

    async def send(self, *lines: bytes | str, first_line: int = 0) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):  # who refuses before it has read all is asked for the reason by `told`
            await self.call.write(Request(header=self._header, lines=joined(*lines), first_line=first_line))
        self._header = None

    async def told(self) -> memory_store_pb2.ImportMemoriesResponse:
        try:
            return await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error).error from error

    async def end(self) -> None:
        """Sends no more; nothing more is told."""
        await self.call.done_writing()
        assert await self.told() is grpc.aio.EOF


async def imported(memories: Memories, *lines: bytes | str, **header: Any) -> memory_store_pb2.ImportMemoriesResponse:
    """What is told of one request of lines."""
    stream = Import(memories, **header)
    await stream.send(*lines)
    told = await stream.told()
    await stream.end()
    return told


def counts_of(told: memory_store_pb2.ImportMemoriesResponse) -> tuple[int, int, int, int]:
    """Created, updated, existing, failed."""
    return told.created, told.updated, told.existing, told.failed


class Resumed:
    """An import of many lines, a request of some at a time, that goes on from the last line that was answered for."""

    at_once = 50

    def __init__(self, lines: Sequence[bytes]) -> None:
        """`lines`: made by `line_of` of a key and a payload, in the order of the keys, each once."""
        self._lines = lines
        self.through = self.created = self.updated = 0

    async def go_on(self, memories: Memories, up_to: int | None = None) -> Refusal | None:
        """Sends what is left, or up to that line; by what it was refused, or None: all of it is answered for."""
        end = len(self._lines) if up_to is None else up_to
        call: Any = memories.stub.ImportMemories(timeout=60)
        header: Any = {"namespace": memories.namespace}
        try:
            while self.through < end:
                some = self._lines[self.through : min(self.through + self.at_once, end)]
                await call.write(Request(header=header, lines=joined(*some), first_line=self.through + 1))
                header, told = None, await call.read()
                assert (told.through_line, told.failed) == (self.through + len(some), 0)
                self.through, self.created, self.updated = (
                    told.through_line,
                    self.created + told.created,
                    self.updated + told.updated,
                )
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)
        finally:
            call.cancel()
        return None

    async def all_told(self, memories: Memories) -> bool:
        """Sends what is left; whether all of it is answered for."""
        return await self.go_on(memories) is None

    async def kept(self, memories: Memories) -> int:
        """How many memories there are: as many lines from the first on, each once and whole."""
        there = [line_of(each["key"], json.loads(each["payload_json"])) for each in lines_of(await exported(memories))]
        assert there == [*self._lines[: len(there)]]
        assert (await memories.space()).memories == len(there)
        return len(there)


async def exported(memories: Memories, **asked: Any) -> list[memory_store_pb2.ExportMemoriesResponse]:
    return [chunk async for chunk in chunks(memories, **asked)]


async def chunks(memories: Memories, **asked: Any) -> AsyncIterator[memory_store_pb2.ExportMemoriesResponse]:
    request = memory_store_pb2.ExportMemoriesRequest(namespace=memories.namespace, **asked)
    call = memories.stub.ExportMemories(request, metadata=(("x-soma-tenant", memories.tenant),), timeout=60)
    try:
        async for chunk in call:
            yield chunk
    except grpc.aio.AioRpcError as error:
        raise refusal_of(error).error from error
    finally:
        call.cancel()


def lines_of(found: Sequence[memory_store_pb2.ExportMemoriesResponse]) -> list[dict[str, Any]]:
    return [json.loads(line) for chunk in found for line in chunk.lines.splitlines()]
