"""sfm.v1.MemoryStore, its namespaces as wholes and what the index has of them: check, call, translate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from sfm.v1.memory_store_pb2 import (
    CreateNamespaceRequest,
    CreateNamespaceResponse,
    DeleteNamespaceRequest,
    DeleteNamespaceResponse,
    GetNamespaceRequest,
    GetNamespaceResponse,
    ListNamespacesRequest,
    ListNamespacesResponse,
    RepairIndexRequest,
    RepairIndexResponse,
    VerifyIndexRequest,
    VerifyIndexResponse,
)

from sfm_grpc.coordinator.index_audit import IndexAudit, Report, Step
from sfm_grpc.coordinator.namespaces import NamespaceCoordinator
from sfm_grpc.rpc import memory_convert
from sfm_grpc.rpc.caller import Context, mutation_of, scope_of

# Progress is told so often.
_TELL_S = 0.25


class NamespaceServicer:
    """The RPCs of MemoryStore that are about namespaces."""

    def __init__(self, namespaces: NamespaceCoordinator, audit: IndexAudit, *, deadline: Callable[[Context], float]) -> None:
        self._namespaces = namespaces
        self._audit = audit
        self._deadline = deadline

    async def CreateNamespace(  # noqa: N802
        self, request: CreateNamespaceRequest, context: Context
    ) -> CreateNamespaceResponse:
        """See memory_store.proto."""
        scope, distance = scope_of(context, request.namespace), memory_convert.distance(request.distance)
        space, existed = await self._namespaces.create(scope, request.dimension, distance)
        return CreateNamespaceResponse(namespace=memory_convert.namespace(scope.namespace, space), existed=existed)

    async def GetNamespace(self, request: GetNamespaceRequest, context: Context) -> GetNamespaceResponse:  # noqa: N802
        """See memory_store.proto."""
        scope = scope_of(context, request.namespace)
        found = await self._namespaces.describe(scope)
        return GetNamespaceResponse(namespace=memory_convert.described(scope.namespace, found))

    async def ListNamespaces(self, request: ListNamespacesRequest, context: Context) -> ListNamespacesResponse:  # noqa: N802
        """See memory_store.proto."""
        tenant = scope_of(context, "").tenant
        found, token = await self._namespaces.page(tenant, request.page_size, request.page_token)
        return ListNamespacesResponse(namespaces=[memory_convert.namespace(*each) for each in found], next_page_token=token)

    async def DeleteNamespace(  # noqa: N802
        self, request: DeleteNamespaceRequest, context: Context
    ) -> DeleteNamespaceResponse:
        """See memory_store.proto."""
        mutation = mutation_of("DeleteNamespace", request, context, self._deadline(context))
        if_revision = request.if_revision if request.HasField("if_revision") else None
        done = await self._namespaces.delete(mutation, request.confirm, if_revision)
        return DeleteNamespaceResponse(revision=done.revision, version=done.version, replayed=done.replayed)

    # ---- the index

    async def VerifyIndex(self, request: VerifyIndexRequest, context: Context) -> AsyncGenerator[bytes, None]:  # noqa: N802
        """See memory_store.proto."""
        scope = scope_of(context, request.namespace)
        async with contextlib.aclosing(_messages(VerifyIndexResponse, self._audit.verify(scope))) as messages:
            async for message in messages:
                yield message

    async def RepairIndex(self, request: RepairIndexRequest, context: Context) -> AsyncGenerator[bytes, None]:  # noqa: N802
        """See memory_store.proto."""
        scope = scope_of(context, request.namespace)
        work = self._audit.rebuild(scope) if request.rebuild else self._audit.verify(scope, mend=True)
        async with contextlib.aclosing(_messages(RepairIndexResponse, work)) as messages:
            async for message in messages:
                yield message


async def _messages(
    kind: type[VerifyIndexResponse | RepairIndexResponse], work: AsyncGenerator[Step | Report, None]
) -> AsyncGenerator[bytes, None]:
    """What is told of a comparison, as answers."""
    async with contextlib.aclosing(_now_and_then(work)) as told:
        async for each in told:
            if isinstance(each, Step):
                yield kind(progress=memory_convert.index_progress(each)).SerializeToString()
            else:
                yield kind(report=memory_convert.index_report(each)).SerializeToString()


async def _now_and_then(work: AsyncGenerator[Step | Report, None]) -> AsyncGenerator[Step | Report, None]:
    """Some of the steps, the first of each phase among them, and the report."""
    phase, told_s = "", 0.0
    async with contextlib.aclosing(work):
        async for each in work:
            if isinstance(each, Step):
                if each.phase == phase and time.monotonic() - told_s < _TELL_S:
                    continue
                phase, told_s = each.phase, time.monotonic()
            yield each
