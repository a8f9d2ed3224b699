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
    """An asyncio client called as if it blocked: awaitables are awaited on a loop of their own, async iterators are iterators."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def _result(self, awaited: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaited, self._loop).result(60)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if name in ("memories", "prunes"):
            return Blocked(member, self._loop)
        if not callable(member):
            return member

        def call(*args: Any, **kwargs: Any) -> Any:
            result = member(*args, **kwargs)
            return self._result(result) if asyncio.iscoroutine(result) else Blocked(result, self._loop)

        return call

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        try:
            return self._result(_next(self._inner))
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Any:
        self._result(self._inner.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._result(self._inner.__aexit__(*error))


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


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
