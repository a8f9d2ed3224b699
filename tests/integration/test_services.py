"""The services that tests run on are what they say: real, durable, harmed as told, and gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.paths import ROOT
from tests.support.services import absence, binaries, places
from tests.support.services.absence import AbsentError, skip_or_fail
from tests.support.services.binaries import Binaries, search
from tests.support.services.fixtures import FreshDatabase, StartCluster, StartProxy
from tests.support.services.kept import unprivileged
from tests.support.services.postgres import FORCED, URL, find, own_cluster
from tests.support.services.postgres_server import TLS, PostgresServer, forget


@pytest.fixture(scope="module", params=["machine", "wheel"])
def programs(request: pytest.FixtureRequest) -> Binaries:
    """Each grade that is here."""
    looked = search(request.param)
    if not looked.found:
        pytest.skip("; ".join(looked.reasons))
    return looked.found[0]


@pytest.fixture
def server(programs: Binaries) -> Iterator[PostgresServer]:
    with PostgresServer(programs) as server:
        yield server


@pytest.fixture
def without_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the environment said nothing."""
    for name in (URL, FORCED, absence.REQUIRED):
        monkeypatch.delenv(name, raising=False)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()


def until_gone(*pids: int) -> None:
    end = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < end, f"{pids} are still there"
        time.sleep(0.01)


def one_table(url: str) -> None:
    with psycopg.connect(url) as c:
        c.execute("CREATE TABLE t (i int PRIMARY KEY)")


async def one_row(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as c:
        await c.execute("CREATE TABLE t AS SELECT 7 AS i")


def rows(server: PostgresServer, database: str = "") -> list[int]:
    with server.connect(database) as c:
        return [i for (i,) in c.execute("SELECT i FROM t ORDER BY i")]


def test_a_cluster_is_as_durable_as_usual_and_nobodys_but_ours(server: PostgresServer) -> None:
    with server.connect() as c:
        said = {
            name: c.execute(f"SHOW {name}").fetchone()
            for name in ("fsync", "full_page_writes", "synchronous_commit", "listen_addresses")
        }
        assert c.info.server_version // 10_000 == server.binaries.version[0]
    assert said == {
        "fsync": ("on",),
        "full_page_writes": ("on",),
        "synchronous_commit": ("on",),
        "listen_addresses": ("127.0.0.1",),
    }
    assert os.stat(f"/proc/{server.pid}").st_uid == unprivileged("postgres").uid % 2**32 or os.geteuid() != 0
    assert os.stat(f"/proc/{server.pid}").st_uid != 0


def test_conf_is_told(programs: Binaries) -> None:
    with PostgresServer(programs, conf={"max_connections": 17, "application_name": "it's"}) as server, server.connect() as c:
        assert c.execute("SELECT current_setting('max_connections'), current_setting('application_name')").fetchone() == (
            "17",
            "it's",
        )


def test_a_killed_server_leaves_nothing_running_and_keeps_what_was_committed(server: PostgresServer) -> None:
    one_table(server.url())
    with contextlib.closing(server.connect()) as c, contextlib.closing(server.connect()) as unfinished:
        children = [pid for (pid,) in c.execute("SELECT pid FROM pg_stat_activity")]
        c.execute("INSERT INTO t VALUES (1)")
        unfinished.execute("BEGIN; INSERT INTO t VALUES (2)")
        server.kill()
        assert not any(map(alive, [server.pid, *children]))
        assert not server.running
        with pytest.raises(psycopg.OperationalError, match="server closed the connection unexpectedly"):  # no word of farewell
            c.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url())
    server.kill()  # twice is once
    port = server.port
    server.start()
    assert (server.port, rows(server)) == (port, [1])
    assert "not properly shut down" in server.log


def test_a_frozen_server_answers_nobody_and_goes_on_when_thawed(server: PostgresServer) -> None:
    with server.connect() as c:
        server.freeze()
        assert server.running
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(server.url(), connect_timeout=2)
        server.thaw()
        assert c.execute("SELECT 1").fetchone() == (1,)
    server.freeze()
    server.stop()
    assert not server.running


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_a_stopped_server_starts_again(server: PostgresServer, mode: str) -> None:
    one_table(server.url())
    server.restart(mode)
    assert rows(server) == []


def test_a_closed_server_leaves_nothing(programs: Binaries) -> None:
    for harm in (lambda _: None, PostgresServer.freeze, PostgresServer.stop, PostgresServer.kill):
        with PostgresServer(programs) as server, server.connect() as c:
            (directory,) = c.execute("SHOW data_directory").fetchone() or [""]
            assert Path(directory).is_dir()
            harm(server)
        assert not Path(directory).parent.exists()
        assert not alive(server.pid)


def test_a_server_that_cannot_start_says_why(programs: Binaries) -> None:
    with (
        pytest.raises(AssertionError, match="unrecognized configuration parameter"),
        PostgresServer(programs, conf={"nonsense": 1}),
    ):
        pass


OWNER = """
import sys
from tests.support.services.binaries import search
from tests.support.services.postgres_server import PostgresServer
server = PostgresServer(search(sys.argv[1]).found[0]).start()
with server.connect() as c:
    children = [pid for pid, in c.execute("SELECT pid FROM pg_stat_activity")]
    keeper = server._kept._keeper.pid
    if sys.argv[2] == "frozen": server.freeze()
    print(keeper, server._root, server.pid, *children, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["running", "frozen"])
@pytest.mark.parametrize("whom", ["owner", "keeper"])
def test_a_server_does_not_outlive_whoever_started_it(programs: Binaries, whom: str, state: str) -> None:
    command = [sys.executable, "-c", OWNER, programs.grade, state]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        keeper, directory, *pids = owner.stdout.readline().split()
        assert all(map(alive, map(int, pids)))
        try:
            os.kill(owner.pid if whom == "owner" else int(keeper), signal.SIGKILL)
            until_gone(*map(int, pids))
        finally:
            owner.kill()
    if whom == "owner":
        end = time.monotonic() + 20
        while Path(directory).exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not Path(directory).exists()
    else:
        forget(Path(directory, "data"))
        places.remove(Path(directory))


LEAVE = """
import os, sys
from pathlib import Path
from tests.support.services import places
from tests.support.services.kept import unprivileged
print(places.temporary(unprivileged(), "left", inside=Path(sys.argv[1])), flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_killed_processes_left_is_removed_by_the_next(tmp_path: Path) -> None:
    def leave() -> Path:
        ran = subprocess.run([sys.executable, "-c", LEAVE, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        return Path(ran.stdout.strip())

    left = leave()
    assert left.exists()
    mine = places.temporary(unprivileged(), "mine", inside=tmp_path)
    last = leave()
    assert (left.exists(), last.exists(), mine.exists()) == (False, True, True)
    places.remove(mine)
    places.remove(mine)
    assert [path.name for path in tmp_path.iterdir()] == [last.name]


def test_a_password_is_asked_for(programs: Binaries) -> None:
    with PostgresServer(programs, password="it's @ secret") as server:
        with psycopg.connect(server.url()) as c:
            assert c.execute("SELECT 1").fetchone() == (1,)
        for wrong in ({"password": "guess"}, {"user": "postgres"}):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(server.url(**wrong))
        server.restart()
        psycopg.connect(server.url()).close()


def test_tls_is_insisted_on(programs: Binaries) -> None:
    if not programs.tls:
        pytest.skip(f"{programs} was built without TLS")
    with PostgresServer(programs, tls=True) as server:
        with psycopg.connect(server.url(sslmode="verify-full", sslrootcert=TLS / "ca.pem")) as c:
            assert c.pgconn.ssl_in_use
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            psycopg.connect(server.url(sslmode="disable"))
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            psycopg.connect(server.url(sslmode="verify-full", sslrootcert=TLS / "client.pem"))


def test_databases_are_copies_of_what_was_prepared_once(server: PostgresServer) -> None:
    calls = []

    def prepare(url: str) -> None:
        calls.append(url)
        one_table(url)

    one, other = server.fresh(prepare), server.fresh(prepare)
    with one.connect() as c:
        c.execute("INSERT INTO t VALUES (1)")
    assert (rows(server, one.name), rows(server, other.name), len(calls)) == ([1], [], 1)
    assert rows(server, server.fresh(one_row).name) == [7]
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        server.connect(server.template(prepare))
    with one.connect():
        one.drop()
    one.drop()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        one.connect()


async def test_templates_are_made_from_async_tests_too(server: PostgresServer) -> None:
    assert rows(server, server.fresh(one_row).name) == [7]


def test_what_fails_to_prepare_leaves_no_database(server: PostgresServer) -> None:
    async def fail(url: str) -> None:
        raise ZeroDivisionError

    for prepare in (lambda _: 1 / 0, fail):
        with pytest.raises(ZeroDivisionError):
            server.fresh(prepare)
    with server.connect() as c:
        assert c.execute("SELECT datname FROM pg_database WHERE datname LIKE 'sfm%'").fetchall() == []


@pytest.mark.parametrize(("cut_direction", "kept"), [("up", []), ("down", [1])])
def test_a_commit_is_cut_on_its_way_there_or_back(
    server: PostgresServer, fault_proxy: StartProxy, cut_direction: str, kept: list[int]
) -> None:
    one_table(server.url())
    proxy = fault_proxy(server.url())
    with psycopg.connect(proxy.url(server.url(sslmode="disable", gssencmode="disable"))) as c:
        c.execute("INSERT INTO t VALUES (1)")
        proxy.when(b"COMMIT", direction=cut_direction, then=proxy.drop, before=True)  # type: ignore[arg-type]
        with pytest.raises(psycopg.OperationalError):
            c.commit()
    assert rows(server) == kept


@pytest.mark.usefixtures("without_choice")
def test_a_url_is_taken_and_left_as_it_was(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.connect() as c:
        c.execute("CREATE ROLE maker LOGIN CREATEDB")
        before = c.execute("SELECT datname FROM pg_database").fetchall()
        monkeypatch.setenv(URL, server.url(user="maker"))
        given = find()
        assert "(url)" in given.name
        database = given.fresh(one_table)
        with database.connect() as other:
            other.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(AbsentError, match="not ours to stop"):
            own_cluster()
        database.drop()
        given.close()
        assert c.execute("SELECT datname FROM pg_database").fetchall() == before
    monkeypatch.setenv(FORCED, "machine")
    with contextlib.suppress(AbsentError):
        own_cluster().close()  # the URL is not the one to test with
    monkeypatch.delenv(FORCED)
    server.stop()
    with pytest.raises(RuntimeError, match="no Postgres answers there"):
        find()


@pytest.fixture
def nothing_here(without_choice: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine that has no Postgres of any kind."""
    binaries._looked_at.cache_clear()
    monkeypatch.setattr(binaries, "_on_machine", lambda: iter([Path("/nonexistent")]))
    monkeypatch.setattr(binaries, "WHEEL", "no_such_package")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    yield
    binaries._looked_at.cache_clear()


@pytest.mark.usefixtures("nothing_here")
def test_what_is_missing_is_skipped_with_every_reason_or_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AbsentError) as absent:
        find()
    told = [reason.partition(":")[0] for reason in absent.value.reasons]
    assert told == ["url", "docker", "machine", "wheel"]
    with pytest.raises(pytest.skip.Exception) as skipped:
        skip_or_fail(absent.value)
    monkeypatch.setenv(absence.REQUIRED, "redis, postgres")
    with pytest.raises(pytest.fail.Exception) as failed:
        skip_or_fail(absent.value)
    for said in (str(skipped.value), str(failed.value)):
        assert all(reason in said for reason in absent.value.reasons)
    for grade in ("url", "docker", "machine", "wheel"):
        monkeypatch.setenv(FORCED, grade)
        with pytest.raises(AbsentError, match=f"postgres: {grade}: [^;]*$"):
            find()
    monkeypatch.setenv(FORCED, "oracle")
    with pytest.raises(ValueError, match="oracle"):
        find()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_a_wheel_where_the_account_may_not_enter_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheel,) = search("wheel").found
    packages = wheel.directory.parents[2]
    hidden = tmp_path / "site-packages"
    shutil.copytree(
        packages / binaries.WHEEL / wheel.directory.parent.name, hidden / binaries.WHEEL / "pginstall18", symlinks=True
    )
    shutil.copytree(packages / f"{binaries.WHEEL}.libs", hidden / f"{binaries.WHEEL}.libs")
    (hidden / binaries.WHEEL / "__init__.py").touch()
    hidden.chmod(0o700)
    monkeypatch.syspath_prepend(hidden)
    looked = binaries._in_wheel(wheel.account)
    assert looked.reasons == []
    assert not looked.found[0].directory.is_relative_to(hidden)
    with PostgresServer(looked.found[0]) as server, server.connect() as c:
        assert c.info.server_version // 10_000 == 18


def services(order: str, directory: Path, code: int = 0) -> str:
    command = [sys.executable, "-m", "tests.support.services", order, "--only", "postgres", "--dir", str(directory)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_a_development_postgres_goes_up_and_down_and_keeps_its_data() -> None:
    if not search().found:
        pytest.skip("; ".join(search().reasons))
    directory = places.temporary(unprivileged("postgres"), "dev")
    try:
        assert services("status", directory, code=3) == "postgres: down\n"
        said = services("up", directory)
        url = json.loads((directory / "state.json").read_text())["postgres"]["url"]
        assert f"export SFM_POSTGRES_URL={url}\n" in said
        assert "sfm migrate" in said
        assert "make run" in said
        one_table(url)
        assert services("up", directory) == said
        assert services("status", directory) == f"postgres: {url}\n"
        assert "is stopped" in services("down", directory)
        assert "was down" in services("down", directory)
        assert services("up", directory) == said
        with psycopg.connect(url) as c:
            assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)
            assert c.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
        services("down", directory)
        (directory / "postgres" / "data" / "PG_VERSION").write_text("9\n")
        assert "was written by Postgres 9, which is not here" in services("up", directory, code=1)
        (directory / "postgres" / "data" / "PG_VERSION").write_text(f"{search().found[0].version[0]}\n")
    finally:
        services("down", directory)
        places.remove(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_a_place_that_the_account_may_not_enter_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    assert "name another place with --dir" in services("up", tmp_path / "mine" / "services", code=1)


def test_fixtures_hand_them_out(fresh_database: FreshDatabase, postgres_cluster: StartCluster) -> None:
    with fresh_database(one_table).connect() as c:
        assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)
    with fresh_database().connect() as c, pytest.raises(psycopg.errors.UndefinedTable):
        c.execute("SELECT count(*) FROM t")
    assert postgres_cluster(conf={"max_connections": 20}).running


async def test_fixtures_serve_async_tests(fresh_database: FreshDatabase, fault_proxy: StartProxy) -> None:
    database = fresh_database(one_table)
    proxy = fault_proxy(database.url)
    connection = await psycopg.AsyncConnection.connect(proxy.url(database.url), autocommit=True)
    async with connection as c:
        await c.execute("SELECT 1")
        proxy.hang()
        asked = asyncio.create_task(c.execute("SELECT 1"))
        await asyncio.sleep(0.2)
        assert not asked.done()
        proxy.restore()
        await asked
