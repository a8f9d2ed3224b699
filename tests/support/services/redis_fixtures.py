"""Fixtures of Redis: started when a test first asks, skipped with the reasons where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import pytest

from tests.support.services.absence import AbsentError, skip_or_fail
from tests.support.services.redis import find_redis, own_redis, own_redis_cluster, own_redis_sentinel
from tests.support.services.redis_cluster import RedisCluster
from tests.support.services.redis_process import RunningRedis
from tests.support.services.redis_sentinel import RedisSentinel
from tests.support.services.redis_server import RedisServer

Started = TypeVar("Started", RedisServer, RedisCluster, RedisSentinel)


@pytest.fixture(scope="session")
def redis_service() -> Iterator[RunningRedis]:
    """One Redis for all tests of this process, and all use its first database: tell your keys apart, and leave it running.

    Whoever wants to harm, fill or configure one says `redis_server`.
    """
    try:
        server = find_redis()
    except AbsentError as absent:
        skip_or_fail(absent)
    with contextlib.closing(server):
        yield server


class StartRedis(Protocol):
    def __call__(self, **options: object) -> RedisServer:
        """A running server; the options of `RedisServer`: conf, user, password, rules, tls, replica_of."""


class StartRedisCluster(Protocol):
    def __call__(self, **options: object) -> RedisCluster:
        """A cluster that is well; the options of `RedisCluster`: replicas, node_timeout_ms, and those of a server."""


class StartRedisSentinel(Protocol):
    def __call__(self, **options: object) -> RedisSentinel:
        """A master and a replica under a Sentinel; the options of `RedisSentinel`: down_after_ms, and those of a server."""


def _starts(own: Callable[..., Started]) -> Iterator[Callable[..., Started]]:
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> Started:
            try:
                made = own(**options)
            except AbsentError as absent:
                skip_or_fail(absent)
            return stack.enter_context(made)

        yield start


@pytest.fixture
def redis_server() -> Iterator[StartRedis]:
    """Starts servers of the test's own, to be stopped, killed, frozen, set back."""
    yield from _starts(own_redis)


@pytest.fixture
def redis_cluster() -> Iterator[StartRedisCluster]:
    """Starts clusters of the test's own, whose nodes may be harmed and whose slots may be moved."""
    yield from _starts(own_redis_cluster)


@pytest.fixture
def redis_sentinel() -> Iterator[StartRedisSentinel]:
    """Starts servers of the test's own under a Sentinel."""
    yield from _starts(own_redis_sentinel)


@pytest.fixture(scope="module")
def module_redis_server() -> Iterator[StartRedis]:
    """Starts servers that live as long as the module's tests."""
    yield from _starts(own_redis)


@pytest.fixture(scope="module")
def module_redis_cluster() -> Iterator[StartRedisCluster]:
    """Starts clusters that live as long as the module's tests: a cluster takes two seconds to become well."""
    yield from _starts(own_redis_cluster)


@pytest.fixture(scope="module")
def module_redis_sentinel() -> Iterator[StartRedisSentinel]:
    """Starts servers under a Sentinel that live as long as the module's tests."""
    yield from _starts(own_redis_sentinel)
