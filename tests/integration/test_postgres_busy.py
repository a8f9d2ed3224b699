"""Every connection in use, rows that others hold, slow statements, callers who give up: told in time, undone, and over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2 as probe_pb2
from psycopg import sql
from sfm.v1 import rho_store_pb2

from sfm_grpc.model import Kind
from sfm_grpc.settings import Settings
from tests.conftest import Serve, Spawn
from tests.support.drivers import Delete, Put
from tests.support.engines.postgres import PostgresEngine, migrated
from tests.support.matrices import density, sketch
from tests.support.messages import commit_of
from tests.support.metrics import samples
from tests.support.processes import rho_stub
from tests.support.refusals import Refusal, outcome, refused
from tests.support.servers import Server, settings_for, until
from tests.support.services.databases import Database, Postgres
from tests.support.services.fixtures import FreshDatabase

pytestmark = pytest.mark.usefixtures("nothing_in_the_background")

FIRST, SECOND = density(seed=1), density(seed=2)
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def database(fresh_database: FreshDatabase) -> Database:
    return fresh_database(migrated)


def settings_of(database: Database, **more: object) -> Settings:
    return settings_for(postgres_url=database.url, http_listen="127.0.0.1:0", rho_verify_interval_s=600.0, **more)


async def started(serve: Serve, database: Database, **settings: object) -> Server:
    """A server on it, with version 1 of a few namespaces."""
    server = await serve(settings_of(database, **settings))
    for name in NAMES:
        await server.rho.CommitRho(commit_of(Put("rho", FIRST), namespace=name))
    return server


def commit(server: Server, name: str, **said: Any) -> Any:
    """The commit that makes version 2, the same each time."""
    timeout = said.pop("timeout", 20)
    return server.rho.CommitRho(commit_of(Put("rho", SECOND), namespace=name, expected=1, request_id="r"), timeout=timeout)


def read(server: Server, name: str) -> Any:
    asked = rho_store_pb2.GetRhoRequest(namespace=name, view=rho_store_pb2.VIEW_FULL)
    return server.rho.GetRho(asked, timeout=20)


async def numbers(server: Server, name: str) -> tuple[int, bytes]:
    found = await read(server, name)
    return found.version, found.matrices[0].matrix.data


@contextlib.contextmanager
def held(database: Database, *names: str) -> Iterator[None]:
    """While it lasts, somebody else holds these namespaces' rows."""
    with database.connect() as c, c.transaction():
        c.execute("SELECT 1 FROM sfm.namespace WHERE name = ANY(%s) FOR UPDATE", (list(names),))
        yield


@contextlib.contextmanager
def slow(database: Database, seconds: float) -> Iterator[None]:
    """While it lasts, writing a matrix takes so long."""
    with database.connect() as c:
        c.execute("CREATE SCHEMA test")
        body = sql.Literal(f"BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END")
        c.execute(sql.SQL("CREATE FUNCTION test.slow() RETURNS trigger LANGUAGE plpgsql AS {}").format(body))
        c.execute("CREATE TRIGGER slow BEFORE INSERT ON sfm.rho_body FOR EACH ROW EXECUTE FUNCTION test.slow()")
        try:
            yield
        finally:
            c.execute("DROP SCHEMA test CASCADE")


async def store(server: Server) -> dict[str, float]:
    """What the metrics say of the connections."""
    found = await samples(server)
    return {
        name.removeprefix("sfm_store_"): value
        for (name, labels), value in found.items()
        if name.startswith("sfm_store_") and not labels
    }


async def busy_is(server: Server, count: int) -> bool:
    return (await store(server))["connections_busy"] == count


def fingerprint(database: Database) -> str:
    assert isinstance(database.server, Postgres)
    return PostgresEngine(database.server).fingerprint(settings_for(postgres_url=database.url))


def assert_undone(refusal: Refusal, problem: str) -> None:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert problem in refusal.message
    assert refusal.facts["outcome_unknown"] == "false"
    assert refusal.retry_delay_s > 0


# ---- every connection in use


async def test_with_every_connection_in_use_calls_are_refused_in_time_and_the_metrics_tell(
    serve: Serve, database: Database
) -> None:
    server = await started(serve, database, postgres_pool_min=1, postgres_pool_max=2, postgres_pool_wait_ms=400)
    before = await store(server)
    assert (before["connections_max"], before["connections_busy"], before["exhausted_total"]) == (2, 0, 0)
    with held(database, "a", "b"):
        waiting = [asyncio.ensure_future(commit(server, name)) for name in ("a", "b")]
        await until(lambda: busy_is(server, 2))
        asked = time.monotonic()
        calls = [asyncio.ensure_future(refused(call)) for call in (commit(server, "c"), read(server, "d"))]
        await until(lambda: _waiting_are(server, 2))
        for told in await asyncio.gather(*calls):
            assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert told.message == "overloaded: postgres_pool_max is at 2 of 2; retry in 0.25 s"
            assert told.retry_delay_s == 0.25
        assert 0.4 <= time.monotonic() - asked < 1.2
        during = await store(server)
        assert (during["connections"], during["connections_busy"], during["waiting"]) == (2, 2, 0)
        assert during["exhausted_total"] == 2
        assert during["wait_seconds_count"] == before["wait_seconds_count"] + 2
        # That it is full is no reason to send callers elsewhere.
        assert await server.app.presence.look()
        assert (await server.http("/readyz")).status_code == 200
        ready = await server.probe.Check(probe_pb2.HealthCheckRequest(service="readiness"))
        assert ready.status == probe_pb2.HealthCheckResponse.SERVING
    assert [done.version for done in await asyncio.gather(*waiting)] == [2, 2]
    assert await numbers(server, "c") == (1, FIRST.tobytes())
    assert ((await commit(server, "c")).version, await numbers(server, "c")) == (2, (2, SECOND.tobytes()))
    assert await busy_is(server, 0)


async def _waiting_are(server: Server, count: int) -> bool:
    return (await store(server))["waiting"] == count


async def test_with_too_many_waiting_the_next_is_refused_at_once(serve: Serve, database: Database) -> None:
    few = {"postgres_pool_min": 1, "postgres_pool_max": 1, "postgres_pool_waiting_max": 1, "postgres_pool_wait_ms": 5_000}
    server = await started(serve, database, **few)
    with held(database, "a"):
        waiting = [asyncio.ensure_future(commit(server, "a"))]
        await until(lambda: busy_is(server, 1))
        waiting.append(asyncio.ensure_future(commit(server, "b")))
        await until(lambda: _waiting_are(server, 1))
        asked = time.monotonic()
        told = await refused(commit(server, "c"))
        assert time.monotonic() - asked < 1
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert "postgres_pool_waiting_max is at 1 of 1" in told.message
        assert told.retry_delay_s > 0
        assert (await store(server))["exhausted_total"] >= 1  # what goes on beside may meet it, too
    assert [done.version for done in await asyncio.gather(*waiting)] == [2, 2]
    assert (await commit(server, "c")).version == 2


async def test_who_waits_while_others_come_and_go_is_told_of_the_load_and_not_of_an_outage(
    serve: Serve, database: Database
) -> None:
    server = await started(serve, database, postgres_pool_min=1, postgres_pool_max=1, postgres_pool_wait_ms=100)
    with slow(database, 0.03):
        calls = [server.rho.CommitRho(commit_of(Put("rho", FIRST), namespace=f"n{i}"), timeout=20) for i in range(40)]
        told = await asyncio.gather(*(outcome(call) for call in calls))
    reasons = [getattr(t, "reason", "done") for t in told]
    assert set(reasons) == {"done", "OVERLOADED"}
    found = await asyncio.gather(*(outcome(read(server, f"n{i}")) for i in range(40)))
    while "OVERLOADED" in (read_as := [getattr(f, "reason", "done") for f in found]):
        found = [await outcome(read(server, f"n{i}")) for i in range(40)]
    assert read_as == ["done" if reason == "done" else "NOT_FOUND" for reason in reasons]


# ---- too long


async def test_a_row_that_others_hold_too_long_is_told_and_nothing_changed(serve: Serve, database: Database) -> None:
    server = await started(serve, database, postgres_lock_timeout_ms=300)
    before = fingerprint(database)
    with held(database, "a"):
        asked = time.monotonic()
        told = await refused(commit(server, "a"))
        assert 0.3 <= time.monotonic() - asked < 2
        assert_undone(told, "another commit holds the namespace's row for longer than SFM_POSTGRES_LOCK_TIMEOUT_MS")
        assert (await commit(server, "b")).version == 2  # a row is one namespace's
        assert await numbers(server, "a") == (1, FIRST.tobytes())
    with database.connect() as c:
        assert c.execute("SELECT version FROM sfm.namespace WHERE name = 'a'").fetchone() == (1,)
    assert fingerprint(database) != before
    done = await commit(server, "a")
    assert (done.version, done.replayed) == (2, False)


@pytest.mark.parametrize("keys", [1, 3])
async def test_a_statement_that_takes_too_long_is_undone(serve: Serve, database: Database, keys: int) -> None:
    server = await started(serve, database, postgres_statement_timeout_ms=300)
    changes = [Put(f"k{i}", sketch(seed=i), kind=Kind.GENERIC) for i in range(keys)]
    request = commit_of(*changes, namespace="a", expected=1, request_id="r")
    before = fingerprint(database)
    with slow(database, 1.0):
        told = await refused(server.rho.CommitRho(request, timeout=20))
        assert_undone(told, "the statement took longer than SFM_POSTGRES_STATEMENT_TIMEOUT_MS, and was undone")
        assert fingerprint(database) == before
        assert (await server.rho.CommitRho(commit_of(Delete("rho"), namespace="b", expected=1), timeout=20)).version == 2
    done = await server.rho.CommitRho(request, timeout=20)
    assert (done.version, done.replayed) == (2, False)
    assert await busy_is(server, 0)


async def test_a_read_that_takes_too_long_is_told(serve: Serve, database: Database) -> None:
    server = await started(serve, database, postgres_statement_timeout_ms=300)
    with database.connect() as c, c.transaction():
        c.execute("LOCK TABLE sfm.namespace IN ACCESS EXCLUSIVE MODE")
        assert_undone(await refused(read(server, "a")), "the statement took longer than SFM_POSTGRES_STATEMENT_TIMEOUT_MS")
    assert await numbers(server, "a") == (1, FIRST.tobytes())


async def test_many_rivals_for_one_row_are_told_the_truth(serve: Serve, database: Database) -> None:
    server = await started(serve, database, postgres_pool_min=4, postgres_pool_max=4)
    rivals = [commit_of(Put("rho", density(seed=i)), namespace="a", expected=1, request_id=f"r{i}") for i in range(30)]
    told = await asyncio.gather(*(outcome(server.rho.CommitRho(r, timeout=20)) for r in rivals))
    reasons = sorted(getattr(t, "reason", "done") for t in told)
    assert reasons == ["VERSION_CONFLICT"] * 29 + ["done"]


# ---- callers who give up


async def test_a_deadline_that_passes_while_its_statement_waits_frees_the_connection(serve: Serve, database: Database) -> None:
    server = await started(serve, database, postgres_pool_min=1, postgres_pool_max=1)
    with held(database, "a"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await commit(server, "a", timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # Long before any of the store's own limits, the others have their turn.
        await until(lambda: busy_is(server, 0), within_s=2)
        assert (await commit(server, "b", timeout=2)).version == 2
    await assert_a_retry_tells(server, database, "a")


async def test_callers_who_hang_up_leave_nothing_behind(serve: Serve, database: Database) -> None:
    server = await started(serve, database, postgres_pool_min=1, postgres_pool_max=2, postgres_pool_wait_ms=3_000)
    with held(database, "a", "b", "c"):
        calls = [commit(server, name) for name in ("a", "b", "c")] + [read(server, "d") for _ in range(20)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: busy_is(server, 2))
        await until(lambda: _waiting_are(server, 2))  # a commit, and a read: the other reads share the next one's answer
        for call in calls:
            call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: _idle(server))
    for name in ("a", "b", "c"):
        await assert_a_retry_tells(server, database, name)
    assert await numbers(server, "d") == (1, FIRST.tobytes())
    assert (await store(server))["exhausted_total"] == 0


async def _idle(server: Server) -> bool:
    found = await store(server)
    return (found["connections_busy"], found["waiting"]) == (0, 0)


async def test_a_deadline_that_passes_while_waiting_for_a_connection_is_no_outage(serve: Serve, database: Database) -> None:
    server = await started(serve, database, postgres_pool_min=1, postgres_pool_max=1, postgres_pool_wait_ms=5_000)
    with held(database, "a"):
        first = asyncio.ensure_future(commit(server, "a"))
        await until(lambda: busy_is(server, 1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await commit(server, "b", timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: _waiting_are(server, 0))
        assert (await store(server))["exhausted_total"] == 0
        assert (await server.http("/readyz")).status_code == 200
    assert (await first).version == 2
    # What had not begun was not begun.
    done = await commit(server, "b")
    assert (done.version, done.replayed) == (2, False)


async def assert_a_retry_tells(server: Server, database: Database, name: str) -> None:
    """Whether the commit was done or not, the same request makes it so, once."""
    assert (await commit(server, name)).version == 2
    assert await numbers(server, name) == (2, SECOND.tobytes())
    with database.connect() as c:
        count = c.execute(
            "SELECT COUNT(*) FROM sfm.rho_version JOIN sfm.namespace n USING (namespace_id) WHERE n.name = %s", (name,)
        )
        assert count.fetchone() == (2,)


# ---- the end


async def in_postgres(database: Database, count: int) -> bool:
    """Whether so many statements wait for a lock."""
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as c:
        waiting = await c.execute(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'", (database.name,)
        )
        return await waiting.fetchone() == (count,)


async def test_told_to_stop_it_finishes_the_commit_that_waits_for_a_row(spawn: Spawn, database: Database) -> None:
    server = await spawn().start(postgres_url=database.url)
    async with server.channel() as channel:
        rho = rho_stub(channel)
        await rho.CommitRho(commit_of(Put("rho", FIRST), namespace="a"))
        second = commit_of(Put("rho", SECOND), namespace="a", expected=1, request_id="r")
        with held(database, "a"):
            waiting = asyncio.ensure_future(rho.CommitRho(second, timeout=20))
            await until(lambda: in_postgres(database, 1))
            server.terminate()
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert (await waiting).version == 2
    assert await server.ended() == 0
    assert "Traceback" not in server.log


async def test_told_to_stop_it_does_not_wait_for_a_row_for_ever(spawn: Spawn, serve: Serve, database: Database) -> None:
    server = await spawn().start(postgres_url=database.url, drain_s=0.5, postgres_lock_timeout_ms=2_000)
    async with server.channel() as channel:
        rho = rho_stub(channel)
        await rho.CommitRho(commit_of(Put("rho", FIRST), namespace="a"))
        second = commit_of(Put("rho", SECOND), namespace="a", expected=1, request_id="r")
        with held(database, "a"):
            waiting = asyncio.ensure_future(rho.CommitRho(second, timeout=20))
            await until(lambda: in_postgres(database, 1))
            server.terminate()
            asked = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError):
                await waiting
            assert await server.ended() == 0
            assert time.monotonic() - asked < 6
            assert await in_postgres(database, 0)
    assert "Traceback" not in server.log
    again = await serve(settings_of(database))
    await assert_a_retry_tells(again, database, "a")
