"""The typed client on a real server: namespaces deleted and counted, memories linked, the index verified."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from sfm_grpc.client import (
    AsyncClient,
    Client,
    ConfirmationRequired,
    IndexProgress,
    InvalidRequest,
    LimitExceeded,
    Link,
    MemoryPut,
    NotFound,
    RequestIdReused,
    VersionConflict,
)
from sfm_grpc.coordinator.indexing import field_of
from sfm_grpc.model import Scope
from tests.contract.test_memory_client import Threaded
from tests.support.servers import Server

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(params=["sync", "asyncio"], loop_scope="module")
async def client(request: pytest.FixtureRequest, shared_server: Server, tenant: str) -> AsyncIterator[Any]:
    if request.param == "sync":
        with Client(shared_server.app.address, name="test", tenant=tenant) as blocking:
            yield Threaded(blocking)
    else:
        async with AsyncClient(shared_server.app.address, name="test", tenant=tenant) as client:
            yield client


@pytest.fixture
def memories(client: Any) -> Any:
    return client.namespace("n").memories


async def all_of(listed: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in listed]


# ---- namespaces


async def test_a_namespace_is_deleted_by_its_name_said_twice(client: Any, memories: Any) -> None:
    await memories.put_many([MemoryPut(key, 0) for key in "ab"])
    await client.namespace("n").commit({"rho": np.eye(2) / 2}, expected_version=0)
    with pytest.raises(ConfirmationRequired) as caught:
        await client.delete_namespace("n", confirm="m")
    would = caught.value
    assert (would.memories, would.revision, would.matrices, would.version) == (2, 2, 1, 1)
    with pytest.raises(VersionConflict):
        await client.delete_namespace("n", confirm="n", if_revision=1)
    assert (await client.delete_namespace("n", confirm="n", validate_only=True)).revision == 3
    assert len(await all_of(memories.list())) == 2
    done = await client.delete_namespace("n", confirm="n", if_revision=2, request_id="r")
    assert (done.revision, done.version, done.replayed, done.request_id) == (3, 2, False, "r")
    assert (await client.delete_namespace("n", confirm="n", if_revision=2, request_id="r")).replayed
    with pytest.raises(NotFound):
        await memories.describe()
    gone = await client.namespace("n").read()
    assert (gone.version, len(gone)) == (2, 0)
    with pytest.raises(NotFound):
        await client.delete_namespace("nothing", confirm="nothing")


async def test_each_type_is_counted(client: Any, memories: Any) -> None:
    begun = datetime.now(UTC)
    await memories.put("a", {"x": 1}, memory_type="seen", importance=1.0, vector=[1, 2])
    await memories.put("b", {"x": 22}, memory_type="seen", importance=3.0, ttl_s=600)
    await memories.put("c", {}, memory_type="said", importance=-1.0)
    said, seen = await memories.stats()
    assert (said.memory_type, said.memories, said.vectors, said.payload_bytes, said.expiring) == ("said", 1, 0, 2, 0)
    assert (seen.memory_type, seen.memories, seen.vectors, seen.payload_bytes, seen.expiring) == ("seen", 2, 1, 15, 1)
    assert (seen.importance_min, seen.importance_mean, seen.importance_max) == (1.0, 2.0, 3.0)
    assert begun <= seen.oldest_time <= seen.newest_time <= datetime.now(UTC)
    assert [(s.memory_type, s.memories) for s in await memories.stats(importance=(2, None))] == [("seen", 1)]
    assert await memories.stats(key_prefix="z") == ()
    with pytest.raises(NotFound):
        await client.namespace("nothing").memories.stats()


# ---- links


@pytest_asyncio.fixture(loop_scope="module")
async def linked(memories: Any) -> Any:
    await memories.put_many([MemoryPut(key, 0) for key in "abcd"])
    return memories


async def test_links_are_put_and_listed_from_either_end(linked: Any) -> None:
    begun = datetime.now(UTC)
    done = await linked.link("a", "t", "b", 2.5)
    assert (done.deleted, done.replayed, len(done.request_id)) == (0, False, 32)
    await linked.link_many([Link("a", "s", "d"), Link("a", "t", "c", -1), Link("b", "t", "a")])
    found = await all_of(linked.links("a"))
    assert found == [Link("a", "s", "d"), Link("a", "t", "b", 2.5), Link("a", "t", "c", -1)]
    assert begun <= found[1].create_time == found[1].update_time <= datetime.now(UTC)
    assert await all_of(linked.links("a", page_size=1)) == found
    assert await all_of(linked.links("a", link_types="t")) == found[1:]
    assert await all_of(linked.links("a", link_types=["s", "other"])) == found[:1]
    assert await all_of(linked.links("a", incoming=True)) == [Link("b", "t", "a")]
    assert (await linked.unlink_many(found[:2])).deleted == 2
    assert (await linked.unlink("a", "t", "b")).deleted == 0
    assert await all_of(linked.links("a")) == found[2:]


async def test_links_that_cannot_be(linked: Any) -> None:
    for wrong in (linked.link("a", "t", "x"), linked.link_many([Link("a", "t", "b"), Link("x", "t", "b")])):
        with pytest.raises(NotFound, match="'x'"):
            await wrong
    with pytest.raises(NotFound):
        await all_of(linked.links("x"))
    for wrong in (linked.link("a", "", "b"), linked.link("a", "t", "b", float("nan")), linked.link_many([])):
        with pytest.raises(InvalidRequest):
            await wrong
    with pytest.raises(InvalidRequest):
        await linked.link("a", "\ud800", "b")
    with pytest.raises(LimitExceeded, match="filter_types_max"):
        await all_of(linked.links("a", link_types=map(str, range(65))))
    await linked.link("a", "t", "b", validate_only=True)
    assert await all_of(linked.links("a")) == []
    await linked.link("a", "t", "b", request_id="r")
    assert (await linked.link("a", "t", "b", request_id="r")).replayed
    with pytest.raises(RequestIdReused):
        await linked.link("a", "t", "c", request_id="r")


# ---- the index


async def test_the_index_is_verified_and_repaired(shared_server: Server, tenant: str, client: Any, memories: Any) -> None:
    await client.create_namespace("n", 2, "euclidean")
    puts = [MemoryPut(f"k{n}", n, vector=[1, n]) for n in range(9)]
    done = await memories.put_many([*puts, MemoryPut("long", 0, vector=[3e38, 3e38])], wait_indexed_s=20)
    assert done[0].indexed
    told = await memories.describe()
    assert (told.indexed_revision, [(r.key, r.revision) for r in told.refused]) == (10, [("long", 10)])
    assert "too long" in told.refused[0].reason
    assert [(n.indexed_revision, n.refused) async for n in client.namespaces()] == [(None, ())]
    found = await memories.verify_index()
    assert (found.ok, found.points, found.refused, found.indexed_revision, found.mended) == (True, 9, 1, 10, 0)
    progress = await shared_server.app.indexer.progress(Scope(tenant, "n"))
    assert progress is not None
    await shared_server.app.index.apply(field_of(progress.scope, progress.space), (), ["k1", "k2"])
    steps: list[IndexProgress] = []
    found = await memories.verify_index(on_progress=steps.append)
    assert (found.ok, found.missing, sorted(found.sample_keys)) == (False, 2, ["k1", "k2"])
    assert found.memories_hash != found.points_hash
    assert {step.phase for step in steps} >= {"feeding", "counting memories", "counting points", "comparing"}
    mended = await memories.repair_index()
    assert (mended.ok, mended.points, mended.mended) == (True, 9, 2)
    anew = await memories.repair_index(rebuild=True, on_progress=steps.append, timeout_s=60)
    assert (anew.ok, anew.points, anew.refused) == (True, 9, 1)
    with pytest.raises(NotFound):
        await client.namespace("nothing").memories.verify_index()


async def test_progress_may_be_awaited(shared_server: Server, tenant: str) -> None:
    phases: list[str] = []

    async def tell(step: IndexProgress) -> None:
        phases.append(step.phase)

    async with AsyncClient(shared_server.app.address, tenant=tenant) as client:
        memories = client.namespace("n").memories
        await memories.put("a", 0, vector=[1, 2])
        assert (await memories.verify_index(on_progress=tell)).ok
    assert phases[0] == "feeding"
