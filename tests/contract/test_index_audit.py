"""VerifyIndex and RepairIndex: the index is compared with the memories, mended, or made anew."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from sfm.v1 import memory_store_pb2 as pb
from sfm.v1 import memory_store_pb2_grpc

from sfm_grpc.coordinator.indexing import field_of
from sfm_grpc.errors import NotFound
from sfm_grpc.model import Scope
from sfm_grpc.storage.vectors.contract import Field, Point
from tests.support.memories import Memories, put_of, vector_of
from tests.support.refusals import refusal_of
from tests.support.servers import Server

pytestmark = pytest.mark.engines("sqlite", "postgres")

N = Scope("default", "n")


@pytest.fixture
def memories(server: Server) -> Memories:
    return Memories(server.channel)


async def ask(server: Server, method: str, **said: Any) -> tuple[list[pb.IndexProgress], pb.IndexReport]:
    stub: Any = memory_store_pb2_grpc.MemoryStoreStub(server.channel)
    said.setdefault("namespace", "n")
    try:
        told = [each async for each in getattr(stub, method)(getattr(pb, f"{method}Request")(**said), timeout=30)]
    except grpc.aio.AioRpcError as error:
        raise refusal_of(error).error from error
    return [each.progress for each in told[:-1]], told[-1].report


def wrong(report: pb.IndexReport) -> dict[str, int]:
    return {name: getattr(report, name) for name in ("missing", "orphaned", "stale") if getattr(report, name)}


async def field(server: Server) -> Field:
    found = await server.app.indexer.progress(N)
    assert found is not None
    return field_of(N, found.space)


async def filled(server: Server, memories: Memories, count: int = 20) -> Field:
    await memories.puts(*(put_of(f"k{n:02}", vector=[1, n]) for n in range(count)), put_of("without"))
    assert await server.app.indexer.until_indexed(N, count + 1, time.monotonic() + 10)
    return await field(server)


def point(key: str, revision: int) -> Point:
    return Point(key, revision, vector_of(9, 9), "", 0.0, (), 1, 1, 0)


async def test_what_is_as_it_should_be_is_said_to_be(server: Server, memories: Memories) -> None:
    await filled(server, memories)
    await memories.delete("k00")
    await memories.put("k01", vector=[5, 5])
    steps, report = await ask(server, "VerifyIndex")
    assert (report.memories, report.points, wrong(report)) == (19, 19, {})
    assert report.memories_hash == report.points_hash != bytes(8)
    assert report.indexed_revision == 23
    assert {s.phase for s in steps} >= {"counting memories", "counting points"}
    assert list(report.sample_keys) == []


async def test_each_way_to_be_wrong_is_found_and_mended(server: Server, memories: Memories) -> None:
    where = await filled(server, memories)
    await server.app.index.apply(where, [point("k03", 1), point("nobody", 7)], ["k01", "k02"])
    _, report = await ask(server, "VerifyIndex")
    assert (report.memories, report.points, wrong(report)) == (20, 19, {"missing": 2, "orphaned": 1, "stale": 1})
    assert report.memories_hash != report.points_hash
    assert sorted(report.sample_keys) == ["k01", "k02", "k03", "nobody"]
    assert report.mended == 0
    _, report = await ask(server, "RepairIndex")
    assert (report.points, wrong(report), report.mended) == (20, {}, 4)
    assert report.memories_hash == report.points_hash
    pairs, _ = await server.app.index.scan(where, after="", limit=100)
    assert sorted(pairs) == [(f"k{n:02}", n + 1) for n in range(20)]


async def test_an_emptied_index_is_mended_or_made_anew(server: Server, memories: Memories) -> None:
    where = await filled(server, memories)
    await server.app.index.drop(where)
    _, report = await ask(server, "RepairIndex")
    assert (report.points, wrong(report), report.mended) == (20, {}, 20)
    await server.app.index.apply(where, [point("nobody", 7)], ["k01"])
    steps, report = await ask(server, "RepairIndex", rebuild=True)
    assert (report.memories, report.points, wrong(report)) == (20, 20, {})
    assert (steps[0].phase, steps[0].done, steps[0].total) == ("feeding", 0, 21)
    assert await server.app.index.count(where) == 20


async def test_what_the_index_does_not_take_is_told_and_is_not_missing(server: Server, memories: Memories) -> None:
    await memories.ask("CreateNamespace", namespace="n", dimension=2, distance=2)
    await memories.puts(put_of("good", vector=[1, 2]), put_of("long", vector=[3e38, 3e38]))
    assert await server.app.indexer.until_indexed(N, 2, time.monotonic() + 10)
    space = await memories.space()
    assert [(r.key, r.revision) for r in space.refused] == [("long", 2)]
    assert "too long" in space.refused[0].reason
    assert space.indexed_revision == 2
    _, report = await ask(server, "VerifyIndex")
    assert (report.refused, wrong(report)) == (1, {})
    await memories.put("long", vector=[3, 4])
    assert await server.app.indexer.until_indexed(N, 3, time.monotonic() + 10)
    assert list((await memories.space()).refused) == []


async def test_where_nothing_can_be_found_nothing_is_wrong(server: Server, memories: Memories) -> None:
    await memories.put("a")
    for method in ("VerifyIndex", "RepairIndex"):
        _, report = await ask(server, method)
        assert (report.memories, report.points, wrong(report)) == (0, 0, {})
    _, report = await ask(server, "RepairIndex", rebuild=True)
    assert wrong(report) == {}
    with pytest.raises(NotFound):
        await ask(server, "VerifyIndex", namespace="nothing")


async def test_writes_go_on_meanwhile(server: Server, memories: Memories) -> None:
    await filled(server, memories)
    stub: Any = memory_store_pb2_grpc.MemoryStoreStub(server.channel)
    call = stub.VerifyIndex(pb.VerifyIndexRequest(namespace="n"), timeout=30)
    told = []
    async for each in call:
        told.append(each)
        await memories.put(f"new{len(told)}", vector=[2, 2])
        await memories.delete(f"k{len(told):02}")
    assert wrong(told[-1].report) == {}
