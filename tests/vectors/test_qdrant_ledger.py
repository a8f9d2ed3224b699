"""What an index on a server is known by: whatever is lost of it, nobody goes on as if it had everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest
from qdrant_client import models

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors.contract import VectorIndex
from sfm_grpc.storage.vectors.points import FORMAT
from sfm_grpc.storage.vectors.qdrant import QdrantIndex
from tests.support.services.qdrant import RunningQdrant
from tests.vectors.given import EVERYTHING, NOW_US, a_field, a_point, keys, some_points, vectors

FIELD, OTHER = a_field(), a_field(distance=Distance.DOT)
QUERY = vectors(1)[0].tobytes()
LOST = "has lost what was in it; it is made again"

Open: TypeAlias = Callable[[], Awaitable[QdrantIndex]]

EVERY_USE: dict[str, Callable[[VectorIndex], Awaitable[object]]] = {
    "apply": lambda index: index.apply(FIELD, [a_point("k")], []),
    "apply to another": lambda index: index.apply(FIELD, [a_point("k"), a_point("l")], ["k/001"]),
    "gone": lambda index: index.apply(FIELD, [], ["k/001"]),
    "search": lambda index: index.search(FIELD, QUERY, EVERYTHING, now_us=NOW_US, limit=3),
    "count": lambda index: index.count(FIELD),
    "scan": lambda index: index.scan(FIELD, after="", limit=3),
}


@pytest.fixture
async def opened(qdrant_service: RunningQdrant, qdrant_prefix: str) -> AsyncIterator[Open]:
    """Opens one more on the same collections, as another process would."""
    async with contextlib.AsyncExitStack() as stack:

        async def one() -> QdrantIndex:
            index = QdrantIndex(qdrant_service.url, qdrant_service.api_key, prefix=qdrant_prefix)
            stack.push_async_callback(index.close)
            await index.open()
            return index

        yield one


async def fed(opened: Open) -> QdrantIndex:
    index = await opened()
    for field in (FIELD, OTHER):
        await index.apply(field, some_points(3), [])
    return index


async def test_it_is_the_same_for_all_who_open_it_and_stays_so(opened: Open) -> None:
    first = await fed(opened)
    second = await opened()
    assert first.identity == second.identity != ""
    for index in (first, second):
        told = first.identity
        assert len((await index.check()).split(", ")) == 3
        assert (index.identity, await index.count(FIELD)) == (told, 3)


async def test_a_prefix_that_begins_with_another_is_another_index(qdrant_service: RunningQdrant, qdrant_prefix: str) -> None:
    for prefix in (qdrant_prefix, f"{qdrant_prefix}_v{FORMAT}", f"{qdrant_prefix}_v{FORMAT}_x"):
        index = QdrantIndex(qdrant_service.url, qdrant_service.api_key, prefix=prefix)
        await index.open()
        assert await keys(index, FIELD) == set()
        await index.apply(FIELD, [a_point(prefix)], [])
        await index.check()
        assert await keys(index, FIELD) == {prefix}
        await index.close()
    assert len(qdrant_service.collections(qdrant_prefix)) == 6


HARMS: dict[str, Callable[[RunningQdrant, str, str, QdrantIndex], None]] = {
    "emptied": lambda server, prefix, _, __: server.forget(prefix),
    "a collection deleted": lambda server, _, name, __: server.forget(name),
    "the ledger and a collection deleted": lambda server, prefix, name, index: (
        server.forget(name),
        delete(server, f"{prefix}_v{FORMAT}_{index.identity}"),
    )[0],
}


def delete(server: RunningQdrant, name: str) -> None:
    with server.connect() as client:
        client.delete_collection(name)


@pytest.mark.parametrize("harm", HARMS)
async def test_what_is_lost_is_told_until_it_is_found_out(
    opened: Open, qdrant_service: RunningQdrant, qdrant_prefix: str, harm: str
) -> None:
    index, other = await fed(opened), await opened()
    before, name = index.identity, index._ledger.name(FIELD.dimension, FIELD.distance)
    await asyncio.to_thread(HARMS[harm], qdrant_service, qdrant_prefix, name, index)
    for each in (index, other):
        for use in EVERY_USE.values():
            with pytest.raises(IndexUnavailable, match=LOST):
                await use(each)
    assert index.identity == other.identity == before, "nothing but a check changes it"
    late = await opened()
    for each in (other, index, late):
        await each.check()
    assert index.identity == other.identity == late.identity != before
    assert [await each.count(field) for each in (index, other, late) for field in (FIELD, OTHER)] == [0] * 6
    await index.apply(FIELD, some_points(3), [])
    assert await other.count(FIELD) == 3
    assert not [name for name in qdrant_service.collections(qdrant_prefix) if before in name]


async def test_a_ledger_that_was_deleted_takes_the_index_with_it(
    opened: Open, qdrant_service: RunningQdrant, qdrant_prefix: str
) -> None:
    index = await fed(opened)
    before = index.identity
    await asyncio.to_thread(delete, qdrant_service, f"{qdrant_prefix}_v{FORMAT}_{before}")
    assert await index.count(FIELD) == 3, "what is there is true"
    again = await opened()
    assert again.identity != before
    assert await again.count(FIELD) == 0
    with pytest.raises(IndexUnavailable, match=LOST):
        await index.apply(FIELD, [a_point("k")], [])
    await index.check()
    assert index.identity == again.identity


async def test_whoever_knows_an_index_that_is_no_more_writes_nowhere(opened: Open) -> None:
    index, late = await fed(opened), await opened()
    await index.discard(FIELD.dimension, FIELD.distance)
    await index.apply(FIELD, [a_point("k", revision=9)], [])
    for use in EVERY_USE.values():
        with pytest.raises(IndexUnavailable, match=LOST):
            await use(late)
    never = a_field(dimension=3)
    with pytest.raises(IndexUnavailable, match=LOST):
        await late.apply(never, [a_point("k", vectors(1, 3)[0])], [])
    assert await index.scan(FIELD, after="", limit=10) == ([("k", 9)], "")
    await late.check()
    assert await late.scan(FIELD, after="", limit=10) == ([("k", 9)], "")


async def test_discarding_what_another_has_begun_anew_leaves_that_alone(opened: Open) -> None:
    index, other = await fed(opened), await opened()
    for each in (index, other):
        await each.discard(FIELD.dimension, FIELD.distance)
    assert index.identity == other.identity


async def test_of_two_that_begin_at_once_the_older_counts(
    opened: Open, qdrant_service: RunningQdrant, qdrant_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = await opened()
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    await index._ledger._begin()  # as if another had looked when there was none
    await index.apply(FIELD, some_points(3), [])
    younger = index.identity
    second = await opened()
    assert second.identity < younger
    with pytest.raises(IndexUnavailable, match=LOST):
        await index.apply(FIELD, [a_point("k")], [])
    await index.check()
    assert index.identity == second.identity
    assert await asyncio.to_thread(qdrant_service.collections, qdrant_prefix) == [f"{qdrant_prefix}_v{FORMAT}_{second.identity}"]


async def test_many_that_begin_at_once_agree(opened: Open) -> None:
    indexes = await asyncio.gather(*(opened() for _ in range(4)))
    for _ in range(2):  # whoever was the first to look may have known one that lost
        for index in indexes:
            await index.check()
    assert len({index.identity for index in indexes}) == 1
    await asyncio.gather(*(index.apply(FIELD, [a_point(f"k{i}")], []) for i, index in enumerate(indexes)))
    assert await keys(indexes[0], FIELD) == {"k0", "k1", "k2", "k3"}


async def test_a_collection_that_was_made_and_not_listed_is_taken(opened: Open, qdrant_service: RunningQdrant) -> None:
    """Whoever made it died before anything was put into it."""
    index = await opened()
    name, before = index._ledger.name(FIELD.dimension, FIELD.distance), index.identity

    def make() -> None:
        with qdrant_service.connect() as client:
            client.create_collection(name, models.VectorParams(size=FIELD.dimension, distance=models.Distance.COSINE))

    await asyncio.to_thread(make)
    await index.check()
    await index.apply(FIELD, [a_point("k")], [])
    await index.check()
    assert (index.identity, await keys(index, FIELD)) == (before, {"k"})
    assert await index._ledger.listed() == {name}


async def test_before_it_is_open_it_is_nothing(qdrant_service: RunningQdrant, qdrant_prefix: str) -> None:
    index = QdrantIndex(qdrant_service.url, qdrant_service.api_key, prefix=qdrant_prefix)
    assert index.identity == ""
    for use in EVERY_USE.values():
        with pytest.raises(IndexUnavailable, match="has not been opened yet"):
            await use(index)
