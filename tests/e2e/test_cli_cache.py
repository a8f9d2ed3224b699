"""`sfm cache`, as a person types it, against a server behind Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfm_grpc.client import Client
from tests.support.cli import Served, run
from tests.support.engines.postgres import migrated
from tests.support.matrices import density
from tests.support.services.fixtures import FreshDatabase
from tests.support.services.redis_fixtures import StartRedis
from tests.support.services.redis_server import RedisServer


@pytest.fixture
def redis(redis_server: StartRedis) -> RedisServer:
    """One of the test's own."""
    return redis_server()


@pytest.fixture
def served(tmp_path: Path, fresh_database: FreshDatabase, redis: RedisServer) -> Iterator[Served]:
    """A server with two namespaces of the default tenant and one of another."""
    told = {"SFM_POSTGRES_URL": fresh_database(migrated).url, "SFM_REDIS_URL": redis.url, "SFM_REDIS_SETTLE_S": "0"}
    with Served(tmp_path, **told) as server:
        address = server.addresses["grpc"]
        with Client(address) as client, Client(address, tenant="other") as other:
            for one, name in ((client, "a"), (client, "b"), (other, "c")):
                one.namespace(name).commit({"rho": density(8)}, expected_version=0)
        yield server


def states(served: Served, *more: str) -> dict[str, tuple[str, bool]]:
    return {n["namespace"]: (n["state"], n["held"]) for n in served.json("cache", "status", *more)["namespaces"]}


def read(served: Served, *names: str, within_s: float = 0.0) -> None:
    """Whoever reads has the cache turned on: a hundred times, and then for so long."""
    end = time.monotonic() + within_s
    with Client(served.addresses["grpc"], cache_bytes_max=0) as client:
        for name in names:
            reads = 0
            while reads < 100 or time.monotonic() < end:
                reads += 1
                client.namespace(name).read()
                if client.cache_page(name).namespaces[0].state == "on":
                    break


def test_status_says_what_it_is_and_of_whose_namespaces(served: Served, redis: RedisServer) -> None:
    read(served, "a", "b")
    told = served.json("cache", "status")
    assert (told["configured"], told["ok"], told["detail"]) == (True, True, f"Redis at 127.0.0.1:{redis.port}")
    assert states(served) == {"a": ("on", False), "b": ("on", False)}
    assert set(states(served, "--tenant", "other")) == {"c"}
    assert {n["registered"].partition("/")[0] for n in told["namespaces"]} == {redis.run_id}
    assert f"Redis at 127.0.0.1:{redis.port}" in served.here("cache", "status").stdout
    assert "'nowhere' does not exist" in served.here("cache", "status", "nowhere", code=4).stderr


def test_off_drains_and_lasts_until_on(served: Served) -> None:
    read(served, "a", "b")
    assert served.here("cache", "off", "a").stdout == "the cache of a is off and drained\n"
    assert states(served) == {"a": ("drained", True), "b": ("on", False)}
    read(served, "a")  # a hundred reads, and a commit, do not turn it on
    with Client(served.addresses["grpc"]) as client:
        client.namespace("a").commit({"rho": density(8, seed=2)}, expected_version=1)
    assert states(served)["a"] == ("drained", True)
    served.here("cache", "on", "a")
    read(served, "a", within_s=10)  # what was turned on lately is turned on again two seconds after that, not sooner
    assert states(served)["a"] == ("on", False)
    assert served.here("cache", "off", "--all").stdout == "the cache of 2 namespaces is off and drained\n"
    assert states(served) == {"a": ("drained", True), "b": ("drained", True)}
    assert states(served, "--tenant", "other")["c"][1] is False


def test_one_namespace_or_all_and_nothing_in_between(served: Served) -> None:
    for arguments in (["off"], ["on"], ["off", "a", "--all"]):
        assert "name a namespace, or say --all" in served.here("cache", *arguments, code=2).stderr
    assert "does not exist" in served.here("cache", "off", "nowhere", code=4).stderr


def test_it_says_when_redis_is_gone(served: Served, redis: RedisServer) -> None:
    redis.kill()
    with Client(served.addresses["grpc"], cache_bytes_max=0) as client:
        assert [client.namespace("a").read().degraded for _ in range(5)] == [True] * 5
    assert "NO: Redis at" in served.here("cache", "status").stdout
    assert "DEGRADED" in served.here("status").stdout


def test_a_server_is_not_begun_with_an_address_that_is_none(tmp_path: Path, fresh_database: FreshDatabase) -> None:
    told = {"SFM_POSTGRES_URL": fresh_database(migrated).url, "SFM_REDIS_URL": "http://:s3cret@cache:6379"}
    ran = run("serve", "--listen", "127.0.0.1:0", cwd=tmp_path, env=told, code=2)
    assert "SFM_REDIS_URL is not an address: its scheme is not one of redis://" in ran.stderr
    assert "s3cret" not in ran.stderr


def test_redis_needs_postgres(tmp_path: Path) -> None:
    ran = run("serve", cwd=tmp_path, env={"SFM_REDIS_URL": "redis://127.0.0.1:6379"}, code=2)
    assert "SFM_REDIS_URL needs SFM_POSTGRES_URL" in ran.stderr


def test_the_embedded_store_has_none(tmp_path: Path) -> None:
    with Served(tmp_path) as server:
        told = server.json("cache", "status")
        assert (told["configured"], told["ok"], told["namespaces"]) == (False, True, [])
        assert "embedded" in server.here("cache", "off", "--all", code=4).stderr
