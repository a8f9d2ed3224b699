"""What is done to three servers, their Postgres and their Redis in the long run: one fault at a time, and all is up again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from tests.faults.clients import Load
from tests.faults.servers import FailingServer
from tests.support.failpoints import SENT
from tests.support.mutants import CLOCK_KEY
from tests.support.servers import settings_for, until
from tests.support.services.databases import Database
from tests.support.services.postgres_server import PostgresServer
from tests.support.services.proxy import FaultProxy
from tests.support.services.redis_server import RedisServer

KEPT = 40
STATEMENT_MS = 800
SERVERS = 3
# Where a part of the protocol is missing, so many of the faults are the one that it is there for.
_AIMED = 0.6
KILL_POINTS = [
    "commit.received",
    "commit.admitted",
    "commit.told",
    "commit.answered",
    "postgres.commit.look",
    "postgres.commit.unsent",
    SENT,
    "postgres.commit.written",
    "postgres.commit.executed",
    "postgres.reads.read",
    "postgres.housekeeping.delete_bodies",
    "postgres.housekeeping.set_oldest",
    "postgres.compact.done",
    "read.unlooked",
    "read.looked",
    "cache.unfilled",
    "cache.filled",
    "cache.unplanted",
    "cache.planted",
    "cache.unfenced",
    "cache.fenced",
]
# These come only with a Redis that cannot be reached.
DRAIN_POINTS = ["drain.unbegun", "drain.begun", "drain.waited", "drain.ended"]
WAIT_POINTS = ["postgres.commit.unsent", SENT, "postgres.commit.executed", "read.looked", "cache.unfilled", "cache.unfenced"]

Fault = Callable[[], Awaitable[None]]


class Harms:
    """Everything that is there to be harmed."""

    def __init__(
        self,
        database: Database,
        cluster: PostgresServer,
        redises: tuple[RedisServer, RedisServer],
        directory: Path,
        *,
        seed: int,
        without: str,
    ) -> None:
        self.cluster = cluster
        self.redis, self.other_redis = redises
        self.stack = contextlib.ExitStack()
        self.ways = [self.stack.enter_context(FaultProxy.to(self.redis.url)) for _ in range(SERVERS)]
        self.store_way = self.stack.enter_context(FaultProxy.to(database.url))
        self.settings = settings_for(postgres_url=database.url)
        stores = [database.url, self.store_way.url(database.url), database.url]
        # Where fills are not gated, that shows while a Redis that is there is not used yet.
        settle_s = 2.0 if without == "gated_fill" else 0.0
        self.servers = [self._server(directory, number, stores[number], settle_s) for number in range(SERVERS)]
        for server in self.servers:
            server.without = without
        self.rng = random.Random(seed)
        self.without = without
        self.kills = 0
        self.faults: Counter[str] = Counter()
        self.load: Load | None = None
        """Who asks at the moment."""
        self._directory = directory
        self._held = 0

    def _server(self, directory: Path, number: int, postgres_url: str, settle_s: float) -> FailingServer:
        return FailingServer(
            directory / f"server-{number}.log",
            postgres_url=postgres_url,
            redis_url=self.ways[number].url(self.redis.url),
            redis_settle_s=settle_s,
            rho_history_versions=KEPT,
            postgres_statement_timeout_ms=STATEMENT_MS,
            postgres_lock_timeout_ms=STATEMENT_MS // 2,
            postgres_connect_timeout_s=2,
            shed_wait_ms=60_000,
        )

    @property
    def complaints(self) -> list[str]:
        """What servers say that they did not foresee."""
        return [complaint for server in self.servers for complaint in server.complaints]

    def close(self) -> None:
        """No server is left."""
        for server in self.servers:
            server.close()
        self.stack.close()

    def file(self, name: str) -> Path:
        """A file that goes with the run."""
        return self._directory / name

    async def harm(self) -> None:
        """One fault, and all is up again."""
        faults, aimed = self._faults(), self._aimed().get(self.without)
        [fault] = self.rng.choices(list(faults), list(faults.values()))
        if aimed is not None and self.rng.random() < _AIMED:
            fault = aimed
        self.faults[fault.__name__] += 1
        await asyncio.sleep(self.rng.uniform(0, 0.05))
        await fault()

    def _aimed(self) -> Mapping[str, Fault]:
        """By part of the cache protocol: what it is there for."""
        return {
            "token": self.hold_a_fill_and_flush,
            "fence": self.hold_a_fill,
            "run_id": self.old_dump,
            "registered_run_id": self.another_redis,
            "lease": self.cut_from_redis,
            "lease_from_token_time": self.hold_a_fill_and_drain,
            "token_before_commit": self.hold_a_fence_and_flush,
            "gated_fill": self.kill_redis,
            "drain": self.cut_from_redis,
        }

    def _faults(self) -> Mapping[Fault, int]:
        return {
            self.kill_server: 6,
            self.kill_server_at_a_point: 14,
            self.kill_server_in_a_drain: 2,
            self.kill_postgres: 5,
            self.kill_postgres_at_a_point: 3,
            self.kill_both: 2,
            self.kill_redis: 6,
            self.restart_postgres: 1,
            self.freeze_postgres: 1,
            self.cut_from_postgres: 2,
            self.hang_postgres: 1,
            self.freeze_redis: 2,
            self.flush_redis: 3,
            self.old_dump: 3,
            self.evict: 2,
            self.no_memory: 2,
            self.cut_from_redis: 3,
            self.hang_redis: 2,
            self.slow_redis: 1,
            self.step_clock: 3,
            self.hold_a_fill: 4,
            self.hold_a_fill_and_flush: 3,
            self.hold_a_fill_and_drain: 3,
            self.hold_a_fence_and_flush: 3,
            self.another_redis: 2,
        }

    # ---- servers

    async def kill_server(self) -> None:
        """At any moment."""
        server = self._one()
        server.kill()
        await self._died(server)
        await server.begin()

    async def kill_server_at_a_point(self) -> None:
        """It is begun again with a failpoint, dies of it, and is begun without."""
        await self._dies_at(self._one(), self.rng.choice(KILL_POINTS))

    async def kill_server_in_a_drain(self) -> None:
        """The same, where it cannot reach Redis."""
        place = self.rng.randrange(SERVERS)
        self.ways[place].cut()
        try:
            await self._dies_at(self.servers[place], self.rng.choice(DRAIN_POINTS), most=1)
        finally:
            self.ways[place].restore()

    async def _dies_at(self, server: FailingServer, point: str, *, most: int = 4) -> None:
        server.kill()
        await self._died(server)
        with contextlib.suppress(AssertionError):
            await server.begin(f"{point}=kill@{self.rng.randint(1, most)}")
        if not await self._dies_by_itself(server):
            server.kill()  # what the point needs did not come about
        await self._died(server)
        await server.begin()

    async def _dies_by_itself(self, server: FailingServer, within_s: float = 20.0) -> bool:
        with contextlib.suppress(TimeoutError):
            await until(lambda: server._process.exitcode is not None, within_s=within_s)
            return True
        return False

    # ---- Postgres

    async def kill_postgres(self) -> None:
        """At any moment."""
        await asyncio.to_thread(self.cluster.kill)
        self.kills += 1
        await asyncio.sleep(self.rng.choice((0, 0, 0.3)))
        await asyncio.to_thread(self.cluster.start)

    async def kill_postgres_at_a_point(self) -> None:
        """While a server stands still at one."""
        async with self._standing(self._one(), self.rng.choice(WAIT_POINTS)):
            await asyncio.sleep(self.rng.uniform(0, 0.01))
            await self.kill_postgres()

    async def kill_both(self) -> None:
        """As when a machine dies."""
        server = self._one()
        server.kill()
        await self.kill_postgres()
        await self._died(server)
        await server.begin()

    async def restart_postgres(self) -> None:
        """As for an update."""
        await asyncio.to_thread(self.cluster.restart, self.rng.choice(("fast", "immediate")))

    async def freeze_postgres(self) -> None:
        """For less than a statement may take, or for longer."""
        await asyncio.to_thread(self.cluster.freeze)
        await asyncio.sleep(self.rng.choice((0.3, 2.5)))
        await asyncio.to_thread(self.cluster.thaw)

    async def cut_from_postgres(self) -> None:
        """Every line of the server behind the proxy; for a moment or for a while."""
        if self.rng.random() < 0.5:
            self.store_way.drop()
            return
        self.store_way.cut()
        await asyncio.sleep(self.rng.uniform(0.2, 2.0))
        self.store_way.restore()

    async def hang_postgres(self) -> None:
        """Nothing comes back from Postgres for a while, and then it is cut."""
        self.store_way.hang("down")
        await asyncio.sleep(self.rng.uniform(0.05, 0.5))
        self.store_way.drop()
        self.store_way.restore()

    # ---- Redis

    async def kill_redis(self) -> None:
        """At any moment; it comes back empty."""
        await asyncio.to_thread(self.redis.kill)
        self.kills += 1
        await asyncio.sleep(self.rng.choice((0, 0, 0.3, 1.5)))
        await asyncio.to_thread(self.redis.start)

    async def freeze_redis(self) -> None:
        """For less than a lease, or for longer; what was sent meanwhile is executed late."""
        await asyncio.to_thread(self.redis.freeze)
        await asyncio.sleep(self.rng.choice((0.1, 0.6, 2.5)))
        await asyncio.to_thread(self.redis.thaw)

    async def flush_redis(self) -> None:
        """It forgets everything."""
        with self.redis.client() as client:
            client.flushall()

    async def old_dump(self) -> None:
        """It comes back with what it held a moment ago."""
        dump = await asyncio.to_thread(self.redis.dump)
        await self._goes_on(self.rng.randint(1, 3))
        await asyncio.to_thread(self.redis.restart_with, dump)
        self.kills += 1

    async def evict(self) -> None:
        """It throws away what it likes."""
        await self._with_little_memory("allkeys-random")

    async def no_memory(self) -> None:
        """It refuses what would need some."""
        await self._with_little_memory("noeviction")

    async def _with_little_memory(self, policy: str) -> None:
        def configure(policy: str, maxmemory: int) -> None:
            self.redis.configure(maxmemory_policy=policy, maxmemory=maxmemory)

        with self.redis.client() as client:
            used = int(client.info("memory")["used_memory"])
        await asyncio.to_thread(configure, policy, used if policy != "noeviction" else 1)
        await asyncio.sleep(self.rng.uniform(0.1, 1.5))
        await asyncio.to_thread(configure, "noeviction", 0)

    async def cut_from_redis(self) -> None:
        """One server, for less than a lease or for longer; the others go on."""
        way = self.rng.choice(self.ways)
        way.cut()
        await asyncio.sleep(self.rng.choice((0.2, 1.0, 3.0)))
        way.restore()

    async def hang_redis(self) -> None:
        """Nothing comes back to one server, and what it sent is executed all the same; or only later."""
        way = self.rng.choice(self.ways)
        way.hang(self.rng.choice(("up", "down", None)))
        await asyncio.sleep(self.rng.uniform(0.1, 2.0))
        if self.rng.random() < 0.5:
            way.drop()
        way.restore()

    async def slow_redis(self) -> None:
        """Each way takes some milliseconds more, both ways."""
        for way in self.ways:
            way.delay(self.rng.uniform(0.001, 0.02))
        await asyncio.sleep(1.0)
        for way in self.ways:
            way.delay(0)

    async def step_clock(self) -> None:
        """Its clock jumps ahead, or steps back by less than the margin."""
        with self.redis.client() as client:
            client.incrby(CLOCK_KEY, self.rng.choice((-200, -100, 300, 900, 5_000, 3_600_000)))

    async def another_redis(self) -> None:
        """One server is on another Redis than the others for a while."""
        server = self._one()
        server.kill()
        await self._died(server)
        await server.begin(redis_url=self.other_redis.url)
        await self._goes_on(self.rng.randint(3, 12))
        server.kill()
        await self._died(server)
        await server.begin()

    # ---- the races that the protocol's parts are there for

    async def hold_a_fill(self) -> None:
        """A reader is slow to fill, while others commit."""
        async with self._standing(self._one(), "cache.unfilled"):
            await self._goes_on(self.rng.randint(1, 6))

    async def hold_a_fill_and_flush(self) -> None:
        """The same, and Redis forgets."""
        async with self._standing(self._one(), "cache.unfilled"):
            await self._goes_on(self.rng.randint(1, 3))
            await self.flush_redis()

    async def hold_a_fill_and_drain(self) -> None:
        """The same, and another server cannot reach Redis, commits, and has to wait for the last lease."""
        server = self._one()
        others = [way for way, one in zip(self.ways, self.servers, strict=True) if one is not server]
        async with self._standing(server, "cache.unfilled"):
            for way in others:
                way.cut()
            await self._goes_on(self.rng.randint(1, 3))
        for way in others:
            way.restore()

    async def hold_a_fence_and_flush(self) -> None:
        """A writer is slow to publish, others are faster, and Redis forgets."""
        async with self._standing(self._one(), "cache.unfenced"):
            await self._goes_on(self.rng.randint(1, 3))
            await self.flush_redis()

    @contextlib.asynccontextmanager
    async def _standing(self, server: FailingServer, point: str) -> AsyncIterator[None]:
        """A server is begun again, and stands still where it reaches a point; what is inside happens meanwhile."""
        self._held += 1
        held = self._directory / f"held-{self._held}"
        server.kill()
        await self._died(server)
        await server.begin(f"{point}=wait:{held}@{self.rng.randint(1, 4)}")
        try:
            with contextlib.suppress(TimeoutError):
                await until(held.with_name(f"{held.name}.reached").exists, within_s=20)
            yield
        finally:
            held.touch()

    async def _goes_on(self, commits: int) -> None:
        """Waits for some commits, but not for ever: whoever is held may be who they wait for."""
        if self.load is not None:
            with contextlib.suppress(TimeoutError):
                await self.load.progress(commits, within_s=self.rng.uniform(0.3, 3.0))

    def _one(self) -> FailingServer:
        return self.rng.choice(self.servers)

    async def _died(self, server: FailingServer) -> None:
        await server.die()
        self.kills += 1
