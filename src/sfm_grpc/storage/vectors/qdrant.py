"""The index on a Qdrant server, spoken to by gRPC alone: a collection for each geometry, with the points of all namespaces.

How durable a change is that the server has acknowledged, and on how many of its nodes, is its own affair. What tells one index
from another, and that one was emptied, is in `qdrant_ledger`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Collection, Sequence
from typing import Any

import qdrant_client.grpc as wire
from grpc import StatusCode
from grpc.aio import AioRpcError

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Buffer, Distance, MemoryFilter
from sfm_grpc.storage.vectors import points, qdrant_messages
from sfm_grpc.storage.vectors.contract import Field, Hit, Point, Refused
from sfm_grpc.storage.vectors.points import INDEXED, scope_name
from sfm_grpc.storage.vectors.qdrant_connection import Connection
from sfm_grpc.storage.vectors.qdrant_ledger import Ledger

_log = logging.getLogger(__name__)

_STEP_POINTS = 500
_FEW = 16
"""Points that are made into a message where they come in; more, on a thread."""


class QdrantIndex:
    """`contract.VectorIndex` on a server."""

    name = "qdrant"
    exclusive = False

    def __init__(self, url: str, api_key: str | None = None, *, prefix: str = "sfm", timeout_s: float = 5.0) -> None:
        """`http://host:6334`, or `https://`; the port is that of gRPC, and 6333, Qdrant's for REST, means the one beside it.

        Every collection's name begins with `prefix`: all servers of one store have the same, and nobody else. Raises ValueError
        for an address that is none.
        """
        self._server = Connection(url, api_key, timeout_s=timeout_s)
        self._ledger = Ledger(self._server, prefix)
        self._prepared: set[str] = set()
        """Collections that are there with all their indexes, as far as we know."""
        self._preparing = asyncio.Lock()

    @property
    def identity(self) -> str:
        """See the contract. It is looked for when the index is opened and each time it is checked."""
        return self._ledger.identity

    async def open(self) -> None:
        """See the contract. Collections are made when something is put into them."""
        self._server.open()
        await self._server.version()
        async with self._preparing:
            await self._ledger.settle()

    async def close(self) -> None:
        """See the contract."""
        await self._server.close()

    async def check(self) -> str:
        """See the contract. One that has lost something has another identity after this."""
        version = await self._server.version()
        async with self._preparing:
            there = await self._ledger.settle()
            if lost := await self._ledger.listed() - there.keys():
                _log.error("%s has no %s any more: the index is made again", self._server.where, ", ".join(sorted(lost)))
                await self._anew()
                there = {}
        nothing = points.living("", MemoryFilter(), 0)
        for name, dimension in there.items():
            query = qdrant_messages.query(name, bytes(4 * dimension), nothing, points.Effort(1, wide=False), 1)
            await self._server.ask(self._server.points.Query, query)
        return f"{self._server.where}, version {version}: {', '.join(sorted(there)) or 'nothing kept yet'}"

    async def _anew(self) -> None:
        self._prepared.clear()
        await self._ledger.renew()

    # ---- changes

    async def apply(self, field: Field, puts: Sequence[Point], gone: Collection[str]) -> Sequence[Refused]:
        """See the contract."""
        name = self._name(field)  # of now: all of it goes to one index
        taken, refused = points.sift(field, puts) if len(puts) <= _FEW else await asyncio.to_thread(points.sift, field, puts)
        for start in range(0, len(taken), _STEP_POINTS):
            refused += await self._put(name, field, taken[start : start + _STEP_POINTS])
        if gone:
            await self._find(name, self._server.points.Delete, qdrant_messages.deletion(name, field, gone))
        return refused

    async def _put(self, name: str, field: Field, puts: Sequence[Point]) -> list[Refused]:
        """Those that the server does not take. It refuses all because of one, so they are halved until that one is found."""
        upsert = functools.partial(qdrant_messages.upsert, name, field, puts)
        request = upsert() if len(puts) <= _FEW else await asyncio.to_thread(upsert)
        try:
            await self._upsert(field, request)
        except AioRpcError as error:
            if error.code() is not StatusCode.INVALID_ARGUMENT:
                raise self._server.translated(error) from error
            if len(puts) == 1:
                return [Refused(puts[0].key, puts[0].revision, f"{self._server.where} refuses it: {error.details()}")]
            half = len(puts) // 2
            return [*await self._put(name, field, puts[:half]), *await self._put(name, field, puts[half:])]
        return []

    async def _upsert(self, field: Field, request: wire.UpsertPoints) -> None:
        """Puts them into the collection, which is made where it never was."""
        await self._prepare(field, request.collection_name)
        but = {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND}
        try:
            told = await self._server.ask(self._server.points.Upsert, request, but=but)
        except AioRpcError as error:
            if error.code() is not StatusCode.NOT_FOUND:
                raise
            # Making it again would hide that something is lost.
            self._prepared.discard(request.collection_name)
            await self._ledger.miss(request.collection_name)
            raise self._server.translated(error) from error
        if told.result.status != wire.Completed:
            raise IndexUnavailable(problem=f"{self._server.where} has not done in time what it was told")

    async def _prepare(self, field: Field, name: str) -> None:
        """Makes the collection and the indexes of its fields, where they are wanting; others may be at it, too."""
        server = self._server
        async with self._preparing:
            if name in self._prepared:
                return
            about = wire.GetCollectionInfoRequest(collection_name=name)
            info = await self._find(name, server.collections.Get, about)
            if info is None:
                creation = qdrant_messages.creation(name, field.dimension, field.distance)
                raced = {StatusCode.ALREADY_EXISTS, StatusCode.INVALID_ARGUMENT}  # another server made it just now
                with contextlib.suppress(AioRpcError):
                    await server.ask(server.collections.Create, creation, slow=True, but=raced)
                info = await server.ask(server.collections.Get, about)
            for wanting in INDEXED.keys() - info.result.payload_schema.keys():
                await server.ask(server.points.CreateFieldIndex, qdrant_messages.indexing(name, wanting), slow=True)
            await self._ledger.enter(name)
            self._prepared.add(name)

    async def drop(self, field: Field) -> None:
        """See the contract."""
        await self._server.find(self._server.points.Delete, qdrant_messages.drop(self._name(field), field), slow=True)

    async def discard(self, dimension: int, distance: Distance) -> None:  # noqa: ARG002  see below
        """See the contract. What is kept of other geometries goes with it: a new identity begins with nothing."""
        async with self._preparing:
            await self._anew()

    # ---- questions; of a collection that is not there: nothing is in it

    async def search(self, field: Field, vector: Buffer, chosen: MemoryFilter, *, now_us: int, limit: int) -> Sequence[Hit]:
        """See the contract."""
        sought = points.sought(field, vector)
        if limit == 0:
            return ()
        conditions = points.living(scope_name(field), chosen, now_us)
        query = qdrant_messages.query(self._name(field), sought, conditions, points.effort(chosen, limit), limit)
        told = await self._find(query.collection_name, self._server.points.Query, query)
        return [Hit(*_told(hit), hit.score) for hit in told.result] if told is not None else ()

    async def count(self, field: Field) -> int:
        """See the contract."""
        name = self._name(field)
        told = await self._find(name, self._server.points.Count, qdrant_messages.count(name, field))
        return int(told.result.count) if told is not None else 0

    async def scan(self, field: Field, *, after: str, limit: int) -> tuple[Sequence[tuple[str, int]], str]:
        """See the contract."""
        name = self._name(field)
        told = await self._find(name, self._server.points.Scroll, qdrant_messages.scroll(name, field, after, limit))
        return ([_told(point) for point in told.result], str(told.next_page_offset.uuid)) if told is not None else ((), "")

    def _name(self, field: Field) -> str:
        return self._ledger.name(field.dimension, field.distance)

    async def _find(self, collection: str, method: Any, request: Any) -> Any:
        """The answer; None where the collection never was. Raises IndexUnavailable where it was, too."""
        told = await self._server.find(method, request)
        if told is None:
            await self._ledger.miss(collection)
        return told


def _told(point: Any) -> tuple[str, int]:
    return point.payload["key"].string_value, point.payload["revision"].integer_value
