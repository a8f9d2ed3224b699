"""The memories of one namespace, blocking. Each method hands a flow to the driver of `sync`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Unpack

import numpy.typing as npt
from sfm.v1 import memory_store_pb2

from sfm_grpc.client import index_audit, links, namespaces
from sfm_grpc.client.bulk import RETRY_S, Exporting, ExportProgress, Importing, ImportOptions, ImportReport
from sfm_grpc.client.bulk_lines import LineSource
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
    from sfm_grpc.client.sync import Driver


class Memories:
    """JSON payloads under keys, with types, times, importance, coordinates and vectors: `client.namespace("n").memories`.

    Every write also takes `request_id` (at most 64 bytes; the same content under the same id is written once, and answered as
    the first time for at least 24 hours), `validate_only` (every check runs, nothing is recorded) and `timeout_s`. Without a
    `request_id` a new one is sent, so that what gRPC retries is written once.
    """

    def __init__(self, namespace: str, timeout_s: float, driver: Driver) -> None:
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._flows = MemoryFlows(namespace, timeout_s)
        self._driver = driver

    # ---- writing

    def put(
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
        """Puts all of a memory: what is not said, it does not have afterwards.

        `payload` is what the module `json` can write (no NaN), or RawJson, kept byte for byte. `vector`: (d,) real numbers, kept
        as float32, of the namespace's dimension d, which the first vector fixes. `coordinates`: at most 8. It is absent from
        `expire_time` (an aware datetime, or µs since the epoch) on, or in `ttl_s` seconds. `create_only`: the key must be absent
        (deleted and expired ones are); `if_revision`: it must have this revision. With `wait_indexed_s` it is answered when
        a search can find it, or that time has passed: `indexed` of the receipt says which.

        Raises AlreadyExists, VersionConflict, InvalidRequest, LimitExceeded, RequestIdReused, QuotaExceeded (Prunes.set_limit).
        """
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
        return self._driver.run(self._flows.put(item, **options))

    def update(
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
        """Puts some parts of a memory that exists; what is not said stays as it is.

        None takes coordinates, vector or expiry (by either name) away; as `payload` it is JSON's null.

        Raises NotFound, and as `put`.
        """
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
        return self._driver.run(self._flows.put(item, **options))

    def put_many(
        self,
        items: Iterable[MemoryPut | MemoryUpdate],
        *,
        vectors: npt.ArrayLike | None = None,
        **options: Unpack[PutOptions],
    ) -> tuple[MemoryReceipt, ...]:
        """Puts many memories in one call, all or none; a receipt for each, in their order.

        `vectors`: (n, d), row i for item i, whose own `vector` is then left out. Never split: more items than the server's
        `batch_max`, or more bytes than its `batch_bytes_max`, are a LimitExceeded. Raises as `put` and `update`, whose `field`
        names the item, counted from 0.
        """
        return self._driver.run(self._flows.put_many(items, vectors, **options))

    def delete(self, key: str, *, if_revision: int | None = None, **options: Unpack[WriteOptions]) -> MemoryReceipt:
        """Deletes a memory, which can be undeleted for a while; an absent one is `unchanged`. Raises VersionConflict."""
        return self._driver.run(self._flows.delete(key, if_revision, **options))

    def delete_many(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> tuple[MemoryReceipt, ...]:
        """Deletes many, all or none; a receipt for each, in their order. Raises LimitExceeded."""
        return self._driver.run(self._flows.delete_many(keys, **options))

    def undelete(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> tuple[MemoryReceipt, ...]:
        """Makes deleted memories be there again as they were, all or none; living ones are `unchanged`.

        Raises NotFound (one never was, or is gone for good), LimitExceeded, QuotaExceeded.
        """
        return self._driver.run(self._flows.undelete(keys, **options))

    def purge(self, keys: str | Iterable[str], **options: Unpack[WriteOptions]) -> tuple[MemoryReceipt, ...]:
        """Deletes memories for good, living or deleted, all or none: nothing of them is kept. Raises LimitExceeded."""
        return self._driver.run(self._flows.purge(keys, **options))

    # ---- reading

    def get(self, key: str, *, with_vector: bool = False, timeout_s: float | None = None) -> MemoryRecord:
        """One memory. Raises NotFound."""
        return self._driver.run(self._flows.get(key, with_vector=with_vector, timeout_s=timeout_s))

    def get_many(self, keys: str | Iterable[str], *, with_vectors: bool = False, timeout_s: float | None = None) -> FoundMemories:
        """Many memories as of one moment; those that do not exist are named in `missing`. `vectors()` is all of theirs, (n, d).

        Raises LimitExceeded for more than `batch_max`.
        """
        return self._driver.run(self._flows.get_many(keys, with_vectors=with_vectors, timeout_s=timeout_s))

    def list(self, *, timeout_s: float | None = None, **options: Unpack[ListOptions]) -> Iterator[MemoryRecord]:
        """The memories that every option takes in, in `order`; the next page is asked for when it is needed.

        `key_prefix`; `memory_types`: any of them; `importance`, `create_time`, `update_time`: (low, high), both in it, None for
        no end; `box`: such a range for each coordinate. `order`: "key", "create_time", "update_time" or "importance", equal ones
        by key; `descending`; `page_size` (0: the server's). `payloads` False leaves payloads out, `with_vectors` brings vectors.
        What is written meanwhile moves only itself. `timeout_s` bounds each page.

        Raises InvalidRequest, LimitExceeded, NotFound (namespace).
        """
        return self._pages(listing_of(self.namespace, **options), timeout_s)

    def _pages(self, asked: memory_store_pb2.ListMemoriesRequest, timeout_s: float | None) -> Iterator[MemoryRecord]:
        token = ""
        while True:
            page = self._driver.run(self._flows.page(asked, token, timeout_s))
            yield from page.memories
            if not (token := page.next_page_token):
                return

    def page(self, *, page_token: str = "", timeout_s: float | None = None, **options: Unpack[ListOptions]) -> MemoryPage:
        """One page of `list`; `page_token` is the `next_page_token` of the one before, asked for alike. Raises as `list`."""
        return self._driver.run(self._flows.page(listing_of(self.namespace, **options), page_token, timeout_s))

    def search(
        self,
        vector: npt.ArrayLike,
        limit: int = 10,
        *,
        with_vectors: bool = False,
        timeout_s: float | None = None,
        **options: Unpack[FilterOptions],
    ) -> SearchResult:
        """The memories whose vectors are nearest to `vector`, nearest first, at most `limit` of those that every option takes in.

        `vector`: (d,) real numbers, sent as float32, as many as the vectors of the namespace have. `key_prefix`, `memory_types`,
        `importance`, `create_time`, `update_time` and `box` are as in `list`; `with_vectors` brings vectors. The index follows
        the writes: `indexed_revision` says how far it is, and a put with `wait_indexed_s` waits for it.

        Raises IndexUnavailable, InvalidRequest, LimitExceeded, NotFound (namespace).
        """
        return self._driver.run(self._flows.search(vector, limit, with_vectors=with_vectors, timeout_s=timeout_s, **options))

    # ---- links

    def link(self, source: str, link_type: str, target: str, weight: float = 1.0, **options: Unpack[WriteOptions]) -> LinkReceipt:
        """Links a memory to another; a link that is there takes the weight. Raises NotFound where an end is absent."""
        return self.link_many([Link(source, link_type, target, weight)], **options)

    def link_many(self, items: Iterable[Link], **options: Unpack[WriteOptions]) -> LinkReceipt:
        """Puts many links, each once, all or none. Raises NotFound, InvalidRequest, LimitExceeded, RequestIdReused."""
        return self._driver.run(links.put(self.namespace, items, self._timeout_s, **options))

    def unlink(self, source: str, link_type: str, target: str, **options: Unpack[WriteOptions]) -> LinkReceipt:
        """Deletes a link; `deleted` of the receipt is 0 where it was absent."""
        return self.unlink_many([Link(source, link_type, target)], **options)

    def unlink_many(self, items: Iterable[Link], **options: Unpack[WriteOptions]) -> LinkReceipt:
        """Deletes many links, all or none, whatever their weights. Raises InvalidRequest, LimitExceeded, RequestIdReused."""
        return self._driver.run(links.delete(self.namespace, items, self._timeout_s, **options))

    def links(self, key: str, *, timeout_s: float | None = None, **options: Unpack[LinkOptions]) -> Iterator[Link]:
        """A memory's links with memories that exist, by type and then by the other key; pages are asked for when they are needed.

        Those that lead from it, or with `incoming` those that lead to it; `link_types`: any of them. `page_size` (0: the
        server's). `timeout_s` bounds each page. Raises NotFound (the memory), InvalidRequest, LimitExceeded.
        """
        return self._link_pages(links.listing_of(self.namespace, key, **options), timeout_s)

    def _link_pages(self, asked: memory_store_pb2.ListLinksRequest, timeout_s: float | None) -> Iterator[Link]:
        token = ""
        while True:
            flow = links.page(asked, token, self._timeout_s if timeout_s is None else timeout_s)
            page = self._driver.run(flow)
            yield from page.links
            if not (token := page.next_page_token):
                return

    # ---- all of them

    def describe(self, *, timeout_s: float | None = None) -> NamespaceInfo:
        """Dimension, distance, newest revision, counts, how far the index is. Raises NotFound where there never were memories."""
        return self._driver.run(namespaces.describe(self.namespace, self._timeout_s if timeout_s is None else timeout_s))

    def stats(self, *, timeout_s: float | None = None, **options: Unpack[FilterOptions]) -> tuple[MemoryTypeStats, ...]:
        """How much there is of each type, by type, of the memories that every option takes in: as in `search`.

        All of them are looked at: not for every second. Raises InvalidRequest, LimitExceeded, NotFound (namespace).
        """
        return self._driver.run(self._flows.stats(timeout_s, **options))

    def verify_index(self, *, on_progress: OnProgress = None, timeout_s: float | None = None) -> IndexReport:
        """Compares what the vector index has with the memories; `ok` of the report says whether nothing is wrong.

        `on_progress` is called with an IndexProgress now and then. It takes as long as it takes: `timeout_s` bounds all of it,
        None nothing. The index is not fed with this namespace meanwhile; searches and writes go on.

        Raises IndexUnavailable, NotFound (namespace).
        """
        return self._driver.run(index_audit.verify(self.namespace, on_progress, timeout_s))

    def repair_index(
        self, *, rebuild: bool = False, on_progress: OnProgress = None, timeout_s: float | None = None
    ) -> IndexReport:
        """Compares as `verify_index` does and mends what is found; the report is of afterwards.

        `rebuild`: the index lets go of all that it has of the namespace and is fed anew; searches find little until it is done.
        One that is cut off goes on by being called again. Raises as `verify_index`.
        """
        flow = index_audit.repair(self.namespace, rebuild=rebuild, on_progress=on_progress, timeout_s=timeout_s)
        return self._driver.run(flow)

    # ---- many

    def import_lines(self, source: LineSource, **options: Unpack[ImportOptions]) -> ImportReport:
        """Puts the memories of JSON Lines, any number of them; what became of them.

        `source`: a binary file, from where it stands, or lines one by one, bytes or text. What a line says is in
        memory_store.proto; `export_lines` gives such lines. Each line is for itself: one that is refused is in the report's
        `errors`, and stops nothing. `mode` "create_only": keys that live are left alone. `from_line`: lines count from 1, those
        before it are passed over. `validate_only`: every check runs, nothing is recorded. `on_progress(report)` is called after
        every batch: all is durable up to `report.through_line`.

        While the server is away or busy it tries again, for `retry_s` (30) without an answer, from the last line that was
        answered for: importing lines again leaves the same memories. Raises what does not mend, with a note on where to go on.
        """
        return self._driver.run(Importing(self.namespace, source, **options).run())

    def export_lines(
        self,
        *,
        with_vectors: bool = True,
        on_progress: Callable[[ExportProgress], object] | None = None,
        retry_s: float = RETRY_S,
        **options: Unpack[FilterOptions],
    ) -> Iterator[bytes]:
        """The memories that every option takes in (as in `list`), by key, each a line of JSON with its line feed.

        Each is as it is when it is read; whatever stays comes once. When the server was away it goes on where it was. Raises as
        `list`.
        """
        exporting = Exporting(self.namespace, with_vectors=with_vectors, on_progress=on_progress, retry_s=retry_s, **options)
        return self._exported(exporting)

    def _exported(self, exporting: Exporting) -> Iterator[bytes]:
        try:
            while lines := self._driver.run(exporting.next()):
                yield from lines
        finally:
            exporting.cancel()
