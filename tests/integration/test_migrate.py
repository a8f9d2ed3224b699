"""The schema's way forward: every step once and whole, whoever starts together, whatever ends in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sfm_grpc.errors import StoreRefused, StoreUnavailable
from sfm_grpc.storage.postgres import PostgresOptions, connection, migrate
from sfm_grpc.storage.postgres.migrate import Migration
from tests.support.catalog import described
from tests.support.engines.postgres import migrated
from tests.support.messages import seed
from tests.support.servers import serving, settings_for, until
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase, StartCluster

KNOWN = migrate.known()
NEXT = KNOWN[-1].number + 1

# Steps of releases to come.
WIDER = Migration(NEXT, "wider", "CREATE TABLE sfm.wider (n int); INSERT INTO sfm.wider VALUES (1); SELECT pg_sleep(0.5)")
DEEPER = Migration(NEXT + 1, "deeper", "ALTER TABLE sfm.wider ADD deep int; UPDATE sfm.wider SET n = n + 1")
LATER = (*KNOWN, WIDER, DEEPER)


def options(database: Database, **more: Any) -> PostgresOptions:
    return PostgresOptions(database.url, **more)


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.connect() as c:
        return c.execute(query).fetchall()  # type: ignore[call-overload,no-any-return]


def applied(database: Database) -> list[int]:
    return [number for (number,) in rows(database, "SELECT number FROM sfm.migration ORDER BY number")]


def exists(database: Database, name: str) -> bool:
    return rows(database, f"SELECT to_regclass('{name}') IS NOT NULL") == [(True,)]


async def refusal_of(database: Database) -> str:
    """Why a server does not start on it."""
    with pytest.raises(StoreRefused) as caught:
        async with serving(settings_for(postgres_url=database.url)):
            pass
    return caught.value.problem


# ---- once


async def test_from_nothing_and_then_nothing_more(fresh_database: FreshDatabase) -> None:
    database = fresh_database()
    assert (await migrate.look(options(database))).problem().startswith("the database has no schema")
    assert await migrate.migrate(options(database)) == KNOWN
    state = await migrate.look(options(database))
    assert (state.problem(), state.current, state.pending) == ("", KNOWN[-1].number, ())
    with database.connect() as c:
        before = described(c), rows(database, "SELECT * FROM sfm.migration")
        assert await migrate.migrate(options(database)) == ()
        assert (described(c), rows(database, "SELECT * FROM sfm.migration")) == before


async def test_of_eight_together_one_applies_each_step(fresh_database: FreshDatabase, caplog: pytest.LogCaptureFixture) -> None:
    database = fresh_database()
    # Neither the step nor the wait for it is bound by what bounds the statements of calls.
    hasty = options(database, statement_timeout_s=0.2, lock_timeout_s=0.2)
    with caplog.at_level(logging.INFO):
        done = await asyncio.gather(*(migrate.migrate(hasty, LATER) for _ in range(8)))
    assert [step for steps in done for step in steps] == [*LATER]
    assert applied(database) == [step.number for step in LATER]
    assert rows(database, "SELECT n, deep FROM sfm.wider") == [(2, None)]
    assert caplog.messages.count("another process is migrating, waiting for it") in range(1, 8)


# ---- whole


async def test_a_step_that_fails_leaves_nothing_of_it(fresh_database: FreshDatabase) -> None:
    database = fresh_database()
    bad = Migration(NEXT + 1, "bad", "CREATE TABLE sfm.half (n int);\nINSERT INTO sfm.half VALUES (1 / 0)")
    with pytest.raises(StoreRefused) as caught:
        await migrate.migrate(options(database), (*KNOWN, WIDER, bad))
    assert caught.value.problem == f"migration {bad.number} (bad) failed, nothing of it is left: division by zero"
    assert applied(database) == [*range(1, NEXT + 1)]
    assert not exists(database, "sfm.half")
    assert await migrate.migrate(options(database), LATER) == (DEEPER,)


@contextlib.asynccontextmanager
async def slow(database: Database) -> AsyncIterator[tuple[Migration, asyncio.Task[Any]]]:
    """A step that is being applied, and sleeps; later it does not."""
    with database.connect() as c:
        c.execute("CREATE TABLE patience (s) AS SELECT 60")
    step = Migration(NEXT, "slow", "CREATE TABLE sfm.slow (n int); SELECT pg_sleep(s) FROM patience")
    task = asyncio.create_task(migrate.migrate(options(database), (*KNOWN, step)))
    await until(lambda: sleepers(database))
    with database.connect() as c:
        c.execute("UPDATE patience SET s = 0")
    yield step, task
    await asyncio.gather(task, return_exceptions=True)


def sleepers(database: Database) -> list[Any]:
    found = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    return rows(database, f"SELECT pid {found}")


async def test_when_the_connection_dies_whoever_waits_goes_on(fresh_database: FreshDatabase) -> None:
    database = fresh_database()
    async with slow(database) as (step, first):
        second = asyncio.create_task(migrate.migrate(options(database), (*KNOWN, step)))
        rows(database, f"SELECT pg_terminate_backend({sleepers(database)[0][0]})")
        with pytest.raises(StoreUnavailable, match=r"migration \d \(slow\) was interrupted: .*; run `sfm migrate` again"):
            await first
        assert await second == (step,)
    assert exists(database, "sfm.slow")


async def test_whoever_gives_up_leaves_nothing_under_way(fresh_database: FreshDatabase) -> None:
    database = fresh_database()
    async with slow(database) as (step, first):
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not exists(database, "sfm.slow")
        assert await migrate.migrate(options(database), (*KNOWN, step)) == (step,)


async def test_a_step_does_not_queue_for_long_before_commits(fresh_database: FreshDatabase) -> None:
    database = fresh_database(migrated)
    alter = Migration(NEXT, "alter", "ALTER TABLE sfm.namespace ADD extra int")
    with database.connect() as dump, dump.transaction(force_rollback=True):
        dump.execute("LOCK TABLE sfm.namespace IN ACCESS SHARE MODE")
        with pytest.raises(StoreUnavailable, match=r"lock timeout; something long uses what it changes, a pg_dump perhaps"):
            await migrate.migrate(options(database, lock_timeout_s=0.2), (*KNOWN, alter))
    assert await migrate.migrate(options(database, lock_timeout_s=0.2), (*KNOWN, alter)) == (alter,)


# ---- releases that do not fit


async def test_older_than_the_release(fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, older = fresh_database(), fresh_database(migrated)
    assert await refusal_of(empty) == f"the database has no schema, this release needs {NEXT - 1}: run `sfm migrate`"
    assert rows(empty, "SELECT to_regnamespace('sfm')") == [(None,)]
    monkeypatch.setattr(migrate, "known", lambda: LATER)
    assert await refusal_of(older) == f"the database has schema {NEXT - 1}, this release needs {NEXT + 1}: run `sfm migrate`"
    assert applied(older) == [*range(1, NEXT)]
    async with serving(settings_for(postgres_url=older.url, postgres_migrate=True)) as server:
        await seed(server.rho)
    assert applied(older) == [*range(1, NEXT + 2)]


async def test_newer_than_the_release(fresh_database: FreshDatabase) -> None:
    database = fresh_database()
    await migrate.migrate(options(database), LATER)
    said = f"the database has schema {NEXT + 1}, this release knows up to {NEXT - 1}: run a newer release"
    assert await refusal_of(database) == said
    with pytest.raises(StoreRefused, match=said):
        await migrate.migrate(options(database))
    assert applied(database) == [step.number for step in LATER]


async def test_a_step_that_was_another(fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    database = fresh_database()
    edited = Migration(1, KNOWN[0].name, f"{KNOWN[0].text}\n-- only a comment\n")
    await migrate.migrate(options(database), [edited])
    said = "migration 1 (rho) was applied with another text than this release's: run the release that did"
    assert await refusal_of(database) == said
    with pytest.raises(StoreRefused) as caught:
        await migrate.migrate(options(database), LATER)
    assert caught.value.problem == said
    # What `sfm migrate` would refuse, nobody is told to run.
    monkeypatch.setattr(migrate, "known", lambda: LATER)
    assert await refusal_of(database) == said


# ---- rights


async def test_a_user_who_may_create_nothing(postgres_cluster: StartCluster) -> None:
    cluster = postgres_cluster()
    with cluster.connect() as c:
        c.execute("CREATE ROLE sfm LOGIN")
    his = PostgresOptions(cluster.url(user="sfm"))
    with pytest.raises(StoreRefused) as caught:
        await migrate.migrate(his)
    assert "migration 1 (rho) failed, nothing of it is left: permission denied for database" in caught.value.problem
    assert "GRANT CREATE ON DATABASE to this user, or CREATE SCHEMA sfm AUTHORIZATION for it" in caught.value.problem
    with cluster.connect() as c:
        c.execute("CREATE SCHEMA sfm AUTHORIZATION sfm")
    assert await migrate.migrate(his) == KNOWN


async def test_a_user_who_may_only_serve(postgres_cluster: StartCluster) -> None:
    """Serving takes no more than it needs: rows of tables that another user made."""
    cluster = postgres_cluster()
    await migrated(cluster.url())
    settings = settings_for(postgres_url=cluster.url(user="server"), postgres_migrate=True)
    with cluster.connect() as owner:
        owner.execute("CREATE ROLE server LOGIN")
        with pytest.raises(StoreRefused, match="this user may not do that: grant it the schema sfm"):
            async with serving(settings):
                pass
        owner.execute("GRANT USAGE ON SCHEMA sfm TO server")
        owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA sfm TO server")
    async with serving(settings) as server:
        await seed(server.rho)
    with pytest.raises(StoreRefused, match="run `sfm migrate` as the owner of the schema sfm"):
        await migrate.migrate(PostgresOptions(cluster.url(user="server")), LATER)


async def test_a_database_that_takes_no_writes(fresh_database: FreshDatabase) -> None:
    database = fresh_database()
    url = database.server.url(database.name, options="-c default_transaction_read_only=on")
    with pytest.raises(StoreRefused, match=r"read-only transaction; a standby, .*: name the primary"):
        await migrate.migrate(PostgresOptions(url))


# ---- where it is


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:s3cret@db.example:6432/sfm?sslmode=require", "db.example:6432/sfm"),
        ("postgresql://me:s3cret@[::1]/sfm", "[::1]:5432/sfm"),
        ("host=/run/postgresql user=me password=s3cret", "/run/postgresql:5432/me"),
        ("postgresql://a,b/sfm?target_session_attrs=primary", "a:5432,b:5432/sfm"),
        ("postgresql://a:1,[::2]:2/sfm", "a:1,[::2]:2/sfm"),
        ("postgresql:///sfm", "localhost:5432/sfm"),
    ],
)
def test_a_place_is_named_without_secrets(url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert connection.place(PostgresOptions(url)) == place


def test_a_place_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGHOST": "db.example", "PGPORT": "6432", "PGDATABASE": "sfm", "PGPASSWORD": "s3cret"}.items():
        monkeypatch.setenv(name, value)
    assert connection.place(PostgresOptions("postgresql://")) == "db.example:6432/sfm"
