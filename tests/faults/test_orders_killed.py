"""A server is killed at every moment of an order that came by Kafka: each is carried out once and audited once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
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
from tests.support.services.kafka_broker import MockKafka
from tests.support.services.kafka_fixtures import StartMockKafka

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.timeout(600)]

KEYS = [f"k{i:03}" for i in range(200)]
LARGE = KEYS[100:]
SIDE_BY_SIDE = 5
ENGINES = {"postgres": "postgres.both", "sqlite": "sqlite.commit"}
# Where a server dies. After a death it begins with an order that it may have carried out before.
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
    failing: MakeServer, engine: Engine, mock_kafka: StartMockKafka, tmp_path: Path
) -> None:
    # What differs by the engine is in a few of them.
    moments = MOMENTS if engine.store == "postgres" else MOMENTS[2:7:2]
    # Each death costs the end of a session, so several servers, each with a store and a Kafka, die beside each other.
    await asyncio.gather(
        *(
            carried_out(failing, settings_for(**engine.settings(tmp_path / str(i))), mock_kafka(), moments[i::SIDE_BY_SIDE])
            for i in range(min(SIDE_BY_SIDE, len(moments)))
        )
    )


async def carried_out(failing: MakeServer, settings: Settings, kafka: MockKafka, moments: Sequence[str]) -> None:
    """One server that takes all orders, and dies at these moments."""
    server = failing(**store_of(settings), kafka_bootstrap=kafka.bootstrap, kafka_options=HURRY)
    orders = Orders(settings_for(kafka_bootstrap=kafka.bootstrap))
    await server.begin(kafka_orders=False)
    async with server.channel() as channel:
        await Memories(channel).puts(*(put_of(key) for key in KEYS))
    sent = messages()
    await asyncio.to_thread(orders.send, *sent)
    store = App(settings).store
    for moment in moments:
        await server.begin_and_die(moment.replace("ENGINE", ENGINES[store.name]))
    await server.begin()
    await until(lambda: asyncio.to_thread(orders.all_done), within_s=60)
    async with server.channel() as channel:
        await check(channel)
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
