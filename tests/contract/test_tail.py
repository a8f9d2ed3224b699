"""TailEvents: a tenant's own events, on every engine, whether there is a Kafka or not."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import grpc
import pytest
from sfm.v1 import events_pb2, events_pb2_grpc

from sfm_grpc.client import AsyncClient, Client, Event, MemoryPut, Overloaded, UnexpectedStatus
from tests.support.matrices import density
from tests.support.refusals import refused
from tests.support.schemas import schema_of
from tests.support.servers import Server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.app.address, tenant="a") as client:
        yield client


async def filled(client: AsyncClient) -> None:
    """Two namespaces: two versions, a memory, and both at once."""
    n, m = client.namespace("n"), client.namespace("m")
    await n.commit({"rho": density()}, expected_version=0)
    await m.commit({"rho": density()}, expected_version=0)
    await n.memories.put("k", {"a": 1})
    await n.update(lambda _now: {"rho": density(seed=2)}, memories=[MemoryPut("l", {})])


async def all_of(client: AsyncClient, *args: object, **how: object) -> list[Event]:
    return [event async for event in client.tail_events(*args, **how)]  # type: ignore[arg-type]


async def test_a_tail_tells_what_is_kept_and_ends(client: AsyncClient, server: Server) -> None:
    assert await all_of(client) == []
    await filled(client)
    found = await all_of(client)
    told = [(e.namespace, e.topic, e.version) for e in found]
    assert told == [
        ("n", "rho.status", 1),
        ("m", "rho.status", 1),
        ("n", "memory.event", 1),
        ("n", "rho.status", 2),
        ("n", "memory.event", 2),
    ]
    for event in found:
        assert list(schema_of(event.topic).iter_errors(dict(event.payload))) == []
        assert event.payload["tenant"] == "a"
    assert await all_of(client, after=found[2].event_id) == found[3:]
    assert await all_of(client, "m") == found[1:2]
    assert await all_of(client, "n", "memory.event") == [found[2], found[4]]
    assert await all_of(client, topics=["rho.status", "memory.event"]) == found
    assert await all_of(client, "none") == []
    assert await asyncio.to_thread(_blocking, server.app.address) == found


def _blocking(address: str) -> list[Event]:
    with Client(address, tenant="a") as client, client.tail_events() as events:
        return list(events)


async def test_it_is_the_tenants_own(client: AsyncClient, server: Server) -> None:
    await filled(client)
    async with AsyncClient(server.app.address, tenant="b") as other:
        assert await all_of(other) == []
        assert await all_of(other, "n") == []


async def test_following_goes_on_with_what_is_written(client: AsyncClient) -> None:
    await filled(client)
    seen: list[Event] = []

    async def follow() -> None:
        async with client.tail_events("n", follow=True) as events:
            async for event in events:
                seen.append(event)
                if len(seen) == 10:
                    return

    following = asyncio.create_task(follow())
    for number in range(6):
        await client.namespace("n").memories.put(f"x{number}", {})
        await client.namespace("other").memories.put(f"x{number}", {})
    async with asyncio.timeout(20):
        await following
    assert [e.event_id for e in seen] == [e.event_id for e in await all_of(client, "n")]
    assert all(a.event_id < b.event_id for a, b in itertools.pairwise(seen))


async def test_a_stream_that_is_closed_ends(client: AsyncClient) -> None:
    tail = client.tail_events(follow=True)
    waiting = asyncio.create_task(anext(tail))
    await asyncio.sleep(0.2)
    await tail.close()
    with pytest.raises(UnexpectedStatus, match="CANCELLED"):
        await waiting


@pytest.mark.settings(events_streams_max=1)
async def test_streams_are_counted(client: AsyncClient) -> None:
    await filled(client)
    async with client.tail_events(follow=True) as first:
        await anext(first)
        with pytest.raises(Overloaded, match="events_streams_max"):
            await all_of(client)


@pytest.mark.settings(events_kept=3)
async def test_without_a_kafka_the_newest_are_kept(client: AsyncClient, server: Server) -> None:
    await filled(client)
    before = await all_of(client)
    await server.app._housekeeping._sweep()
    assert await all_of(client) == before[-3:]


async def test_names_that_cannot_be_are_refused(server: Server) -> None:
    stub = events_pb2_grpc.EventsStub(server.channel)

    async def first(request: events_pb2.TailEventsRequest) -> object:
        return await stub.TailEvents(request).read()

    refusal = await refused(first(events_pb2.TailEventsRequest(namespace="a\nb")))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("namespace",))
    assert await first(events_pb2.TailEventsRequest()) is grpc.aio.EOF
