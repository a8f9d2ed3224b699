"""Exporting memories: pages by key, made lines on a thread, the next one while the caller takes the one before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator import memory_lines, names
from sfm_grpc.coordinator.bulk import BulkStreams
from sfm_grpc.coordinator.memories import check_filter
from sfm_grpc.coordinator.pages import PageTokens
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import Memory, MemoryFilter, MemoryOrder, MemoryQuery, Scope
from sfm_grpc.storage.contract import Store

_CHUNK_BYTES = 1 << 20
# A page is to have about as many bytes; nothing is known of the first.
_FIRST_ROWS, _ROWS_MAX = 64, 512


@dataclass(frozen=True, slots=True)
class ExportAsked:
    """What an export is of."""

    scope: Scope
    chosen: MemoryFilter
    vectors: bool
    resume_token: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines."""

    lines: bytes
    count: int
    resume_token: str
    total: int
    """How many memories the namespace has; 0: a filter leaves that open."""


class Exports:
    """Exports. They read, and hold nothing up."""

    def __init__(self, store: Store, streams: BulkStreams) -> None:
        self._store = store
        self._streams = streams

    async def give(self, asked: ExportAsked) -> AsyncGenerator[Chunk, None]:
        """Lines by key; close it, or it counts as a stream for ever.

        Raises InvalidRequest, LimitExceeded, NotFound (namespace), Overloaded, StoreUnavailable.
        """
        names.check_name(asked.scope.namespace, "namespace")
        check_filter(asked.chosen)
        with self._streams.one():
            total = 0
            if asked.chosen == MemoryFilter() and (space := await self._store.memories.space(asked.scope)) is not None:
                total = space.memories
            reader = _Pages(self._store, asked, total)
            ahead = asyncio.create_task(reader.next())
            try:
                while chunks := await ahead:
                    ahead = asyncio.create_task(reader.next())
                    for chunk in chunks:
                        yield chunk
            finally:
                ahead.cancel()


class _Pages:
    """The pages of an export, one after the other."""

    def __init__(self, store: Store, asked: ExportAsked, total: int) -> None:
        """Raises InvalidRequest for a token of another export."""
        self._store = store
        self._asked = asked
        self._total = total
        self._tokens = PageTokens("export", asked.scope, asked.chosen)
        try:
            self._after = self._tokens.name(asked.resume_token)
        except InvalidRequest:
            problem = "is not a token of this export, asked as it is now; send resume_token unchanged, or none to start over"
            raise InvalidRequest(field="resume_token", problem=problem) from None
        self._rows = _FIRST_ROWS
        self._is_last = False

    async def next(self) -> Sequence[Chunk]:
        """The next page as chunks; none: that was all."""
        if self._is_last:
            return ()
        query = MemoryQuery(
            chosen=self._asked.chosen,
            order=MemoryOrder.KEY,
            descending=False,
            after=(self._after, self._after) if self._after else None,
            limit=self._rows,
            now_us=time.time_ns() // 1000,
            vectors=self._asked.vectors,
        )
        found = await self._store.memories.page(self._asked.scope, query)
        self._is_last = len(found) < self._rows
        if not found:
            return ()
        self._after = found[-1].key
        return await asyncio.to_thread(self._chunks, found)

    def _chunks(self, found: Sequence[Memory]) -> Sequence[Chunk]:
        chunks: list[Chunk] = []
        lines: list[bytes] = []
        size = 0
        for place, line in enumerate(map(memory_lines.written, found)):
            if lines and size + len(line) > _CHUNK_BYTES:
                chunks.append(self._chunk(lines, found[place - 1]))
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        chunks.append(self._chunk(lines, found[-1]))
        self._rows = max(1, min(_ROWS_MAX, _CHUNK_BYTES * len(found) // sum(len(c.lines) for c in chunks)))
        return chunks

    def _chunk(self, lines: Sequence[bytes], last: Memory) -> Chunk:
        return Chunk(b"".join(lines), len(lines), self._tokens.after(last.key), self._total)
