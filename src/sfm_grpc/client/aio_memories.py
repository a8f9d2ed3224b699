"""The memories of one namespace, for asyncio: the same methods as in `memories`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Unpack

import numpy.typing as npt
from sfm.v1 import memory_store_pb2

from sfm_grpc.client import index_audit, links, namespaces
from sfm_grpc.client.bulk import RETRY_S, Exporting, ExportProgress, Importing, ImportOptions, ImportReport
from sfm_grpc.client.bulk_lines import AsyncLineSource
from sfm_grpc.client.index_audit import IndexReport, OnProgress
from sfm_grpc.client.links import Link, LinkOptions, LinkReceipt
from sfm_grpc.client.memory_convert import listing_of
from sfm_grpc.client.memory_flows import MemoryFlows
from sfm_grpc.client.memory_records import (
    KEEP,
    FilterOptions,
    FoundMemories,
    Keep,
    ListOptions,
    MemoryPage,
    MemoryPut,
    MemoryReceipt,
    MemoryRecord,
    MemoryTypeStats,
    MemoryUpdate,
    PutOptions,
    SearchResult,
    Time,
    WriteOptions,
)
from sfm_grpc.client.namespaces import NamespaceInfo

if TYPE_CHECKING:
    from sfm_grpc.client.aio import Driver


class AsyncMemories:
    """As `Memories`: `client.namespace("n").memories` of an AsyncClient."""

    def __init__(self, namespace: str, timeout_s: float, driver: Driver) -> None:
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._flows = MemoryFlows(namespace, timeout_s)
        self._driver = driver

    # ---- writing

    async def put(
        self,
        key: str,
        payload: object,
        *,
        memory_type: str = "",
        importance: float = 0.0,
        coordinates: Iterable[float] | None = (),
        vector: npt.ArrayLike | None = None,
        ttl_s: float | None = None,
        expire_time: Time | None = None,
        create_only: bool = False,
        if_revision: int | None = None,
        **options: Unpack[PutOptions],
    ) -> MemoryReceipt:
        """As `Memories.put`."""
        item = MemoryPut(
            key,
            payload,
            memory_type=memory_type,
            importance=importance,
            coordinates=coordinates,
            vector=vector,
            ttl_s=ttl_s,
            expire_time=expire_time,
            create_only=create_only,
            if_revision=if_revision,
        )
        return await self._driver.run(self._flows.put(item, **options))

    async def update(
        self,
        key: str,
        *,
        payload: object = KEEP,
        memory_type: str | Keep = KEEP,
        importance: float | Keep = KEEP,
        coordinates: Iterable[float] | Keep | None = KEEP,
        vector: npt.ArrayLike | Keep | None = KEEP,
        ttl_s: float | Keep | None = KEEP,
        expire_time: Time | Keep | None = KEEP,
        if_revision: int | None = None,
        **options: Unpack[PutOptions],
    ) -> MemoryReceipt:
        """As `Memories.update`."""
        item = MemoryUpdate(
            key,
            payload=payload,
            memory_type=memory_type,
            importance=importance,
            coordinates=coordinates,
            vector=vector,
            ttl_s=ttl_s,
            expire_time=expire_time,
            if_revision=if_revision,
        )
        return await self._driver.run(self._flows.put(item, **options))

    async def put_many(
        self,
        items: Iterable[MemoryPut | MemoryUpdate],
        *,
        vectors: npt.ArrayLike | None = None,
        **options: Unpack[PutOptions],
    ) -> tuple[MemoryReceipt, ...]:
        """As `Memories.put_many`."""
        return await self._driver.run(self._flows.put_many(items, vectors, **options))

    async def delete(self, key: str, *, if_revision: int | None = None, **options: Unpack[WriteOptions]) -> MemoryReceipt:
        """As `Memories.delete`."""
        return await self._driver.run(self._flows.delete(key, if_revision, **options))

    async def delete_many(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> tuple[MemoryReceipt, ...]:
        """As `Memories.delete_many`."""
        return await self._driver.run(self._flows.delete_many(keys, **options))

    async def undelete(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> tuple[MemoryReceipt, ...]:
        """As `Memories.undelete`."""
        return await self._driver.run(self._flows.undelete(keys, **options))

    async def purge(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> tuple[MemoryReceipt, ...]:
        """As `Memories.purge`."""
        return await self._driver.run(self._flows.purge(keys, **options))

    # ---- reading

    async def get(self, key: str, *, with_vector: bool = False, timeout_s: float | None = None) -> MemoryRecord:
        """As `Memories.get`."""
        return await self._driver.run(self._flows.get(key, with_vector=with_vector, timeout_s=timeout_s))

    async def get_many(
        self, keys: str | Iterable[str], *, with_vectors: bool = False, timeout_s: float | None = None
    ) -> FoundMemories:
        """As `Memories.get_many`."""
        return await self._driver.run(self._flows.get_many(keys, with_vectors=with_vectors, timeout_s=timeout_s))

    def list(self, *, timeout_s: float | None = None, **options: Unpack[ListOptions]) -> AsyncIterator[MemoryRecord]:
        """As `Memories.list`: `async for memory in memories.list()`."""
        return self._pages(listing_of(self.namespace, **options), timeout_s)

    async def _pages(self, asked: memory_store_pb2.ListMemoriesRequest, timeout_s: float | None) -> AsyncIterator[MemoryRecord]:
        token = ""
        while True:
            page = await self._driver.run(self._flows.page(asked, token, timeout_s))
            for memory in page.memories:
                yield memory
            if not (token := page.next_page_token):
                return

    async def page(self, *, page_token: str = "", timeout_s: float | None = None, **options: Unpack[ListOptions]) -> MemoryPage:
        """As `Memories.page`."""
        return await self._driver.run(self._flows.page(listing_of(self.namespace, **options), page_token, timeout_s))

    async def search(
        self,
        vector: npt.ArrayLike,
        limit: int = 10,
        *,
        with_vectors: bool = False,
        timeout_s: float | None = None,
        **options: Unpack[FilterOptions],
    ) -> SearchResult:
        """As `Memories.search`."""
        return await self._driver.run(
            self._flows.search(vector, limit, with_vectors=with_vectors, timeout_s=timeout_s, **options)
        )

    # ---- links

    async def link(
        self, source: str, link_type: str, target: str, weight: float = 1.0, **options: Unpack[WriteOptions]
    ) -> LinkReceipt:
        """As `Memories.link`."""
        return await self.link_many([Link(source, link_type, target, weight)], **options)

    async def link_many(self, items: Iterable[Link], **options: Unpack[WriteOptions]) -> LinkReceipt:
        """As `Memories.link_many`."""
        return await self._driver.run(links.put(self.namespace, items, self._timeout_s, **options))

    async def unlink(self, source: str, link_type: str, target: str, **options: Unpack[WriteOptions]) -> LinkReceipt:
        """As `Memories.unlink`."""
        return await self.unlink_many([Link(source, link_type, target)], **options)

    async def unlink_many(self, items: Iterable[Link], **options: Unpack[WriteOptions]) -> LinkReceipt:
        """As `Memories.unlink_many`."""
        return await self._driver.run(links.delete(self.namespace, items, self._timeout_s, **options))

    def links(self, key: str, *, timeout_s: float | None = None, **options: Unpack[LinkOptions]) -> AsyncIterator[Link]:
        """As `Memories.links`."""
        return self._link_pages(links.listing_of(self.namespace, key, **options), timeout_s)

    async def _link_pages(self, asked: memory_store_pb2.ListLinksRequest, timeout_s: float | None) -> AsyncIterator[Link]:
        token = ""
        while True:
            flow = links.page(asked, token, self._timeout_s if timeout_s is None else timeout_s)
            page = await self._driver.run(flow)
            for link in page.links:
                yield link
            if not (token := page.next_page_token):
                return

    # ---- all of them

    async def describe(self, *, timeout_s: float | None = None) -> NamespaceInfo:
        """As `Memories.describe`."""
        return await self._driver.run(namespaces.describe(self.namespace, self._timeout_s if timeout_s is None else timeout_s))

    async def stats(self, *, timeout_s: float | None = None, **options: Unpack[FilterOptions]) -> tuple[MemoryTypeStats, ...]:
        """As `Memories.stats`."""
        return await self._driver.run(self._flows.stats(timeout_s, **options))

    async def verify_index(self, *, on_progress: OnProgress = None, timeout_s: float | None = None) -> IndexReport:
        """As `Memories.verify_index`; `on_progress` may be a coroutine function."""
        return await self._driver.run(index_audit.verify(self.namespace, on_progress, timeout_s))

    async def repair_index(
        self, *, rebuild: bool = False, on_progress: OnProgress = None, timeout_s: float | None = None
    ) -> IndexReport:
        """As `Memories.repair_index`."""
        flow = index_audit.repair(self.namespace, rebuild=rebuild, on_progress=on_progress, timeout_s=timeout_s)
        return await self._driver.run(flow)

    # ---- many

    async def import_lines(self, source: AsyncLineSource, **options: Unpack[ImportOptions]) -> ImportReport:
        """As `Memories.import_lines`; lines may come asynchronously. A file is read on the loop."""
        return await self._driver.run(Importing(self.namespace, source, **options).run())

    def export_lines(
        self,
        *,
        with_vectors: bool = True,
        on_progress: Callable[[ExportProgress], object] | None = None,
        retry_s: float = RETRY_S,
        **options: Unpack[FilterOptions],
    ) -> AsyncIterator[bytes]:
        """As `Memories.export_lines`: `async for line in memories.export_lines()`."""
        exporting = Exporting(self.namespace, with_vectors=with_vectors, on_progress=on_progress, retry_s=retry_s, **options)
        return self._exported(exporting)

    async def _exported(self, exporting: Exporting) -> AsyncIterator[bytes]:
        try:
            while lines := await self._driver.run(exporting.next()):
                for line in lines:
                    yield line
        finally:
            exporting.cancel()
