"""Fixtures for every test: servers that start on free ports and end with the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from sfm_grpc.app import App
from sfm_grpc.coordinator.indexing import Indexer
from sfm_grpc.coordinator.memory_upkeep import MemoryUpkeep
from sfm_grpc.coordinator.prune_limits import PruneLimits
from sfm_grpc.settings import Settings
from sfm_grpc.storage.contract import Store
from tests.support.engines import ENGINES, Engine
from tests.support.processes import ServerProcess
from tests.support.servers import Server, serving, settings_for, visiting
from tests.support.services.places import MEMORY, memory_is_plenty

pytest_plugins = [
    "tests.support.services.fixtures",
    "tests.support.services.redis_fixtures",
    "tests.support.services.qdrant_fixtures",
    "tests.support.services.kafka_fixtures",
]


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell has it for what it runs in the background; the commands that tests interrupt would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if memory_is_plenty():  # what tests write is synced thousands of times, and outlives the processes that they kill
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    config.addinivalue_line("markers", "settings(**overrides): settings of the server that the test's fixtures start")
    config.addinivalue_line("markers", "engines(*names): what is tested is these engines' own")


def pytest_xdist_auto_num_workers() -> int:
    """Three for two cores: half of a test's time is waiting for processes that start, stop or are late on purpose.

    Four end a minute earlier, and a machine that is so busy is late by itself.
    """
    return max(2, 3 * (os.cpu_count() or 2) // 2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests of one engine's own on another: they are not skipped, they are not there.

    And mixes the files, always in the same way: those of one directory are busy together, or wait together.
    """
    others = {item: None for item in items if not _of_its_engine(item)}
    if others:
        config.hook.pytest_deselected(items=list(others))
        items[:] = [item for item in items if item not in others]
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        items.sort(key=lambda item: zlib.crc32(item.path.name.encode()))


def _of_its_engine(item: pytest.Item) -> bool:
    marks = list(item.iter_markers("engines"))
    callspec = getattr(item, "callspec", None)
    engine = (callspec.params.get("engine") or callspec.params.get("shared_engine")) if callspec else None
    doors = () if callspec is None else (callspec.params.get("driver"), callspec.params.get("shared_driver"))
    if "in_process" in doors and engine != "sqlite":
        return False  # without a wire the same is asked of the same stores; behind Redis the door is three servers at once
    return engine is None or not marks or any(engine in mark.args for mark in marks)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own SFM_* must not change what is tested."""
    _without_settings(monkeypatch)


def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("SFM_") and not n.startswith("SFM_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Every engine in turn."""
    with contextlib.closing(ENGINES[request.param](request.getfixturevalue)) as engine:
        yield engine


@pytest.fixture
def settings(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Settings:
    """Settings of a fresh server, with what the test's marker says."""
    overrides = {k: v for mark in request.node.iter_markers("settings") for k, v in mark.kwargs.items()}
    return settings_for(**engine.settings(tmp_path / "data") | overrides)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    """An open engine, as the composition root configures it."""
    store = App(settings).store
    await store.open()
    try:
        yield store
    finally:
        await store.close()


Serve = Callable[[Settings], Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers that live as long as the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(settings: Settings) -> Server:
            return await stack.enter_async_context(serving(settings))

        yield start


@pytest.fixture
def nothing_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks now and then for what was written, has expired or is too much would be counted among those who wait."""

    async def idle(_self: object) -> None:
        await asyncio.Event().wait()

    for worker in (Indexer, MemoryUpkeep, PruneLimits):
        monkeypatch.setattr(worker, "run", idle)


@pytest.fixture
async def server(settings: Settings, serve: Serve) -> Server:
    """A running server."""
    return await serve(settings)


# ---- a server for many tests: each has a tenant of its own, and says `pytest.mark.asyncio(loop_scope="module")`


@pytest.fixture(scope="module", params=sorted(ENGINES))
def shared_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Every engine in turn, for all tests of a module."""
    with contextlib.closing(ENGINES[request.param](request.getfixturevalue)) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_server(shared_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A running server, for all tests of a module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _without_settings(monkeypatch)
        async with serving(settings_for(**shared_engine.settings(tmp_path_factory.mktemp("shared") / "data"))) as server:
            yield server


@pytest.fixture
def tenant() -> str:
    """The test's own."""
    return f"t-{uuid.uuid4().hex}"


@pytest_asyncio.fixture(loop_scope="module")
async def guest_server(shared_server: Server, tenant: str) -> AsyncIterator[Server]:
    """The server that a module's tests share, as the test's own tenant: for what needs no store of its own."""
    async with visiting(shared_server, tenant) as server:
        yield server


Spawn = Callable[[], ServerProcess]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Makes server processes that end with the test."""
    made: list[ServerProcess] = []

    def make() -> ServerProcess:
        made.append(ServerProcess(tmp_path / f"server-{len(made)}.log"))
        return made[-1]

    yield make
    for process in made:
        process.close()
