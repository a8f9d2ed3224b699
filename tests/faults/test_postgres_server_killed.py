"""Servers killed, at random and at every point of their work, while clients go on at two of them."""

from __future__ import annotations

import asyncio
import random

import pytest

from sfm_grpc.settings import Settings
from tests.faults.clients import Load
from tests.faults.conftest import MakeServer
from tests.faults.judged import judged
from tests.faults.servers import FailingServer
from tests.support.engines import Engine
from tests.support.servers import settings_for, store_of
from tests.support.services.fixtures import FreshDatabase

ANY_ENGINE = [
    "commit.called",
    "commit.received",
    "commit.admitted",
    "commit.told",
    "commit.made",
    "commit.answered",
]
COMMITTING = {
    "postgres": [
        "postgres.commit.begun",
        "postgres.commit.look",
        "postgres.commit.unsent",
        "postgres.commit.sent",
        "postgres.commit.written",
        "postgres.commit.executed",
        "postgres.reads.read",
    ],
    "sqlite": ["sqlite.commit.begun", "sqlite.commit.executed"],
}
COMPACTING = {
    "postgres": [
        "postgres.housekeeping.lock_namespace",
        "postgres.housekeeping.list_expired",
        "postgres.housekeeping.delete_bodies",
        "postgres.housekeeping.set_oldest",
        "postgres.compact.done",
    ],
    "sqlite": ["sqlite.compact.begun", "sqlite.compact.executed"],
}
LEASED = ["cache.unplanted", "cache.planted", "cache.unfenced", "cache.fenced", "read.looked", "cache.unfilled", "cache.filled"]
KEPT = 10


async def test_a_server_killed_at_any_point_loses_and_doubles_nothing(
    failing: MakeServer, engine: Engine, settings: Settings
) -> None:
    """One is killed on the ways of a commit, the other one while it compacts; clients find whichever is there."""
    one, two = (failing(**store_of(settings), rho_history_versions=KEPT) for _ in range(2))
    await asyncio.gather(one.begin(), two.begin())
    async with Load([one.address, two.address], ["a", "b"], seed=2, leased=engine.leases) as load:
        await load.progress(2 * KEPT)
        ways = ANY_ENGINE + COMMITTING[engine.store] + (LEASED if engine.leases else [])
        committing = [f"{point}=kill@{2 + turn % 4}" for turn, point in enumerate(ways)]
        compacting = [f"{point}=kill@1" for point in COMPACTING[engine.store]]
        await asyncio.gather(_killed(one, committing), _killed(two, compacting))
        await load.progress(5)
    assert await judged(load, one.address, settings) == []
    assert engine.damage(settings) == []
    print(
        f"{load.history.operations} answers, {load.replayed} of them had been given and lost; asked again: {dict(load.failures)}"
    )


async def _killed(server: FailingServer, failpoints: list[str]) -> None:
    """It dies of each in turn, and serves in the end."""
    for failpoint in failpoints:
        await server.begin_and_die(failpoint)
    await server.begin()


@pytest.mark.engines("postgres")
async def test_a_server_killed_at_random_loses_and_doubles_nothing(failing: MakeServer, settings: Settings) -> None:
    rng = random.Random(3)
    server = await failing(**store_of(settings)).begin()
    async with Load([server.address], ["a", "b"], seed=3) as load:
        for _ in range(4):
            await load.progress(rng.randrange(1, 20))
            await asyncio.sleep(rng.uniform(0, 0.02))
            server.kill()
            await server.die()
            await server.begin()
        await load.progress(5)
    assert await judged(load, server.address, settings) == []


STARTING = [
    "postgres.migrate.waiting",
    "postgres.migrate.turn",
    "postgres.migrate.unapplied",
    "postgres.migrate.record",
    "postgres.migrate.applied",
    "postgres.open.begun",
    "postgres.session.describe",
    "postgres.open.done",
]


async def test_a_server_killed_while_it_starts_leaves_a_database_that_the_next_one_starts_from(
    failing: MakeServer, fresh_database: FreshDatabase
) -> None:
    """Migrating, too: each step is there whole, or not at all."""
    database = fresh_database()
    server = failing(postgres_url=database.url, postgres_migrate=True)
    for point in STARTING:
        await server.begin_and_die(f"{point}=kill")
    await server.begin()
    async with Load([server.address], ["a"], clients=1) as load:
        await load.progress(3)
    assert await judged(load, server.address, settings_for(postgres_url=database.url)) == []
