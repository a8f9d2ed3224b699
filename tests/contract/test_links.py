"""Links from memories to memories: put, deleted, listed, and gone with either end."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from sfm.v1 import memory_store_pb2 as pb

from sfm_grpc.errors import InvalidRequest, LimitExceeded, NotFound, RequestIdReused
from tests.support.memories import Memories, put_of
from tests.support.servers import Server

pytestmark = pytest.mark.engines("sqlite", "postgres")

INCOMING = pb.LINK_DIRECTION_INCOMING


@pytest_asyncio.fixture(loop_scope="module")
async def memories(shared_server: Server, tenant: str) -> Memories:
    """As a tenant of its own on a server that all tests share."""
    return await four(Memories(shared_server.channel, tenant=tenant))


@pytest.fixture
async def own(server: Server) -> Memories:
    """On a server of its own."""
    return await four(Memories(server.channel))


async def four(made: Memories) -> Memories:
    for key in "abcd":
        await made.put(key)
    return made


def link(source: str, target: str, link_type: str = "t", weight: float = 1.0) -> pb.Link:
    return pb.Link(source_key=source, link_type=link_type, target_key=target, weight=weight)


async def put(memories: Memories, *links: pb.Link, **said: object) -> Any:
    return await memories.ask("PutLinks", namespace=memories.namespace, links=links, **said)


async def delete(memories: Memories, *links: pb.Link, **said: object) -> Any:
    return await memories.ask("DeleteLinks", namespace=memories.namespace, links=links, **said)


async def of(memories: Memories, key: str, **said: object) -> list[tuple[str, str, str, float]]:
    found = (await memories.ask("ListLinks", namespace=memories.namespace, key=key, **said)).links
    return [(each.source_key, each.link_type, each.target_key, each.weight) for each in found]


async def test_links_are_listed_from_either_end_by_type_and_key(memories: Memories) -> None:
    await put(
        memories, link("a", "c", "t"), link("a", "b", "t", 2.5), link("a", "d", "s"), link("b", "a", "t"), link("a", "a", "t", -1)
    )
    assert await of(memories, "a") == [("a", "s", "d", 1), ("a", "t", "a", -1), ("a", "t", "b", 2.5), ("a", "t", "c", 1)]
    assert await of(memories, "a", direction=INCOMING) == [("a", "t", "a", -1), ("b", "t", "a", 1)]
    assert await of(memories, "a", link_types=["s", "other"]) == [("a", "s", "d", 1)]
    assert await of(memories, "d") == []


async def test_a_link_that_is_there_takes_the_new_weight(memories: Memories) -> None:
    await put(memories, link("a", "b"))
    [first] = (await memories.ask("ListLinks", namespace="n", key="a")).links
    await put(memories, link("a", "b", weight=7))
    [second] = (await memories.ask("ListLinks", namespace="n", key="a")).links
    assert second.weight == 7
    assert second.create_time == first.create_time
    assert second.update_time.ToNanoseconds() >= first.update_time.ToNanoseconds()


async def test_pages_go_on_where_they_ended(memories: Memories) -> None:
    await put(memories, *(link("a", target, kind) for target in "abcd" for kind in "st"))
    found, token = [], ""
    while True:
        page = await memories.ask("ListLinks", namespace="n", key="a", page_size=3, page_token=token)
        found += [(each.link_type, each.target_key) for each in page.links]
        token = page.next_page_token
        if not token:
            break
    assert found == [(kind, target) for kind in "st" for target in "abcd"]
    first = await memories.ask("ListLinks", namespace="n", key="a", page_size=3)
    with pytest.raises(InvalidRequest, match="is not a token of this list"):
        await memories.ask("ListLinks", namespace="n", key="b", page_token=first.next_page_token)


async def test_all_or_none_are_put(memories: Memories) -> None:
    with pytest.raises(NotFound, match="'x'"):
        await put(memories, link("a", "b"), link("a", "x"))
    with pytest.raises(NotFound, match="'y'"):
        await put(memories, link("y", "b"))
    assert await of(memories, "a") == []
    with pytest.raises(NotFound):
        await put(memories.of("nothing"), link("a", "b"))
    await put(memories, link("a", "b"), validate_only=True)
    assert await of(memories, "a") == []


async def test_deleting_what_is_absent_changes_nothing(memories: Memories) -> None:
    await put(memories, link("a", "b"), link("a", "c"))
    assert (await delete(memories, link("a", "b"), link("a", "x"), link("b", "a"))).deleted == 1
    assert await of(memories, "a") == [("a", "t", "c", 1)]
    assert (await delete(memories.of("nothing"), link("a", "b"))).deleted == 0


async def test_links_show_while_both_ends_live_and_go_with_either(memories: Memories) -> None:
    await put(memories, link("a", "b"), link("b", "c"), link("c", "a"))
    await memories.delete("b")
    assert await of(memories, "a") == []
    with pytest.raises(NotFound):
        await of(memories, "b")
    await memories.undelete("b")
    assert await of(memories, "a") == [("a", "t", "b", 1)]
    await memories.delete("b")
    await memories.put("b", {"another": 1})
    assert await of(memories, "a") == [], "the links were of the one before"
    assert await of(memories, "b") == []
    await memories.purge("c")
    await memories.put("c")
    assert await of(memories, "a", direction=INCOMING) == []


async def test_a_retry_gets_the_first_answer(server: Server, own: Memories) -> None:
    await put(own, link("a", "b"), request_id="p")
    assert (await put(own, link("a", "b"), request_id="p")).replayed
    with pytest.raises(RequestIdReused):
        await put(own, link("a", "c"), request_id="p")
    assert (await delete(own, link("a", "b"), link("a", "c"), request_id="d")).deleted == 1
    again = await delete(own, link("a", "b"), link("a", "c"), request_id="d")
    assert (again.deleted, again.replayed) == (1, True)
    told = [e.payload["changes"] for e in await server.app.store.events(after=0, limit=100)]
    named = {"key": "a", "link_type": "t", "target": "b", "revision": 1}
    assert told[-2:] == [[named | {"change": "linked"}], [named | {"change": "unlinked"}]]


async def test_nobody_sees_anothers(memories: Memories) -> None:
    await put(memories, link("a", "b"))
    other = memories.of("n", tenant="other")
    await other.puts(put_of("a"), put_of("b"))
    assert await of(other, "a") == []
    await delete(other, link("a", "b"))
    assert await of(memories, "a") == [("a", "t", "b", 1)]


@pytest.mark.settings(batch_max=3)
async def test_what_makes_no_sense_is_refused(own: Memories) -> None:
    for wrong, field in [
        ([], "links"),
        ([link("", "b")], "source_key"),
        ([link("a", "b", "")], "link_type"),
        ([link("a", "b\n")], "target_key"),
        ([link("a", "b", weight=float("nan"))], "weight"),
        ([link("a", "b"), link("a", "b", weight=2)], r"links\[1\]"),
    ]:
        with pytest.raises(InvalidRequest, match=field):
            await put(own, *wrong)
    with pytest.raises(LimitExceeded, match="batch_max"):
        await delete(own, *(link("a", target) for target in "abcd"))
    with pytest.raises(InvalidRequest, match="direction"):
        await of(own, "a", direction=9)
    with pytest.raises(LimitExceeded, match="filter_types_max"):
        await of(own, "a", link_types=[str(n) for n in range(65)])
