"""Finding a real Redis: a URL, Docker, the machine's own, Valkey as a wheel; in this order, without root.

`SFM_TEST_REDIS=url|docker|machine|wheel` asks for one of them. Only 7.0 or newer counts, and Valkey counts as Redis. Tests that
kill or freeze one get servers of their own from the machine's program or the wheel's, except where `SFM_TEST_REDIS_URL` names
the Redis to test with: that one is not ours to kill.
"""

from __future__ import annotations

import os
from typing import Any

import redis

from tests.support.services.absence import AbsentError
from tests.support.services.docker import DockerRedis
from tests.support.services.redis_binaries import OLDEST, Program, search
from tests.support.services.redis_cluster import RedisCluster
from tests.support.services.redis_process import RunningRedis, connect
from tests.support.services.redis_sentinel import RedisSentinel
from tests.support.services.redis_server import RedisServer

URL, FORCED = "SFM_TEST_REDIS_URL", "SFM_TEST_REDIS"
GRADES = ("url", "docker", "machine", "wheel")


def find_redis() -> RunningRedis:
    """The first there is, running; close it. AbsentError, with every reason, if there is none."""
    reasons = []
    for grade, way in (("url", _given), ("docker", DockerRedis), ("machine", _ours), ("wheel", _ours)):
        if _forced() in (None, grade):
            try:
                return way(grade)
            except AbsentError as absent:
                reasons += absent.reasons
    raise AbsentError("redis", reasons)


def own_redis(**options: Any) -> RedisServer:
    """A server that is the caller's to start, kill and close, with `RedisServer`'s options. AbsentError if there is none."""
    return RedisServer(_program(options), **options)


def own_redis_cluster(**options: Any) -> RedisCluster:
    """Likewise a cluster, with `RedisCluster`'s options."""
    return RedisCluster(_program(options), **options)


def own_redis_sentinel(**options: Any) -> RedisSentinel:
    """Likewise a master and a replica under a Sentinel, with `RedisSentinel`'s options."""
    return RedisSentinel(_program(options), **options)


def _program(options: dict[str, Any]) -> Program:
    """The best that can do what is asked."""
    grade = _forced()
    if grade == "url" or (grade is None and os.environ.get(URL)):
        raise AbsentError("redis", [f"{URL} names a server that is not ours to stop, kill or configure"])
    looked = search(None if grade == "docker" else grade)
    if not looked.found:
        raise AbsentError("redis", looked.reasons)
    able = [program for program in looked.found if program.tls or not options.get("tls")]
    if not able:
        raise AbsentError("redis-tls", [f"{program} was built without TLS" for program in looked.found])
    return able[0]


def _forced() -> str | None:
    grade = os.environ.get(FORCED) or None
    if grade is not None and grade not in GRADES:
        raise ValueError(f"{FORCED} is {grade!r}, not one of {', '.join(GRADES)}")
    return grade


def _given(grade: str) -> RunningRedis:
    url = os.environ.get(URL)
    if not url:
        raise AbsentError("redis", [f"{grade}: {URL} is not set"])
    try:
        with connect(url) as c:
            said = c.info("server")
    except (redis.ConnectionError, redis.TimeoutError) as error:  # somebody means this one: another in its place would be a lie
        raise RuntimeError(f"{URL} is set, and no Redis answers there: {error}") from error
    brand, version = ("Valkey", said["valkey_version"]) if "valkey_version" in said else ("Redis", said["redis_version"])
    if tuple(map(int, str(version).split(".")[:2])) < OLDEST:
        raise RuntimeError(f"{URL} leads to {brand} {version}, and {'.'.join(map(str, OLDEST))} is the oldest that counts")
    return RunningRedis(url, f"{brand} {version} (url)")


def _ours(grade: str) -> RedisServer:
    looked = search(grade)
    if not looked.found:
        raise AbsentError("redis", looked.reasons)
    return RedisServer(looked.found[0]).__enter__()  # which closes it if it does not start
