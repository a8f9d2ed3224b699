"""What comes to its end is taken away, and how far an index is, is known to whoever feeds it."""

from __future__ import annotations

import asyncio
import time

import pytest

from sfm_grpc.coordinator import memory_upkeep
from sfm_grpc.model import Scope
from sfm_grpc.storage.index_contract import DeadLetter, IndexTables, Progress
from sfm_grpc.storage.memory_contract import MemoryTables
from tests.support.memories import Memories, counts, outcomes, put_of
from tests.support.servers import Server, until

pytestmark = pytest.mark.engines("sqlite", "postgres")

N = Scope("default", "n")
DAY_US = 86_400_000_000


@pytest.fixture(autouse=True)
def _server_leaves_it_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first look, which finds nothing."""
    monkeypatch.setattr(memory_upkeep, "_PAUSE_S", 600.0)


@pytest.fixture
def memories(server: Server) -> Memories:
    return Memories(server.channel)


@pytest.fixture
def tables(server: Server) -> MemoryTables:
    return server.app.store.memories


@pytest.fixture
async def indexing(server: Server) -> IndexTables:
    """Once the server has said that its own is there: whoever does so forgets those of which nobody ever said it."""
    await until(lambda: server.app.indexer._kept)
    return server.app.store.indexing


async def progress_of(indexing: IndexTables, index: str) -> Progress:
    found = await indexing.progress(N, index)
    assert found is not None
    return found


async def number_of(indexing: IndexTables) -> int:
    return (await progress_of(indexing, "x")).space.number


def now_us() -> int:
    return time.time_ns() // 1000


# ---- expired memories


async def test_what_has_expired_is_purged_and_told(server: Server, memories: Memories) -> None:
    await memories.puts(put_of("a", {"x": 1}, ttl_s=1.0, vector=[1, 2]), put_of("b", ttl_s=600), put_of("c"))
    await memories.of("m").put("a", ttl_s=1.0)
    assert await server.app.memory_upkeep.expire() == 0
    await asyncio.sleep(1.05)
    assert await server.app.memory_upkeep.expire() == 2
    assert await server.app.memory_upkeep.expire() == 0
    assert counts(await memories.space()) == {"memories": 2, "vectors": 0, "payload_bytes": 4, "tombstones": 1}
    told = [e.payload["changes"] for e in await server.app.store.events(after=0, limit=10)]
    assert sorted(str(changes) for changes in told[2:]) == [
        "[{'key': 'a', 'change': 'expired', 'revision': 2}]",
        "[{'key': 'a', 'change': 'expired', 'revision': 4}]",
    ]


async def test_what_was_put_again_since_is_left_alone(server: Server, memories: Memories, tables: MemoryTables) -> None:
    await memories.put("a", ttl_s=0.1)
    await asyncio.sleep(0.15)
    [found] = await tables.expired(now_us(), 10)
    assert found == (N, "a")
    await memories.put("a", {"new": 1})
    assert await server.app.memory_upkeep._expire(N, ["a"], now_us()) == 0
    assert (await memories.get("a")).payload_json == '{"new": 1}'


# ---- tombstones


async def test_a_tombstone_stays_as_long_as_it_may_be_undeleted(memories: Memories, tables: MemoryTables) -> None:
    await memories.puts(put_of("a"), put_of("b"), put_of("c"))
    await memories.deletes("a", "b")
    await memories.purge("c")
    await tables.bury(now_us() - DAY_US, 10)
    assert counts(await memories.space())["tombstones"] == 2, "nothing is left of c, whether we took it away or the server"
    await memories.undelete("a")
    assert await tables.bury(now_us() + DAY_US, 10) == 1
    assert await memories.keys() == ["a"]
    assert counts(await memories.space())["tombstones"] == 0
    assert outcomes([(await memories.put("b", create_only=True)).receipt]) == ["created"]


async def test_a_tombstone_stays_until_every_index_has_let_go_of_it(
    server: Server, memories: Memories, tables: MemoryTables, indexing: IndexTables
) -> None:
    await memories.puts(put_of("a", vector=[1, 2]), put_of("b", vector=[1, 2]))
    number = await number_of(indexing)
    for index in ("x", "y"):
        assert await indexing.take(number, index, "me", lasts_s=60) == 0
    await memories.deletes("a")
    await memories.deletes("b")
    assert await server.app.indexer.until_indexed(N, 4, time.monotonic() + 10), "the server's own has"
    assert await tables.bury(now_us() + DAY_US, 10) == 0
    await indexing.advance(number, "x", "me", 4, lasts_s=60)
    assert await tables.bury(now_us() + DAY_US, 10) == 0, "y has both"
    await indexing.advance(number, "y", "me", 3, lasts_s=60)
    assert await tables.bury(now_us() + DAY_US, 10) == 1
    await indexing.keep("y", lost_after_s=60)
    await asyncio.sleep(0.5)
    for index in (server.app.index.identity, "x"):
        await indexing.keep(index, lost_after_s=0.4)
    assert await tables.bury(now_us() + DAY_US, 10) == 1, "nobody has seen y for long"
    assert await indexing.take(number, "y", "me", lasts_s=60) == 0, "it is fed from the beginning if it comes back"


async def test_few_are_taken_away_at_once(memories: Memories, tables: MemoryTables) -> None:
    keys = [f"k{n}" for n in range(10)]
    await memories.puts(*(put_of(key) for key in keys))
    await memories.deletes(*keys)
    assert [await tables.bury(now_us() + DAY_US, 4) for _ in range(4)] == [4, 4, 2, 0]
    assert counts(await memories.space())["tombstones"] == 0


# ---- how far an index is


async def test_an_index_is_behind_until_it_has_everything(memories: Memories, indexing: IndexTables) -> None:
    await memories.put("a")
    assert await indexing.behind("x", 10) == [], "there is no vector to be found"
    await memories.puts(put_of("b", {"x": 1}, vector=[1, 2]), put_of("c", vector=[3, 4]), put_of("a", vector=[5, 6]))
    await memories.delete("c")
    [found] = await indexing.behind("x", 10)
    number = found.space.number
    assert (found.scope, found.indexed, found.space.revision, found.space.dimension) == (N, 0, 5, 2)
    assert await indexing.take(number, "x", "me", lasts_s=60) == 0
    first = await indexing.changed(number, after=0, limit=2)
    assert [(m.key, m.revision, bool(m.delete_time_us), m.payload) for m in first] == [("b", 2, False, b""), ("a", 4, False, b"")]
    assert await indexing.advance(number, "x", "me", 4, lasts_s=60)
    assert (await progress_of(indexing, "x")).indexed == 4
    rest = await indexing.changed(number, after=4, limit=10)
    assert [(m.key, m.revision, bool(m.delete_time_us)) for m in rest] == [("c", 5, True)]
    assert await indexing.advance(number, "x", "me", 5, lasts_s=60)
    assert await indexing.behind("x", 10) == []
    assert [b.indexed for b in await indexing.behind("another", 10)] == [0]
    await indexing.forget(number, "x")
    assert (await progress_of(indexing, "x")).indexed == 0


async def test_one_at_a_time_has_the_turn(memories: Memories, indexing: IndexTables) -> None:
    await memories.put("a", vector=[1, 2])
    number = await number_of(indexing)
    assert await indexing.take(number, "x", "one", lasts_s=60) == 0
    assert await indexing.take(number, "x", "two", lasts_s=60) is None
    assert await indexing.take(number, "y", "two", lasts_s=60) == 0, "another index"
    assert await indexing.take(number, "x", "one", lasts_s=0.1) == 0, "its own"
    await asyncio.sleep(0.2)
    assert await indexing.take(number, "x", "two", lasts_s=60) == 0
    assert not await indexing.advance(number, "x", "one", 1, lasts_s=60)
    await indexing.release(number, "x", "one")
    assert await indexing.take(number, "x", "one", lasts_s=60) is None
    await indexing.release(number, "x", "two")
    assert await indexing.take(number, "x", "one", lasts_s=60) == 0
    await indexing.forget(number, "x")
    assert not await indexing.advance(number, "x", "one", 1, lasts_s=60), "what it had begun is void"
    assert await indexing.take(number + 1000, "x", "one", lasts_s=60) is None, "no such namespace"


async def test_what_an_index_should_have_is_listed_and_got(memories: Memories, indexing: IndexTables) -> None:
    await memories.puts(*(put_of(key, vector=[1, 2]) for key in "abc"), put_of("without"), put_of("gone", vector=[1, 2]))
    await memories.delete("gone")
    number = await number_of(indexing)
    assert await indexing.pointed(number, after="", limit=2) == [("a", 1), ("b", 2)]
    assert await indexing.pointed(number, after="b", limit=2) == [("c", 3)]
    found = sorted((m.key, m.revision, bool(m.delete_time_us)) for m in await indexing.get(number, ["a", "gone", "never"]))
    assert found == [("a", 1, False), ("gone", 6, True)]


async def test_what_an_index_does_not_take_is_kept_until_it_is_written_again(memories: Memories, indexing: IndexTables) -> None:
    await memories.puts(put_of("a", vector=[1, 2]), put_of("b", vector=[1, 2]))
    number = await number_of(indexing)
    letters = [DeadLetter("b", 2, "too long", 7), DeadLetter("a", 1, "odd", 8)]
    await indexing.refuse(number, "x", letters)
    assert await indexing.refused(number, "x", 10) == sorted(letters, key=lambda each: each.key)
    assert await indexing.refused(number, "y", 10) == []
    await memories.put("b", vector=[3, 4])
    assert await indexing.refused(number, "x", 10) == [DeadLetter("a", 1, "odd", 8)]
    await indexing.refuse(number, "x", [DeadLetter("b", 3, "again", 9)])
    assert [each.reason for each in await indexing.refused(number, "x", 10)] == ["odd", "again"]
    assert [each.key for each in await indexing.refused(number, "x", 1)] == ["a"]
