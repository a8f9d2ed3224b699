"""Starting on a Postgres that is not what it should be: what a person is told, and that nothing is touched nor told too much."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import psycopg
import pytest
from psycopg import sql
from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import StoreRefused
from sfm_grpc.model import Scope
from sfm_grpc.storage.contract import Retention
from tests.conftest import Serve
from tests.support import cli
from tests.support.drivers import Put
from tests.support.engines.postgres import migrated
from tests.support.matrices import density
from tests.support.messages import commit_of, seed
from tests.support.paths import ROOT
from tests.support.refusals import refused
from tests.support.servers import Server, serving, settings_for, until
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase, StartCluster
from tests.support.services.postgres_server import TLS, PostgresServer

PASSWORD = "s3cret"


async def refusal_of(url: str, **settings: object) -> str:
    """Why a server does not start there; the password is no part of it."""
    with pytest.raises(StoreRefused) as caught:
        async with serving(settings_for(postgres_url=url, **settings)):
            pass
    assert PASSWORD not in str(caught.value)
    return caught.value.problem


def tables(database: Database) -> list[tuple[Any, ...]]:
    """All that somebody made in a database."""
    with database.connect() as c:
        return c.execute(
            "SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE oid >= 16384 ORDER BY 2"
        ).fetchall()


# ---- the address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (PASSWORD, "missing …"),
        (f"postgres//sfm:{PASSWORD}@db/x", "missing …"),
        (f"http://sfm:{PASSWORD}@db/x", "missing …"),
        (f'postgres//sfm:"{PASSWORD}"@db/x', "missing …"),
        (f"host=db password='{PASSWORD}", "unterminated quoted string"),
        (f"hots=db password={PASSWORD}", "invalid connection option"),
        (f"postgresql://sfm:{PASSWORD}@db/x?sslmod=require", "invalid URI query parameter"),
        (f"postgresql://sfm:{PASSWORD}%zz@db/x", "percent-encoded token"),
        (f"postgresql://sfm:{PASSWORD}%00@db/x", "forbidden value %00"),
        (f"postgresql://sfm:{PASSWORD}@[::1/x", "matching …"),
        (f"postgresql://sfm:12@{PASSWORD}@db/x", "ends it too soon"),
        (f"postgresql://sfm:12/{PASSWORD}@db/x", "ends it too soon"),
        (f"postgresql://sfm:{PASSWORD}/12@db/x", "ends it too soon"),
        (f"postgresql://sfm:{PASSWORD}@db:port/x", "its port is not one"),
        (f"postgresql://sfm:{PASSWORD}@db:99999/x", "its port is not one"),
        (f"host=db port=0 password={PASSWORD}", "its port is not one"),
    ],
)
async def test_what_is_no_address_is_refused_and_not_repeated(url: str, problem: str) -> None:
    told = await refusal_of(url)
    assert told.startswith("SFM_POSTGRES_URL is not an address: ")
    assert problem in told
    assert "write postgresql://user:password@host:5432/database" in told


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"postgresql://sfm:{PASSWORD}@127.0.0.1/x?sslmode=maybe", "SFM_POSTGRES_URL asks for what there is not"),
        (f"postgresql://sfm:{PASSWORD}@db..example/x", "SFM_POSTGRES_URL names what cannot be a host"),
    ],
)
async def test_an_address_that_cannot_be_anywhere_is_refused(url: str, problem: str) -> None:
    assert problem in await refusal_of(url)


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A port where something answers that is not Postgres; None: it listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as callers:

        def answer_all() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller = callers.enter_context(listener.accept()[0])
                    caller.recv(1000)
                    if answer is not None:
                        caller.sendall(answer)
                        caller.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=answer_all)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("mode", ["prefer", "disable"])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", bytes(64)])
async def test_what_answers_and_is_not_postgres_is_refused(answer: bytes, mode: str) -> None:
    with answering(answer) as port:
        told = await refusal_of(f"postgresql://sfm:{PASSWORD}@127.0.0.1:{port}/x?sslmode={mode}")
    assert told.startswith("Postgres: what answers is not Postgres; see SFM_POSTGRES_URL")


@contextlib.contextmanager
def nowhere(how: str) -> Iterator[str]:
    """The part of an address that says where, and nobody is there."""
    if how == "it says nothing":
        with answering(None) as port:
            yield f"127.0.0.1:{port}"
    elif how == "nobody listens":
        with socket.create_server(("127.0.0.1", 0)) as free:
            place = f"127.0.0.1:{free.getsockname()[1]}"
        yield place
    else:
        yield {"no such host": "no-such-host.invalid", "no such socket": quote("/no/such", safe="")}[how]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("nobody listens", "Postgres cannot be reached: .*Connection refused"),
        ("no such host", "Postgres cannot be reached: failed to resolve host 'no-such-host.invalid'"),
        ("no such socket", "Postgres cannot be reached: .*No such file or directory"),
        ("it says nothing", "Postgres cannot be reached: connection timeout expired|does not answer within"),
    ],
)
async def test_where_nobody_answers_a_server_lives_and_waits(serve: Serve, how: str, problem: str) -> None:
    with nowhere(how) as place:
        url = f"postgresql://sfm:{PASSWORD}@{place}/x"
        server = await serve(settings_for(postgres_url=url, postgres_connect_timeout_s=2.0, http_listen="127.0.0.1:0"))
        assert (await server.http("/livez")).status_code == 200
        ready = await server.http("/readyz")
        assert ready.status_code == 503
        assert re.match(f"not ready: postgres: ({problem})", ready.text)
        read = server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"), timeout=20)
        for call in (read, server.rho.CommitRho(commit_of(Put("rho", density()), request_id="r"), timeout=20)):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert re.search(problem, refusal.message)
            assert refusal.facts["outcome_unknown"] == "false"
            assert refusal.retry_delay_s > 0
            assert PASSWORD not in refusal.message


# ---- who may come in, and how


@pytest.fixture(scope="module")
def locked(module_postgres_cluster: StartCluster) -> PostgresServer:
    """It wants TLS and a password from everyone who comes by TCP."""
    cluster = module_postgres_cluster(tls=True, password=PASSWORD)
    with cluster.connect() as c:
        c.execute("CREATE ROLE idle")  # may not log in
        c.execute("CREATE ROLE guest LOGIN")
        for role in ("idle", "guest"):
            c.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD)))
        c.execute("CREATE DATABASE closed")
        c.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    return cluster


TRUSTED = f"sslrootcert={TLS / 'ca.pem'}"


@pytest.mark.parametrize(
    ("who", "database", "parameters", "problem"),
    [
        (f"postgres:{PASSWORD}x", "postgres", "", "the user or the password is wrong; see SFM_POSTGRES_URL"),
        (f"nobody:{PASSWORD}", "postgres", "", "the user or the password is wrong; see SFM_POSTGRES_URL"),
        ("postgres", "postgres", "", "it wants a password; write it into SFM_POSTGRES_URL, or PGPASSWORD or a .pgpass file"),
        (f"postgres:{PASSWORD}", "none", "", "the user or the database does not exist; see SFM_POSTGRES_URL"),
        (f"idle:{PASSWORD}", "postgres", "", "the user may not log in; see SFM_POSTGRES_URL"),
        (f"guest:{PASSWORD}", "closed", "", "the user may not use the database; GRANT CONNECT"),
        (f"postgres:{PASSWORD}", "postgres", "sslmode=disable", "without TLS; add ?sslmode=require (or verify-full) to SFM_P"),
        (f"postgres:{PASSWORD}", "postgres", "sslmode=verify-full&sslrootcert=/none", "there is no sslrootcert to do it with"),
        (
            f"postgres:{PASSWORD}",
            "postgres",
            f"sslmode=verify-full&sslrootcert={TLS / 'client.pem'}",
            "its certificate is not one that SFM_POSTGRES_URL (sslrootcert) trusts",
        ),
        (
            f"postgres:{PASSWORD}",
            "postgres",
            f"sslmode=verify-full&{TRUSTED}&host=elsewhere.example&hostaddr=127.0.0.1",
            "its certificate is for another host than SFM_POSTGRES_URL names",
        ),
    ],
)
async def test_whoever_may_not_come_in_is_told_why(
    locked: PostgresServer, who: str, database: str, parameters: str, problem: str
) -> None:
    told = await refusal_of(f"postgresql://{who}@127.0.0.1:{locked.port}/{database}?{parameters}")
    assert told.startswith("Postgres: ")
    assert problem in told


async def test_with_the_right_authority_and_name_a_server_serves(locked: PostgresServer, serve: Serve) -> None:
    database = locked.fresh(migrated)
    server = await serve(settings_for(postgres_url=f"{database.url}?sslmode=verify-full&{TRUSTED}"))
    assert (await seed(server.rho)).version == 1
    with locked.connect() as c:
        encrypted = c.execute(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = %s", (database.name,)
        ).fetchall()
    assert encrypted == [(True,)]


async def test_tls_asked_of_one_without_it_is_refused(fresh_database: FreshDatabase) -> None:
    database = fresh_database(migrated)
    with psycopg.connect(database.url) as c:
        if c.execute("SHOW ssl").fetchone() == ("on",):
            pytest.skip("this Postgres speaks TLS")
    told = await refusal_of(f"{database.url}?sslmode=require")
    assert told.startswith("Postgres: it does not speak TLS, and SFM_POSTGRES_URL asks for it")


async def test_one_that_pg_hba_does_not_know_is_not_sent_for_tls(postgres_cluster: StartCluster) -> None:
    url = _for_postgres_alone(postgres_cluster()).url(user="stranger")
    await until(lambda: _is_refused(url))
    assert (await refusal_of(url)).startswith("Postgres: pg_hba.conf does not let this user in from here")


def _for_postgres_alone(cluster: PostgresServer) -> PostgresServer:
    with cluster.connect() as c:
        c.execute("CREATE ROLE stranger LOGIN")
        (file,) = c.execute("SHOW hba_file").fetchone() or ("",)
        Path(file).write_text("local all all trust\nhost all postgres 127.0.0.1/32 trust\n")
        c.execute("SELECT pg_reload_conf()")
    return cluster


async def _is_refused(url: str) -> bool:
    try:
        (await psycopg.AsyncConnection.connect(url)).pgconn.finish()
    except psycopg.OperationalError:
        return True
    return False


async def test_a_user_without_rights_is_told_which(postgres_cluster: StartCluster) -> None:
    database = postgres_cluster().fresh(migrated)
    with database.connect() as c:
        c.execute("CREATE ROLE weak LOGIN")
    url = database.server.url(database.name, user="weak")
    assert "this user may not do that: grant it the schema sfm (permission denied for schema sfm" in await refusal_of(url)


async def test_a_user_with_no_more_rights_than_the_guide_names_serves(postgres_cluster: StartCluster) -> None:
    database = postgres_cluster().fresh(migrated)
    with database.connect() as c:
        c.execute("CREATE ROLE sfm_server LOGIN")
        guide = (ROOT / "docs" / "POSTGRES.md").read_text()
        granted = re.findall(r"^GRANT .* TO sfm_server;$", guide, re.MULTILINE)
        assert len(granted) >= 2
        for grant in granted:
            c.execute(grant)
    url = database.server.url(database.name, user="sfm_server")
    async with serving(settings_for(postgres_url=url, rho_history_versions=2)) as server:
        for expected in range(6):
            await server.rho.CommitRho(
                commit_of(Put("rho", density(seed=expected)), expected=expected, request_id=f"r{expected}")
            )
        scope = Scope("default", "n")
        retention = Retention(versions=2, age_s=0, request_age_s=0, events=1)
        now_us = time.time_ns() // 1000 + 1
        assert await server.app.store.compact(scope, retention, now_us) + len(await _kept(server)) == 6
        assert await server.app.store.forget(retention, now_us) > 0
        assert (await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))).version == 6


async def _kept(server: Server) -> Any:
    return (await server.rho.ListRhoVersions(rho_store_pb2.ListRhoVersionsRequest(namespace="n"))).versions


# ---- what it promises


@pytest.fixture(scope="module")
def promising(module_postgres_cluster: StartCluster) -> PostgresServer:
    """One whose promises a test may take back; it gives them again."""
    return module_postgres_cluster()


ROLE, DATABASE, SYSTEM = "ALTER ROLE postgres IN DATABASE {} SET", "ALTER DATABASE {} SET", "ALTER SYSTEM SET"


@contextlib.contextmanager
def broken(database: Database, how: str, name: str, value: str) -> Iterator[None]:
    """While it lasts, new connections to the database find the setting so."""
    where = sql.SQL(how).format(sql.Identifier(database.name))
    setting = sql.Identifier(name)
    with database.server.connect() as c:
        c.execute(sql.SQL("{} {} = {}").format(where, setting, sql.Literal(value)))
        _reload(c, database, name, value)
        try:
            yield
        finally:
            undo = sql.SQL("ALTER SYSTEM RESET {}") if how == SYSTEM else where + sql.SQL(" {} TO DEFAULT")
            c.execute(undo.format(setting) if how == SYSTEM else sql.SQL("{} {} TO DEFAULT").format(where, setting))
            _reload(c, database, name, None)


def _reload(c: psycopg.Connection[Any], database: Database, name: str, value: str | None) -> None:
    """Returns when a new connection finds the value, or (None) the default again."""
    c.execute("SELECT pg_reload_conf()")
    while True:
        with database.connect() as fresh:
            row = fresh.execute("SELECT setting, boot_val FROM pg_settings WHERE name = %s", (name,)).fetchone()
            assert row is not None
            if row[0] == (row[1] if value is None else value):
                return


UNSAFE = [
    (SYSTEM, "fsync"),
    (SYSTEM, "full_page_writes"),
    (SYSTEM, "synchronous_commit"),
    (ROLE, "synchronous_commit"),
    (DATABASE, "synchronous_commit"),
]


@pytest.mark.parametrize(("how", "name"), UNSAFE)
async def test_one_that_may_lose_commits_is_refused_unless_that_is_allowed(
    promising: PostgresServer, caplog: pytest.LogCaptureFixture, how: str, name: str
) -> None:
    database = promising.fresh(migrated)
    with broken(database, how, name, "off"):
        told = await refusal_of(database.url)
        assert told == (
            f"Postgres may lose what it acknowledges ({name} = off): turn it on, or say --allow-unsafe-durability "
            "(SFM_ALLOW_UNSAFE_DURABILITY=1) where losing commits does not matter"
        )
        with caplog.at_level(logging.WARNING):
            async with serving(settings_for(postgres_url=database.url, allow_unsafe_durability=True)) as server:
                assert (await seed(server.rho)).version == 1
        assert f"Postgres may lose what it acknowledges ({name} = off), and this was allowed" in caplog.text
    async with serving(settings_for(postgres_url=database.url)) as server:
        assert (await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))).version == 1


async def test_everything_that_is_unsafe_is_named_at_once(promising: PostgresServer) -> None:
    database = promising.fresh(migrated)
    with contextlib.ExitStack() as stack:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            stack.enter_context(broken(database, SYSTEM, name, "off"))
        assert "(fsync = off, full_page_writes = off, synchronous_commit = off)" in await refusal_of(database.url)


@pytest.mark.parametrize("level", ["local", "remote_write", "on", "remote_apply"])
async def test_commits_that_are_synced_here_are_safe(promising: PostgresServer, level: str) -> None:
    database = promising.fresh(migrated)
    with broken(database, DATABASE, "synchronous_commit", level):
        async with serving(settings_for(postgres_url=database.url)) as server:
            assert (await seed(server.rho)).version == 1


@pytest.mark.parametrize("how", [ROLE, DATABASE, SYSTEM])
async def test_one_that_is_read_only_is_refused(promising: PostgresServer, how: str) -> None:
    database = promising.fresh(migrated)
    with broken(database, how, "default_transaction_read_only", "on"):
        assert await refusal_of(database.url) == "Postgres is read-only for this user (default_transaction_read_only is on)"


async def test_another_encoding_is_refused(promising: PostgresServer) -> None:
    with promising.connect() as c:
        c.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    assert await refusal_of(promising.url("latin")) == "the database's encoding is LATIN1: create one with UTF8"


# ---- its schema


async def test_without_the_schema_it_is_refused_and_none_is_made(fresh_database: FreshDatabase) -> None:
    database = fresh_database()
    told = await refusal_of(database.url)
    assert re.fullmatch(r"the database has no schema, this release needs \d+: run `sfm migrate`", told)
    assert tables(database) == []


async def test_a_newer_schema_is_refused_and_left_alone(fresh_database: FreshDatabase) -> None:
    database = fresh_database(migrated)
    with database.connect() as c:
        c.execute("INSERT INTO sfm.migration (number, name, sha256) VALUES (9999, 'later', '')")
    before = tables(database)
    told = await refusal_of(database.url)
    assert re.fullmatch(r"the database has schema 9999, this release knows up to \d+: run a newer release", told)
    assert await refusal_of(database.url, postgres_migrate=True) == told
    assert tables(database) == before


# ---- secrets

# Each part of it is as unmistakable as the whole, however it is written.
SECRET = "Gr0ve@Lamp:Moth/Fern%Dusk 'Wolf\\Salt?Iris#Ü"
_PARTS = ("Gr0ve", "Lamp", "Moth", "Fern", "Dusk", "Wolf", "Salt", "Iris")


def as_url(cluster: PostgresServer, database: str) -> str:
    return cluster.url(database, user="postgres", password=SECRET)


def as_conninfo(cluster: PostgresServer, database: str) -> str:
    secret = SECRET.replace("\\", "\\\\").replace("'", "\\'")
    return f"host=127.0.0.1 port={cluster.port} dbname={database} user=postgres password='{secret}'"


def assert_untold(*told: str) -> None:
    for text in told:
        assert [part for part in _PARTS if part in text] == []


@pytest.mark.parametrize("written", [as_url, as_conninfo])
def test_the_password_is_never_told(postgres_cluster: StartCluster, tmp_path: Path, written: Any) -> None:
    cluster = postgres_cluster(password=SECRET)
    url = written(cluster, cluster.fresh().name)
    env = {"SFM_POSTGRES_URL": url, "SFM_LOG_LEVEL": "debug"}
    for arguments in (["config"], ["config", "--json"], ["migrate"], ["migrate", "--check", "--json"]):
        ran = cli.here(*arguments, env=env)
        assert_untold(ran.stdout, ran.stderr)
    with cli.Served(tmp_path, **env) as served:
        assert f"data Postgres at 127.0.0.1:{cluster.port}/" in served.stdout
        _ask_everything(served, ready=True)
        with cluster.connect() as c:
            c.execute("ALTER ROLE postgres PASSWORD 'another'")
            c.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sfm-grpc%'")
        _wait_until_told(served, "the user or the password is wrong")
        cluster.stop()
        _wait_until_told(served, "Connection refused")
        _ask_everything(served, ready=False)
        assert served.stop() == 0
        assert_untold(served.stdout, served.stderr, json.dumps(served.addresses))
        assert "the user or the password is wrong" in served.stderr
    ran = cli.here("serve", "--listen", "127.0.0.1:0", "--http-listen", "", code=2, env=env | _broken(url))
    assert_untold(ran.stdout, ran.stderr)


def _broken(url: str) -> Mapping[str, str]:
    """The same, one character from being an address."""
    return {"SFM_POSTGRES_URL": url.replace("postgresql:", "postgres", 1).replace("host=", "hots=", 1)}


def _ask_everything(served: cli.Served, *, ready: bool) -> None:
    """All that a server says, to whomever."""
    http = f"http://{served.addresses['http']}"
    for path in ("/", "/healthz", "/readyz", "/livez", "/metrics"):
        assert_untold(httpx.get(http + path, timeout=20).text)
    code = 0 if ready else 1
    for arguments, expected in ((["status", "--json"], code), (["status"], code), (["rho", "log", "n"], 4 if ready else 3)):
        ran = served.here(*arguments, code=expected)
        assert_untold(ran.stdout, ran.stderr)


def _wait_until_told(served: cli.Served, problem: str) -> None:
    while problem not in (told := httpx.get(f"http://{served.addresses['http']}/readyz", timeout=20).text):
        assert served.process.poll() is None
        assert_untold(told)
        time.sleep(0.1)


async def test_a_wrong_password_ends_the_process_with_one_line(locked: PostgresServer, tmp_path: Path) -> None:
    env = {"SFM_POSTGRES_URL": locked.url(password="wrong")}
    ran = cli.run("serve", "--listen", "127.0.0.1:0", "--http-listen", "", code=2, cwd=tmp_path, env=env)
    assert ran.stderr.startswith("sfm: cannot serve: Postgres: the user or the password is wrong; see SFM_POSTGRES_URL")
    assert len(ran.stderr.splitlines()) == 1
    assert "wrong@" not in ran.stderr
