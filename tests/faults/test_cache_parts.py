"""Each part of the cache protocol: the situation that it is there for, with it and without it.

With all parts nothing is stale. Without the one, the same steps read something that is: so the part is needed, and the test can
tell.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from sfm_grpc.coordinator.outbox import TailQuery
from sfm_grpc.coordinator.watches import Watch
from sfm_grpc.errors import VersionConflict, VersionNotReached
from sfm_grpc.model import CacheState
from sfm_grpc.storage.leases import LEASE_S
from tests.support.engines.postgres import migrated
from tests.support.mutants import PARTS, without
from tests.support.replicas import Held, N, Replica, replicas
from tests.support.servers import settings_for, until
from tests.support.services.fixtures import FreshDatabase
from tests.support.services.redis_fixtures import StartRedis
from tests.support.services.redis_server import RedisServer


@dataclass
class Scene:
    """Three servers on one Postgres; two of them on one Redis, the third on it or on another one."""

    one: Replica
    two: Replica
    three: Replica
    redis: RedisServer
    found: list[tuple[int, int]] = field(default_factory=list)
    """What was read, and what had been told before."""

    async def read(self, replica: Replica, told: int) -> None:
        """A read of the default kind, asked after `told` was told."""
        self.found.append(((await replica.read()).version, told))

    @property
    def stale(self) -> list[tuple[int, int]]:
        """The reads that were older than what had been told."""
        return [(read, told) for read, told in self.found if read < told]


Stage = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def stage(fresh_database: FreshDatabase, redis_server: StartRedis) -> AsyncIterator[Stage]:
    """Sets a scene."""
    async with contextlib.AsyncExitStack() as stack:

        async def set_up(*, apart: bool = False, **said: object) -> Scene:
            database, redis = fresh_database(migrated), redis_server()
            other = redis_server() if apart else redis
            usual = {"redis_settle_s": 0, "rho_read_timeout_ms": 1000, "fence_timeout_ms": 100}
            settings = [
                settings_for(postgres_url=database.url, redis_url=url, **usual | said)
                for url in (redis.url, redis.url, other.url)
            ]
            return Scene(*await stack.enter_async_context(replicas(settings)), redis)

        yield set_up


# ---- the situations


async def late_fill(stage: Stage) -> Scene:
    """A reader has read version 1 and is slow to fill; version 2 is made and only fenced, as another writer planted since."""
    scene = await stage()
    fill = await _holds_a_fill_of_1(scene)
    publish = Held(scene.two.cache, "publish")
    commit = asyncio.create_task(scene.two.commit(1))
    await publish.reached.wait()
    await scene.three.cache.plant(N, None)
    publish.go.set()
    await commit
    await _let_go(scene.one, fill)
    await scene.read(scene.three, told=2)
    return scene


async def late_fill_after_a_flush(stage: Stage) -> Scene:
    """The same; and Redis has forgotten fence and token before the reader fills."""
    scene = await stage()
    fill = await _holds_a_fill_of_1(scene)
    await scene.two.commit(1)
    with scene.redis.client() as client:
        client.flushall()
    await _let_go(scene.one, fill)
    await scene.read(scene.three, told=2)
    return scene


async def late_fill_after_a_drain(stage: Stage) -> Scene:
    """The same; and the writer cannot reach Redis, and has waited for the last lease."""
    scene = await stage()
    fill = await _holds_a_fill_of_1(scene)
    scene.two.way.cut()
    await scene.two.commit(1)
    await _let_go(scene.one, fill)
    await scene.read(scene.three, told=2)
    return scene


async def old_dump(stage: Stage) -> Scene:
    """Redis comes back with what it held before version 2, whose lease has not run out."""
    scene = await stage()
    await _is_live(scene, 1)
    await scene.one.until_live(1, left_s=0.9)
    dump = scene.redis.dump()
    await scene.two.commit(1)
    await asyncio.to_thread(scene.redis.restart_with, dump)
    for _ in range(20):
        await scene.read(scene.three, told=2)
        await asyncio.sleep(0.01)
    return scene


async def writer_cut_off(stage: Stage) -> Scene:
    """The writer cannot reach Redis, readers can."""
    scene = await stage()
    await _is_live(scene, 1)
    with contextlib.suppress(TimeoutError):  # a lease that never ends is never renewed
        await scene.one.until_live(1, left_s=0.7, within_s=2)
    scene.two.way.cut()
    await scene.two.commit(1)
    await scene.read(scene.one, told=2)
    await scene.read(scene.three, told=2)
    return scene


async def two_redises(stage: Stage) -> Scene:
    """One server is on another Redis than the others."""
    scene = await stage(apart=True)
    await scene.one.commit(0)
    for version in range(1, 4):
        for _ in range(3):
            await scene.read(scene.three, told=version)
            await scene.read(scene.one, told=version)
            await asyncio.sleep(0.05)
        await scene.one.commit(version)
        await scene.read(scene.three, told=version + 1)
    return scene


async def slow_publisher(stage: Stage) -> Scene:
    """A writer is slow to publish version 2; version 3 is published; Redis forgets it all before the slow one goes on."""
    scene = await stage()
    await _is_live(scene, 1)
    fence = Held(scene.one.fences, "_fenced")
    slow = asyncio.create_task(scene.one.commit(1))
    await fence.reached.wait()
    await scene.two.commit(2)
    with scene.redis.client() as client:
        client.flushall()
    fence.go.set()
    await slow
    await scene.read(scene.one, told=3)
    await scene.read(scene.three, told=3)
    return scene


async def drained(stage: Stage) -> Scene:
    """No cache is registered: what is committed is told without asking Redis, which is there all the same."""
    scene = await stage(redis_settle_s=3600)
    await scene.one.commit(0)
    await scene.three.read()
    await asyncio.sleep(0.1)  # whoever wants to fill has done so
    await scene.two.commit(1)
    await scene.read(scene.three, told=2)
    return scene


async def a_commit(stage: Stage) -> Scene:
    """Nothing is wrong at all."""
    scene = await stage()
    await _is_live(scene, 1)
    await scene.one.until_live(1)
    await scene.two.commit(1)
    await scene.read(scene.three, told=2)
    return scene


async def _is_live(scene: Scene, version: int) -> None:
    await scene.one.commit(version - 1)
    await scene.one.until_live(version)
    await scene.three.until_live(version)


async def _holds_a_fill_of_1(scene: Scene) -> Held:
    """Version 1's lease has run out; a reader has missed, has read it, and is about to fill."""
    await _is_live(scene, 1)
    await asyncio.sleep(LEASE_S)
    fill = Held(scene.one.cache, "fill")
    await scene.read(scene.one, told=1)
    await fill.reached.wait()
    return fill


async def _let_go(replica: Replica, fill: Held) -> None:
    fill.go.set()
    await until(lambda: not replica.leases._filling)


NEEDED: dict[str, Callable[[Stage], Awaitable[Scene]]] = {
    "token": late_fill_after_a_flush,
    "fence": late_fill,
    "run_id": old_dump,
    "registered_run_id": two_redises,
    "lease": writer_cut_off,
    "lease_from_token_time": late_fill_after_a_drain,
    "token_before_commit": slow_publisher,
    "gated_fill": drained,
    "drain": writer_cut_off,
    "fence_before_telling": a_commit,
}


# A lease lasts for a second, and on a busy machine a commit may take as long: then all is as it should be, and nothing is shown.
TRIES = 3


def test_every_part_has_its_situation() -> None:
    assert NEEDED.keys() == PARTS.keys()


@pytest.mark.parametrize("situation", dict.fromkeys(NEEDED.values()), ids=lambda s: s.__name__)
async def test_with_all_parts_nothing_is_stale(stage: Stage, situation: Callable[[Stage], Awaitable[Scene]]) -> None:
    scene = await situation(stage)
    assert scene.found
    assert scene.stale == []
    seen = await scene.one.app.store.cache_seen(N)  # type: ignore[attr-defined]
    assert seen.state in CacheState


@pytest.mark.parametrize("part", PARTS)
async def test_without_the_part_something_is(stage: Stage, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(part, monkeypatch)
    for _ in range(TRIES):
        scene = await NEEDED[part](stage)
        if scene.stale:
            return
    pytest.fail(f"without {part} nothing stale was read: {scene.found}")


# ---- whoever tells a version fences it, and not only who made it


async def a_conflict(replica: Replica) -> None:
    with pytest.raises(VersionConflict) as refused:
        await replica.commit(1)
    assert refused.value.current == 2


async def a_watch(replica: Replica) -> None:
    stream = replica.app.watches.follow(Watch(N, after_version=1))
    async with contextlib.aclosing(stream):
        assert (await anext(stream)).version.version == 2  # type: ignore[union-attr]


async def a_watch_from_another_history(replica: Replica) -> None:
    stream = replica.app.watches.follow(Watch(N, after_version=9))
    with pytest.raises(VersionNotReached) as refused:
        await anext(stream)
    assert refused.value.current == 2


async def a_tail_of_events(replica: Replica) -> None:
    async with contextlib.aclosing(replica.app.outbox.tail(TailQuery(N, topics=("rho.status",)))) as events:
        assert [event.version async for event in events] == [1, 2]


async def what_is_sent_to_kafka(replica: Replica) -> None:
    assert [event.version for event in await replica.app.outbox.after(0)] == [1, 2]


TELLINGS = [a_conflict, a_watch, a_watch_from_another_history, a_tail_of_events, what_is_sent_to_kafka]


@pytest.mark.parametrize("telling", TELLINGS, ids=lambda t: t.__name__)
async def test_a_version_that_is_made_and_not_yet_told_is_fenced_by_who_tells_it(
    stage: Stage, telling: Callable[[Replica], Awaitable[None]]
) -> None:
    scene = await stage()
    await _is_live(scene, 1)
    fence = Held(scene.one.fences, "_fenced")
    commit = asyncio.create_task(scene.one.commit(1))
    await fence.reached.wait()
    await scene.three.until_live(1)
    await telling(scene.two)
    await scene.read(scene.three, told=2)
    fence.go.set()
    await commit
    assert scene.stale == []
