"""Servers: in this event loop, or as processes of their own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2_grpc as probe_pb2_grpc
from pydantic import SecretStr
from sfm.v1 import health_pb2_grpc, rho_store_pb2_grpc

from sfm_grpc.app import App
from sfm_grpc.settings import Settings, load
from tests.support.services.kept import Account
from tests.support.services.places import remove, temporary

_URLS = {"postgres_url", "redis_url", "qdrant_url"}
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# On free ports, and without shedding: on a machine that does other things, everybody waits now and then.
UNHURRIED = {"listen": "127.0.0.1:0", "http_listen": "", "shed_wait_ms": 60_000}


def settings_for(**overrides: object) -> Settings:
    """A server on free ports of this machine, without an HTTP port unless one is asked for."""
    elsewhere: dict[str, object] = {"data_dir": _somewhere()}
    if "data_dir" in overrides:
        elsewhere["data_dir"] = Path(str(overrides.pop("data_dir")))
    for name in _URLS & overrides.keys():
        elsewhere[name] = SecretStr(str(overrides.pop(name)))
    return _loaded(tuple(sorted(overrides.items()))).model_copy(update=elsewhere)


def store_of(settings: Settings) -> dict[str, object]:
    """Where the store is, for another server on the same one."""
    urls = {name: url.get_secret_value() for name in sorted(_URLS) if (url := getattr(settings, name))}
    return {"data_dir": settings.data_dir, "qdrant_prefix": settings.qdrant_prefix} | urls


_NUMBERS = itertools.count()


@functools.cache
def _places() -> Path:
    made = temporary(Account("", -1, -1), "servers")
    atexit.register(remove, made)
    return made


def _somewhere() -> Path:
    """A directory that nobody else has, which is there once it is used: beside a Postgres, a server keeps its index there."""
    return _places() / str(next(_NUMBERS))


@functools.cache
def _loaded(overrides: tuple[tuple[str, object], ...]) -> Settings:
    """Loading is a third of a small test's time, and most tests differ in nothing but where the store is."""
    return load({**UNHURRIED, **dict(overrides)})


@dataclass
class Server:
    """A running server and a channel to it."""

    app: App
    channel: grpc.aio.Channel

    @property
    def settings(self) -> Settings:
        return self.app.settings

    @property
    def rho(self) -> Any:
        return rho_store_pb2_grpc.RhoStoreStub(self.channel)

    @property
    def health(self) -> Any:
        return health_pb2_grpc.HealthStub(self.channel)

    @property
    def probe(self) -> Any:
        return probe_pb2_grpc.HealthStub(self.channel)

    def raw(self, method: str) -> Any:
        """A call that sends and receives bytes."""
        return self.channel.unary_unary(f"/sfm.v1.{method}")

    async def http(self, path: str, **headers: str) -> httpx.Response:
        """GET from the HTTP port."""
        async with httpx.AsyncClient(base_url=f"http://{self.app.http_address}", verify=False) as client:
            return await client.get(path, headers=headers)


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Server]:
    """A server in this event loop."""
    async with App(settings) as app, grpc.aio.insecure_channel(app.address, options=CHANNEL_OPTIONS) as channel:
        yield Server(app, channel)


class _OfTenant(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Calls are a tenant's, but for those that say whose they are."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if "x-soma-tenant" not in metadata:
            metadata.add("x-soma-tenant", self._tenant)
        return await continuation(details._replace(metadata=metadata), request)


@contextlib.asynccontextmanager
async def visiting(server: Server, tenant: str) -> AsyncIterator[Server]:
    """A running server as one tenant finds it; of calls that ask and answer once."""
    of_tenant = [_OfTenant(tenant)]
    async with grpc.aio.insecure_channel(server.app.address, options=CHANNEL_OPTIONS, interceptors=of_tenant) as channel:
        yield Server(server.app, channel)


async def until(condition: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """Waits until a condition (a function, or one that returns an awaitable) is true, and returns what it says."""
    async with asyncio.timeout(within_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)
