"""sfm.v1.MemoryStore, its links: check, call, translate."""

from __future__ import annotations

from collections.abc import Callable

from sfm.v1.memory_store_pb2 import (
    DeleteLinksRequest,
    DeleteLinksResponse,
    ListLinksRequest,
    ListLinksResponse,
    PutLinksRequest,
    PutLinksResponse,
)

from sfm_grpc.coordinator.links import LinkCoordinator
from sfm_grpc.rpc import memory_convert
from sfm_grpc.rpc.caller import Context, mutation_of, scope_of


class LinkServicer:
    """The RPCs of MemoryStore that are about links."""

    def __init__(self, links: LinkCoordinator, *, deadline: Callable[[Context], float]) -> None:
        self._links = links
        self._deadline = deadline

    async def PutLinks(self, request: PutLinksRequest, context: Context) -> PutLinksResponse:  # noqa: N802
        """See memory_store.proto."""
        mutation = mutation_of("PutLinks", request, context, self._deadline(context))
        return PutLinksResponse(replayed=await self._links.put(mutation, memory_convert.sent_links(request.links)))

    async def DeleteLinks(self, request: DeleteLinksRequest, context: Context) -> DeleteLinksResponse:  # noqa: N802
        """See memory_store.proto."""
        mutation = mutation_of("DeleteLinks", request, context, self._deadline(context))
        deleted, replayed = await self._links.delete(mutation, memory_convert.sent_links(request.links))
        return DeleteLinksResponse(deleted=deleted, replayed=replayed)

    async def ListLinks(self, request: ListLinksRequest, context: Context) -> ListLinksResponse:  # noqa: N802
        """See memory_store.proto."""
        asked = memory_convert.link_listing(request, scope_of(context, request.namespace))
        found, token = await self._links.page(asked)
        return ListLinksResponse(links=[memory_convert.link(each) for each in found], next_page_token=token)
