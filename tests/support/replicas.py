"""Several servers on one Postgres, each with its own way to a Redis that may be cut, and its steps that may be held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.coordinator.leased import Leases
from sfm_grpc.model import CacheState, Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage.redis import RedisCache
from tests.support.drivers import InProcess, Put, Read, put
from tests.support.matrices import density
from tests.support.servers import until
from tests.support.services.proxy import FaultProxy

NAMESPACE = "n"
N = Scope("default", NAMESPACE)


class Held:
    """One step of one server: the next time it is taken, it waits until it may go on."""

    def __init__(self, owner: object, step: str) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self._owner, self._step = owner, step
        self._usual: Callable[..., Any] = getattr(owner, step)
        setattr(owner, step, self._wait)

    async def _wait(self, *args: Any, **named: Any) -> Any:
        delattr(self._owner, self._step)  # only this once
        self.reached.set()
        await self.go.wait()
        return await self._usual(*args, **named)


class Replica(InProcess):
    """A server, and its way to Redis."""

    def __init__(self, settings: Settings, way: FaultProxy) -> None:
        super().__init__(settings)
        self.way = way

    @property
    def cache(self) -> RedisCache:
        assert self.app.cache is not None
        return self.app.cache

    @property
    def leases(self) -> Leases:
        assert self.app.leases is not None
        return self.app.leases

    @property
    def fences(self) -> Fences:
        assert self.app.fences is not None
        return self.app.fences

    async def commit(self, *args: Any, **named: Any) -> Any:
        """Commits version N + 1 where `args` is (N,); else as InProcess."""
        if len(args) == 1 and isinstance(args[0], int):
            return await put(self, NAMESPACE, args[0], Put("rho", density(seed=args[0] + 1)), **named)
        return await super().commit(*args, **named)

    async def read(self, **how: Any) -> Read:
        """The newest version."""
        return await self.get(NAMESPACE, **how)

    async def live(self) -> tuple[int, float]:
        """Which version Redis holds, and how much is left of its lease in seconds; 0: none.

        A look that plants nothing, or it would be in its own way.
        """
        redis, key = self.cache._content, self.cache._key(N)
        version, stop = await redis.hmget(key, "version", "stop")
        seconds, microseconds = await redis.time()
        return int(version or 0), int(stop or 0) / 1000 - seconds - microseconds / 1e6

    async def until_live(self, version: int, *, left_s: float = 0.0, within_s: float = 20.0) -> None:
        """Reads until this version is live, with so much left of its lease."""

        async def is_live() -> bool:
            await self.read()
            found, left = await self.live()
            return found == version and left > left_s

        await until(is_live, within_s=within_s)

    async def until_state(self, state: CacheState) -> None:
        """Waits until the head's row says so."""

        async def is_so() -> bool:
            return (await self.app.store.cache_seen(N)).state is state  # type: ignore[attr-defined]

        await until(is_so, within_s=20)


@contextlib.asynccontextmanager
async def replicas(settings: Sequence[Settings]) -> AsyncIterator[list[Replica]]:
    """Servers of these settings, each behind a proxy to the Redis that it names."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for one in settings:
            assert one.redis_url is not None
            url = one.redis_url.get_secret_value()
            way = stack.enter_context(FaultProxy.to(url))
            replica = Replica(one.model_copy(update={"redis_url": type(one.redis_url)(way.url(url))}), way)
            await replica.open()
            stack.push_async_callback(replica.close)
            made.append(replica)
        yield made
