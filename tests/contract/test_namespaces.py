"""Namespaces as wholes: deleted with all that is in them, described, counted."""

from __future__ import annotations

from typing import Any

import pytest
from sfm.v1 import memory_pb2

from sfm_grpc.coordinator.indexing import field_of
from sfm_grpc.errors import ConfirmationRequired, InvalidRequest, NotFound, RequestIdReused, VersionConflict
from sfm_grpc.model import Kind, Scope
from sfm_grpc.storage.vectors.contract import Field
from tests.support.drivers import Put
from tests.support.matrices import density
from tests.support.memories import Memories, counts, put_of
from tests.support.messages import commit_of
from tests.support.servers import Server, until

pytestmark = pytest.mark.engines("sqlite", "postgres")


@pytest.fixture
def memories(server: Server) -> Memories:
    return Memories(server.channel)


async def delete(memories: Memories, **said: object) -> Any:
    return await memories.ask("DeleteNamespace", **{"namespace": memories.namespace, "confirm": memories.namespace, **said})


async def left_of(server: Server) -> int:
    """Rows of dropped namespaces."""
    left = 0
    while cleared := await server.app.store.memories.clear_dropped():
        left += cleared
    return left


async def test_a_namespace_goes_with_all_that_is_in_it(server: Server, memories: Memories) -> None:
    await memories.puts(*(put_of(key, vector=[1, 2]) for key in "abc"), put_of("d"))
    await memories.delete("d")
    await link(memories, "a", "b")
    await memories.of("other").put("a", {"other": 1})
    done = await delete(memories)
    assert (done.revision, done.version) == (6, 0)
    for question in (memories.space(), memories.page(), memories.get("a"), memories.ask("ListLinks", namespace="n", key="a")):
        with pytest.raises(NotFound):
            await question
    assert [n.name for n in (await memories.ask("ListNamespaces")).namespaces] == ["other"]
    with pytest.raises(NotFound, match="namespace 'n' does not exist"):
        await delete(memories)
    told = [e.payload["changes"] for e in await server.app.store.events(after=0, limit=100)]
    assert told[-1] == [{"key": "", "change": "dropped", "revision": 6}]
    assert (await memories.of("other").get("a")).payload_json == '{"other": 1}'


async def test_it_comes_into_being_again_as_another_and_its_revisions_go_on(server: Server, memories: Memories) -> None:
    await memories.puts(*(put_of(key, vector=[1, 2]) for key in "abc"))
    await link(memories, "a", "b")
    await delete(memories)
    again = (await memories.ask("CreateNamespace", namespace="n", dimension=3)).namespace
    assert (again.dimension, again.revision) == (3, 4)
    assert counts(again) == {"memories": 0, "vectors": 0, "payload_bytes": 0, "tombstones": 0}
    put = (await memories.puts(put_of("a", vector=[1, 2, 3]), put_of("b"))).receipts
    assert [(r.outcome, r.revision) for r in put] == [
        (memory_pb2.MEMORY_OUTCOME_CREATED, 5),
        (memory_pb2.MEMORY_OUTCOME_CREATED, 6),
    ]
    assert list((await memories.ask("ListLinks", namespace="n", key="a")).links) == [], "the links were another's"
    with pytest.raises(NotFound):
        await memories.undelete("c")
    assert await memories.keys() == ["a", "b"]


async def test_nothing_of_it_stays_in_the_store_or_the_index(server: Server, memories: Memories) -> None:
    await memories.puts(*(put_of(f"k{n}", vector=[1, n]) for n in range(20)))
    before = await progress_of(server)
    assert await server.app.indexer.until_indexed(Scope("default", "n"), 20, until_s=1e18)
    assert await server.app.index.count(before) == 20
    await delete(memories)

    async def gone() -> bool:
        return await server.app.index.count(before) == 0

    await until(gone)
    await left_of(server)

    async def nothing_left() -> bool:
        return await server.app.store.indexing.dropped(server.app.index.identity, 10) == []

    await until(nothing_left)
    assert await server.app.store.indexing.get(before.number, ["k0"]) == []


async def test_it_takes_its_name_twice(server: Server, memories: Memories) -> None:
    await memories.puts(put_of("a", {"x": 1}), put_of("b"))
    for confirm in ("", "N", "n "):
        with pytest.raises(ConfirmationRequired) as caught:
            await delete(memories, confirm=confirm)
        assert (caught.value.memories, caught.value.matrices, caught.value.revision) == (2, 0, 2)
    with pytest.raises(NotFound):
        await delete(memories.of("nothing"), confirm="")
    with pytest.raises(VersionConflict, match="the memories of 'n' are at revision 2, not 1"):
        await delete(memories, if_revision=1)
    with pytest.raises(InvalidRequest, match="if_revision"):
        await delete(memories, if_revision=0)
    assert (await delete(memories, if_revision=2, validate_only=True)).revision == 3
    assert await memories.keys() == ["a", "b"]
    assert (await delete(memories, if_revision=2)).revision == 3


async def test_its_matrices_go_by_a_commit_with_it(server: Server, memories: Memories) -> None:
    await server.rho.CommitRho(
        commit_of(Put("rho", density()), Put("other", density(seed=2), kind=Kind.GENERIC), expected=0), timeout=30
    )
    with pytest.raises(ConfirmationRequired) as caught:
        await delete(memories, confirm="")
    assert (caught.value.memories, caught.value.matrices, caught.value.version) == (0, 2, 1)
    await memories.put("a")
    done = await delete(memories, request_id="r")
    assert (done.revision, done.version, done.replayed) == (2, 2, False)
    again = await delete(memories, request_id="r")
    assert (again.revision, again.version, again.replayed) == (2, 2, True)
    with pytest.raises(RequestIdReused):
        await delete(memories, request_id="r", if_revision=7)
    assert (await server.app.store.read(Scope("default", "n"))).version.entries == ()
    await server.rho.CommitRho(commit_of(Put("rho", density(seed=3)), expected=2), timeout=30)
    without_memories = await delete(memories)
    assert (without_memories.revision, without_memories.version) == (0, 4)


# ---- counted


async def test_each_type_is_counted(memories: Memories) -> None:
    await memories.puts(
        put_of("a", {"x": 1}, memory_type="seen", importance=1.0, vector=[1, 2]),
        put_of("b", {"x": 22}, memory_type="seen", importance=3.0, ttl_s=600),
        put_of("c", memory_type="said", importance=-1.0),
        put_of("gone", memory_type="said"),
    )
    await memories.delete("gone")
    found = (await memories.ask("GetMemoryStats", namespace="n")).types
    assert [(t.memory_type, t.memories, t.vectors, t.payload_bytes, t.expiring) for t in found] == [
        ("said", 1, 0, 2, 0),
        ("seen", 2, 1, 17, 1),
    ]
    assert [(t.importance_min, t.importance_mean, t.importance_max) for t in found] == [(-1, -1, -1), (1, 2, 3)]
    chosen = memory_pb2.MemoryFilter(importance=memory_pb2.NumberRange(low=2))
    assert [t.memories for t in (await memories.ask("GetMemoryStats", namespace="n", filter=chosen)).types] == [1]
    with pytest.raises(NotFound):
        await memories.of("nothing").ask("GetMemoryStats", namespace="nothing")


async def progress_of(server: Server) -> Field:
    found = await server.app.indexer.progress(Scope("default", "n"))
    assert found is not None
    return field_of(found.scope, found.space)


async def link(memories: Memories, source: str, target: str) -> None:
    await memories.ask(
        "PutLinks", namespace=memories.namespace, links=[{"source_key": source, "link_type": "t", "target_key": target}]
    )
