"""Every kind of Redis that an address can mean, and every way in which it can be wrong: reads and commits stay right."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sfm_grpc.errors import StoreRefused, StoreUnavailable, VersionConflict
from sfm_grpc.model import CacheState, Scope
from sfm_grpc.storage.leases import LEASE_S, MARGIN_S
from tests.support.drivers import InProcess, Put, put
from tests.support.engines.postgres import migrated
from tests.support.matrices import density
from tests.support.paths import ROOT
from tests.support.servers import settings_for, until
from tests.support.services.fixtures import FreshDatabase, StartProxy
from tests.support.services.redis_fixtures import StartRedis, StartRedisCluster, StartRedisSentinel

N = "n"
SCOPE = Scope("default", N)
Serve = Callable[..., Awaitable[InProcess]]


@pytest.fixture
async def serve(fresh_database: FreshDatabase) -> AsyncIterator[Serve]:
    """Serves a database of the test's own behind a Redis."""
    database = fresh_database(migrated)
    async with contextlib.AsyncExitStack() as stack:

        async def start(redis_url: str, **said: object) -> InProcess:
            usual: dict[str, object] = {"redis_settle_s": 0, "rho_read_timeout_ms": 500}
            server = InProcess(settings_for(**{"postgres_url": database.url, "redis_url": redis_url, **usual, **said}))
            await server.open()
            stack.push_async_callback(server.close)
            return server

        yield start
    with warnings.catch_warnings():
        # redis-py leaves what it knew of a cluster's nodes to the garbage collector when their slots move.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def commit(server: InProcess, expected: int) -> int:
    return (await put(server, N, expected, Put("rho", density(seed=expected + 1)))).version


async def state(server: InProcess) -> CacheState:
    return (await server.app.store.cache_seen(SCOPE)).state  # type: ignore[attr-defined]


async def live(server: InProcess) -> bool:
    """Whether the last check found a version that is live."""
    metric = "sfm_cache_checks_total"

    def count() -> float:
        return server.app.metrics.registry.get_sample_value(metric, {"found": "live"}) or 0.0

    before = count()
    read = await server.get(N)
    return not read.degraded and count() > before


async def until_live(server: InProcess) -> None:
    await until(lambda: live(server), within_s=20)


async def right(server: InProcess, version: int, *, degraded: bool | None = None) -> None:
    """A read is of this version, whole."""
    read = await server.get(N)
    assert (read.version, read["rho"].numbers) == (version, density(seed=version).tobytes())
    assert degraded is None or read.degraded is degraded


# ---- kinds


def documented_acl() -> str:
    text = (ROOT / "docs" / "REDIS.md").read_text()
    [rules] = re.findall(r"^user sfm on >secret (.*)$", text, re.MULTILINE)
    return rules


async def works(server: InProcess) -> None:
    """Commits, and reads what is live, of a server with the cache on."""
    assert await commit(server, 0) == 1
    await until_live(server)
    for version in range(2, 5):
        assert await commit(server, version - 1) == version
        await right(server, version, degraded=False)
    await until_live(server)
    assert server.app.truth.report().ok


async def test_an_account_that_may_do_what_is_documented_and_nothing_else(serve: Serve, redis_server: StartRedis) -> None:
    redis = redis_server(user="sfm", password="secret", rules=documented_acl())
    await works(await serve(redis.url))


async def test_tls(serve: Serve, redis_server: StartRedis) -> None:
    redis = redis_server(tls=True)
    ca = ROOT / "tests" / "support" / "tls" / "ca.pem"
    await works(await serve(f"{redis.url}?ssl_ca_certs={ca}&ssl_check_hostname=false"))


async def test_a_cluster(serve: Serve, redis_cluster: StartRedisCluster) -> None:
    await works(await serve(redis_cluster().url))


async def test_behind_a_sentinel(serve: Serve, redis_sentinel: StartRedisSentinel) -> None:
    await works(await serve(redis_sentinel().url))


# ---- moving


async def test_a_slot_that_moves_costs_one_drain(serve: Serve, redis_cluster: StartRedisCluster) -> None:
    cluster = redis_cluster()
    server = await serve(cluster.url)
    await commit(server, 0)
    await until_live(server)
    assert server.app.cache is not None
    slot = cluster.slot(server.app.cache._key(SCOPE))
    there = cluster.owner(slot)
    other = next(node for node in cluster.masters if node is not there)
    await asyncio.to_thread(cluster.move_slot, slot, other)
    await right(server, 1)
    assert await commit(server, 1) == 2
    await right(server, 2)
    await until_live(server)
    await right(server, 2, degraded=False)


async def test_a_failover_costs_one_drain(serve: Serve, redis_sentinel: StartRedisSentinel) -> None:
    sentinel = redis_sentinel()
    server = await serve(sentinel.url)
    await commit(server, 0)
    await until_live(server)
    await asyncio.to_thread(sentinel.failover)
    for version in range(1, 4):
        assert await commit(server, version) == version + 1
        await right(server, version + 1)

    async def again() -> bool:
        await server.get(N)
        return server.app.cache is not None and server.app.cache.ok and await state(server) is CacheState.ON

    await until(again, within_s=20)
    await right(server, 4)


async def test_a_master_that_dies_is_replaced(serve: Serve, redis_sentinel: StartRedisSentinel) -> None:
    sentinel = redis_sentinel()
    server = await serve(sentinel.url)
    await commit(server, 0)
    await until_live(server)
    replica = sentinel.replica
    await asyncio.to_thread(sentinel.master.kill)
    assert await commit(server, 1) == 2
    await right(server, 2)
    await asyncio.to_thread(sentinel.until_master, replica)

    async def again() -> bool:
        await server.get(N)
        return server.app.cache is not None and server.app.cache.ok and await state(server) is CacheState.ON

    await until(again, within_s=20)
    assert await commit(server, 2) == 3
    await right(server, 3, degraded=False)


async def test_a_proxy_that_connects_elsewhere_is_found_out(
    serve: Serve, redis_server: StartRedis, fault_proxy: StartProxy
) -> None:
    """The connection to the proxy stays; behind it there is another Redis, which happens to hold an old version."""
    one, other = redis_server(), redis_server()
    proxy = fault_proxy(one.url)
    server = await serve(proxy.url(one.url))
    await commit(server, 0)
    await until_live(server)
    with one.client() as source, other.client() as target:
        for key in source.scan_iter():  # the past of this very cache
            target.restore(key, 0, source.dump(key))
    await commit(server, 1)
    proxy.upstream = ("127.0.0.1", other.port)
    proxy.drop()
    for _ in range(20):
        await right(server, 2)
    assert await commit(server, 2) == 3
    await right(server, 3)


# ---- wrong


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1/0",
        "rediss://127.0.0.1:1/0",
        "unix:///nowhere.sock",
        "redis+cluster://127.0.0.1:1",
        "redis+sentinel://127.0.0.1:1/mymaster",
    ],
)
async def test_absent_at_the_start(serve: Serve, url: str) -> None:
    server = await serve(url)
    assert await commit(server, 0) == 1
    await right(server, 1, degraded=True)
    report = server.app.truth.report()
    [component] = [c for c in report.components if c.name == "redis"]
    assert (component.ok, report.degraded, report.ready, report.ok) == (False, True, True, True)
    assert component.detail.partition(": ")[2]


async def test_it_comes_later(serve: Serve, redis_server: StartRedis) -> None:
    redis = redis_server()
    await asyncio.to_thread(redis.stop)
    server = await serve(redis.url)
    await commit(server, 0)
    await right(server, 1, degraded=True)
    await asyncio.to_thread(redis.start)
    await until(lambda: server.app.cache is not None and server.app.cache.ok)
    await until_live(server)
    assert not server.app.truth.report().degraded


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_wrong_password(serve: Serve, redis_server: StartRedis, password: str) -> None:
    redis = redis_server(password="secret")
    server = await serve(redis.url.replace("secret", password))
    await commit(server, 0)
    await right(server, 1, degraded=True)
    [component] = [c for c in server.app.truth.report().components if c.name == "redis"]
    assert not component.ok
    assert "secret" not in component.detail
    assert re.search("(?i)auth|password|username", component.detail)


async def test_a_replica_that_takes_no_writes(serve: Serve, redis_server: StartRedis) -> None:
    master = redis_server()
    replica = redis_server(replica_of=master)
    server = await serve(replica.url)
    for version in range(3):
        assert await commit(server, version) == version + 1
        await right(server, version + 1)
    [component] = [c for c in server.app.truth.report().components if c.name == "redis"]
    assert not component.ok


async def test_scripts_that_are_gone_after_a_restart(serve: Serve, redis_server: StartRedis) -> None:
    redis = redis_server()
    server = await serve(redis.url)
    await works(server)
    await asyncio.to_thread(redis.restart)
    for version in range(4, 6):
        assert await commit(server, version) == version + 1
        await right(server, version + 1)
    await until(lambda: server.app.cache is not None and server.app.cache.ok)
    await until_live(server)


async def test_no_memory(serve: Serve, redis_server: StartRedis) -> None:
    redis = redis_server()
    server = await serve(redis.url)
    await commit(server, 0)
    await until_live(server)
    redis.configure(maxmemory=1)
    for version in range(1, 5):
        assert await commit(server, version) == version + 1
        await right(server, version + 1)
    redis.configure(maxmemory=0)
    await until_live(server)


async def test_two_deployments_on_one_redis(fresh_database: FreshDatabase, redis_server: StartRedis) -> None:
    redis = redis_server()
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for _ in range(2):
            server = InProcess(
                settings_for(
                    postgres_url=fresh_database(migrated).url,
                    redis_url=redis.url,
                    redis_settle_s=0,
                    rho_read_timeout_ms=500,
                )
            )
            await server.open()
            stack.push_async_callback(server.close)
            servers.append(server)
        one, other = servers
        for version in range(3):
            await commit(one, version)
        await put(other, N, 0, Put("rho", density(seed=77)))
        for server in servers:
            await until_live(server)
        await right(one, 3)
        assert (await other.get(N)).version == 1
        assert (await other.get(N))["rho"].numbers == density(seed=77).tobytes()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://cache:6379", "its scheme is not one of"),
        ("redis://:s3cret@:6379/0", "it names no host"),
        ("redis://:s3cret@cache:port/0", "its port is not one"),
        ("redis://:s3cret@cache:6379/first", "its database is not a number"),
        ("redis://:s3cret@one:6379,two:6379/0", "it names several hosts"),
        ("redis+sentinel://:s3cret@one:26379,two:26379", "it names no service"),
        ("redis+cluster://:s3cret@one:6379/3", "a cluster has no databases but 0"),
        ("unix://", "it names no socket"),
    ],
)
async def test_an_address_that_is_none_is_refused_without_its_password(serve: Serve, url: str, problem: str) -> None:
    with pytest.raises(StoreRefused, match=re.escape(problem)) as caught:
        await serve(url)
    assert "s3cret" not in str(caught.value)


# ---- what it costs when it goes


async def test_the_first_commit_after_it_goes_waits_for_the_last_lease_and_the_next_does_not(
    serve: Serve, redis_server: StartRedis
) -> None:
    redis = redis_server()
    server = await serve(redis.url, fence_timeout_ms=300)
    await commit(server, 0)
    await until_live(server)
    await asyncio.to_thread(redis.kill)
    begun = time.monotonic()
    await commit(server, 1)
    waited = time.monotonic() - begun
    assert waited >= LEASE_S + MARGIN_S
    assert await state(server) is CacheState.DRAINED
    drains = server.app.metrics.registry.get_sample_value("sfm_cache_drains_total")
    for version in range(2, 5):
        await commit(server, version)
        await right(server, version + 1, degraded=True)
    assert server.app.metrics.registry.get_sample_value("sfm_cache_drains_total") == drains == 1


async def test_what_cannot_be_written_down_is_not_told(serve: Serve, redis_server: StartRedis) -> None:
    """Redis is gone and so is Postgres, just after the commit: nobody may know of it, and a retry finds out."""
    redis = redis_server()
    server = await serve(redis.url, fence_timeout_ms=50)
    await commit(server, 0)
    await until_live(server)
    store, off = server.app.store, server.app.store.cache_off  # type: ignore[attr-defined]

    async def away(_scope: object) -> None:
        raise StoreUnavailable(problem="it is away")

    store.cache_off = away  # type: ignore[attr-defined]
    await asyncio.to_thread(redis.kill)
    with pytest.raises(StoreUnavailable) as caught:
        await put(server, N, 1, Put("rho", density(seed=2)), request_id="r")
    assert caught.value.outcome_unknown
    with pytest.raises(StoreUnavailable):  # a conflict would tell of it, too
        await commit(server, 0)
    store.cache_off = off  # type: ignore[attr-defined]
    again = await put(server, N, 1, Put("rho", density(seed=2)), request_id="r")
    assert (again.version, again.replayed) == (2, True)
    with pytest.raises(VersionConflict):
        await commit(server, 0)


# ---- while Postgres is away


async def test_an_expired_lease_is_good_enough_for_who_says_so(
    fresh_database: FreshDatabase, redis_server: StartRedis, fault_proxy: StartProxy
) -> None:
    """A server that never read the namespace answers from what Redis still holds, and tells how old that is."""
    database, redis = fresh_database(migrated), redis_server()
    way = fault_proxy(database.url)
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for url in (database.url, way.url(database.url)):
            server = InProcess(settings_for(postgres_url=url, redis_url=redis.url, redis_settle_s=0, rho_read_timeout_ms=500))
            await server.open()
            stack.push_async_callback(server.close)
            servers.append(server)
        writer, reader = servers
        await commit(writer, 0)
        await until_live(writer)
        way.cut()
        live_now = await reader.get(N)
        assert (live_now.version, live_now.degraded) == (1, False)  # no database is needed while a lease stands
        await asyncio.sleep(LEASE_S)
        with pytest.raises(StoreUnavailable):
            await reader.get(N)
        before_us = time.time_ns() // 1000
        old = await reader.get(N, max_staleness_s=60)
        assert (old.version, old.cached, old.degraded) == (1, True, True)
        assert old["rho"].numbers == density(seed=1).tobytes()
        assert before_us - 60_000_000 < old.as_of_us < before_us
        with pytest.raises(StoreUnavailable):
            await reader.get(N, max_staleness_s=0.5)
        way.restore()

        async def is_back() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return not (await reader.get(N)).degraded
            return False

        await until(is_back, within_s=30)
