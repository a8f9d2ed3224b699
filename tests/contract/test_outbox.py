"""`storage.outbox_contract.OutboxTables`: what every engine knows of how far events were sent."""

from __future__ import annotations

import asyncio

from sfm_grpc.model import Scope
from sfm_grpc.storage.contract import Retention, Store
from sfm_grpc.storage.outbox_contract import Backlog
from tests.support.transactions import N, deleting, transaction

SINK = "kafka"
OTHERS = Scope("others", "n")


async def tell(store: Store, count: int, *, scope: Scope = N) -> None:
    """Writes so many events."""
    for _ in range(count):
        await store.commit(transaction(deleting("x"), scope=scope, time_us=7))


async def ids(store: Store) -> list[int]:
    return [e.event_id for e in await store.events(after=0, limit=1000)]


def keeping(events: int, unsent: int = 0) -> Retention:
    return Retention(1000, 0, 10**6, events, unsent)


async def trim(store: Store, retention: Retention, now_us: int = 0) -> None:
    while await store.forget(retention, now_us):
        pass


# ---- a tenant's own


async def test_a_tail_is_one_tenants_events_and_says_up_to_where_that_is_all(store: Store) -> None:
    await tell(store, 2)
    await tell(store, 3, scope=OTHERS)
    await tell(store, 1, scope=Scope("default", "m"))
    all_ids = await ids(store)
    found = await store.outbox.tail("default", namespace="", topics=(), after=0, limit=10)
    assert [e.event_id for e in found.events] == [all_ids[0], all_ids[1], all_ids[5]]
    assert found.upto >= all_ids[5]
    first = await store.outbox.tail("default", namespace="", topics=(), after=0, limit=2)
    assert ([e.event_id for e in first.events], first.upto) == (all_ids[:2], all_ids[1])
    none = await store.outbox.tail("default", namespace="n", topics=(), after=all_ids[1], limit=10)
    assert none.events == []
    assert none.upto >= all_ids[5]


async def test_a_tail_may_be_of_some_topics(store: Store) -> None:
    await tell(store, 1)
    for topics, count in ((("rho.status",), 1), (("rho.status", "memory.event"), 1), (("memory.event",), 0)):
        assert len((await store.outbox.tail("default", namespace="n", topics=topics, after=0, limit=10)).events) == count


# ---- turns


async def test_a_sink_lacks_what_it_was_not_sent(store: Store) -> None:
    await tell(store, 3)
    assert await store.outbox.take(SINK, "a", lasts_s=60) is None  # there is no such sink
    await store.outbox.keep(SINK)
    assert await store.outbox.backlog(SINK) == Backlog(3, 7, 0)
    assert await store.outbox.waits(SINK)
    assert await store.outbox.take(SINK, "a", lasts_s=60) == 0
    all_ids = await ids(store)
    assert await store.outbox.advance(SINK, "a", all_ids[1], lasts_s=60)
    assert await store.outbox.backlog(SINK) == Backlog(1, 7, 0)
    await store.outbox.keep(SINK)
    assert await store.outbox.take(SINK, "a", lasts_s=60) == all_ids[1]
    assert await store.outbox.advance(SINK, "a", all_ids[2], lasts_s=60)
    assert not await store.outbox.waits(SINK)
    assert await store.outbox.backlog(SINK) == Backlog(0, 0, 0)


async def test_one_owner_has_the_turn_until_it_is_released_or_over(store: Store) -> None:
    await store.outbox.keep(SINK)
    assert await store.outbox.take(SINK, "a", lasts_s=60) == 0
    assert await store.outbox.take(SINK, "b", lasts_s=60) is None
    assert not await store.outbox.advance(SINK, "b", 5, lasts_s=60)
    await store.outbox.release(SINK, "b")
    assert await store.outbox.take(SINK, "b", lasts_s=60) is None
    await store.outbox.release(SINK, "a")
    assert await store.outbox.take(SINK, "b", lasts_s=0.01) == 0
    await asyncio.sleep(0.05)
    assert await store.outbox.take(SINK, "a", lasts_s=60) == 0
    assert not await store.outbox.advance(SINK, "b", 5, lasts_s=60)
    assert await store.outbox.advance(SINK, "a", 7, lasts_s=60)


# ---- how long they are kept


async def test_what_a_sink_lacks_is_kept_within_a_bound_and_what_went_all_the_same_is_counted(store: Store) -> None:
    await store.outbox.keep(SINK)
    await tell(store, 10)
    all_ids = await ids(store)
    await store.outbox.take(SINK, "a", lasts_s=60)
    await store.outbox.advance(SINK, "a", all_ids[2], lasts_s=60)
    await trim(store, keeping(1, 20))
    assert await ids(store) == all_ids[3:]
    assert (await store.outbox.backlog(SINK)).dropped == 0
    await trim(store, keeping(1, 5))
    assert await ids(store) == all_ids[5:]
    assert await store.outbox.backlog(SINK) == Backlog(5, 7, 2)
    await store.outbox.advance(SINK, "a", all_ids[9], lasts_s=60)
    await trim(store, keeping(3, 5))
    assert await ids(store) == all_ids[7:]
    assert await store.outbox.backlog(SINK) == Backlog(0, 0, 2)


async def test_without_a_sink_the_newest_are_kept(store: Store) -> None:
    await tell(store, 5)
    all_ids = await ids(store)
    await trim(store, keeping(3, 1000))
    assert await ids(store) == all_ids[2:]


async def test_an_event_is_told_once_to_each_look(store: Store) -> None:
    """Of transactions that overlap, none appears behind one that was told: whoever goes on after an id misses none."""
    told: list[int] = []

    async def follow() -> None:
        while len(told) < 60:
            told.extend(e.event_id for e in await store.events(after=told[-1] if told else 0, limit=7))
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await asyncio.gather(follow(), *(tell(store, 10, scope=Scope("t", f"n{i}")) for i in range(6)))
    assert told == await ids(store)
