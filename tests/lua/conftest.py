"""Caches on a real Redis."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from sfm_grpc.metrics import CacheMetrics
from sfm_grpc.storage.redis import RedisCache, RedisOptions
from tests.support.services.redis_process import RunningRedis

MakeCache = Callable[..., RedisCache]


@pytest.fixture
async def make_cache() -> AsyncIterator[MakeCache]:
    """Makes caches of one deployment that nobody else has, each with connections of its own; none is started."""
    identity = secrets.token_hex(8)
    async with contextlib.AsyncExitStack() as stack:

        def make(url: str, *, of: str = identity, **options: object) -> RedisCache:
            given = {"timeout_s": 2.0, "fence_timeout_s": 2.0} | options  # a loaded machine is no fault of Redis
            cache = RedisCache(RedisOptions(url, **given), lambda: of, CacheMetrics(CollectorRegistry()))  # type: ignore[arg-type]
            stack.push_async_callback(cache.close)
            return cache

        yield make


@pytest.fixture
def cache(make_cache: MakeCache, redis_service: RunningRedis) -> RedisCache:
    """One on the Redis that all tests share."""
    return make_cache(redis_service.url)
