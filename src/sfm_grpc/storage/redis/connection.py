"""A client for whatever kind of Redis an address means."""

from __future__ import annotations

import contextlib
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import redis.asyncio as aio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import BlockingConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sfm_grpc.storage.redis.options import RedisOptions

Client: TypeAlias = Any
"""A redis.asyncio.Redis or RedisCluster: what both have in common, their types do not say."""

KINDS = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
# A cluster answers where a slot has moved; a server that is alone is asked again by whoever needs it.
_CLUSTER_RETRIES = 2


def problem(url: str) -> str:
    """What is wrong with an address, without a word of it: a password may stand in it. '' when nothing is."""
    try:
        parts = urlsplit(url)
        kind, path = parts.scheme, parts.path.strip("/")
        hosts = _hosts(parts.netloc) if kind != "unix" else []
        wrong = {
            f"its scheme is not one of {', '.join(f'{kind}://' for kind in KINDS)}": kind not in KINDS,
            "it names no socket": kind == "unix" and not path,
            "it names no host": not all(host for host, _ in hosts),
            "it names no service: redis+sentinel://host:26379/mymaster": kind.endswith("+sentinel") and not path,
            "it names several hosts: that is for redis+sentinel://; a cluster tells its nodes itself": len(hosts) > 1
            and not kind.endswith("+sentinel"),
            "a cluster has no databases but 0": kind.endswith("+cluster") and path not in ("", "0"),
            "its database is not a number": kind in ("redis", "rediss") and bool(path) and not path.isdecimal(),
        }
        found = next((what for what, is_so in wrong.items() if is_so), "")
        if not found and kind in ("redis", "rediss"):
            parse_url(url)
    except ValueError as error:
        return "its port is not one" if "ort" in str(error) else "a parameter after ? is not what it should be"
    return found


def place(url: str) -> str:
    """Where it is, without any secret."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    where = ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in _hosts(parts.netloc))
    return where + (parts.path if parts.path.strip("/") not in ("", "0") else "")


def connected(options: RedisOptions, *, timeout_s: float) -> Client:
    """A client whose calls take `timeout_s` at most; nothing is connected yet."""
    usual: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, options.connect_timeout_s),
        "socket_keepalive": True,
        "client_name": "".join(c if c.isascii() and c.isprintable() and c != " " else "-" for c in f"sfm-grpc-{options.node}"),
        "protocol": 2,
    }
    parts = urlsplit(options.url)
    if parts.scheme.endswith("+cluster"):
        return _sharded(options, usual)
    if parts.scheme.endswith("+sentinel"):
        return _behind_sentinels(options, usual)
    pool = BlockingConnectionPool(
        **usual | dict(parse_url(options.url)), max_connections=options.connections_max, timeout=timeout_s, retry=_once()
    )
    return aio.Redis.from_pool(pool)


async def hang_up(client: Client) -> None:
    """Closes a client, and those by which it asked Sentinels."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for one in (client, *(manager.sentinels if manager is not None else ())):
        with contextlib.suppress(RedisError, OSError):
            await one.aclose()


def _sharded(options: RedisOptions, usual: dict[str, Any]) -> Client:
    given: dict[str, Any] = dict(parse_url(_plain(options.url)))
    given.pop("connection_class", None)
    given.pop("db", None)
    return RedisCluster(
        **usual | given,
        ssl=urlsplit(options.url).scheme.startswith("rediss"),
        max_connections=options.connections_max,
        retry=Retry(NoBackoff(), _CLUSTER_RETRIES),
        require_full_coverage=False,
    )


def _behind_sentinels(options: RedisOptions, usual: dict[str, Any]) -> Client:
    """The master that the Sentinels name whenever a connection is made; `sentinel_password`, `_username` are for themselves."""
    parts = urlsplit(options.url)
    who = parts.netloc.rpartition("@")[0]
    service, _, database = parts.path.strip("/").partition("/")
    first = f"{who}@localhost" if who else "localhost"
    scheme = "rediss" if parts.scheme.startswith("rediss") else "redis"
    given: dict[str, Any] = dict(parse_url(f"{scheme}://{first}/{database or 0}?{parts.query}"))
    theirs = {name.removeprefix("sentinel_"): given.pop(name) for name in list(given) if name.startswith("sentinel_")}
    tls = given.pop("connection_class", None) is not None
    given.pop("host", None)
    ssl = {name: value for name, value in given.items() if name.startswith("ssl_")} | ({"ssl": True} if tls else {})
    sentinel = Sentinel(_hosts(parts.netloc), sentinel_kwargs={**_timeouts(usual), **ssl, **theirs})  # type: ignore[no-untyped-call]
    more = {"ssl": True} if tls else {}
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        service, sentinel, **usual | given | more, max_connections=options.connections_max, retry=_once()
    )
    return aio.Redis.from_pool(pool)


def _once() -> Retry:
    return Retry(NoBackoff(), 0)


def _timeouts(usual: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in usual.items() if name.startswith("socket_")}


def _plain(url: str) -> str:
    return url.replace("+cluster://", "://", 1)


def _hosts(netloc: str) -> list[tuple[str, int]]:
    """The hosts and ports after the @. Raises ValueError."""
    found = []
    for one in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{one}")
        found.append((parts.hostname or "", parts.port or 6379))
    return found
