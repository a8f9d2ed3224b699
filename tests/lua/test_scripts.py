"""READ, PLANT, FILL and PUBLISH: what each does, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from sfm_grpc.model import Scope
from sfm_grpc.storage.leases import LEASE_S, CacheUnavailable, Live, Missed, Planted
from sfm_grpc.storage.redis import RedisCache
from tests.lua.conftest import MakeCache
from tests.support.mutants import CLOCK_KEY, with_a_clock_that_steps
from tests.support.services.redis_fixtures import StartRedis
from tests.support.services.redis_process import RunningRedis

N = Scope("default", "n")
# How long a reader has for its look at the store before another one may plant.
PATIENCE_S = 0.11


def name(version: int, history: str = "") -> bytes:
    """A manifest's name."""
    return hashlib.sha256(f"{history}{version}".encode()).digest()


async def missed(cache: RedisCache, scope: Scope = N) -> Missed:
    found = await cache.check(scope)
    assert isinstance(found, Missed), found
    return found


async def filled(cache: RedisCache, version: int, scope: Scope = N) -> Missed:
    """Fills after a miss, as a reader does; what it missed with."""
    found = await missed(cache, scope)
    assert await cache.fill(scope, found, version, name(version)) is not None
    return found


async def published(cache: RedisCache, version: int, scope: Scope = N) -> bytes | None:
    """Plants and publishes, as a writer does."""
    planted = await cache.plant(scope, None)
    return await cache.publish(scope, planted, planted.name, version, name(version))


# ---- reading and filling


async def test_who_misses_may_fill_once(cache: RedisCache) -> None:
    found = await missed(cache)
    assert (found.version, found.manifest, len(found.token)) == (0, b"", 12)
    assert await cache.fill(N, found, 7, name(7)) == b""
    assert await cache.check(N) == Live(7, name(7))
    assert await cache.fill(N, found, 8, name(8)) is None
    assert await cache.check(N) == Live(7, name(7))


async def test_the_first_who_missed_fills_and_where_it_does_not_the_next(cache: RedisCache) -> None:
    first, second = await missed(cache), await missed(cache)
    assert (len(first.token), second.token) == (12, b"")
    await asyncio.sleep(PATIENCE_S)
    third, fourth = await missed(cache), await missed(cache)
    assert (len(third.token), fourth.token) == (12, b"")
    assert await cache.fill(N, first, 7, name(7)) is None
    assert await cache.fill(N, third, 7, name(7)) == b""
    assert await cache.check(N) == Live(7, name(7))


async def test_a_token_that_was_never_planted_fills_nothing(cache: RedisCache) -> None:
    found = await missed(cache)
    for token in (b"", b"x" * 12):
        assert await cache.fill(N, replace(found, token=token), 7, name(7)) is None
    assert isinstance(await cache.check(N), Missed)


async def test_a_lease_begins_when_its_token_was_planted(cache: RedisCache) -> None:
    found = await missed(cache)
    await asyncio.sleep(LEASE_S + 0.05)
    assert await cache.fill(N, found, 7, name(7)) == b""
    late = await missed(cache)
    assert (late.version, late.manifest) == (7, name(7))
    assert LEASE_S <= late.age_s < 60


async def test_a_lease_ends(cache: RedisCache) -> None:
    await filled(cache, 7)
    assert await cache.check(N) == Live(7, name(7))
    await asyncio.sleep(LEASE_S)
    late = await missed(cache)
    assert (late.version, late.manifest) == (7, name(7))
    assert await cache.fill(N, late, 7, name(7)) == name(7)
    assert await cache.check(N) == Live(7, name(7))


async def test_nothing_older_is_filled(cache: RedisCache) -> None:
    slow = await missed(cache)
    assert await published(cache, 8) == b""
    await asyncio.sleep(LEASE_S)
    late = await missed(cache)
    assert await cache.fill(N, replace(slow, token=late.token), 7, name(7)) is None
    assert await cache.fill(N, late, 8, name(8)) == name(8)


async def test_namespaces_and_deployments_do_not_meet(make_cache: MakeCache, redis_service: RunningRedis) -> None:
    one, other = make_cache(redis_service.url), make_cache(redis_service.url, of="another store")
    scopes = [
        Scope("default", "n"),
        Scope("default", "n}"),
        Scope("default", "{n}"),
        Scope("d", "efaultn"),
        Scope("defaultn", ""),
    ]
    for version, scope in enumerate(scopes, 1):
        await filled(one, version, scope)
    for version, scope in enumerate(scopes, 1):
        assert await one.check(scope) == Live(version, name(version))
        assert isinstance(await other.check(scope), Missed)
    await asyncio.sleep(PATIENCE_S)
    await filled(other, 99)
    assert await one.check(N) == Live(1, name(1))
    assert not one.is_ours((await missed(other, scopes[1])).name)


# ---- publishing


async def test_a_published_version_is_live_where_its_writer_had_planted(cache: RedisCache) -> None:
    assert await published(cache, 7) == b""
    assert await cache.check(N) == Live(7, name(7))
    assert await published(cache, 8) == name(7)
    assert await cache.check(N) == Live(8, name(8))


async def test_a_token_of_a_writer_is_used_once_and_the_last_stands(cache: RedisCache) -> None:
    first, second = await cache.plant(N, None), await cache.plant(N, None)
    assert await cache.publish(N, first, first.name, 7, name(7)) == b""
    assert isinstance(await cache.check(N), Missed)
    assert await cache.publish(N, second, second.name, 7, name(7)) == b""
    assert await cache.check(N) == Live(7, name(7))
    assert await cache.publish(N, second, second.name, 8, name(8)) == name(7)
    assert isinstance(await cache.check(N), Missed)


async def test_without_a_token_it_only_fences(cache: RedisCache) -> None:
    seen = await filled(cache, 7)
    assert await cache.publish(N, None, seen.name, 8, b"") == name(7)
    late = await missed(cache)
    assert late.version == 0  # what is below the fence is not even told as expired
    assert await cache.fill(N, late, 7, name(7)) is None
    assert await cache.fill(N, late, 8, name(8)) == b""


async def test_publishing_is_idempotent_and_never_goes_back(cache: RedisCache) -> None:
    planted = await cache.plant(N, None)
    for _ in range(3):
        assert await cache.publish(N, planted, planted.name, 8, name(8)) == b""
        assert await cache.check(N) == Live(8, name(8))
    late = Planted(planted.name, planted.token)
    assert await cache.publish(N, late, late.name, 7, name(7)) == b""
    assert await cache.check(N) == Live(8, name(8))
    assert await published(cache, 7) == b""
    assert await cache.check(N) == Live(8, name(8))


async def test_it_fences_only_in_the_registered_redis(cache: RedisCache) -> None:
    seen = await filled(cache, 7)
    other = "0" * 40 + "/" + seen.name.partition("/")[2]
    assert await cache.publish(N, None, other, 8, b"") is None
    assert await cache.check(N) == Live(7, name(7))


# ---- planting


async def test_a_live_version_above_the_expected_one_is_a_conflict(cache: RedisCache) -> None:
    assert (await cache.plant(N, 0)).live == 0
    seen = await filled(cache, 7)
    lost = await cache.plant(N, 6)
    assert (lost.live, lost.token, lost.name) == (7, b"", seen.name)
    for expected in (7, 8, None):
        planted = await cache.plant(N, expected)
        assert (planted.live, len(planted.token)) == (0, 12)
    await asyncio.sleep(LEASE_S)
    assert (await cache.plant(N, 6)).live == 0  # nobody knows any more


# ---- when Redis forgets, or is another


async def test_a_flush_takes_version_fence_and_tokens_together(redis_server: StartRedis, make_cache: MakeCache) -> None:
    server = redis_server()
    cache = make_cache(server.url)
    await filled(cache, 7)
    planted = await cache.plant(N, None)
    with server.client() as client:
        client.flushall()
        reader = await missed(cache)
        client.flushall()
    assert await cache.fill(N, reader, 7, name(7)) is None
    assert await cache.publish(N, planted, planted.name, 8, name(8)) == b""
    late = await missed(cache)
    assert late.version == 0


async def test_what_an_earlier_process_wrote_means_nothing(redis_server: StartRedis, make_cache: MakeCache) -> None:
    server = redis_server()
    cache = make_cache(server.url)
    await filled(cache, 7)
    planted, reader = await cache.plant(N, None), await missed(cache, Scope("default", "m"))
    dump = server.dump()
    await published(cache, 8)
    await asyncio.to_thread(server.restart_with, dump)
    found = await missed(cache)
    assert (found.version, found.name == planted.name) == (0, False)
    assert await cache.fill(Scope("default", "m"), reader, 7, name(7)) is None
    assert await cache.publish(N, planted, planted.name, 8, name(8)) is None
    fresh = await cache.plant(N, 0)
    assert (fresh.live, fresh.name) == (0, found.name)


@pytest.mark.parametrize("script", ["check", "plant", "fill", "publish"])
async def test_scripts_that_redis_has_forgotten_are_sent_again(
    redis_server: StartRedis, make_cache: MakeCache, script: str
) -> None:
    server = redis_server()
    cache = make_cache(server.url)
    found, planted = await missed(cache), await cache.plant(N, None)
    with server.client() as client:
        client.script_flush()
    calls = {
        "check": lambda: cache.check(N),
        "plant": lambda: cache.plant(N, None),
        "fill": lambda: cache.fill(N, found, 7, name(7)),
        "publish": lambda: cache.publish(N, planted, planted.name, 7, name(7)),
    }
    assert await calls[script]() is not None


# ---- when Redis takes no writes


async def test_without_memory_it_still_fences_and_tells_what_is_live(redis_server: StartRedis, make_cache: MakeCache) -> None:
    server = redis_server()
    cache = make_cache(server.url)
    planted = await cache.plant(N, None)
    server.configure(maxmemory=1)
    assert await cache.publish(N, planted, planted.name, 7, name(7)) == b""
    assert await cache.check(N) == Live(7, name(7))
    found = await missed(cache, Scope("default", "m"))
    assert found.token == b""
    with pytest.raises(CacheUnavailable, match=r"(?i)memory"):
        await cache.plant(N, None)
    with pytest.raises(CacheUnavailable, match=r"(?i)memory"):
        await cache.stage(N, {name(1): b"x"})
    assert await cache.publish(N, None, planted.name, 8, b"") == name(7)
    server.configure(maxmemory=0)
    assert (await missed(cache)).token


async def test_a_replica_is_of_no_use(redis_server: StartRedis, make_cache: MakeCache) -> None:
    master = redis_server()
    cache = make_cache(master.url)
    seen = await filled(cache, 7)
    replica = redis_server(replica_of=master)
    behind = make_cache(replica.url)
    for _ in range(2):
        with pytest.raises(CacheUnavailable, match="replica"):
            await behind.check(N)
    with pytest.raises(CacheUnavailable, match=r"(?i)read.?only"):
        await behind.plant(N, None)
    with pytest.raises(CacheUnavailable, match=r"(?i)read.?only"):
        await behind.publish(N, None, seen.name, 8, b"")
    assert await cache.check(N) == Live(7, name(7)) or (await missed(cache)).version == 7


async def test_evicted_is_forgotten_altogether(redis_server: StartRedis, make_cache: MakeCache) -> None:
    server = redis_server()
    server.configure(**{"maxmemory-policy": "allkeys-random"})
    cache = make_cache(server.url)
    planted = await cache.plant(N, None)
    await cache.publish(N, planted, planted.name, 7, name(7))
    with server.client() as client:
        server.configure(maxmemory=client.info("memory")["used_memory"] + 200_000)
        for turn in range(400):
            client.set(f"fill-{turn}", b"x" * 10_000)
            if not client.keys("*:lease"):
                break
        else:
            pytest.fail("nothing was evicted")
    server.configure(maxmemory=0)
    late = await missed(cache)
    assert late.version == 0
    assert await cache.fill(N, late, 7, name(7)) == b""


# ---- when its clock steps


async def test_a_clock_that_jumps_ahead_ends_leases_and_one_that_steps_back_lengthens_none(
    redis_server: StartRedis, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_clock_that_steps(monkeypatch)
    server = redis_server()
    cache = make_cache(server.url)
    with server.client() as client:
        await filled(cache, 7)
        client.incrby(CLOCK_KEY, 1000)
        ahead = await missed(cache)
        assert (ahead.version, ahead.age_s >= LEASE_S) == (7, True)
        assert await cache.fill(N, ahead, 7, name(7)) == name(7)
        assert await cache.check(N) == Live(7, name(7))
        client.incrby(CLOCK_KEY, -5000)  # to before the lease began
        behind = await missed(cache)
        assert behind.token
        assert await cache.fill(N, behind, 7, name(7)) == name(7)
        assert await cache.check(N) == Live(7, name(7))
