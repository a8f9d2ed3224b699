"""What comes to its end is taken away, and how far an index is, is known to whoever feeds it."""

from __future__ import annotations

import asyncio
import time

import pytest

from sfm_grpc.model import Scope
from sfm_grpc.storage.memory_contract import MemoryTables
from tests.support.memories import Memories, counts, outcomes, put_of
from tests.support.servers import Server

pytestmark = pytest.mark.engines("sqlite", "postgres")

N = Scope("default", "n")
DAY_US = 86_400_000_000


@pytest.fixture
def memories(server: Server) -> Memories:
    return Memories(server.channel)


@pytest.fixture
def tables(server: Server) -> MemoryTables:
    return server.app.store.memories


def now_us() -> int:
    return time.time_ns() // 1000


# ---- expired memories


async def test_what_has_expired_is_purged_and_told(server: Server, memories: Memories) -> None:
    await memories.puts(put_of("a", {"x": 1}, ttl_s=0.1, vector=[1, 2]), put_of("b", ttl_s=600), put_of("c"))
    await memories.of("m").put("a", ttl_s=0.1)
    assert await server.app.memory_upkeep.expire() == 0
    await asyncio.sleep(0.15)
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
    assert await tables.bury(now_us() - DAY_US, "x", 10) == 1, "nothing is left of c"
    await memories.undelete("a")
    assert await tables.bury(now_us() + DAY_US, "x", 10) == 1
    assert await memories.keys() == ["a"]
    assert counts(await memories.space())["tombstones"] == 0
    assert outcomes([(await memories.put("b", create_only=True)).receipt]) == ["created"]


async def test_a_tombstone_stays_until_the_index_has_let_go_of_it(memories: Memories, tables: MemoryTables) -> None:
    await memories.puts(put_of("a", vector=[1, 2]), put_of("b", vector=[1, 2]))
    assert await tables.take_index(N, "x", "me", lasts_s=60) is not None
    await memories.deletes("a")
    await memories.deletes("b")
    assert await tables.bury(now_us() + DAY_US, "x", 10) == 0
    await tables.advance_index(N, "x", "me", 3, lasts_s=60)
    assert await tables.bury(now_us() + DAY_US, "x", 10) == 1
    assert await tables.bury(now_us() + DAY_US, "another", 10) == 1, "which was never fed"


async def test_few_are_taken_away_at_once(memories: Memories, tables: MemoryTables) -> None:
    keys = [f"k{n}" for n in range(10)]
    await memories.puts(*(put_of(key) for key in keys))
    await memories.purge(*keys)
    assert [await tables.bury(0, "x", 4) for _ in range(4)] == [4, 4, 2, 0]
    assert counts(await memories.space())["tombstones"] == 0


# ---- how far an index is


async def test_an_index_is_behind_until_it_has_everything(memories: Memories, tables: MemoryTables) -> None:
    await memories.put("a")
    assert await tables.behind("x", 10) == [], "there is no vector to be found"
    await memories.puts(put_of("b", {"x": 1}, vector=[1, 2]), put_of("c", vector=[3, 4]), put_of("a", vector=[5, 6]))
    await memories.delete("c")
    [found] = await tables.behind("x", 10)
    assert (found.scope, found.indexed, found.space.revision, found.space.dimension) == (N, 0, 5, 2)
    turn = await tables.take_index(N, "x", "me", lasts_s=60)
    assert turn is not None
    first = await tables.changed(N, after=turn.indexed, limit=2)
    assert [(m.key, m.revision, bool(m.delete_time_us), m.payload) for m in first] == [("b", 2, False, b""), ("a", 4, False, b"")]
    assert await tables.advance_index(N, "x", "me", 4, lasts_s=60)
    assert await tables.indexed(N, "x") == 4
    rest = await tables.changed(N, after=4, limit=10)
    assert [(m.key, m.revision, bool(m.delete_time_us)) for m in rest] == [("c", 5, True)]
    assert await tables.advance_index(N, "x", "me", 5, lasts_s=60)
    assert await tables.behind("x", 10) == []
    assert [b.indexed for b in await tables.behind("another", 10)] == [0]
    await tables.forget_index(N, "x")
    assert await tables.indexed(N, "x") == 0


async def test_one_at_a_time_has_the_turn(memories: Memories, tables: MemoryTables) -> None:
    await memories.put("a", vector=[1, 2])
    assert await tables.take_index(N, "x", "one", lasts_s=0.3) is not None
    assert await tables.take_index(N, "x", "two", lasts_s=60) is None
    assert await tables.take_index(N, "y", "two", lasts_s=60) is not None, "another index"
    assert await tables.take_index(N, "x", "one", lasts_s=0.3) is not None, "its own"
    await asyncio.sleep(0.4)
    assert await tables.take_index(N, "x", "two", lasts_s=60) is not None
    assert not await tables.advance_index(N, "x", "one", 1, lasts_s=60)
    await tables.release_index(N, "x", "one")
    assert await tables.take_index(N, "x", "one", lasts_s=60) is None
    await tables.release_index(N, "x", "two")
    assert await tables.take_index(N, "x", "one", lasts_s=60) is not None
    await tables.forget_index(N, "x")
    assert not await tables.advance_index(N, "x", "one", 1, lasts_s=60), "what it had begun is void"
    assert await tables.take_index(Scope("default", "nothing"), "x", "one", lasts_s=60) is None
