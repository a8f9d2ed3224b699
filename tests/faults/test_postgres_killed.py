"""Postgres killed, restarted and frozen under servers and their clients."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import Overloaded, SfmError, StoreUnavailable
from sfm_grpc.model import Kind
from sfm_grpc.settings import Settings
from tests.faults.clients import Load
from tests.faults.conftest import MakeServer
from tests.faults.judged import judged
from tests.support.drivers import Put
from tests.support.engines.postgres import migrated
from tests.support.failpoints import SENT
from tests.support.histories import counted
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.processes import rho_stub
from tests.support.refusals import Refusal, outcome, refused
from tests.support.servers import settings_for, until
from tests.support.services.fixtures import StartCluster
from tests.support.services.postgres_server import PostgresServer

KEPT = 10
COMPACTING = ["postgres.housekeeping.lock_namespace", "postgres.housekeeping.set_oldest"]
COMMITTING = ["postgres.commit.look", "postgres.commit.unsent", SENT, "postgres.commit.written", "commit.told"]


@pytest.fixture(scope="module")
def cluster(module_postgres_cluster: StartCluster) -> PostgresServer:
    """One for the module: whoever kills it starts it again."""
    return module_postgres_cluster()


@pytest.fixture
def settings(cluster: PostgresServer) -> Settings:
    return settings_for(postgres_url=cluster.fresh(migrated).url)


def url_of(settings: Settings) -> str:
    assert settings.postgres_url is not None
    return settings.postgres_url.get_secret_value()


async def test_postgres_killed_at_any_point_loses_and_doubles_nothing(
    failing: MakeServer, cluster: PostgresServer, settings: Settings, tmp_path: Path
) -> None:
    """A server stands still at a point while Postgres is killed and comes back; then it goes on from there."""
    held = {point: tmp_path / f"{turn}" for turn, point in enumerate([*COMPACTING, *COMMITTING])}
    compacting = [f"{point}=wait:{held[point]}@1" for point in COMPACTING]
    committing = "; ".join(f"{point}=wait:{held[point]}@{2 + turn}" for turn, point in enumerate(COMMITTING))
    one, two = (failing(postgres_url=url_of(settings), rho_history_versions=KEPT) for _ in range(2))
    await asyncio.gather(one.begin(f"{compacting[0]}; {committing}"), two.begin(compacting[1]))
    rng = random.Random(4)
    # More namespaces than points: a commit that stands still keeps its own from all others of that server.
    async with Load([one.address, two.address], list("abcdefgh"), seed=4) as load:
        for path in held.values():
            await until(path.with_name(f"{path.name}.reached").exists, within_s=30)
            await asyncio.sleep(rng.uniform(0, 0.01))
            await asyncio.to_thread(cluster.kill)
            await asyncio.to_thread(cluster.start)
            path.touch()
        await load.progress(10)
    assert await judged(load, one.address, settings) == []


@pytest.mark.parametrize("way", ["kill", "immediate", "fast"])
async def test_postgres_ended_at_random_loses_and_doubles_nothing(
    way: str, failing: MakeServer, cluster: PostgresServer, settings: Settings
) -> None:
    end: Callable[[], None] = cluster.kill if way == "kill" else lambda: cluster.stop(way)
    one, two = (failing(postgres_url=url_of(settings)) for _ in range(2))
    await asyncio.gather(one.begin(), two.begin())
    rng = random.Random(way)
    async with Load([one.address, two.address], ["a", "b"], seed=5) as load:
        for _ in range(3):
            await load.progress(rng.randrange(1, 15))
            await asyncio.sleep(rng.uniform(0, 0.02))
            await asyncio.to_thread(end)
            await asyncio.to_thread(cluster.start)
        await load.progress(10)
    assert await judged(load, one.address, settings) == []


async def test_postgres_killed_while_a_server_starts_is_waited_for(
    failing: MakeServer, cluster: PostgresServer, settings: Settings, tmp_path: Path
) -> None:
    held = tmp_path / "opened"
    server = failing(postgres_url=url_of(settings))
    beginning = asyncio.create_task(server.begin(f"postgres.open.done=wait:{held}"))
    await until(tmp_path.joinpath("opened.reached").exists, within_s=30)
    await asyncio.to_thread(cluster.kill)
    held.touch()
    await beginning
    async with server.channel() as channel:
        assert await probe(channel, "liveness")
        assert not await probe(channel, "readiness")
        await asyncio.to_thread(cluster.start)
        await until(lambda: probe(channel, "readiness"))
        assert (await rho_stub(channel).CommitRho(commit_of(Put("rho", density())))).version == 1


async def test_what_is_said_not_to_have_happened_has_not(
    failing: MakeServer, cluster: PostgresServer, settings: Settings
) -> None:
    """Statements cancelled, backends sent away, Postgres ended in every way: only of an unknown outcome it may have happened.

    Each client is alone in its namespace, and begins anew after a refusal that is certain: if that is wrong, there is a conflict.
    """
    server = await failing(postgres_url=url_of(settings)).begin()
    told, stop, rng = Counter[str](), asyncio.Event(), random.Random(8)
    async with server.channel() as channel, asyncio.TaskGroup() as clients:
        for number in range(6):
            clients.create_task(alone(rho_stub(channel), f"n{number}", stop, told))
        for how in ("cancel", "terminate"):
            await disturb(settings, how, rng, told)
        for way in ("fast", "immediate", "kill"):
            await until(lambda wanted=told["made"] + 10: told["made"] >= wanted)
            await asyncio.to_thread(cluster.kill if way == "kill" else lambda way=way: cluster.stop(way))
            await asyncio.to_thread(cluster.start)
        stop.set()
    assert told["certain"] > 0, told
    assert told["unknown"] > 0, told


async def disturb(settings: Settings, how: str, rng: random.Random, told: Counter[str]) -> None:
    """Cancels statements, or sends backends away, at any moment, until that was told to callers often enough."""
    wanted = refusals(told) + 8
    busy = "FROM pg_stat_activity WHERE state = 'active' AND application_name LIKE 'sfm%'"
    async with asyncio.timeout(60), await psycopg.AsyncConnection.connect(url_of(settings), autocommit=True) as c:
        while refusals(told) < wanted:
            await asyncio.sleep(rng.uniform(0, 0.003))
            await c.execute(f"SELECT pg_{how}_backend(pid) {busy}")


def refusals(told: Counter[str]) -> int:
    return told["certain"] + told["unknown"]


async def alone(stub: Any, namespace: str, stop: asyncio.Event, told: Counter[str]) -> None:
    """Commits, and believes what it is told."""
    version = turn = 0
    while not stop.is_set():
        turn += 1
        put = Put("g", density(seed=turn), kind=Kind.GENERIC)
        request = commit_of(put, namespace=namespace, expected=version, request_id=f"r{turn}")
        if await made(stub, request, told):
            version += 1


async def made(stub: Any, request: Any, told: Counter[str]) -> bool:
    """Whether it was, once that is certain."""
    unknown = False
    while isinstance(answer := await outcome(stub.CommitRho(request, timeout=20)), StoreUnavailable | Overloaded):
        unknown |= isinstance(answer, StoreUnavailable) and answer.outcome_unknown
        told["unknown" if unknown else "certain"] += 1
        if not unknown:
            return False
        await asyncio.sleep(0.02)
    assert not isinstance(answer, SfmError), f"{request.namespace} {request.expected_version}: {answer}"
    assert answer.version == request.expected_version + 1
    told["made"] += 1
    return True


async def test_what_is_lost_is_found(failing: MakeServer, postgres_cluster: StartCluster) -> None:
    """The judges judged: without synchronous_commit Postgres forgets what it acknowledged, and they say so."""
    cluster = postgres_cluster(conf={"synchronous_commit": "off", "wal_writer_delay": "10s"})
    settings = settings_for(postgres_url=cluster.fresh(migrated).url)
    server = await failing(postgres_url=url_of(settings), allow_unsafe_durability=True).begin()
    async with Load([server.address], ["a", "b"], seed=7) as load:
        await load.progress(50)
        await asyncio.to_thread(cluster.kill)
        await asyncio.to_thread(cluster.start)
    assert counted(await judged(load, server.address, settings))["lost"] > 0


# ---- frozen

STATEMENT_S = 0.4
BOUND_S = STATEMENT_S + 1.0 + 1.0
"""The statement timeout, what a server waits beyond it, and a slow machine."""


@pytest.fixture
async def impatient(failing: MakeServer, settings: Settings) -> AsyncIterator[grpc.aio.Channel]:
    """To a server that waits for Postgres but shortly."""
    server = failing(
        postgres_url=url_of(settings),
        postgres_statement_timeout_ms=round(STATEMENT_S * 1000),
        postgres_lock_timeout_ms=200,
        postgres_pool_wait_ms=500,
        postgres_connect_timeout_s=2,
    )
    await server.begin()
    async with server.channel() as channel:
        yield channel


async def test_a_frozen_postgres_fails_calls_within_their_bounds_and_is_found_again(
    impatient: grpc.aio.Channel, cluster: PostgresServer, settings: Settings
) -> None:
    stub = rho_stub(impatient)
    await stub.CommitRho(commit_of(Put("rho", density())))
    request = commit_of(Put("rho", density(seed=1)), expected=1, request_id="frozen")
    await asyncio.to_thread(cluster.freeze)
    try:
        told, seconds = await timed(stub.CommitRho(request, timeout=20))
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert told.facts["outcome_unknown"] == "true", told.message
        assert seconds < BOUND_S
        read = rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL)
        for call in (stub.GetRho(read, timeout=20), stub.CommitRho(request, timeout=20)):
            told, seconds = await timed(call)
            assert told.reason == "STORE_UNAVAILABLE"
            assert seconds < BOUND_S
        await until(lambda: isnt(probe(impatient, "readiness")), within_s=8)
        assert await probe(impatient, "liveness")
    finally:
        await asyncio.to_thread(cluster.thaw)
    await until(lambda: probe(impatient, "readiness"))
    done = await stub.CommitRho(request, timeout=20)
    again = await stub.CommitRho(request, timeout=20)
    assert (done.version, again.version, again.replayed) == (2, 2, True)
    found = await stub.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL))
    assert (found.version, found.matrices[0].matrix.data) == (2, density(seed=1).tobytes())


async def test_a_postgres_that_freezes_again_and_again_loses_and_doubles_nothing(
    failing: MakeServer, cluster: PostgresServer, settings: Settings
) -> None:
    """For less than a statement may take, and for longer."""
    timeouts = {"postgres_statement_timeout_ms": 300, "postgres_lock_timeout_ms": 200, "postgres_connect_timeout_s": 2}
    one, two = (failing(postgres_url=url_of(settings), **timeouts) for _ in range(2))
    await asyncio.gather(one.begin(), two.begin())
    async with Load([one.address, two.address], ["a", "b"], seed=6) as load:
        for seconds in (0.2, 1.6):
            await load.progress(5)
            await asyncio.to_thread(cluster.freeze)
            try:
                await asyncio.sleep(seconds)
            finally:
                await asyncio.to_thread(cluster.thaw)
        await load.progress(10)
    assert await judged(load, one.address, settings) == []


async def probe(channel: grpc.aio.Channel, service: str) -> bool:
    """What a load balancer would be told."""
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=2)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def isnt(said: Any) -> bool:
    return not await said


async def timed(call: Any) -> tuple[Refusal, float]:
    """The refusal that a call must end in, and how long it took."""
    began_s = time.monotonic()
    told = await refused(call)
    return told, time.monotonic() - began_s
