"""The index on a server: what is said while the server is away or will not, and that it goes on when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import qdrant_client.grpc as wire
from qdrant_client import AsyncQdrantClient, models

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors.contract import Field, VectorIndex
from sfm_grpc.storage.vectors.points import FORMAT, INDEXED
from sfm_grpc.storage.vectors.qdrant import QdrantIndex
from tests.support.services import ports
from tests.support.services.qdrant import QdrantStandIn
from tests.support.services.qdrant_fixtures import StartQdrant
from tests.vectors.given import EVERYTHING, NOW_US, a_field, a_point, found, keys, scanned, some_points, vectors

FIELD = a_field()
QUERY = vectors(1)[0].tobytes()
TIMEOUT_S = 1.0
BACK_S = 3.0
"""Within this a server that is back is found."""

EVERY_CALL: dict[str, Callable[[VectorIndex], Awaitable[object]]] = {
    "open": lambda index: index.open(),
    "check": lambda index: index.check(),
    "apply": lambda index: index.apply(FIELD, [a_point("k", revision=2)], []),
    "gone": lambda index: index.apply(FIELD, [], ["k"]),
    "search": lambda index: index.search(FIELD, QUERY, EVERYTHING, now_us=NOW_US, limit=3),
    "count": lambda index: index.count(FIELD),
    "scan": lambda index: index.scan(FIELD, after="", limit=3),
}


@contextlib.asynccontextmanager
async def opened(server: QdrantStandIn, **told: float) -> AsyncIterator[QdrantIndex]:
    index = QdrantIndex(server.url, server.api_key, prefix="own", timeout_s=TIMEOUT_S, **told)
    try:
        await index.open()
        yield index
    finally:
        await index.close()


async def until_back(call: Callable[[], Awaitable[object]]) -> None:
    end = time.monotonic() + BACK_S
    while True:
        try:
            await call()
        except IndexUnavailable:
            assert time.monotonic() < end, "it is back, and not found"
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_server_that_dies_and_comes_back(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    async with opened(server) as index:
        await index.apply(FIELD, some_points(10), [])
        server.kill()
        for name, call in EVERY_CALL.items():
            start = time.monotonic()
            with pytest.raises(IndexUnavailable, match=rf"Qdrant at 127.0.0.1:{server.port} does not answer") as told:
                await call(index)
            assert time.monotonic() - start < TIMEOUT_S + 0.5, name
        assert "memories are kept all the same" in str(told.value)
        server.start()
        await until_back(lambda: index.count(FIELD))
        assert await index.count(FIELD) == 10
        for call in EVERY_CALL.values():
            await call(index)


async def test_a_server_that_was_never_there(start_qdrant: StartQdrant) -> None:
    index = QdrantIndex(f"http://127.0.0.1:{ports.free()}", prefix="own", timeout_s=TIMEOUT_S)
    with pytest.raises(IndexUnavailable, match="does not answer; is it running, and is this its gRPC port"):
        await index.open()
    await index.close()
    server = start_qdrant()
    server.kill()
    index = QdrantIndex(server.url, prefix="own", timeout_s=TIMEOUT_S)
    with pytest.raises(IndexUnavailable):
        await index.open()
    server.start()
    await until_back(index.open)
    await index.apply(FIELD, [a_point("k")], [])
    await index.close()


async def test_a_server_that_does_not_answer(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    async with opened(server) as index:
        await index.apply(FIELD, some_points(10), [])
        server.freeze()
        ticks = asyncio.create_task(_longest_pause())
        start = time.monotonic()
        told = await asyncio.gather(*(call(index) for call in EVERY_CALL.values()), return_exceptions=True)
        assert time.monotonic() - start < TIMEOUT_S + 0.5
        assert [type(error) for error in told] == [IndexUnavailable] * len(EVERY_CALL)
        assert all("does not answer in time" in str(error) for error in told)
        ticks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticks
        server.thaw()
        await until_back(lambda: index.count(FIELD))


async def _longest_pause() -> None:
    """The loop goes on."""
    while True:
        start = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - start < 0.3


async def test_a_server_that_forgot_everything(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    async with opened(server) as index:
        await index.apply(FIELD, some_points(10), [])
        server.kill()
        server.wipe()
        server.start()
        await until_back(index.check)
        assert await index.count(FIELD) == 0
        assert await found(index, FIELD) == []
        assert await index.apply(FIELD, [], ["k/001"]) == []
        assert await index.apply(FIELD, [a_point("k")], []) == []
        assert await keys(index, FIELD) == {"k"}
        async with raw(server) as client:
            assert await indexed(client, collection(index)) == INDEXED.keys()


def collection(index: QdrantIndex) -> str:
    """That of `FIELD`."""
    return index._ledger.name(FIELD.dimension, FIELD.distance)


@contextlib.asynccontextmanager
async def raw(server: QdrantStandIn) -> AsyncIterator[AsyncQdrantClient]:
    client = AsyncQdrantClient(host="127.0.0.1", grpc_port=server.port, prefer_grpc=True, check_compatibility=False)
    yield client
    await client.close()


async def indexed(client: AsyncQdrantClient, name: str) -> set[str]:
    """The fields that have an index."""
    told = await client.grpc_collections.Get(wire.GetCollectionInfoRequest(collection_name=name))
    return set(told.result.payload_schema)


async def test_a_collection_that_was_left_half_made(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    async with raw(server) as client, opened(server) as index:
        await client.grpc_collections.Create(_creation(collection(index), 8))
        await client.create_payload_index(
            collection(index), "key", models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
        )
        await index.apply(FIELD, [a_point("k")], [])
        assert await indexed(client, collection(index)) == INDEXED.keys()
        assert await keys(index, FIELD) == {"k"}


def _creation(name: str, dimension: int) -> wire.CreateCollection:
    quantization = wire.QuantizationConfig(scalar=wire.ScalarQuantization(type=wire.Int8, quantile=0.99, always_ram=True))
    return wire.CreateCollection(
        collection_name=name,
        vectors_config=wire.VectorsConfig(params=wire.VectorParams(size=dimension, distance=wire.Cosine)),
        hnsw_config=wire.HnswConfigDiff(m=16, payload_m=16, ef_construct=100, full_scan_threshold=100),
        quantization_config=quantization,
    )


async def test_what_the_server_refuses_is_told_point_by_point(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    async with raw(server) as client, opened(server) as index:
        await client.grpc_collections.Create(_creation(collection(index), 5))  # somebody else's, by the same name
        refused = await index.apply(FIELD, some_points(5), ["never put"])
        assert [(r.key, r.revision) for r in refused] == [(f"k/{i:03}", i + 1) for i in range(5)]
        assert "refuses it" in refused[0].reason
        assert "expected dim: 5, got 8" in refused[0].reason


async def test_many_servers_may_begin_at_once(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    async with contextlib.AsyncExitStack() as stack:
        indexes = [await stack.enter_async_context(opened(server)) for _ in range(4)]
        await asyncio.gather(*(index.apply(FIELD, [a_point(f"k{i}")], []) for i, index in enumerate(indexes)))
        for index in indexes:
            assert await keys(index, FIELD) == {"k0", "k1", "k2", "k3"}


async def test_collections_of_others_are_left_alone(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    async with raw(server) as client, opened(server) as index:
        await client.grpc_collections.Create(_creation("others_8_cosine", 8))
        await index.apply(FIELD, some_points(2), [])
        assert (await index.check()).endswith(f": {collection(index)}")
        await index.discard(8, Distance.COSINE)
        ours = {f"own_v{FORMAT}_{index.identity}"}
        assert {c.name for c in (await client.get_collections()).collections} == {"others_8_cosine", *ours}


async def test_an_old_server_is_not_taken(start_qdrant: StartQdrant) -> None:
    server = start_qdrant(version="1.18.3")
    with pytest.raises(IndexUnavailable, match=r"has version 1\.18\.3, and 1\.19 is the oldest that will do; update it"):
        async with opened(server):
            pass


async def test_a_key_that_is_asked_for(start_qdrant: StartQdrant) -> None:
    server = start_qdrant(api_key="right")
    async with opened(server) as index:
        await index.apply(FIELD, [a_point("k")], [])
        assert await scanned(index, FIELD) == [("k", 1)]
    for wrong in ("wrong", None):
        server.api_key = wrong
        with pytest.raises(IndexUnavailable, match="refuses the API key, or wants one"):
            async with opened(server):
                pass


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "write http://host:6334, or https:// for TLS"),
        ("localhost", "write http://host:6334"),
        ("localhost:6334", "write http://host:6334"),
        ("redis://localhost", "write http://host:6334"),
        ("http://", "it names no host"),
        ("http://localhost:secret", "its port is not one"),
        ("http://localhost:0", "its port is not one"),
        ("http://[::1", "its port is not one, or its host is none"),
        ("http://user:secret@localhost", "it holds a user or a password: the API key is a setting of its own"),
        ("http://localhost/secret", "nothing may follow the port"),
        ("http://localhost?api_key=secret", "nothing may follow the port"),
    ],
)
def test_an_address_that_is_none(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"this is not a Qdrant address: {re.escape(why)}") as told:
        QdrantIndex(url)
    assert "secret" not in str(told.value)


async def test_the_port_is_that_of_grpc() -> None:
    places = {
        "http://127.0.0.2": "127.0.0.2:6334",
        "http://127.0.0.2:6333/": "127.0.0.2:6334",
        "https://127.0.0.2:7000": "127.0.0.2:7000",
        "http://[::1]:7000": "[::1]:7000",
    }
    for url, place in places.items():
        index = QdrantIndex(url, timeout_s=0.3)
        with pytest.raises(IndexUnavailable, match=f"Qdrant at {re.escape(place)} does not answer"):
            await index.open()
        await index.close()


async def test_a_wide_field_of_many(start_qdrant: StartQdrant) -> None:
    server = start_qdrant()
    wide: Field = a_field(dimension=1536)
    async with opened(server) as index:
        await index.apply(wide, some_points(1200, 1536), [])
        assert await index.count(wide) == 1200
