"""PLANT and PUBLISH are a Redis commit: expected versions compared, many keys switched at once, and only forward."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from sfm_grpc.model import Scope
from sfm_grpc.storage.leases import Live, Missed
from sfm_grpc.storage.redis import RedisCache
from tests.lua.conftest import MakeCache
from tests.support.services.redis_process import RunningRedis

N = Scope("default", "n")
WRITERS, COMMITS, READERS, KEYS = 6, 80, 3, 20


@dataclass
class Truth:
    """What a store would know: one version after the other, each with all its keys."""

    version: int = 0
    contents: dict[int, bytes] = field(default_factory=dict)
    told: int = 0
    """The newest version that a writer has been told of."""
    conflicts: int = 0

    def commit(self, expected: int, writer: int) -> int | None:
        """The version that is made, or None: another was faster."""
        if expected != self.version:
            return None
        self.version += 1
        self.contents[self.version] = json.dumps([[f"key {k}", self.version, writer] for k in range(KEYS)]).encode()
        return self.version


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


async def write(cache: RedisCache, truth: Truth, writer: int, rng: random.Random) -> None:
    """Commits until it has made its share."""
    made = 0
    while made < COMMITS:
        expected = max(0, truth.version - rng.choice((0, 0, 0, 1)))
        planted = await cache.plant(N, expected)
        if planted.live:
            # Redis alone says so, and it is true: someone has made it, and nobody can make the expected one's successor any more.
            assert expected < planted.live <= truth.version
            truth.conflicts += 1
            continue
        await asyncio.sleep(rng.uniform(0, 0.003))
        version = truth.commit(expected, writer)
        if version is None:
            truth.conflicts += 1
            continue
        content = truth.contents[version]
        await cache.stage(N, {digest(content): content})
        await asyncio.sleep(rng.uniform(0, 0.003))
        assert await cache.publish(N, planted, planted.name, version, digest(content)) is not None
        truth.told = max(truth.told, version)
        made += 1


async def read(cache: RedisCache, truth: Truth, done: asyncio.Event, rng: random.Random) -> list[int]:
    """Reads what is live, and fills like a reader where nothing is; the versions in order."""
    seen = []
    while not done.is_set():
        told = truth.told
        found = await cache.check(N)
        if isinstance(found, Missed):
            version = truth.version
            await asyncio.sleep(rng.uniform(0, 0.003))
            if version:
                content = truth.contents[version]
                await cache.stage(N, {digest(content): content})
                await cache.fill(N, found, version, digest(content))
            continue
        assert isinstance(found, Live)
        assert told <= found.version <= truth.version, "what was told before is older than this"
        [content] = await cache.fetch(N, [found.manifest])
        assert content == truth.contents[found.version], "all keys are of one version, the one that is live"
        assert {version for _, version, _ in json.loads(content)} == {found.version}
        seen.append(found.version)
    return seen


async def race(caches: Sequence[RedisCache], seed: int) -> tuple[Truth, list[list[int]]]:
    truth, done, rng = Truth(), asyncio.Event(), random.Random(seed)
    turns = [caches[n % len(caches)] for n in range(WRITERS + READERS)]
    readers = [asyncio.create_task(read(c, truth, done, rng)) for c in turns[:READERS]]
    async with asyncio.TaskGroup() as group:
        for number, cache in enumerate(turns[READERS:]):
            group.create_task(write(cache, truth, number, rng))
    done.set()
    return truth, await asyncio.gather(*readers)


async def test_concurrent_writers_compare_and_switch_all_keys_at_once(make_cache: MakeCache, redis_service: RunningRedis) -> None:
    truth, seen = await race([make_cache(redis_service.url) for _ in range(3)], seed=1)
    assert truth.version == WRITERS * COMMITS
    assert truth.conflicts > 0
    for versions in seen:
        assert versions == sorted(versions), "only forward"
    assert sum(len(set(versions)) for versions in seen) > 20, "readers did meet versions while they were live"
