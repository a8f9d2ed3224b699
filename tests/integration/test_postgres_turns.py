"""Commits of one namespace take turns before they take a connection; housekeeping takes its own between them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sfm_grpc.coordinator.housekeeping import Housekeeping
from sfm_grpc.errors import DeadlineExceeded, StoreUnavailable
from sfm_grpc.metrics import Metrics
from sfm_grpc.model import Scope
from sfm_grpc.storage.contract import Retention
from sfm_grpc.storage.in_process import SnapshotCache
from sfm_grpc.storage.postgres import PostgresStore
from sfm_grpc.storage.postgres.turns import Turns
from tests.conftest import Serve
from tests.support.drivers import Put
from tests.support.engines.postgres import migrated
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.metrics import samples
from tests.support.postgres_stores import opened, rho
from tests.support.refusals import outcome
from tests.support.servers import Server, settings_for, until
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase
from tests.support.transactions import N, request, transaction

OTHER = Scope("default", "other")
NEVER = float("inf")


def left(turns: Turns) -> int:
    """What it keeps."""
    return len(turns._locks) + len(turns._asking)


# ---- turns


async def test_turns_come_in_the_order_of_asking_one_at_a_time_for_each_namespace() -> None:
    turns, order, inside = Turns(5.0), list[int](), set[Scope]()

    async def take(scope: Scope, number: int) -> None:
        async with turns.of(scope, NEVER):
            assert scope not in inside
            inside.add(scope)
            order.append(number)
            await asyncio.sleep(0.001)
            inside.remove(scope)

    async with turns.of(OTHER, NEVER):
        await asyncio.wait_for(asyncio.gather(*(take(N, number) for number in range(40))), 5)
        assert order == list(range(40))
    assert left(turns) == 0


async def test_a_turn_that_does_not_come_is_told_in_time_and_leaves_nothing() -> None:
    turns = Turns(0.2)
    async with turns.of(N, NEVER):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="SFM_POSTGRES_LOCK_TIMEOUT_MS") as caught:
            async with turns.of(N, NEVER):
                raise AssertionError
        assert 0.2 <= time.monotonic() - began < 1.0
        assert not caught.value.outcome_unknown
        for deadline_s in (0.05, -1.0):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                async with turns.of(N, began + deadline_s):
                    raise AssertionError
            assert time.monotonic() - began < 0.2
    assert left(turns) == 0
    async with turns.of(N, NEVER):
        assert left(turns) == 2


async def test_whoever_is_cancelled_or_fails_passes_the_turn_on() -> None:
    turns, done = Turns(5.0), list[int]()

    async def take(number: int) -> None:
        async with turns.of(N, NEVER):
            done.append(number)
            await asyncio.sleep(0)
            if number == 2:
                raise ValueError

    async with turns.of(N, NEVER):
        tasks = [asyncio.create_task(take(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        await asyncio.sleep(0)
    # The turn is on its way to this one: it must not be lost with it.
    tasks[1].cancel()
    told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(t).__name__ for t in told] == ["CancelledError"] * 2 + ["ValueError", "CancelledError", "NoneType", "NoneType"]
    assert done == [2, 4, 5]
    assert left(turns) == 0


# ---- commits


@contextlib.contextmanager
def held(database: Database, scope: Scope = N) -> Iterator[None]:
    """While it lasts, somebody else holds the namespace's row."""
    with database.connect() as c, c.transaction():
        c.execute("SELECT 1 FROM sfm.namespace WHERE name = %s FOR UPDATE", (scope.namespace,))
        yield


async def waits(database: Database, count: int) -> bool:
    """Whether so many statements wait for a lock."""
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as c:
        asked = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        return await (await c.execute(asked, (database.name,))).fetchone() == (count,)


async def busy(server: Server) -> tuple[float, float]:
    """How many connections are in use, and how many calls wait for one."""
    found = await samples(server)
    return found["sfm_store_connections_busy", frozenset()], found["sfm_store_waiting", frozenset()]


@pytest.mark.usefixtures("nothing_in_the_background")
async def test_many_commits_to_one_namespace_take_one_connection(serve: Serve, fresh_database: FreshDatabase) -> None:
    database = fresh_database(migrated)
    few = {"postgres_pool_min": 1, "postgres_pool_max": 2, "postgres_pool_wait_ms": 200}
    server = await serve(settings_for(postgres_url=database.url, http_listen="127.0.0.1:0", rho_verify_interval_s=600.0, **few))
    for name in ("n", "other"):
        await server.rho.CommitRho(commit_of(Put("rho", density()), namespace=name))
    with held(database):
        rivals = [commit_of(Put("rho", density(seed=i)), expected=1, request_id=f"r{i}") for i in range(40)]
        tasks = [asyncio.ensure_future(outcome(server.rho.CommitRho(rival, timeout=20))) for rival in rivals]
        await until(lambda: waits(database, 1))
        await asyncio.sleep(0.5)  # more than a call waits for a connection
        assert await busy(server) == (1, 0)
        began = time.monotonic()
        for version in range(1, 6):
            more = commit_of(Put("rho", density(seed=version)), namespace="other", expected=version)
            assert (await server.rho.CommitRho(more, timeout=5)).version == version + 1
        assert time.monotonic() - began < 1.0
        assert not any(task.done() for task in tasks)
    told = [getattr(answer, "reason", "done") for answer in await asyncio.gather(*tasks)]
    assert sorted(told) == ["VERSION_CONFLICT"] * 39 + ["done"]
    assert await busy(server) == (0, 0)
    assert left(server.app.store._turns) == 0  # type: ignore[attr-defined]


async def test_commits_that_wait_for_one_that_waits_are_told_in_time(fresh_database: FreshDatabase) -> None:
    database = fresh_database(migrated)
    async with opened(database.url, lock_timeout_s=0.4) as store:
        await store.commit(transaction(rho(), expected=0))
        with held(database):
            began = time.monotonic()
            hurried = dataclasses.replace(transaction(rho(1)), deadline=began + 0.2)
            commits = [store.commit(transaction(rho(1))) for _ in range(5)] + [store.commit(hurried)]
            told = await asyncio.gather(*commits, return_exceptions=True)
            # Whoever has its turn just before it would be told, waits for the row itself.
            assert 0.4 <= time.monotonic() - began < 1.5
        assert [type(t) for t in told] == [StoreUnavailable] * 5 + [DeadlineExceeded]
        assert all("SFM_POSTGRES_LOCK_TIMEOUT_MS" in t.problem and not t.outcome_unknown for t in told[:5])  # type: ignore[union-attr]
        assert left(store._turns) == 0
        assert (await store.commit(transaction(rho(1), expected=1))).number == 2


async def test_commits_that_are_cancelled_leave_no_turn_behind(fresh_database: FreshDatabase) -> None:
    database = fresh_database(migrated)
    async with opened(database.url) as store:
        await store.commit(transaction(rho(), expected=0))
        with held(database):
            tasks = [asyncio.create_task(store.commit(transaction(rho(i), asked=request(f"r{i}")))) for i in range(10)]
            await until(lambda: waits(database, 1))
            for task in tasks:
                task.cancel()
            told = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(t) for t in told} == {asyncio.CancelledError}
        assert left(store._turns) == 0
        # What was under way came to its end; what had no turn was not begun.
        assert (await store.commit(transaction(rho(10)))).number == 3


# ---- housekeeping


class Steady:
    """A store to which somebody commits whenever anything is asked of it."""

    def __init__(self, store: PostgresStore, *scopes: Scope) -> None:
        self._store = store
        self._scopes = scopes
        self.keeper: Any = None
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def asked(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            for scope in self._scopes:
                done = transaction(rho(len(self.asked)), scope=scope, asked=request(f"r{len(self.asked)}"), time_us=1)
                self.keeper.committed(scope, (await self._store.commit(done)).version, done)
            return await getattr(self._store, name)(*args, **kwargs)

        return asked


async def test_under_steady_commits_all_of_housekeeping_has_its_turn(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes = [Scope("default", f"n{i}") for i in range(3)]
    async with opened(fresh_database(migrated).url) as store:
        steady: Any = Steady(store, *scopes)
        retention = Retention(versions=2, age_s=0, request_age_s=1, events=3)
        cache = SnapshotCache(bytes_max=1 << 20, ttl_s=60.0)
        steady.keeper = Housekeeping(steady, cache, retention, Metrics(), is_whole=lambda _scope: True)
        module = "sfm_grpc.coordinator.housekeeping"
        for name, seconds in (("_PAUSE_S", 0.01), ("_SWEEP_S", 0.02), ("_AT_ONCE_S", 0.1)):
            monkeypatch.setattr(f"{module}.{name}", seconds)
        monkeypatch.setattr(Housekeeping, "ALL_EVERY_S", 0.02)
        keeping = asyncio.create_task(steady.keeper.run())
        try:
            for name in ("heads", "forget", "compact"):
                await until(lambda name=name: _runs(steady.asked, name) >= 3, within_s=20)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        for scope in scopes:
            found = await store.versions(scope, before=None, limit=500)
            assert found.newest - found.oldest < 100
        assert len(await store.events(after=0, limit=500)) < 100


def _runs(asked: list[str], name: str) -> int:
    """How often it was begun, after something else."""
    return sum(now == name != before for before, now in zip(["", *asked], asked, strict=False))
