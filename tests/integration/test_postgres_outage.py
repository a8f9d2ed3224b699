"""Postgres comes late, goes and returns, takes no writes, has no connection left: what is told, and how all is well after."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from grpc_health.v1 import health_pb2 as probe_pb2
from grpc_health.v1 import health_pb2_grpc as probe_pb2_grpc
from sfm.v1 import rho_store_pb2, rho_store_pb2_grpc

from sfm_grpc.coordinator import presence
from sfm_grpc.errors import StoreRefused
from sfm_grpc.settings import Settings
from tests.conftest import Serve
from tests.support import cli
from tests.support.drivers import Put
from tests.support.engines.postgres import migrated
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.metrics import sample
from tests.support.refusals import Refusal, refusal_of, refused
from tests.support.servers import Server, serving, settings_for, until
from tests.support.services.databases import Database
from tests.support.services.fixtures import StartCluster
from tests.support.services.postgres import own_cluster
from tests.support.services.postgres_server import PostgresServer

# How soon readiness follows: a look every two seconds, or after a pause of at most five, and the look itself.
FOLLOWS_S = 12.0
RHO = {seed: density(seed=seed) for seed in range(20)}


def settings_of(database: Database, **more: object) -> Settings:
    return settings_for(postgres_url=database.url, http_listen="127.0.0.1:0", **more)


def step(number: int) -> Any:
    """The commit that makes version `number` of namespace `n`, the same each time."""
    return commit_of(Put("rho", RHO[number]), expected=number - 1, request_id=f"r{number}")


async def read(server: Server, *, canonical: bool = True) -> Any:
    freshness = rho_store_pb2.Freshness(consistency=rho_store_pb2.CONSISTENCY_CANONICAL if canonical else 0)
    asked = rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL, freshness=freshness)
    return await server.rho.GetRho(asked, timeout=20)


async def probed(server: Server, name: str) -> str:
    found = await server.probe.Check(probe_pb2.HealthCheckRequest(service=name))
    return str(probe_pb2.HealthCheckResponse.ServingStatus.Name(found.status))


async def readiness(server: Server) -> tuple[bool, str]:
    """What every door says of it, which must be the same; and that the process is alive."""
    assert await probed(server, "liveness") == "SERVING"
    assert (await server.http("/livez")).status_code == 200
    page = await server.http("/readyz")
    return page.status_code == 200 and await probed(server, "readiness") == "SERVING", page.text


async def is_ready(server: Server) -> bool:
    ready, _ = await readiness(server)
    return ready and await sample(server, "sfm_ready") == 1.0


async def is_not_ready(server: Server, why: str) -> bool:
    ready, text = await readiness(server)
    return not ready and why in text and await probed(server, "sfm.v1.RhoStore") == "NOT_SERVING"


def assert_away(refusal: Refusal, problem: str = "", *, unknown: bool = False) -> None:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert problem in refusal.message
    assert refusal.facts["outcome_unknown"] == str(unknown).lower()
    assert refusal.retry_delay_s > 0


def hang_up(c: psycopg.Connection[Any], database: Database) -> int:
    """Ends everyone else's connections to a database; returns how many."""
    others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s"
    return len(c.execute(others, (database.name,)).fetchall())


# ---- it comes late


async def test_it_comes_after_the_server_then_its_schema_and_then_all_is_well(
    postgres_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = postgres_cluster()
    database = cluster.create_database("late")
    cluster.stop()
    env = {"SFM_POSTGRES_URL": database.url}

    def process() -> cli.Served:
        return cli.Served(tmp_path, **env)

    with await asyncio.to_thread(process) as served:
        target, http = served.addresses["grpc"], f"http://{served.addresses['http']}"
        async with grpc.aio.insecure_channel(target) as channel, httpx.AsyncClient(base_url=http, timeout=20) as client:
            probe = probe_pb2_grpc.HealthStub(channel)
            rho = rho_store_pb2_grpc.RhoStoreStub(channel)

            async def status(name: str) -> int:
                return int((await probe.Check(probe_pb2.HealthCheckRequest(service=name))).status)

            async def waits_for(why: str) -> bool:
                page = await client.get("/readyz")
                assert (page.status_code, (await client.get("/livez")).status_code) == (503, 200)
                assert await status("readiness") == probe_pb2.HealthCheckResponse.NOT_SERVING
                assert await status("liveness") == probe_pb2.HealthCheckResponse.SERVING
                assert await status("startup") == probe_pb2.HealthCheckResponse.SERVING
                refusal = await refused(rho.CommitRho(step(1), timeout=20))
                assert_away(refusal)
                return why in page.text and why in refusal.message

            await until(lambda: waits_for("Connection refused"))
            cluster.start()
            await until(lambda: waits_for("the database has no schema"))
            await asyncio.to_thread(cli.run, "migrate", cwd=tmp_path, env=env)

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await until(ready, within_s=FOLLOWS_S)
            assert await status("readiness") == probe_pb2.HealthCheckResponse.SERVING
            done = await rho.CommitRho(step(1), timeout=20)
            assert (done.version, done.replayed) == (1, False)
        assert "the database has no schema" in served.stderr
        assert "Traceback" not in served.stderr


async def test_what_was_committed_before_is_known_when_it_comes_late(postgres_cluster: StartCluster, serve: Serve) -> None:
    cluster = postgres_cluster()
    settings = settings_of(cluster.fresh(migrated), rho_verify_interval_s=0.2)
    async with serving(settings) as first:
        await first.rho.CommitRho(step(1))
    cluster.stop()
    server = await serve(settings)
    assert (await server.http("/healthz")).status_code == 503
    cluster.start()
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)

    async def whole() -> bool:
        told = (await server.http("/healthz")).json()
        assert (told["ready"], told["namespaces"], told["rho"]["sample_version"]) == (True, 1, 1)
        return bool(told["ok"])

    await until(whole)


# ---- it goes and returns


@pytest.mark.usefixtures("nothing_in_the_background")
async def test_it_goes_and_returns_again_and_again(postgres_cluster: StartCluster, serve: Serve) -> None:
    cluster = postgres_cluster()
    server = await serve(settings_of(cluster.fresh(migrated)))
    await server.rho.CommitRho(step(1))
    for number, how in enumerate(("fast", "immediate", "kill"), start=2):
        cluster.kill() if how == "kill" else cluster.stop(how)
        asked = time.monotonic()
        assert_away(await refused(server.rho.CommitRho(step(number), timeout=20)))
        assert time.monotonic() - asked < 2.5
        await until(lambda: is_not_ready(server, "Connection refused"), within_s=FOLLOWS_S)
        # By now it is known why, and nobody waits for it.
        asked = time.monotonic()
        assert_away(await refused(server.rho.CommitRho(step(number), timeout=20)), "Connection refused")
        assert_away(await refused(read(server)), "Connection refused")
        assert time.monotonic() - asked < 1
        cluster.start()
        # The first calls do not wait for the next look.
        done = await server.rho.CommitRho(step(number), timeout=5)
        assert (done.version, done.replayed) == (number, False)
        found = await read(server)
        assert (found.version, found.matrices[0].matrix.data) == (number, RHO[number].tobytes())
        await until(lambda: is_ready(server), within_s=FOLLOWS_S)
    assert await sample(server, "sfm_store_connections_busy") == 0.0


async def test_calls_that_come_while_it_restarts_fail_with_a_reason_or_succeed_and_nothing_is_lost(
    postgres_cluster: StartCluster, serve: Serve
) -> None:
    cluster = postgres_cluster()
    server = await serve(settings_of(cluster.fresh(migrated)))
    told: list[Refusal] = []
    restart = asyncio.create_task(asyncio.to_thread(_restart_thrice, cluster))
    number = 1
    while number < 20 or not restart.done():
        if number == 20:
            await asyncio.sleep(0.01)
            continue
        try:
            assert (await server.rho.CommitRho(step(number), timeout=20)).version == number
            number += 1
            await asyncio.sleep(0.1)
        except grpc.aio.AioRpcError as error:
            told.append(refusal_of(error))
    await restart
    assert {(t.code, t.reason) for t in told} <= {(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")}
    found = await read(server)
    assert (found.version, found.matrices[0].matrix.data) == (19, RHO[19].tobytes())


def _restart_thrice(cluster: PostgresServer) -> None:
    for how in ("fast", "immediate", "fast"):
        time.sleep(0.3)
        cluster.restart(how)


def test_how_long_it_waits_between_two_looks_is_bounded() -> None:
    waits = [presence._backoff_s(tries) for tries in range(1, 2000)]
    assert max(waits) <= 5.0
    assert min(waits) >= 0.25


@pytest.mark.parametrize("how", ["told to go", "restarted", "killed"])
async def test_connections_that_went_while_idle_cost_no_call(postgres_cluster: StartCluster, serve: Serve, how: str) -> None:
    cluster = postgres_cluster()
    database = cluster.fresh(migrated)
    server = await serve(settings_of(database, postgres_pool_min=4, postgres_pool_max=4))
    await asyncio.gather(*(server.rho.CommitRho(commit_of(Put("rho", RHO[0]), namespace=f"n{i}")) for i in range(8)))
    for number in range(1, 4):
        if how == "told to go":
            with cluster.connect() as c:
                assert hang_up(c, database) > 0
        else:
            cluster.kill() if how == "killed" else cluster.stop()
            cluster.start()
        assert (await server.rho.CommitRho(step(number), timeout=5)).version == number
        assert (await read(server)).version == number
    found = await asyncio.gather(*(server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace=f"n{i}")) for i in range(8)))
    assert [f.version for f in found] == [1] * 8


# ---- it has no connection left


@contextlib.contextmanager
def crowd(database: Database) -> Iterator[None]:
    """While it lasts, others have every connection that is left."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(contextlib.closing(database.connect()))
        yield


FEW = {"max_connections": 8, "superuser_reserved_connections": 0, "max_wal_senders": 0, "autovacuum": "off"}
NONE_LEFT = "it has no connection left: raise its max_connections, or lower SFM_POSTGRES_POOL_MAX"


async def test_with_no_connection_left_when_it_starts_it_waits(postgres_cluster: StartCluster, serve: Serve) -> None:
    database = postgres_cluster(conf=FEW).fresh(migrated)
    with crowd(database):
        server = await serve(settings_of(database))
        assert await is_not_ready(server, NONE_LEFT)
        assert_away(await refused(server.rho.CommitRho(step(1), timeout=20)), NONE_LEFT)
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)
    assert (await server.rho.CommitRho(step(1))).version == 1


async def test_with_fewer_connections_left_than_it_keeps_it_says_so(postgres_cluster: StartCluster, serve: Serve) -> None:
    database = postgres_cluster(conf=FEW).fresh(migrated)
    with database.connect():
        server = await serve(settings_of(database, postgres_pool_min=8, postgres_connect_timeout_s=2.0))
        assert await is_not_ready(server, NONE_LEFT)


async def test_with_no_connection_left_while_serving_those_it_has_are_shared(
    postgres_cluster: StartCluster, serve: Serve
) -> None:
    database = postgres_cluster(conf=FEW).fresh(migrated)
    server = await serve(settings_of(database, postgres_pool_min=1, postgres_pool_max=4))
    await server.rho.CommitRho(step(1))
    with crowd(database):
        many = [server.rho.CommitRho(commit_of(Put("rho", RHO[0]), namespace=f"n{i}"), timeout=20) for i in range(20)]
        assert [done.version for done in await asyncio.gather(*many)] == [1] * 20
        assert await is_ready(server)
    with database.connect() as c:
        hang_up(c, database)
        with crowd(database):
            assert_away(await refused(server.rho.CommitRho(step(2), timeout=20)), NONE_LEFT)
            await until(lambda: is_not_ready(server, NONE_LEFT), within_s=FOLLOWS_S)
    assert (await server.rho.CommitRho(step(2), timeout=5)).version == 2
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)


# ---- it takes no writes


async def test_one_that_turns_read_only_answers_reads_and_is_not_ready(postgres_cluster: StartCluster, serve: Serve) -> None:
    cluster = postgres_cluster()
    server = await serve(settings_of(cluster.fresh(migrated)))
    await server.rho.CommitRho(step(1))
    with cluster.connect() as c:
        c.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        c.execute("SELECT pg_reload_conf()")
    await until(lambda: is_not_ready(server, "Postgres is read-only for this user"), within_s=FOLLOWS_S)
    refusal = await refused(server.rho.CommitRho(step(2), timeout=20))
    assert_away(refusal, "it takes no writes: a standby, or default_transaction_read_only")
    assert (await read(server)).version == 1
    with cluster.connect() as c:
        c.execute("SET default_transaction_read_only = off")
        c.execute("ALTER SYSTEM RESET default_transaction_read_only")
        c.execute("SELECT pg_reload_conf()")
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)
    done = await server.rho.CommitRho(step(2))
    assert (done.version, done.replayed) == (2, False)


async def test_one_that_takes_a_promise_back_is_not_ready_until_it_gives_it_again(
    postgres_cluster: StartCluster, serve: Serve
) -> None:
    cluster = postgres_cluster()
    server = await serve(settings_of(cluster.fresh(migrated)))
    with cluster.connect() as c:
        c.execute("ALTER SYSTEM SET fsync = off")
        c.execute("SELECT pg_reload_conf()")
        await until(lambda: is_not_ready(server, "may lose what it acknowledges (fsync = off)"), within_s=FOLLOWS_S)
        c.execute("ALTER SYSTEM RESET fsync")
        c.execute("SELECT pg_reload_conf()")
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)


async def test_what_nobody_expected_of_it_is_told_and_looking_goes_on(postgres_cluster: StartCluster, serve: Serve) -> None:
    database = postgres_cluster().fresh(migrated)
    server = await serve(settings_of(database))
    with database.connect() as c:
        c.execute("ALTER TABLE sfm.namespace RENAME TO hidden")
        c.execute("CREATE VIEW sfm.namespace AS SELECT 1 / zero AS namespace_id FROM (VALUES (0)) v (zero)")
        await until(lambda: is_not_ready(server, "the look at it failed (DivisionByZero)"), within_s=FOLLOWS_S)
        c.execute("DROP VIEW sfm.namespace")
        c.execute("ALTER TABLE sfm.hidden RENAME TO namespace")
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)
    assert (await server.rho.CommitRho(step(1))).version == 1


async def test_a_primary_that_returns_as_a_standby_answers_reads_and_is_not_ready(
    postgres_cluster: StartCluster, serve: Serve
) -> None:
    cluster = postgres_cluster()
    server = await serve(settings_of(cluster.fresh(migrated)))
    await server.rho.CommitRho(step(1))
    (data_directory(cluster) / "standby.signal").touch()
    cluster.restart()
    await until(lambda: is_not_ready(server, "is a standby: it takes no commits; name the primary"), within_s=FOLLOWS_S)
    refusal = await refused(server.rho.CommitRho(step(2), timeout=20))
    assert_away(refusal, "it takes no writes: a standby, or default_transaction_read_only")
    assert (await read(server)).version == 1
    with cluster.connect() as c:
        assert c.execute("SELECT pg_promote()").fetchone() == (True,)
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)
    assert (await server.rho.CommitRho(step(2))).version == 2


def data_directory(cluster: PostgresServer) -> Path:
    with cluster.connect() as c:
        return Path((c.execute("SHOW data_directory").fetchone() or ("",))[0])


@pytest.fixture
def standby_of() -> Iterator[Any]:
    """Makes streaming standbys."""
    with contextlib.ExitStack() as stack:

        def make(primary: PostgresServer) -> PostgresServer:
            if not (primary.binaries.directory / "pg_basebackup").is_file():
                pytest.skip(f"{primary.name} has no pg_basebackup")
            standby = own_cluster()
            stack.callback(standby.close)
            _copy(primary, standby)
            return standby.start()

        yield make


def _copy(primary: PostgresServer, standby: PostgresServer) -> None:
    """A data directory that follows the primary, in the place of the standby's own."""
    data = data_directory(primary)
    with (data / "pg_hba.conf").open("a") as file:
        file.write("local replication all trust\nhost replication all 127.0.0.1/32 trust\n")
    with primary.connect() as c:
        c.execute("SELECT pg_reload_conf()")
    shutil.rmtree(standby._data)
    copy = ("-D", standby._data, "-R", "-d", primary.url(), "--checkpoint=fast", "--no-sync")
    end = time.monotonic() + 10
    while (told := primary.binaries.try_run("pg_basebackup", *copy)).returncode != 0:  # the reload takes a moment
        assert time.monotonic() < end, told.stdout
    with (standby._data / "postgresql.conf").open("a") as file:
        file.write(f"port = {standby.port}\nunix_socket_directories = '{standby._root}'\n")


async def test_a_standby_is_refused(postgres_cluster: StartCluster, standby_of: Any) -> None:
    primary = postgres_cluster()
    database = primary.fresh(migrated)
    standby = standby_of(primary)
    with pytest.raises(StoreRefused) as caught:
        async with serving(settings_for(postgres_url=standby.url(database.name))):
            pass
    assert caught.value.problem == "Postgres is a standby: it takes no commits; name the primary in SFM_POSTGRES_URL"


async def test_with_both_named_a_server_finds_the_one_that_was_promoted(
    postgres_cluster: StartCluster, serve: Serve, standby_of: Any
) -> None:
    primary = postgres_cluster(conf={"synchronous_standby_names": "*"})
    with primary.connect() as c:  # without a standby yet, nothing would be acknowledged
        c.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        c.execute("SELECT pg_reload_conf()")
    database = primary.fresh(migrated)
    standby = standby_of(primary)
    with primary.connect() as c:
        c.execute("ALTER SYSTEM RESET synchronous_standby_names")
        c.execute("SELECT pg_reload_conf()")
    url = (
        f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{database.name}?target_session_attrs=read-write"
    )
    server = await serve(settings_for(postgres_url=url, http_listen="127.0.0.1:0"))
    await server.rho.CommitRho(step(1))
    primary.kill()
    await until(lambda: is_not_ready(server, "Postgres"), within_s=FOLLOWS_S)
    with standby.connect() as c:
        assert c.execute("SELECT pg_promote()").fetchone() == (True,)
        c.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        c.execute("SELECT pg_reload_conf()")
    await until(lambda: is_ready(server), within_s=FOLLOWS_S)
    assert (await read(server)).version == 1
    done = await server.rho.CommitRho(step(1))
    assert (done.version, done.replayed) == (1, True)
    assert (await server.rho.CommitRho(step(2))).version == 2
