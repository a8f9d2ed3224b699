"""A small server for each test, and a client of either kind behind one face."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sfm_grpc.client import AsyncClient, Client
from tests.unit.client.small_server import SmallServer


@pytest.fixture
def server() -> Iterator[SmallServer]:
    server = SmallServer()
    yield server
    server.stop()


class Blocked:
    """An asyncio client called as if it blocked: awaitables are awaited on a loop of their own, async iterators drained."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if not callable(member):
            return member

        def call(*args: Any, **kwargs: Any) -> Any:
            result = member(*args, **kwargs)
            if asyncio.iscoroutine(result):
                return asyncio.run_coroutine_threadsafe(result, self._loop).result(60)
            if isinstance(result, AsyncIterator):
                return self._drained(result)
            return Blocked(result, self._loop)

        return call

    def _drained(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        async def following() -> list[Any]:
            return [item async for item in _first(items)]

        while item := asyncio.run_coroutine_threadsafe(following(), self._loop).result(60):
            yield item[0]


async def _first(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        yield await anext(items)
    except StopAsyncIteration:
        return


@pytest.fixture
def loop_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest, server: SmallServer) -> Iterator[Any]:
    """Makes clients of either kind; every test with it is run with both."""
    made: list[Any] = []
    loop = request.getfixturevalue("loop_thread") if request.param == "asyncio" else None

    def make(target: str = "", **options: Any) -> Any:
        kind = Client if loop is None else AsyncClient
        client: Any = kind(target or server.target, **{"name": "test", **options})
        made.append(client if loop is None else Blocked(client, loop))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Any) -> Any:
    return connect()
