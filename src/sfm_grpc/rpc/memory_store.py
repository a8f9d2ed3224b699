"""sfm.v1.MemoryStore: check, call, translate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sfm.v1 import memory_store_pb2
from sfm.v1.memory_store_pb2 import (
    BatchDeleteMemoriesResponse,
    BatchGetMemoriesResponse,
    BatchPutMemoriesResponse,
    DeleteMemoryResponse,
    GetMemoryResponse,
    GetMemoryStatsResponse,
    ListMemoriesResponse,
    PurgeMemoriesResponse,
    PutMemoryResponse,
    SearchMemoriesResponse,
    UndeleteMemoriesResponse,
)

from sfm_grpc.coordinator.indexing import Indexer
from sfm_grpc.coordinator.memories import MemoryCoordinator, MemoryMutation, Written
from sfm_grpc.coordinator.search import MemorySearch
from sfm_grpc.rpc import convert, memory_convert
from sfm_grpc.rpc.caller import Context, Mutating, mutation_of, scope_of

# As many messages as are made between two turns of the event loop; more are made on a thread.
_MESSAGES_AT_ONCE = 100
# A put is answered so long before its deadline, indexed or not.
_ANSWER_S = 0.05

_Put = memory_store_pb2.PutMemoryRequest | memory_store_pb2.BatchPutMemoriesRequest


class MemoryStoreServicer:
    """The RPCs of MemoryStore that are about memories. What puts memories takes raw bytes, as it may be larger than others."""

    def __init__(
        self,
        memories: MemoryCoordinator,
        search: MemorySearch,
        indexer: Indexer,
        *,
        deadline: Callable[[Context], float],
        batch_bytes_max: int,
    ) -> None:
        self._memories = memories
        self._search = search
        self._indexer = indexer
        self._deadline = deadline
        self._batch_bytes_max = batch_bytes_max

    def _mutation(self, method: str, request: Mutating, context: Context) -> MemoryMutation:
        return mutation_of(method, request, context, self._deadline(context))

    # ---- writing

    async def PutMemory(self, raw: bytes, context: Context) -> PutMemoryResponse:  # noqa: N802
        """See memory_store.proto."""
        request = convert.parsed(memory_store_pb2.PutMemoryRequest, raw, self._batch_bytes_max, "batch_bytes_max")
        sent = memory_convert.sent([request.put], ["put"])
        done = await self._memories.put(self._mutation("PutMemory", request, context), sent)
        indexed = await self._indexed(request, done, context)
        return PutMemoryResponse(receipt=memory_convert.receipt(done.receipts[0]), replayed=done.replayed, indexed=indexed)

    async def BatchPutMemories(self, raw: bytes, context: Context) -> BatchPutMemoriesResponse:  # noqa: N802
        """See memory_store.proto."""
        request = convert.parsed(memory_store_pb2.BatchPutMemoriesRequest, raw, self._batch_bytes_max, "batch_bytes_max")
        sent = memory_convert.sent(request.puts, [f"puts[{place}]" for place in range(len(request.puts))])
        done = await self._memories.put(self._mutation("BatchPutMemories", request, context), sent)
        indexed = await self._indexed(request, done, context)
        receipts = memory_convert.receipts(done.receipts)
        return BatchPutMemoriesResponse(receipts=receipts, replayed=done.replayed, indexed=indexed)

    async def _indexed(self, request: _Put, done: Written, context: Context) -> bool:
        """Waits for the index where that was asked for; whether it has all that was written."""
        wait_s = memory_convert.wait_of(request)
        if wait_s is None or request.validate_only:
            return False
        until_s = min(self._deadline(context) - _ANSWER_S, time.monotonic() + wait_s)
        newest = max(r.revision for r in done.receipts)
        return await self._indexer.until_indexed(scope_of(context, request.namespace), newest, until_s)

    async def DeleteMemory(  # noqa: N802
        self, request: memory_store_pb2.DeleteMemoryRequest, context: Context
    ) -> DeleteMemoryResponse:
        """See memory_store.proto."""
        if_revision = request.if_revision if request.HasField("if_revision") else None
        mutation = self._mutation("DeleteMemory", request, context)
        done = await self._memories.delete(mutation, [request.key], if_revision)
        return DeleteMemoryResponse(receipt=memory_convert.receipt(done.receipts[0]), replayed=done.replayed)

    async def BatchDeleteMemories(  # noqa: N802
        self, request: memory_store_pb2.BatchDeleteMemoriesRequest, context: Context
    ) -> BatchDeleteMemoriesResponse:
        """See memory_store.proto."""
        done = await self._memories.delete(self._mutation("BatchDeleteMemories", request, context), request.keys)
        return BatchDeleteMemoriesResponse(receipts=memory_convert.receipts(done.receipts), replayed=done.replayed)

    async def UndeleteMemories(  # noqa: N802
        self, request: memory_store_pb2.UndeleteMemoriesRequest, context: Context
    ) -> UndeleteMemoriesResponse:
        """See memory_store.proto."""
        done = await self._memories.undelete(self._mutation("UndeleteMemories", request, context), request.keys)
        return UndeleteMemoriesResponse(receipts=memory_convert.receipts(done.receipts), replayed=done.replayed)

    async def PurgeMemories(  # noqa: N802
        self, request: memory_store_pb2.PurgeMemoriesRequest, context: Context
    ) -> PurgeMemoriesResponse:
        """See memory_store.proto."""
        done = await self._memories.purge(self._mutation("PurgeMemories", request, context), request.keys)
        return PurgeMemoriesResponse(receipts=memory_convert.receipts(done.receipts), replayed=done.replayed)

    # ---- reading

    async def GetMemory(  # noqa: N802
        self, request: memory_store_pb2.GetMemoryRequest, context: Context
    ) -> GetMemoryResponse:
        """See memory_store.proto."""
        found = await self._memories.get(scope_of(context, request.namespace), request.key, vector=request.with_vector)
        return GetMemoryResponse(memory=memory_convert.memory(found))

    async def BatchGetMemories(  # noqa: N802
        self, request: memory_store_pb2.BatchGetMemoriesRequest, context: Context
    ) -> BatchGetMemoriesResponse:
        """See memory_store.proto."""
        scope = scope_of(context, request.namespace)
        found, missing = await self._memories.batch_get(scope, request.keys, vectors=request.with_vectors)
        if len(found) <= _MESSAGES_AT_ONCE:
            return BatchGetMemoriesResponse(memories=memory_convert.memories(found), missing=missing)
        return await asyncio.to_thread(lambda: BatchGetMemoriesResponse(memories=memory_convert.memories(found), missing=missing))

    async def ListMemories(  # noqa: N802
        self, request: memory_store_pb2.ListMemoriesRequest, context: Context
    ) -> ListMemoriesResponse:
        """See memory_store.proto."""
        found, token = await self._memories.page(memory_convert.listing(request, scope_of(context, request.namespace)))
        if len(found) <= _MESSAGES_AT_ONCE:
            return ListMemoriesResponse(memories=memory_convert.memories(found), next_page_token=token)
        return await asyncio.to_thread(
            lambda: ListMemoriesResponse(memories=memory_convert.memories(found), next_page_token=token)
        )

    async def SearchMemories(  # noqa: N802
        self, request: memory_store_pb2.SearchMemoriesRequest, context: Context
    ) -> SearchMemoriesResponse:
        """See memory_store.proto."""
        query = memory_convert.search(request, scope_of(context, request.namespace))
        return memory_convert.neighbours(await self._search.search(query))

    async def GetMemoryStats(  # noqa: N802
        self, request: memory_store_pb2.GetMemoryStatsRequest, context: Context
    ) -> GetMemoryStatsResponse:
        """See memory_store.proto."""
        chosen = memory_convert.memory_filter(request.filter, "filter")
        found = await self._memories.stats(scope_of(context, request.namespace), chosen)
        return GetMemoryStatsResponse(types=[memory_convert.type_stats(each) for each in found])
