"""The operations on memories, written once, as generators of steps (see `steps`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeVar, Unpack, cast

import numpy.typing as npt
from google.protobuf.message import Message
from sfm.v1 import memory_pb2, memory_store_pb2

from sfm_grpc.client import memory_convert
from sfm_grpc.client.convert import believed
from sfm_grpc.client.flows import new_request_id
from sfm_grpc.client.memory_records import (
    FilterOptions,
    FoundMemories,
    MemoryPage,
    MemoryPut,
    MemoryReceipt,
    MemoryRecord,
    MemoryTypeStats,
    MemoryUpdate,
    PutOptions,
    SearchResult,
    WriteOptions,
)
from sfm_grpc.client.steps import Call, Flow

PUT_MEMORY = "/sfm.v1.MemoryStore/PutMemory"
BATCH_PUT_MEMORIES = "/sfm.v1.MemoryStore/BatchPutMemories"
GET_MEMORY = "/sfm.v1.MemoryStore/GetMemory"
BATCH_GET_MEMORIES = "/sfm.v1.MemoryStore/BatchGetMemories"
DELETE_MEMORY = "/sfm.v1.MemoryStore/DeleteMemory"
BATCH_DELETE_MEMORIES = "/sfm.v1.MemoryStore/BatchDeleteMemories"
UNDELETE_MEMORIES = "/sfm.v1.MemoryStore/UndeleteMemories"
PURGE_MEMORIES = "/sfm.v1.MemoryStore/PurgeMemories"
LIST_MEMORIES = "/sfm.v1.MemoryStore/ListMemories"
SEARCH_MEMORIES = "/sfm.v1.MemoryStore/SearchMemories"
GET_MEMORY_STATS = "/sfm.v1.MemoryStore/GetMemoryStats"
METHODS = (
    *(PUT_MEMORY, BATCH_PUT_MEMORIES, GET_MEMORY, BATCH_GET_MEMORIES, DELETE_MEMORY, BATCH_DELETE_MEMORIES),
    *(UNDELETE_MEMORIES, PURGE_MEMORIES, LIST_MEMORIES, SEARCH_MEMORIES, GET_MEMORY_STATS),
)

_One: TypeAlias = memory_store_pb2.PutMemoryResponse | memory_store_pb2.DeleteMemoryResponse
_Many: TypeAlias = (
    memory_store_pb2.BatchPutMemoriesResponse
    | memory_store_pb2.BatchDeleteMemoriesResponse
    | memory_store_pb2.UndeleteMemoriesResponse
    | memory_store_pb2.PurgeMemoriesResponse
)
_Request = TypeVar("_Request", bound=Message)


class MemoryFlows:
    """The operations on the memories of one namespace."""

    def __init__(self, namespace: str, timeout_s: float) -> None:
        self.namespace = namespace
        self._timeout_s = timeout_s

    # ---- writes

    def put(self, item: MemoryPut | MemoryUpdate, **options: Unpack[PutOptions]) -> Flow[MemoryReceipt]:
        """Puts one memory, or parts of it."""
        request = self._request(memory_store_pb2.PutMemoryRequest, put=memory_convert.put_of(item, "put"))
        return (yield from self._write_one(PUT_MEMORY, request, memory_store_pb2.PutMemoryResponse, **options))

    def put_many(
        self, items: Iterable[MemoryPut | MemoryUpdate], vectors: npt.ArrayLike | None, **options: Unpack[PutOptions]
    ) -> Flow[tuple[MemoryReceipt, ...]]:
        """Puts all or none."""
        puts = memory_convert.batch_of(items, vectors)
        request = self._request(memory_store_pb2.BatchPutMemoriesRequest, puts=puts)
        return (yield from self._write(BATCH_PUT_MEMORIES, request, memory_store_pb2.BatchPutMemoriesResponse, **options))

    def delete(self, key: str, if_revision: int | None, **options: Unpack[WriteOptions]) -> Flow[MemoryReceipt]:
        """Deletes one memory."""
        request = self._request(memory_store_pb2.DeleteMemoryRequest, key=key, if_revision=if_revision)
        return (yield from self._write_one(DELETE_MEMORY, request, memory_store_pb2.DeleteMemoryResponse, **options))

    def delete_many(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> Flow[tuple[MemoryReceipt, ...]]:
        """Deletes all or none."""
        request = self._request(memory_store_pb2.BatchDeleteMemoriesRequest, keys=memory_convert.names_of(keys))
        return (yield from self._write(BATCH_DELETE_MEMORIES, request, memory_store_pb2.BatchDeleteMemoriesResponse, **options))

    def undelete(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> Flow[tuple[MemoryReceipt, ...]]:
        """Makes deleted memories be there again, all or none."""
        request = self._request(memory_store_pb2.UndeleteMemoriesRequest, keys=memory_convert.names_of(keys))
        return (yield from self._write(UNDELETE_MEMORIES, request, memory_store_pb2.UndeleteMemoriesResponse, **options))

    def purge(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> Flow[tuple[MemoryReceipt, ...]]:
        """Deletes for good, all or none."""
        request = self._request(memory_store_pb2.PurgeMemoriesRequest, keys=memory_convert.names_of(keys))
        return (yield from self._write(PURGE_MEMORIES, request, memory_store_pb2.PurgeMemoriesResponse, **options))

    def _write_one(self, method: str, request: Any, answer: type[_One], **options: Unpack[PutOptions]) -> Flow[MemoryReceipt]:
        response, how = yield from self._answered(method, request, answer, **options)
        return memory_convert.receipt_of(response.receipt, **how)

    def _write(
        self, method: str, request: Any, answer: type[_Many], **options: Unpack[PutOptions]
    ) -> Flow[tuple[MemoryReceipt, ...]]:
        response, how = yield from self._answered(method, request, answer, **options)
        told: Sequence[memory_pb2.MemoryReceipt] = response.receipts
        return tuple(memory_convert.receipt_of(r, **how) for r in told)

    def _answered(
        self,
        method: str,
        request: Any,
        answer: type[_One | _Many],
        *,
        request_id: str | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
        wait_indexed_s: float | None = None,
    ) -> Flow[tuple[Any, dict[str, Any]]]:
        """The answer to a write, and what its receipts say of the call: a retry is the same write, never a second one."""
        request_id = new_request_id() if request_id is None else request_id
        with memory_convert.sendable("request_id"):
            request.request_id = request_id
        request.validate_only = validate_only
        if wait_indexed_s is not None:
            request.wait_indexed.CopyFrom(memory_convert.duration_of(wait_indexed_s, "wait_indexed"))
        reply = yield from self._call(method, request, timeout_s)
        with believed(method.rpartition("/")[2]):
            response: Any = answer.FromString(reply)
        indexed = wait_indexed_s is not None and response.indexed
        return response, {"replayed": response.replayed, "request_id": request_id, "indexed": indexed}

    # ---- reads

    def get(self, key: str, *, with_vector: bool, timeout_s: float | None) -> Flow[MemoryRecord]:
        """One memory."""
        request = self._request(memory_store_pb2.GetMemoryRequest, key=key, with_vector=with_vector)
        return memory_convert.memory_of((yield from self._call(GET_MEMORY, request, timeout_s)))

    def get_many(self, keys: str | Iterable[str], *, with_vectors: bool, timeout_s: float | None) -> Flow[FoundMemories]:
        """Those that exist, and the keys of those that do not."""
        names = memory_convert.names_of(keys)
        request = self._request(memory_store_pb2.BatchGetMemoriesRequest, keys=names, with_vectors=with_vectors)
        reply = yield from self._call(BATCH_GET_MEMORIES, request, timeout_s)
        return memory_convert.found_of(reply, with_vectors=with_vectors)

    def page(self, asked: memory_store_pb2.ListMemoriesRequest, page_token: str, timeout_s: float | None) -> Flow[MemoryPage]:
        """One page of what `asked` asks for."""
        request = memory_store_pb2.ListMemoriesRequest()
        request.CopyFrom(asked)
        request.page_token = page_token
        return memory_convert.page_of((yield from self._call(LIST_MEMORIES, request, timeout_s)))

    def search(
        self,
        vector: npt.ArrayLike,
        limit: int,
        *,
        with_vectors: bool,
        timeout_s: float | None,
        **chosen: Unpack[FilterOptions],
    ) -> Flow[SearchResult]:
        """The nearest of those that `chosen` takes in."""
        request = memory_convert.search_of(self.namespace, vector, limit, with_vectors=with_vectors, chosen=chosen)
        return memory_convert.result_of((yield from self._call(SEARCH_MEMORIES, request, timeout_s)))

    def stats(self, timeout_s: float | None, **chosen: Unpack[FilterOptions]) -> Flow[tuple[MemoryTypeStats, ...]]:
        """How much there is of each type, of those that `chosen` takes in."""
        request = memory_convert.counting_of(self.namespace, chosen)
        return memory_convert.stats_of((yield from self._call(GET_MEMORY_STATS, request, timeout_s)))

    def _request(self, kind: type[_Request], **fields: Any) -> _Request:
        with memory_convert.sendable("request"):
            return kind(namespace=self.namespace, **fields)

    def _call(self, method: str, request: Message, timeout_s: float | None) -> Flow[bytes]:
        return cast(bytes, (yield Call(method, request.SerializeToString(), self._timeout_s if timeout_s is None else timeout_s)))
