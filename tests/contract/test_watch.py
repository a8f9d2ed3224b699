"""WatchRho: every version in order, each once, from wherever one left off; and nothing kept for who does not take it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sfm_grpc.errors import (
    InvalidRequest,
    LimitExceeded,
    Overloaded,
    RhoCorrupt,
    StoreUnavailable,
    VersionCompacted,
    VersionConflict,
    VersionNotReached,
)
from sfm_grpc.model import CacheSeen, Kind, Scope
from tests.support.drivers import LAST_VALID, Ask, Delete, Driver, Put, put, series
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch
from tests.support.servers import until
from tests.support.watching import Told, watch

GENERIC = Kind.GENERIC
N = Scope("default", "n")
OFTEN = {"bookmark_interval_s": 0.1}


def now_us() -> int:
    return time.time_ns() // 1000


def spied(driver: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the store is asked, while it answers as ever."""
    asked: list[Any] = []
    ask: Callable[..., Any] = getattr(driver.app.store, name)

    async def listening(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return await ask(*args, **kwargs)

    monkeypatch.setattr(driver.app.store, name, listening)
    return asked


# ---- where it begins, and what comes -----------------------------------------------------------------------------------


async def test_it_begins_with_the_newest_and_goes_on_with_what_is_committed(driver: Driver) -> None:
    sent = await series(driver, "n", 3)
    async with watch(driver) as watcher:
        first = await watcher.next()
        assert (first.version, first.matrices["rho"].numbers) == (3, sent[2].tobytes())
        sent += await series(driver, "n", 2, start=3, committer="m", metadata={"why": "ρ"})
        for version in (4, 5):
            told = await watcher.next()
            assert (told.version, told.committer, told.metadata) == (version, "m", {"why": "ρ"})
            assert (told.changed_keys, told.restored_version, told.valid) == (("rho",), 0, True)
            assert told.matrices["rho"].numbers == sent[version - 1].tobytes()
            assert told.matrices["rho"].put_version == version


async def test_it_tells_what_a_read_of_that_version_answers(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density()), Put("g", sketch(), kind=GENERIC))
    await put(driver, "n", 1, Put("f", sketch(), form="factor", kind=Kind.DENSITY))
    async with watch(driver, after_version=0) as watcher:
        for told in await watcher.take(2):
            read = await driver.get("n", version=told.version)
            assert (told.version, told.time_us, dict(told.matrices)) == (read.version, read.time_us, dict(read.matrices))


@pytest.mark.parametrize("after", [0, 1, 4, 7])
async def test_it_goes_on_exactly_after_the_version_that_is_named(driver: Driver, after: int) -> None:
    await series(driver, "n", 7)
    async with watch(driver, after_version=after, **OFTEN) as watcher:
        assert await watcher.numbers(7 - after) == list(range(after + 1, 8))
        assert (await watcher.bookmark()).version == 7
        await series(driver, "n", 1, start=7)
        assert await watcher.numbers(1) == [8]


async def test_a_namespace_that_does_not_exist_yet_is_waited_for(driver: Driver) -> None:
    async with watch(driver, **OFTEN) as newest, watch(driver, after_version=0, **OFTEN) as all_of_it:
        for watcher in (newest, all_of_it):
            assert [(await watcher.bookmark()).version for _ in range(2)] == [0, 0]
        await series(driver, "n", 2)
        for watcher in (newest, all_of_it):
            assert await watcher.numbers(2) == [1, 2]


async def test_a_namespace_of_another_tenant_is_another_one(driver: Driver) -> None:
    async with watch(driver, tenant="other", after_version=0, **OFTEN) as watcher:
        await series(driver, "n", 2)
        await put(driver, "n", 0, Put("rho", density(seed=9)), tenant="other")
        assert (await watcher.next()).matrices["rho"].numbers == density(seed=9).tobytes()
        assert (await watcher.bookmark()).version == 1


async def test_only_the_keys_that_are_asked_for_come_and_an_absent_one_is_left_out(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density()), Put("g", sketch(), kind=GENERIC))
    await put(driver, "n", 1, Put("late", sketch(seed=2), kind=GENERIC))
    async with watch(driver, "n", "g", "late", after_version=0) as watcher:
        first, second = await watcher.take(2)
        assert (list(first.matrices), list(second.matrices)) == (["g"], ["g", "late"])
        assert (first.changed_keys, second.changed_keys) == (("rho", "g"), ("late",))


async def test_without_numbers_certificates_come(driver: Driver) -> None:
    await series(driver, "n", 1)
    async with watch(driver, numbers=False) as watcher:
        held = (await watcher.next()).matrices["rho"]
        assert (held.numbers, held.certificate.digest) == (None, sha256(density(seed=1)))


async def test_deletions_and_restores_are_told(driver: Driver) -> None:
    async with watch(driver, after_version=0) as watcher:
        await put(driver, "n", 0, Put("rho", density()), Put("g", sketch(), kind=GENERIC))
        await put(driver, "n", 1, Delete("g"))
        await driver.restore(Ask(namespace="n", expected=2), 1)
        await driver.restore(Ask(namespace="n", expected=3), LAST_VALID)
        told = await watcher.take(4)
    assert [list(t.matrices) for t in told] == [["g", "rho"], ["rho"], ["g", "rho"], ["g", "rho"]]
    assert [t.restored_version for t in told] == [0, 0, 1, 3]
    assert told[1].changed_keys == ("g",)
    assert told[2].matrices == told[0].matrices


async def test_many_writers_are_told_in_order_without_a_gap(driver: Driver) -> None:
    """Each version's numbers say who won it."""
    won: dict[int, bytes] = {}

    async def writer(place: int) -> None:
        at = 0
        for turn in range(5):
            rho = density(seed=10 * place + turn)
            while True:
                try:
                    at = (await put(driver, "n", at, Put("rho", rho))).version
                    break
                except VersionConflict as conflict:
                    at = conflict.current
            won[at] = rho.tobytes()

    async with watch(driver, after_version=0) as watcher:
        told, *_ = await asyncio.gather(watcher.take(20), *(writer(place) for place in range(4)))
    assert {t.version: t.matrices["rho"].numbers for t in told} == won
    assert [t.version for t in told] == list(range(1, 21))


# ---- who is slow -------------------------------------------------------------------------------------------------------


async def test_newest_only_skips_what_is_no_longer_the_newest(driver: Driver) -> None:
    await series(driver, "n", 1)
    async with watch(driver, newest_only=True, after_version=0, **OFTEN) as watcher:
        seen = [(await watcher.next()).version]
        big = [Put("g", sketch(512, 256, seed=v), kind=GENERIC) for v in range(12)]  # more than gRPC takes ahead, by far
        for version in range(1, 61):
            await put(driver, "n", version, big[version % 12])
        while seen[-1] < 61:
            told = await watcher.next()
            assert told.matrices["g"].numbers == big[(told.version - 1) % 12].array.tobytes()
            seen.append(told.version)
        assert (await watcher.bookmark()).version == 61
    assert seen == sorted(set(seen))
    assert len(seen) < 40


@pytest.mark.settings(rho_history_versions=3)
async def test_what_is_no_longer_kept_is_told_and_ends_it(driver: Driver) -> None:
    await series(driver, "n", 8)

    async def compacted() -> bool:
        return (await driver.versions("n")).oldest == 6

    await until(compacted)
    async with watch(driver, after_version=0) as watcher:
        with pytest.raises(VersionCompacted) as caught:
            await watcher.next()
    assert (caught.value.version, caught.value.oldest, caught.value.current) == (1, 6, 8)
    async with watch(driver, after_version=5) as watcher:
        assert await watcher.numbers(3) == [6, 7, 8]
    async with watch(driver, after_version=0, newest_only=True) as watcher:
        assert await watcher.numbers(1) == [8]


async def test_streams_that_are_in_step_share_one_reading(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def all_of_it() -> list[Told]:
        async with watch(driver, after_version=0) as watcher:
            return await watcher.take(10)

    watching = [asyncio.create_task(all_of_it()) for _ in range(40)]
    await until(lambda: driver.app.watches._streams == 40)
    reads = spied(driver, "read", monkeypatch)
    for version in range(10):
        await put(driver, "n", version, Put("rho", density(seed=version)))
        await asyncio.sleep(0.02)
    told = await asyncio.gather(*watching)
    # One that fell behind reads for itself, and may find that there is a newer one: it says so, and tells the same.
    same = [[replace(t, as_of_us=0) for t in one] for one in told]
    assert all(one == same[0] for one in same)
    assert [t.version for t in told[0]] == list(range(1, 11))
    assert len(reads) < 100, "40 streams of 10 versions"
    await until(lambda: driver.app.watches._followed == {})


# ---- bookmarks ---------------------------------------------------------------------------------------------------------


async def test_a_bookmark_says_since_when_nothing_is_newer(driver: Driver) -> None:
    await series(driver, "n", 2)
    begun_us = now_us()
    async with watch(driver, after_version=2, **OFTEN) as watcher:
        first = await watcher.bookmark()
        assert first.version == 2
        assert begun_us <= first.as_of_us <= now_us()
        started = time.monotonic()
        times = [first.as_of_us] + [(await watcher.bookmark()).as_of_us for _ in range(4)]
        assert time.monotonic() - started >= 0.4
        assert times == sorted(set(times))
        await series(driver, "n", 1, start=2)
        told = await watcher.next()
        committed_us = told.time_us
        assert told.as_of_us == 0 or told.as_of_us >= committed_us
        assert (await watcher.bookmark()).as_of_us >= committed_us


async def test_a_version_is_the_newest_at_the_time_it_says(driver: Driver) -> None:
    await series(driver, "n", 3)
    begun_us = now_us()
    async with watch(driver, after_version=0) as watcher:
        told = await watcher.take(3)
    assert [t.as_of_us for t in told[:2]] == [0, 0]
    assert begun_us <= told[2].as_of_us <= now_us()


async def test_nobody_is_asked_while_nobody_watches(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = spied(driver, "newest", monkeypatch)
    await series(driver, "n", 2)
    await asyncio.sleep(0.3)
    assert looks == []
    async with watch(driver, **OFTEN) as one, watch(driver, "m", **OFTEN) as other:
        await one.next()
        await other.bookmark()
        await until(lambda: len(looks) >= 5)
        assert set(looks[-1][0][0]) == {N, Scope("default", "m")}
    await until(lambda: driver.app.watches._streams == 0)
    count = len(looks)
    await asyncio.sleep(0.3)
    assert len(looks) <= count + 1


# ---- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_a_version_that_was_not_reached_cannot_be_gone_on_after(driver: Driver) -> None:
    await series(driver, "n", 2)
    for namespace, current in (("n", 2), ("absent", 0)):
        async with watch(driver, namespace, after_version=3) as watcher:
            with pytest.raises(VersionNotReached) as caught:
                await watcher.told()
        assert (caught.value.namespace, caught.value.min_version, caught.value.current) == (namespace, 3, current)


async def test_a_history_that_went_back_ends_it(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 4)
    async with watch(driver, **OFTEN) as watcher:
        assert await watcher.numbers(1) == [4]
        engine.rewind(driver.settings, N, 2)
        with pytest.raises(VersionNotReached) as caught:
            await watcher.next()
    assert (caught.value.min_version, caught.value.current) == (4, 2)
    async with watch(driver) as again:
        told = await again.next()
        assert (told.version, told.matrices["rho"].numbers) == (2, density(seed=2).tobytes())


async def test_numbers_that_fail_their_digest_end_it_and_it_can_go_on_behind_them(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 3)
    engine.corrupt(driver.settings, N, 2, "rho")
    async with watch(driver, after_version=0) as watcher:
        assert await watcher.numbers(1) == [1]
        with pytest.raises(RhoCorrupt) as caught:
            await watcher.next()
    assert (caught.value.version, caught.value.key) == (2, "rho")
    async with watch(driver, after_version=2) as watcher:
        assert await watcher.numbers(1) == [3]


async def test_while_the_store_is_away_it_waits_and_then_goes_on(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 2)
    async with watch(driver, after_version=0, **OFTEN) as watcher:
        assert await watcher.numbers(2) == [1, 2]
        await watcher.bookmark()
        with engine.unplugged(driver.settings):
            await asyncio.sleep(0.3)
            away_us = now_us()
            waiting = asyncio.create_task(watcher.next())
            await asyncio.sleep(0.7)
            assert not waiting.done()
        async with asyncio.timeout(20):
            while True:
                try:
                    await series(driver, "n", 1, start=2)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.1)
        back_us = now_us()
        assert (await waiting).version == 3
        said = [b.as_of_us for b in watcher.bookmarks]
        assert not [t for t in said if away_us < t < away_us + 600_000], "a bookmark told of a time at which nobody was asked"
        assert (await watcher.bookmark()).as_of_us >= back_us


async def test_a_stream_that_begins_while_the_store_is_away_begins_when_it_is_back(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 2)
    with engine.unplugged(driver.settings):
        watcher = watch(driver, after_version=1)
        waiting = asyncio.create_task(watcher.next())
        await asyncio.sleep(0.3)
        assert not waiting.done()
    assert (await waiting).version == 2
    await watcher.close()


async def test_what_is_told_was_fenced_before(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    fenced: list[int] = []
    away = True

    class Fences:
        async def tell(self, scope: Scope, number: int, _seen: CacheSeen | None) -> None:
            if away:
                raise StoreUnavailable(problem="the cache cannot be told")
            assert scope == N
            await asyncio.sleep(0.01)
            fenced.append(number)

    monkeypatch.setattr(driver.app.watches, "_fences", Fences())
    async with watch(driver, after_version=0, **OFTEN) as watcher:
        assert (await watcher.bookmark()).version == 0
        await series(driver, "n", 3)
        waiting = asyncio.create_task(watcher.take(3))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert watcher.bookmarks == []
        away = False
        for told in await waiting:
            assert told.version in fenced


# ---- limits and mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.settings(watch_streams_max=2)
async def test_a_stream_too_many_is_told_to_come_again(driver: Driver) -> None:
    async with watch(driver) as one, watch(driver, "m") as other:
        await one.bookmark()
        await other.bookmark()
        async with watch(driver) as third:
            with pytest.raises(Overloaded) as caught:
                await third.told()
        assert (caught.value.limit, caught.value.maximum) == ("watch_streams_max", 2)
        assert caught.value.retry_delay_s
        await series(driver, "n", 1)
        assert await one.numbers(1) == [1]
    await until(lambda: driver.app.watches._streams == 0)
    async with watch(driver) as again:
        assert await again.numbers(1) == [1]


@pytest.mark.settings(keys_per_namespace_max=2)
@pytest.mark.parametrize(
    ("keys", "error", "problem"),
    [
        (["a", "a"], InvalidRequest, "twice"),
        (["\n"], InvalidRequest, "U\\+000A"),
        (["a", "b", "c"], LimitExceeded, "keys_per_namespace_max is 2"),
    ],
)
async def test_keys_that_cannot_be_are_refused(driver: Driver, keys: list[str], error: type[Exception], problem: str) -> None:
    async with watch(driver, "n", *keys) as watcher:
        with pytest.raises(error, match=problem):
            await watcher.told()


async def test_a_namespace_that_cannot_be_is_refused(driver: Driver) -> None:
    async with watch(driver, "") as watcher:
        with pytest.raises(InvalidRequest, match="namespace: is required"):
            await watcher.told()
