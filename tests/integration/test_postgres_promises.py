"""What a Postgres and its sessions must promise before a commit is acknowledged on their word."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import grpc
import pytest
from psycopg import sql
from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import StoreRefused, StoreUnavailable
from sfm_grpc.model import Scope
from sfm_grpc.storage.contract import Retention
from tests.conftest import Serve
from tests.support import cli
from tests.support.drivers import Put
from tests.support.engines.postgres import migrated
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.postgres_stores import opened, rho
from tests.support.refusals import refused
from tests.support.servers import Server, settings_for, until
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase, StartCluster, StartProxy
from tests.support.services.postgres_server import PostgresServer
from tests.support.transactions import request, transaction

BEHIND = "its events were restored from another cluster, new ones would come before them: run `sfm migrate`"
OTHER = Scope("default", "other")


# ---- a dump of another cluster


def restored(old: Database, new: PostgresServer) -> Database:
    """A dump of a database, restored into another cluster."""
    source = old.server
    assert isinstance(source, PostgresServer)
    if not (source.binaries.directory / "pg_dump").is_file():
        pytest.skip(f"{source.name} has no pg_dump")
    dump = source.binaries.run("pg_dump", "--inserts", "-d", old.url)
    database = new.fresh()
    with database.connect() as c:
        # Lines for psql alone are left out.
        c.execute("\n".join(line for line in dump.splitlines() if not line.startswith("\\")).encode())
    return database


def use_up_transactions(database: Database, count: int) -> None:
    """As a cluster does that has long been in use."""
    body = sql.Literal(f"BEGIN FOR i IN 1..{count} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END")
    with database.connect() as c:
        c.execute(sql.SQL("DO {}").format(body))


def migrate(database: Database, *options: str, code: int = 0) -> cli.Ran:
    return cli.here("migrate", *options, code=code, env={"SFM_POSTGRES_URL": database.url})


async def test_events_go_on_after_a_dump_was_restored_into_another_cluster(postgres_cluster: StartCluster) -> None:
    old = postgres_cluster().fresh(migrated)
    use_up_transactions(old, 3000)
    async with opened(old.url) as store:
        for version in range(10):
            await store.commit(transaction(rho(version), expected=version, asked=request(f"r{version}")))
        last = (await store.events(after=0, limit=100))[-1].event_id
    assert migrate_says_so(await asyncio.to_thread(migrate, old, "--check"))
    new = await asyncio.to_thread(restored, old, postgres_cluster())
    with pytest.raises(StoreRefused) as caught:
        async with opened(new.url):
            pass
    assert caught.value.problem == BEHIND
    assert BEHIND in (await asyncio.to_thread(migrate, new, "--check", code=1)).stderr
    told = json.loads((await asyncio.to_thread(migrate, new, "--check", "--json", code=1)).stdout)
    assert (told["ok"], told["problem"], told["pending"]) == (False, BEHIND, [])
    for _ in range(2):  # the second time there is nothing to do
        await asyncio.to_thread(migrate, new)
        assert migrate_says_so(await asyncio.to_thread(migrate, new, "--check"))
    async with opened(new.url) as store:
        for version in range(10, 13):
            done = await store.commit(transaction(rho(version), expected=version, asked=request(f"r{version}")))
            assert (done.number, done.replayed) == (version + 1, False)
        assert (await store.commit(transaction(rho(9), expected=9, asked=request("r9")))).replayed
        assert [e.version for e in await store.events(after=last, limit=100)] == [11, 12, 13]
        assert [e.version for e in await store.events(after=0, limit=100)] == list(range(1, 14))
        retention = Retention(versions=100, age_s=0, request_age_s=86_400, events=4)
        while await store.forget(retention, time.time_ns() // 1000):
            pass
        assert [e.version for e in await store.events(after=0, limit=100)] == [10, 11, 12, 13]


def migrate_says_so(ran: cli.Ran) -> bool:
    return "which is what this release needs" in ran.stdout


# ---- what a session promises


async def test_a_session_that_would_not_keep_commits_takes_none(postgres_cluster: StartCluster) -> None:
    database = postgres_cluster().fresh(migrated)
    alter = sql.SQL("ALTER DATABASE {} ").format(sql.Identifier(database.name))
    async with opened(database.url) as store:
        await store.commit(transaction(rho(), expected=0))
        with database.connect() as c, database.connect() as other:
            c.execute(alter + sql.SQL("SET synchronous_commit = off"))
            with other.transaction():
                other.execute("SELECT 1 FROM sfm.namespace FOR UPDATE")
                first = asyncio.ensure_future(store.commit(transaction(rho(1), expected=1)))
                waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                await until(lambda: c.execute(waits).fetchone() == (1,))
                # The one connection there was is in use; new ones would not be durable.
                with pytest.raises(StoreUnavailable, match="synchronous_commit = off") as caught:
                    await store.commit(transaction(rho(), scope=OTHER, expected=0))
                assert not caught.value.outcome_unknown
                c.execute(alter + sql.SQL("RESET synchronous_commit"))
                assert (await store.commit(transaction(rho(), scope=OTHER, expected=0))).number == 1
            assert (await first).number == 2


async def test_a_reload_does_not_change_what_open_sessions_promise(postgres_cluster: StartCluster) -> None:
    database = postgres_cluster().fresh(migrated)
    async with opened(database.url, pool_max=1) as store:
        await store.commit(transaction(rho(), expected=0))
        with database.connect() as c:
            c.execute("CREATE TABLE seen (synchronous_commit text)")
            body = sql.Literal("BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END")
            c.execute(sql.SQL("CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS {}").format(body))
            c.execute("CREATE TRIGGER look BEFORE INSERT ON sfm.rho_version FOR EACH ROW EXECUTE FUNCTION look()")
            c.execute("ALTER SYSTEM SET synchronous_commit = off")
            c.execute("SELECT pg_reload_conf()")
            await until(lambda: c.execute("SHOW synchronous_commit").fetchone() == ("off",))
            await asyncio.sleep(0.2)
            for version in (1, 2):
                await store.commit(transaction(rho(version), expected=version))
            assert c.execute("SELECT * FROM seen").fetchall() == [("on",), ("on",)]


# ---- rights


async def test_a_user_who_may_only_read_is_refused_and_told_what_to_grant(postgres_cluster: StartCluster, serve: Serve) -> None:
    database = postgres_cluster().fresh(migrated)
    tables = [
        "event",
        "event_sink",
        "index_seen",
        "memory",
        "memory_dropped",
        "memory_index",
        "memory_link",
        "memory_refused",
        "memory_space",
        "namespace",
        "outbox",
        "prune_audit",
        "prune_plan",
        "prune_undo",
        "request",
        "rho_body",
        "rho_key",
        "rho_version",
    ]
    url = database.server.url(database.name, user="app")
    problem = (
        f"Postgres: 'app' may not read and write {', '.join(f'sfm.{name}' for name in tables)}: "
        'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA sfm TO "app"'
    )
    with database.connect() as c:
        c.execute("CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA sfm TO app; GRANT SELECT ON ALL TABLES IN SCHEMA sfm TO app")
        with pytest.raises(StoreRefused) as caught:
            async with opened(url):
                pass
        assert caught.value.problem == problem
        c.execute(problem.rpartition(": ")[2])
        server = await serve(settings_for(postgres_url=url, http_listen="127.0.0.1:0"))
        await server.rho.CommitRho(commit_of(Put("rho", density())))
        c.execute("REVOKE INSERT ON sfm.event, sfm.request FROM app")
        await until(lambda: _is_ready(server, "may not read and write sfm.event, sfm.request: GRANT", code=503))
        c.execute("GRANT INSERT ON sfm.event, sfm.request TO app")
        await until(lambda: _is_ready(server, "", code=200))
    assert (await server.rho.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1))).version == 2


async def _is_ready(server: Server, why: str, *, code: int) -> bool:
    page = await server.http("/readyz")
    return page.status_code == code and why in page.text


# ---- calls that gRPC makes again

POLICY = {
    "maxAttempts": 2,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.01s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
AGAIN = [("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": POLICY}]}))]


async def unknown(call: Any) -> str:
    """What a caller is told of the outcome."""
    told = await refused(call)
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    return told.facts["outcome_unknown"]


async def test_what_an_earlier_attempt_left_unknown_is_unknown_still(
    serve: Serve, fresh_database: FreshDatabase, fault_proxy: StartProxy
) -> None:
    url = fresh_database(migrated).url
    proxy = fault_proxy(url)
    server = await serve(settings_for(postgres_url=proxy.url(url)))
    await server.rho.CommitRho(commit_of(Put("rho", density())))
    commit = commit_of(Put("rho", density(seed=1)), expected=1, request_id="r")
    restore = rho_store_pb2.RestoreRhoRequest(namespace="n", expected_version=1, version=1, request_id="s")
    read = rho_store_pb2.GetRhoRequest(namespace="n", freshness={"consistency": rho_store_pb2.CONSISTENCY_CANONICAL})
    proxy.cut()
    await refused(server.rho.GetRho(read))  # those who come after it find no connection to lose
    assert await unknown(server.rho.CommitRho(commit)) == "false"
    async with grpc.aio.insecure_channel(server.app.address, options=AGAIN) as channel:
        retrying = Server(server.app, channel)
        assert await unknown(retrying.rho.CommitRho(commit)) == "true"
        assert await unknown(retrying.rho.RestoreRho(restore)) == "true"
        assert await unknown(retrying.rho.GetRho(read)) == "false"
        await server.app._load.drain(0.0)
        assert await unknown(retrying.rho.CommitRho(commit)) == "true"
        for call in (server.rho.CommitRho(commit), retrying.rho.GetRho(read)):
            assert (await refused(call)).reason == "DRAINING"
