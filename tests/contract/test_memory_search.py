"""Search: the nearest memories, and never one that is not so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from sfm.v1 import memory_pb2

from sfm_grpc.errors import IndexUnavailable, InvalidRequest, LimitExceeded, NotFound
from sfm_grpc.settings import Settings
from tests.conftest import Serve
from tests.support.engines import Engine
from tests.support.indexes import EmbeddedIndex, Index, QdrantServerIndex
from tests.support.memories import Memories, put_of, vector_of
from tests.support.servers import Server, settings_for
from tests.support.services.proxy import FaultProxy
from tests.support.services.qdrant import RunningQdrant

pytestmark = pytest.mark.engines("sqlite", "postgres")
"""The embedded engine beside the embedded store, a Qdrant server beside Postgres: an index knows nothing of stores."""

SOON = Duration(seconds=20)


@pytest.fixture
def index(request: pytest.FixtureRequest, engine: Engine) -> Index:
    if engine.name == "sqlite":
        return EmbeddedIndex()
    service: RunningQdrant = request.getfixturevalue("qdrant_service")
    proxy: FaultProxy = request.getfixturevalue("fault_proxy")(service.url)
    return QdrantServerIndex(service, request.getfixturevalue("qdrant_prefix"), proxy)


@pytest.fixture
def settings(request: pytest.FixtureRequest, engine: Engine, index: Index, tmp_path: Path) -> Settings:
    overrides = {k: v for mark in request.node.iter_markers("settings") for k, v in mark.kwargs.items()}
    return settings_for(**engine.settings(tmp_path / "data") | index.settings() | overrides)


@pytest.fixture
def memories(server: Server) -> Memories:
    return Memories(server.channel)


async def search(memories: Memories, *numbers: float, **said: Any) -> Any:
    vector = memory_pb2.Vector(data=vector_of(*numbers))
    return await memories.ask("SearchMemories", namespace=memories.namespace, vector=vector, **said)


async def found(memories: Memories, *numbers: float, **said: Any) -> list[str]:
    return [n.memory.key for n in (await search(memories, *numbers, **said)).neighbours]


async def put_and_wait(memories: Memories, *puts: memory_pb2.MemoryPut) -> Any:
    done = await memories.puts(*puts, wait_indexed=SOON)
    assert done.indexed
    return done


CIRCLE = [
    put_of(f"k{n}", {"n": n}, vector=[np.cos(n / 3), np.sin(n / 3)], memory_type="even" if n % 2 == 0 else "odd")
    for n in range(8)
]


async def test_the_nearest_are_found_nearest_first(memories: Memories) -> None:
    await put_and_wait(memories, *CIRCLE, put_of("without"))
    answer = await search(memories, 1.0, 0.0, limit=3)
    assert [n.memory.key for n in answer.neighbours] == ["k0", "k1", "k2"]
    assert [n.score for n in answer.neighbours] == pytest.approx([np.cos(n / 3) for n in range(3)], abs=1e-6)
    assert [n.memory.payload_json for n in answer.neighbours] == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
    assert not answer.neighbours[0].memory.HasField("vector")
    assert (answer.indexed_revision, answer.newest_revision) == (9, 9)
    assert len(await found(memories, 1.0, 0.0)) == 8
    with_vectors = await search(memories, 1.0, 0.0, limit=1, with_vectors=True)
    assert with_vectors.neighbours[0].memory.vector.data == vector_of(1.0, 0.0)


@pytest.mark.parametrize(
    ("distance", "order", "scores"),
    [
        ("DISTANCE_DOT", ["far", "near", "other"], [10.0, 1.0, 0.0]),
        ("DISTANCE_EUCLIDEAN", ["near", "other", "far"], [0.0, np.sqrt(2), 9.0]),
    ],
)
async def test_each_distance_says_what_it_says(memories: Memories, distance: str, order: list[str], scores: list[float]) -> None:
    await memories.ask("CreateNamespace", namespace="n", dimension=2, distance=distance)
    await put_and_wait(memories, put_of("near", vector=[1, 0]), put_of("far", vector=[10, 0]), put_of("other", vector=[0, 1]))
    answer = await search(memories, 1.0, 0.0)
    assert [n.memory.key for n in answer.neighbours] == order
    assert [n.score for n in answer.neighbours] == pytest.approx(scores, abs=1e-6)


async def test_a_filter_is_kept_to(memories: Memories) -> None:
    await put_and_wait(memories, *CIRCLE)
    assert await found(memories, 1.0, 0.0, filter={"memory_types": ["odd"]}, limit=2) == ["k1", "k3"]
    assert await found(memories, 1.0, 0.0, filter={"key_prefix": "k7"}) == ["k7"]
    assert await found(memories, 1.0, 0.0, filter={"memory_types": ["neither"]}) == []


async def test_what_is_written_since_shows_as_it_is_or_not_at_all(memories: Memories, server: Server) -> None:
    await put_and_wait(memories, *CIRCLE)
    with held(server):
        await memories.delete("k0")
        await memories.purge("k1")
        await memories.put("k2", {"n": "new"}, importance=1.0)
        await memories.put("new", vector=[1, 0])
        answer = await search(memories, 1.0, 0.0, limit=3)
        assert [n.memory.key for n in answer.neighbours] == ["k3", "k4", "k5"]
        assert (answer.indexed_revision, answer.newest_revision) == (8, 12)
    await put_and_wait(memories, put_of("last"))
    assert await found(memories, 1.0, 0.0, limit=4) == ["new", "k3", "k4", "k5"], "k2 has no vector any more"


@contextlib.contextmanager
def held(server: Server) -> Iterator[None]:
    """While it lasts, the index takes nothing in, not even what its feeder has begun with."""
    over = asyncio.Event()

    async def waiting(*_: object) -> None:
        await over.wait()
        raise IndexUnavailable(problem="it was held")

    server.app.indexer.apply = waiting  # type: ignore[method-assign]
    yield
    del server.app.indexer.apply
    over.set()


async def test_what_has_expired_does_not_show(memories: Memories) -> None:
    await put_and_wait(memories, put_of("a", vector=[1, 0], ttl_s=4), put_of("b", vector=[1, 0.1]))
    assert await found(memories, 1.0, 0.0) == ["a", "b"]
    await asyncio.sleep(4)
    assert await found(memories, 1.0, 0.0) == ["b"]


async def test_undeleted_memories_are_found_again(memories: Memories) -> None:
    await put_and_wait(memories, put_of("a", vector=[1, 0]), put_of("b", vector=[0, 1]))
    await memories.delete("a")
    await put_and_wait(memories, put_of("c"))
    assert await found(memories, 1.0, 0.0) == ["b"]
    await memories.undelete("a")
    await put_and_wait(memories, put_of("c"))
    assert await found(memories, 1.0, 0.0) == ["a", "b"]


async def test_nobody_finds_what_is_not_theirs(memories: Memories) -> None:
    others = [memories.of("m"), memories.of("n", "another")]
    for place, one in enumerate([memories, *others]):
        await put_and_wait(one, put_of("a", place, vector=[1, place]))
    for place, one in enumerate([memories, *others]):
        [neighbour] = (await search(one, 1.0, 0.0)).neighbours
        assert neighbour.memory.payload_json == str(place)


async def test_a_commit_of_both_is_found_too(memories: Memories, server: Server) -> None:
    from tests.support.drivers import Put
    from tests.support.matrices import density
    from tests.support.messages import commit_of

    request = commit_of(Put("rho", density()))
    request.memories.append(memory_pb2.MemoryChange(put=put_of("a", vector=[1, 0])))
    await server.rho.CommitRho(request)
    await put_and_wait(memories, put_of("b"))
    assert await found(memories, 1.0, 0.0) == ["a"]


async def test_many_that_are_gone_do_not_hide_those_that_are_there(memories: Memories, server: Server) -> None:
    gone = [f"gone{n}" for n in range(50)]
    await put_and_wait(memories, *(put_of(key, vector=[1, n / 1000]) for n, key in enumerate(gone)), put_of("a", vector=[0, 1]))
    with held(server):
        await memories.deletes(*gone)
        assert await found(memories, 1.0, 0.0, limit=1) == ["a"]


# ---- the index is a projection


async def test_the_index_is_there_after_a_restart(settings: Settings, serve: Serve) -> None:
    server = await serve(settings)
    await put_and_wait(Memories(server.channel), *CIRCLE)
    await server.app.__aexit__(None, None, None)
    again = await serve(settings)
    applied = again.app.metrics.index.applied._value.get()
    memories = Memories(again.channel)
    await put_and_wait(memories, put_of("last"))
    assert (await found(memories, 1.0, 0.0, limit=1), applied) == (["k0"], 0)
    assert again.app.metrics.index.applied._value.get() == 1, "nothing is sent again"


async def test_a_turn_ends_with_the_server_that_has_it(settings: Settings, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it ends while it gives the turn back: otherwise the next one would wait until it is over, half a minute."""
    server = await serve(settings)
    tables, releasing = server.app.store.indexing, asyncio.Event()
    release = tables.release

    async def slowly(*asked: Any) -> None:
        releasing.set()
        await asyncio.sleep(0.1)
        await release(*asked)

    monkeypatch.setattr(tables, "release", slowly)
    await Memories(server.channel).puts(*CIRCLE)
    await releasing.wait()
    await server.app.__aexit__(None, None, None)
    await put_and_wait(Memories((await serve(settings)).channel), put_of("last"))


async def test_an_index_that_was_lost_is_made_again(settings: Settings, serve: Serve, index: Index) -> None:
    server = await serve(settings)
    await put_and_wait(Memories(server.channel), *CIRCLE)
    await Memories(server.channel).delete("k1")
    await server.app.__aexit__(None, None, None)
    await asyncio.to_thread(index.lose, settings)
    memories = Memories((await serve(settings)).channel)
    await put_and_wait(memories, put_of("last"))
    assert await found(memories, 1.0, 0.0, limit=2) == ["k0", "k2"]


async def test_without_the_index_everything_else_works(settings: Settings, serve: Serve, index: Index) -> None:
    with index.unplugged(settings):
        memories = Memories((await serve(settings)).channel)
        begun = time.monotonic()
        done = await memories.puts(*CIRCLE, wait_indexed=Duration(nanos=300_000_000))
        assert not done.indexed
        assert time.monotonic() - begun < 5
        assert len(await memories.keys()) == 8
        with pytest.raises(IndexUnavailable) as caught:
            await search(memories, 1.0, 0.0)
        assert caught.value.retry_delay_s
    await put_and_wait(memories, put_of("last"))
    assert await found(memories, 1.0, 0.0, limit=2) == ["k0", "k1"]


# ---- what is refused


@pytest.mark.settings(search_limit_max=5)
async def test_a_search_that_makes_no_sense_is_refused(memories: Memories) -> None:
    with pytest.raises(NotFound):
        await search(memories, 1.0, 0.0)
    await memories.put("a")
    assert await found(memories, 1.0, 0.0) == [], "no vector was ever put"
    await put_and_wait(memories, put_of("b", vector=[1, 0]))
    for numbers, said, field in (
        ((1.0,), {}, "vector"),
        ((0.0, 0.0), {}, "vector"),
        ((float("nan"), 1.0), {}, "vector"),
        ((1.0, 0.0), {"limit": 6}, "limit"),
        ((1.0, 0.0), {"limit": -1}, "limit"),
        ((1.0, 0.0), {"filter": {"importance": {"low": 2, "high": 1}}}, "filter.importance"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await search(memories, *numbers, **said)
        assert caught.value.field == field
    with pytest.raises(InvalidRequest):
        await memories.ask("SearchMemories", namespace="n")
    with pytest.raises(LimitExceeded):
        await search(memories, 1.0, 0.0, filter={"memory_types": [str(n) for n in range(65)]})


async def test_waiting_for_the_index_is_bounded(memories: Memories) -> None:
    with pytest.raises(InvalidRequest, match="wait_indexed"):
        await memories.puts(put_of("a"), wait_indexed=Duration(seconds=-1))
    assert not (await memories.puts(put_of("a", vector=[1, 0]))).indexed, "it was not asked for"
