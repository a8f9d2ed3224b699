"""The server that sends events is killed while it does: another one goes on from where it was, and nothing is missing."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from sfm_grpc.app import App
from sfm_grpc.settings import Settings
from tests.conftest import Spawn
from tests.support.drivers import Put
from tests.support.kafka import arrived, disorder, has_all
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.processes import ServerProcess, rho_stub
from tests.support.servers import store_of, until
from tests.support.services.kafka_fixtures import StartMockKafka

TOPICS = ["rho.status", "memory.event"]


async def commits(server: ServerProcess, namespace: str, versions: range) -> None:
    async with server.channel() as channel:
        for version in versions:
            await rho_stub(channel).CommitRho(commit_of(Put("rho", density(seed=version)), expected=version, namespace=namespace))


@pytest.mark.engines("postgres", "leased")
async def test_a_server_that_is_killed_while_it_sends_is_followed(
    spawn: Spawn, settings: Settings, mock_kafka: StartMockKafka
) -> None:
    kafka = mock_kafka()
    told: dict[str, Any] = {**store_of(settings), "kafka_bootstrap": kafka.bootstrap}
    one = await spawn().start(**told)
    await commits(one, "n", range(30))
    store = App(settings).store
    await store.open()
    try:
        await until(lambda: all_sent(store))
        kafka.freeze()  # so that it is in the middle of it
        await commits(one, "n", range(30, 60))
        two = await spawn().start(**told)
        one.signal(signal.SIGKILL)
        await one.ended()
        await asyncio.gather(*(commits(two, f"m{i}", range(20)) for i in range(3)), commits(two, "n", range(60, 90)))
        kafka.thaw()
        ids = [e.event_id for e in await store.events(after=0, limit=1000)]
        assert len(ids) == 150
        found = await asyncio.to_thread(arrived, kafka.bootstrap, TOPICS, has_all(ids))
        await until(lambda: all_sent(store), within_s=30)
    finally:
        await store.close()
    assert {a.event_id for a in found} == set(ids)
    assert disorder(found) == []


async def all_sent(store: Any) -> bool:
    return not (await store.outbox.backlog("kafka")).events
