"""The index on a Qdrant server, spoken to by gRPC alone: a collection for each geometry, with the points of all namespaces.

How durable a change is that the server has acknowledged, and on how many of its nodes, is its own affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import urlsplit

import qdrant_client.grpc as wire
from grpc import StatusCode
from grpc.aio import AioRpcError
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Buffer, Distance, MemoryFilter
from sfm_grpc.storage.vectors import points, qdrant_messages
from sfm_grpc.storage.vectors.contract import Field, Hit, Point, Refused
from sfm_grpc.storage.vectors.points import INDEXED, scope_name

GRPC_PORT, _REST_PORT = 6334, 6333
_OLDEST = (1, 19)
"""The first that finds keys by how they begin."""
# Making a collection or an index, and letting go of many points, take as long as they take.
_SLOW_S = 60.0
_STEP_POINTS = 500
_FEW = 16
"""Points that are made into a message where they come in; more, on a thread."""

# A server that is back is found within a second; without these, within two minutes.
_CHANNEL = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
}
_PROBLEMS = {
    StatusCode.UNAVAILABLE: "does not answer; is it running, and is this its gRPC port?",
    StatusCode.DEADLINE_EXCEEDED: "does not answer in time",
    StatusCode.UNAUTHENTICATED: "refuses the API key, or wants one",
    StatusCode.PERMISSION_DENIED: "does not allow this to the API key",
    StatusCode.RESOURCE_EXHAUSTED: "has more to do than it can",
    StatusCode.UNIMPLEMENTED: "does not know what it is asked; is it a Qdrant server, 1.19 or newer?",
}


class QdrantIndex:
    """`contract.VectorIndex` on a server."""

    name = "qdrant"

    def __init__(self, url: str, api_key: str | None = None, *, prefix: str = "sfm", timeout_s: float = 5.0) -> None:
        """`http://host:6334`, or `https://`; the port is that of gRPC, and 6333, Qdrant's for REST, means the one beside it.

        Every collection's name begins with `prefix`.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url!r} is not a Qdrant address, such as http://localhost:{GRPC_PORT}")
        port = GRPC_PORT if parts.port in (None, _REST_PORT) else parts.port
        self._host, self._port, self._tls = parts.hostname, port, parts.scheme == "https"
        self._where = f"Qdrant at {self._host}:{self._port}"
        self._api_key = api_key
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._client: AsyncQdrantClient | None = None
        self._prepared: set[str] = set()
        """Collections that are there with all their indexes, as far as we know."""
        self._preparing = asyncio.Lock()

    async def open(self) -> None:
        """See the contract. Collections are made when something is put into them."""
        if self._client is None:
            self._client = AsyncQdrantClient(
                host=self._host,
                grpc_port=self._port,
                https=self._tls,
                api_key=self._api_key,
                prefer_grpc=True,
                check_compatibility=False,  # would ask by REST, on a thread; we ask ourselves
                grpc_options=dict(_CHANNEL),  # it writes into it
            )
        await self._version()

    async def close(self) -> None:
        """See the contract."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def check(self) -> str:
        """See the contract."""
        version = await self._version()
        told = await self._ask(self._opened.grpc_collections.List, wire.ListCollectionsRequest())
        pattern = re.compile(rf"{re.escape(self._prefix)}_(\d+)_[a-z]+")
        ours = {match[0]: int(match[1]) for c in told.collections if (match := pattern.fullmatch(c.name))}
        nothing = points.living("", MemoryFilter(), 0)
        for name, dimension in ours.items():
            query = qdrant_messages.query(name, bytes(4 * dimension), nothing, points.Effort(1, wide=False), 1)
            await self._ask(self._opened.grpc_points.Query, query)
        return f"{self._where}, version {version}: {', '.join(sorted(ours)) or 'nothing kept yet'}"

    async def _version(self) -> str:
        health = await self._ask(self._health, None)
        if tuple(map(int, re.findall(r"\d+", health.version)[:2])) < _OLDEST:
            raise IndexUnavailable(
                problem=f"{self._where} has version {health.version}, and 1.19 is the oldest that will do; update it"
            )
        return str(health.version)

    async def _health(self, _: None, *, timeout: float) -> Any:  # noqa: ASYNC109  as the other methods have it
        async with asyncio.timeout(timeout):  # the client's own is in whole seconds
            return await self._opened.info()

    # ---- changes

    async def apply(self, field: Field, puts: Sequence[Point], gone: Collection[str]) -> Sequence[Refused]:
        """See the contract."""
        taken, refused = points.sift(field, puts) if len(puts) <= _FEW else await asyncio.to_thread(points.sift, field, puts)
        for start in range(0, len(taken), _STEP_POINTS):
            refused += await self._put(field, taken[start : start + _STEP_POINTS])
        if gone:
            await self._find(self._opened.grpc_points.Delete, qdrant_messages.deletion(self._name(field), field, gone))
        return refused

    async def _put(self, field: Field, puts: Sequence[Point]) -> list[Refused]:
        """Those that the server does not take. It refuses all because of one, so they are halved until that one is found."""
        upsert = functools.partial(qdrant_messages.upsert, self._name(field), field, puts)
        request = upsert() if len(puts) <= _FEW else await asyncio.to_thread(upsert)
        try:
            await self._upsert(field, request)
        except AioRpcError as error:
            if error.code() is not StatusCode.INVALID_ARGUMENT:
                raise self._translated(error) from error
            if len(puts) == 1:
                return [Refused(puts[0].key, puts[0].revision, f"{self._where} refuses it: {error.details()}")]
            half = len(puts) // 2
            return [*await self._put(field, puts[:half]), *await self._put(field, puts[half:])]
        return []

    async def _upsert(self, field: Field, request: wire.UpsertPoints) -> None:
        """Puts them into the collection, which is made where it is not there, or not any more."""
        await self._prepare(field)
        but = {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND}
        try:
            told = await self._ask(self._opened.grpc_points.Upsert, request, but=but)
        except AioRpcError as error:
            if error.code() is not StatusCode.NOT_FOUND:
                raise
            self._prepared.discard(self._name(field))
            await self._prepare(field)
            told = await self._ask(self._opened.grpc_points.Upsert, request, but=but)
        if told.result.status != wire.Completed:
            raise IndexUnavailable(problem=f"{self._where} has not done in time what it was told")

    async def _prepare(self, field: Field) -> None:
        """Makes the collection and the indexes of its fields, where they are wanting; others may be at it, too."""
        name, collections = self._name(field), self._opened.grpc_collections
        async with self._preparing:
            if name in self._prepared:
                return
            about = wire.GetCollectionInfoRequest(collection_name=name)
            info = await self._find(collections.Get, about)
            if info is None:
                creation = qdrant_messages.creation(name, field.dimension, field.distance)
                raced = {StatusCode.ALREADY_EXISTS, StatusCode.INVALID_ARGUMENT}  # another server made it just now
                with contextlib.suppress(AioRpcError):
                    await self._ask(collections.Create, creation, slow=True, but=raced)
                info = await self._ask(collections.Get, about)
            for wanting in INDEXED.keys() - info.result.payload_schema.keys():
                await self._ask(self._opened.grpc_points.CreateFieldIndex, qdrant_messages.indexing(name, wanting), slow=True)
            self._prepared.add(name)

    async def drop(self, field: Field) -> None:
        """See the contract."""
        await self._find(self._opened.grpc_points.Delete, qdrant_messages.drop(self._name(field), field), slow=True)

    async def discard(self, dimension: int, distance: Distance) -> None:
        """See the contract."""
        name = self._collection(dimension, distance)
        async with self._preparing:
            self._prepared.discard(name)
            await self._find(self._opened.grpc_collections.Delete, wire.DeleteCollection(collection_name=name), slow=True)

    # ---- questions; of a collection that is not there: nothing is in it

    async def search(self, field: Field, vector: Buffer, chosen: MemoryFilter, *, now_us: int, limit: int) -> Sequence[Hit]:
        """See the contract."""
        sought = points.sought(field, vector)
        if limit == 0:
            return ()
        conditions = points.living(scope_name(field), chosen, now_us)
        query = qdrant_messages.query(self._name(field), sought, conditions, points.effort(chosen, limit), limit)
        told = await self._find(self._opened.grpc_points.Query, query)
        return [Hit(*_told(hit), hit.score) for hit in told.result] if told is not None else ()

    async def count(self, field: Field) -> int:
        """See the contract."""
        told = await self._find(self._opened.grpc_points.Count, qdrant_messages.count(self._name(field), field))
        return int(told.result.count) if told is not None else 0

    async def scan(self, field: Field, *, after: str, limit: int) -> tuple[Sequence[tuple[str, int]], str]:
        """See the contract."""
        told = await self._find(self._opened.grpc_points.Scroll, qdrant_messages.scroll(self._name(field), field, after, limit))
        return ([_told(point) for point in told.result], str(told.next_page_offset.uuid)) if told is not None else ((), "")

    # ---- asking

    def _name(self, field: Field) -> str:
        return self._collection(field.dimension, field.distance)

    def _collection(self, dimension: int, distance: Distance) -> str:
        return f"{self._prefix}_{dimension}_{distance.name.lower()}"

    @property
    def _opened(self) -> AsyncQdrantClient:
        if self._client is None:
            raise IndexUnavailable(problem=f"{self._where}: the index is closed")
        return self._client

    async def _find(self, method: Any, request: Any, *, slow: bool = False) -> Any:
        """The answer; None where what it is about is not there."""
        try:
            return await self._ask(method, request, slow=slow, but={StatusCode.NOT_FOUND})
        except AioRpcError:
            return None

    async def _ask(self, method: Any, request: Any, *, slow: bool = False, but: Collection[StatusCode] = ()) -> Any:
        """The answer. Raises IndexUnavailable, and AioRpcError with one of the codes in `but`."""
        try:
            return await method(request, timeout=max(_SLOW_S, self._timeout_s) if slow else self._timeout_s)
        except AioRpcError as error:
            if error.code() in but:
                raise
            raise self._translated(error) from error
        except TimeoutError as error:
            raise IndexUnavailable(problem=f"{self._where} {_PROBLEMS[StatusCode.DEADLINE_EXCEEDED]}") from error
        except ResourceExhaustedResponse as error:
            problem = f"{self._where} {_PROBLEMS[StatusCode.RESOURCE_EXHAUSTED]}"
            raise IndexUnavailable(problem=problem, retry_after_s=float(error.retry_after_s)) from error

    def _translated(self, error: AioRpcError) -> IndexUnavailable:
        problem = _PROBLEMS.get(error.code(), f"answers {error.code().name}")
        return IndexUnavailable(problem=f"{self._where} {problem} ({error.details()})")


def _told(point: Any) -> tuple[str, int]:
    return point.payload["key"].string_value, point.payload["revision"].integer_value
