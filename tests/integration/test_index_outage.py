"""A Qdrant server that is away, slow or emptied: puts go on, searches say so, and in the end all is found, each once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from sfm.v1 import health_pb2, memory_pb2

from sfm_grpc.coordinator import indexing
from sfm_grpc.coordinator.indexing import field_of
from sfm_grpc.errors import Code, IndexUnavailable
from sfm_grpc.model import Distance, Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage.vectors.points import FORMAT
from sfm_grpc.storage.vectors.qdrant import QdrantIndex
from tests.conftest import Serve
from tests.support.engines import Engine
from tests.support.memories import Memories, put_of, vector_of
from tests.support.servers import Server, settings_for, until
from tests.support.services.fixtures import StartProxy
from tests.support.services.proxy import FaultProxy
from tests.support.services.qdrant import RunningQdrant
from tests.support.services.qdrant_fixtures import StartQdrant
from tests.support.transactions import N

pytestmark = pytest.mark.engines("postgres")

TIMEOUT_MS = 400
MOMENT = Duration(nanos=200_000_000)
SOON = Duration(seconds=10)


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_CHECK_S": 0.2, "_LOOK_S": 0.1, "_RETRY_MIN_S": 0.05, "_RETRY_MAX_S": 0.2}.items():
        monkeypatch.setattr(indexing, name, seconds)


@pytest.fixture
def proxy(qdrant_service: RunningQdrant, fault_proxy: StartProxy) -> FaultProxy:
    return fault_proxy(qdrant_service.url)


Told = Callable[[str], Settings]


@pytest.fixture
def told(engine: Engine, tmp_path: Path, qdrant_prefix: str) -> Told:
    """Settings of a server that is told of a Qdrant."""

    def settings(url: str) -> Settings:
        said = {"qdrant_url": url, "qdrant_prefix": qdrant_prefix, "qdrant_timeout_ms": TIMEOUT_MS}
        return settings_for(**engine.settings(tmp_path / "data"), **said)

    return settings


@pytest.fixture
def settings(told: Told, proxy: FaultProxy, qdrant_service: RunningQdrant) -> Settings:
    return told(proxy.url(qdrant_service.url))


@pytest.fixture
def memories(server: Server) -> Memories:
    return Memories(server.channel)


def circle(count: int, *, start: int = 0, dimension: int = 2) -> list[memory_pb2.MemoryPut]:
    return [put_of(f"k{n:04}", vector=[1.0, n / 100, *[0.5] * (dimension - 2)]) for n in range(start, start + count)]


async def search(memories: Memories, *, limit: int = 1000, dimension: int = 2) -> Any:
    vector = memory_pb2.Vector(data=vector_of(*[1.0] * dimension))
    return await memories.ask("SearchMemories", namespace=memories.namespace, vector=vector, limit=limit)


async def refused(memories: Memories) -> IndexUnavailable:
    """What a search says."""
    with pytest.raises(IndexUnavailable) as caught:
        await search(memories)
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.retry_delay_s
    return caught.value


async def exact(server: Server, memories: Memories, *, dimension: int = 2) -> set[str]:
    """What is found, once the index has everything: what is stored, in the index once each, and nothing besides."""
    stored = sorted(await memories.keys())

    async def caught_up() -> bool:
        try:
            answer = await search(memories, dimension=dimension)
        except IndexUnavailable:
            return False
        return bool(answer.indexed_revision == answer.newest_revision)

    await until(caught_up)
    answer = await search(memories, dimension=dimension)
    assert sorted(n.memory.key for n in answer.neighbours) == stored
    progress = await server.app.indexer.progress(Scope(N.tenant, memories.namespace))
    assert progress is not None
    field = field_of(progress.scope, progress.space)
    page, after = await server.app.index.scan(field, after="", limit=10_000)
    assert (sorted(key for key, _ in page), after) == (stored, "")
    return set(stored)


async def component(server: Server) -> Any:
    report = await server.health.GetHealth(health_pb2.GetHealthRequest())
    assert (report.ok, report.ready) == (True, True), "search alone needs it"
    return next(c for c in report.components if c.name == "qdrant")


async def test_it_is_named_wherever_somebody_asks(server: Server) -> None:
    info = await server.health.GetServerInfo(health_pb2.GetServerInfoRequest())
    assert info.index == "qdrant"
    await until(lambda: _is(server, ok=True))
    assert "Qdrant at 127.0.0.1" in (await component(server)).detail


async def _is(server: Server, *, ok: bool) -> bool:
    return bool((await component(server)).ok is ok)


async def test_away_when_the_server_starts(settings: Settings, serve: Serve, proxy: FaultProxy) -> None:
    proxy.cut()
    server = await serve(settings)
    memories = Memories(server.channel)
    done = await memories.puts(*circle(20), wait_indexed=MOMENT)
    assert not done.indexed
    assert len(await memories.keys()) == 20
    await refused(memories)
    assert not (await component(server)).ok
    proxy.restore()
    assert (await memories.puts(put_of("last", vector=[1, 0]), wait_indexed=SOON)).indexed
    assert len(await exact(server, memories)) == 21
    assert await _is(server, ok=True)


async def test_unplugged_while_it_is_searched_and_put_into(memories: Memories, server: Server, proxy: FaultProxy) -> None:
    assert (await memories.puts(*circle(20), wait_indexed=SOON)).indexed
    proxy.cut()
    assert "does not answer" in str(await refused(memories))
    assert not (await memories.puts(*circle(20, start=20), wait_indexed=MOMENT)).indexed
    await memories.delete("k0003")
    await memories.puts(put_of("k0005", {"new": True}, vector=[0.0, 1.0]))
    await until(lambda: _is(server, ok=False))
    proxy.restore()
    found = await exact(server, memories)
    assert len(found) == 39
    assert "k0003" not in found


@pytest.mark.parametrize("after_bytes", [2_000, 40_000, 120_000])
async def test_hung_up_on_while_it_is_fed(memories: Memories, server: Server, proxy: FaultProxy, after_bytes: int) -> None:
    """In the middle of a message, and by and by in others."""
    assert (await memories.puts(put_of("first", vector=[1, 0]), wait_indexed=SOON)).indexed
    hung_up = proxy.truncate(after_bytes, "up")
    for start in range(0, 800, 400):
        await memories.puts(*circle(400, start=start))
    await until(hung_up.is_set)
    assert len(await exact(server, memories)) == 801


async def test_slow_is_told_in_time_and_slower_is_still_right(memories: Memories, server: Server, proxy: FaultProxy) -> None:
    assert (await memories.puts(*circle(10), wait_indexed=SOON)).indexed
    proxy.hang()
    begun = time.monotonic()
    told, done = await asyncio.gather(refused(memories), memories.puts(*circle(10, start=10), wait_indexed=MOMENT))
    assert "does not answer in time" in str(told)
    assert not done.indexed
    assert time.monotonic() - begun < TIMEOUT_MS / 1000 + 1
    proxy.restore()
    proxy.delay(0.05)
    assert len(await exact(server, memories)) == 20


async def test_a_step_ends_before_the_turn_does(
    told: Told,
    serve: Serve,
    proxy: FaultProxy,
    qdrant_service: RunningQdrant,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However long a call may take: by then another server may feed what is newer."""
    monkeypatch.setattr(indexing, "_STEP_S", 0.2)
    monkeypatch.setattr(indexing, "_CHECK_S", 3600)  # it would wait as long as a call may take
    patient = told(proxy.url(qdrant_service.url)).model_copy(update={"qdrant_timeout_ms": 60_000})
    server = await serve(patient)
    memories = Memories(server.channel)
    assert (await memories.puts(*circle(3), wait_indexed=SOON)).indexed
    proxy.hang("down")
    await memories.puts(*circle(3, start=3))
    await until(lambda: "3 memories are not taken in within 0.2 s; they are sent again" in caplog.text)
    proxy.restore()
    assert len(await exact(server, memories)) == 6


async def test_begun_anew_while_it_is_searched(memories: Memories, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the index had was asked of one, and the neighbours of another: they do not belong together."""
    assert (await memories.puts(*circle(3), wait_indexed=SOON)).indexed
    index, searched = server.app.index, server.app.index.search

    async def search_of_another(*asked: Any, **said: Any) -> Any:
        monkeypatch.undo()
        await index.discard(2, Distance.COSINE)
        return await searched(*asked, **said)

    monkeypatch.setattr(index, "search", search_of_another)
    assert "it was begun anew while it was searched" in str(await refused(memories))
    assert len(await exact(server, memories)) == 3


async def test_emptied_while_two_servers_run(
    settings: Settings, serve: Serve, qdrant_service: RunningQdrant, qdrant_prefix: str
) -> None:
    servers = [await serve(settings), await serve(settings)]
    here, there = (Memories(server.channel) for server in servers)
    assert (await here.puts(*circle(50), wait_indexed=SOON)).indexed
    assert len(await exact(servers[1], there)) == 50
    before = servers[0].app.index.identity
    await asyncio.to_thread(qdrant_service.forget, qdrant_prefix)
    await refused_or_behind(here)
    await asyncio.gather(here.puts(*circle(30, start=40)), there.delete("k0001"))
    assert await exact(servers[0], here) == await exact(servers[1], there)
    one, other = (server.app.index.identity for server in servers)
    assert one == other != before


async def refused_or_behind(memories: Memories) -> None:
    """Nobody is told that nothing is there."""
    try:
        answer = await search(memories)
    except IndexUnavailable:
        return
    assert answer.indexed_revision < answer.newest_revision or answer.neighbours


async def test_a_collection_is_deleted_by_hand(
    memories: Memories, server: Server, qdrant_service: RunningQdrant, qdrant_prefix: str
) -> None:
    wide = memories.of("wide")
    for each, dimension in ((memories, 2), (wide, 3)):
        assert (await each.puts(*circle(20, dimension=dimension), wait_indexed=SOON)).indexed
    index = server.app.index
    assert isinstance(index, QdrantIndex)
    before = index.identity
    await asyncio.to_thread(qdrant_service.forget, f"{qdrant_prefix}_v{FORMAT}_{before}_2_cosine")
    await refused_or_behind(memories)
    # What nobody wrote to is fed again, too.
    assert len(await exact(server, memories)) == 20
    assert len(await exact(server, wide, dimension=3)) == 20
    assert index.identity != before


async def test_restarted_while_it_is_fed(told: Told, serve: Serve, start_qdrant: StartQdrant) -> None:
    qdrant = start_qdrant()
    server = await serve(told(qdrant.url))
    memories = Memories(server.channel)
    feeding = [asyncio.create_task(memories.puts(*circle(200, start=start))) for start in range(0, 800, 200)]
    await until(lambda: server.app.metrics.index.applied._value.get() > 0)
    qdrant.kill()
    await asyncio.to_thread(qdrant.start)
    await asyncio.gather(*feeding)
    assert len(await exact(server, memories)) == 800


async def test_emptied_while_it_is_down(told: Told, serve: Serve, start_qdrant: StartQdrant) -> None:
    qdrant = start_qdrant()
    server = await serve(told(qdrant.url))
    memories = Memories(server.channel)
    assert (await memories.puts(*circle(20), wait_indexed=SOON)).indexed
    qdrant.kill()
    qdrant.wipe()
    await asyncio.to_thread(qdrant.start)
    await refused_or_behind(memories)
    assert len(await exact(server, memories)) == 20
