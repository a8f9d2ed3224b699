"""A server is killed at every moment of an order that came by Kafka: each is carried out once and audited once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sfm.v1 import rho_store_pb2

from sfm_grpc.app import App
from sfm_grpc.settings import Settings
from tests.faults.conftest import MakeServer
from tests.support.engines import Engine
from tests.support.matrices import density
from tests.support.memories import Memories, put_of
from tests.support.orders import HURRY, Orders, commit_part, order_of
from tests.support.processes import rho_stub
from tests.support.prunes import Prunes, check_chain
from tests.support.servers import settings_for, store_of, until
from tests.support.services.kafka_fixtures import StartMockKafka

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.timeout(600)]

KEYS = [f"k{i:03}" for i in range(200)]
LARGE = KEYS[100:]
ENGINES = {"postgres": "postgres.both", "sqlite": "sqlite.commit"}
# Where it dies, one after the other. Each begins with an order that the one before may have carried out.
MOMENTS = (
    "order.taken=kill@2",
    "commit.admitted=kill@2",
    "ENGINE.begun=kill@2",
    "ENGINE.executed=kill@2",
    "commit.told=kill@2",
    "order.carried_out=kill@2",
    "order.uncommitted=kill@2",
    "order.committed=kill@2",
    "order.unrefused=kill",
    "order.refused=kill",
)


def messages() -> list[Any]:
    """Orders under the guards, one over them, one with matrices, and what is none; some come twice."""
    small = [order_of(f"o{i:02}", KEYS[2 * i], KEYS[2 * i + 1], committer="manager") for i in range(20)]
    with_rho = order_of("rho", "k060", commit=commit_part(0, density(seed=1)))
    large = order_of("large", *LARGE)
    return [*small[:8], large, small[3], with_rho, *small[8:14], with_rho, b"poison", large, *small[14:], small[0]]


async def test_every_order_is_carried_out_once_and_audited_once(
    failing: MakeServer, settings: Settings, engine: Engine, mock_kafka: StartMockKafka
) -> None:
    kafka = mock_kafka()
    server = failing(**store_of(settings), kafka_bootstrap=kafka.bootstrap, kafka_options=HURRY)
    orders = Orders(settings_for(kafka_bootstrap=kafka.bootstrap))
    await server.begin(kafka_orders=False)
    async with server.channel() as channel:
        await Memories(channel).puts(*(put_of(key) for key in KEYS))
    sent = messages()
    orders.send(*sent)
    # Each death costs the end of a session; what differs by the engine is in a few of them.
    moments = MOMENTS if engine.store == "postgres" else MOMENTS[2:7:2]
    for moment in moments:
        await server.begin_and_die(moment.replace("ENGINE", ENGINES[engine.store]))
    await server.begin()
    await until(lambda: asyncio.to_thread(orders.all_done), within_s=60)
    async with server.channel() as channel:
        await check(channel)
    store = App(settings).store
    server.close()
    await store.open()
    try:
        told = [e.payload for e in await store.events(after=0, limit=1_000) if e.topic == "prune.result"]
    finally:
        await store.close()
    results = sorted((str(t["order_id"]), t["result"]) for t in told)
    assert results == sorted([*((o, "APPLIED") for o in ORDERS), ("large", "AWAITING_CONFIRMATION")])
    # Whoever dies between putting it aside and saying that it is done puts it aside again.
    letters = 2 if MOMENTS[-1] in moments else 1
    refused = await asyncio.to_thread(orders.letters, lambda found: len(found) >= letters)
    assert {(r.value, r.headers["sfm-offset"]) for r in refused} == {(b"poison", str(sent.index(b"poison")))}


ORDERS = ["rho", *(f"o{i:02}" for i in range(20))]


async def check(channel: Any) -> None:
    memories = Memories(channel)
    prunes = Prunes.beside(memories)
    audits = await prunes.audits()
    check_chain(audits)
    assert [a.order_id for a in audits] == [*ORDERS[1:9], "rho", *ORDERS[9:]]
    assert [a.memories for a in audits] == [1 if a.order_id == "rho" else 2 for a in audits]
    assert set(await memories.keys()) == {*KEYS[40:60], *KEYS[61:]}
    assert (await rho_stub(channel).GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))).version == 1
    [plan] = (await prunes.ask("ListPrunePlans")).plans
    assert (plan.order_id, plan.memories) == ("large", len(LARGE))
