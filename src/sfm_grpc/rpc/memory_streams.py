"""sfm.v1.MemoryStore, its imports and exports: check, call, translate."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from sfm.v1.memory_store_pb2 import ExportMemoriesRequest

from sfm_grpc.coordinator.exports import Exports
from sfm_grpc.coordinator.imports import Imports
from sfm_grpc.rpc import memory_bulk
from sfm_grpc.rpc.caller import Context, committer_of, scope_of


class BulkServicer:
    """The RPCs of MemoryStore that carry JSON Lines."""

    def __init__(self, imports: Imports, exports: Exports, *, batch_bytes_max: int) -> None:
        self._imports = imports
        self._exports = exports
        self._batch_bytes_max = batch_bytes_max

    async def ImportMemories(  # noqa: N802
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes, None]:
        """See memory_store.proto."""
        sent = memory_bulk.SentRequests(requests, self._batch_bytes_max)
        header = await sent.header()
        asked = memory_bulk.import_of(header, scope_of(context, header.namespace), committer_of(context))
        async with contextlib.aclosing(self._imports.take(asked, sent.lines())) as acknowledgements:
            async for told in acknowledgements:
                yield memory_bulk.acknowledged(told)

    async def ExportMemories(  # noqa: N802
        self, request: ExportMemoriesRequest, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """See memory_store.proto."""
        asked = memory_bulk.export_of(request, scope_of(context, request.namespace))
        async with contextlib.aclosing(self._exports.give(asked)) as chunks:
            async for chunk in chunks:
                yield memory_bulk.exported(chunk)
