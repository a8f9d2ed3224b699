"""MemoryStore as a test asks it: over gRPC, in few words; refusals are raised as the errors that the server raised."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sfm.v1 import memory_pb2, memory_store_pb2, memory_store_pb2_grpc

from tests.support.refusals import refusal_of

PARTS = ("payload_json", "memory_type", "importance", "coordinates", "vector", "expiry")


def vector_of(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def time_of(time_us: int) -> Timestamp:
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)


def us_of(time: Timestamp) -> int:
    return time.seconds * 1_000_000 + time.nanos // 1000


def put_of(key: str, payload: object = None, **how: Any) -> memory_pb2.MemoryPut:
    """A put: `payload` is text as it is, or made JSON; `how` has `vector`, `ttl_s`, `expire_us`, `mask`, and fields by name."""
    text = payload if isinstance(payload, str) else json.dumps({} if payload is None else payload)
    memory = memory_pb2.Memory(
        key=key,
        payload_json=text,
        memory_type=how.get("memory_type", ""),
        importance=how.get("importance", 0.0),
        coordinates=how.get("coordinates", ()),
    )
    if "vector" in how:
        given = how["vector"]
        memory.vector.data = given if isinstance(given, bytes) else vector_of(*given)
    if "ttl_s" in how:
        nanos = round(how["ttl_s"] * 1e9)
        memory.ttl.CopyFrom(Duration(seconds=nanos // 10**9, nanos=nanos % 10**9))
    if "expire_us" in how:
        memory.expire_time.CopyFrom(time_of(how["expire_us"]))
    put = memory_pb2.MemoryPut(memory=memory)
    if "mask" in how:
        put.update_mask.paths.extend(how["mask"])
    if how.get("create_only"):
        put.create_only = True
    if "if_revision" in how:
        put.if_revision = how["if_revision"]
    return put


class Memories:
    """One namespace of one tenant."""

    def __init__(self, channel: grpc.aio.Channel, namespace: str = "n", tenant: str = "default") -> None:
        self.stub: Any = memory_store_pb2_grpc.MemoryStoreStub(channel)
        self._channel = channel
        self.namespace, self.tenant = namespace, tenant

    def of(self, namespace: str, tenant: str = "") -> Memories:
        """Another namespace, of the same tenant or of another."""
        return Memories(self._channel, namespace, f"{self.tenant}-{tenant}" if tenant else self.tenant)

    async def ask(self, method: str, **said: Any) -> Any:
        request = getattr(memory_store_pb2, f"{method}Request")(**said)
        try:
            return await getattr(self.stub, method)(request, timeout=30, metadata=(("x-soma-tenant", self.tenant),))
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error).error from error

    # ---- writing

    async def put(self, key: str, payload: object = None, **how: Any) -> Any:
        said = {name: how.pop(name) for name in ("request_id", "validate_only") if name in how}
        return await self.ask("PutMemory", namespace=self.namespace, put=put_of(key, payload, **how), **said)

    async def puts(self, *puts: memory_pb2.MemoryPut, **said: Any) -> Any:
        return await self.ask("BatchPutMemories", namespace=self.namespace, puts=puts, **said)

    async def delete(self, key: str, **said: Any) -> Any:
        return await self.ask("DeleteMemory", namespace=self.namespace, key=key, **said)

    async def deletes(self, *keys: str, **said: Any) -> Any:
        return await self.ask("BatchDeleteMemories", namespace=self.namespace, keys=keys, **said)

    async def undelete(self, *keys: str, **said: Any) -> Any:
        return await self.ask("UndeleteMemories", namespace=self.namespace, keys=keys, **said)

    async def purge(self, *keys: str, **said: Any) -> Any:
        return await self.ask("PurgeMemories", namespace=self.namespace, keys=keys, **said)

    # ---- reading

    async def get(self, key: str, *, with_vector: bool = True) -> memory_pb2.Memory:
        found = await self.ask("GetMemory", namespace=self.namespace, key=key, with_vector=with_vector)
        return found.memory

    async def gets(self, *keys: str, with_vectors: bool = False) -> Any:
        return await self.ask("BatchGetMemories", namespace=self.namespace, keys=keys, with_vectors=with_vectors)

    async def page(self, **said: Any) -> Any:
        return await self.ask("ListMemories", namespace=self.namespace, **said)

    async def keys(self, **said: Any) -> list[str]:
        """Of all pages."""
        found: list[str] = []
        token = ""
        while True:
            page = await self.page(page_token=token, **said)
            found += [m.key for m in page.memories]
            token = page.next_page_token
            if not token:
                return found

    async def space(self) -> memory_store_pb2.Namespace:
        return (await self.ask("GetNamespace", namespace=self.namespace)).namespace


def outcomes(receipts: Sequence[memory_pb2.MemoryReceipt]) -> list[str]:
    return [memory_pb2.MemoryOutcome.Name(r.outcome).removeprefix("MEMORY_OUTCOME_").lower() for r in receipts]


def counts(space: memory_store_pb2.Namespace) -> Mapping[str, int]:
    return {name: getattr(space, name) for name in ("memories", "vectors", "payload_bytes", "tombstones")}
