"""The same suite through every door, on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sfm_grpc.settings import Settings
from tests.support.drivers import DRIVERS, Driver, Guest
from tests.support.engines import Engine
from tests.support.servers import settings_for


@pytest.fixture(params=sorted(DRIVERS))
async def driver(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Driver]:
    """A door to a running server; `restart` of tests.support.drivers stops and starts it."""
    driver = DRIVERS[request.param](settings)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever is a guest runs in the loop of the module's server."""
    for item in items:
        if not {"shared_driver", "shared_server"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(DRIVERS))
async def shared_driver(
    request: pytest.FixtureRequest, shared_engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Driver]:
    """A door to a server that all of a module's guests share."""
    directory: Path = tmp_path_factory.mktemp("shared")
    driver = DRIVERS[request.param](settings_for(**shared_engine.settings(directory / "data")))
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


@pytest.fixture
def guest(shared_driver: Driver, tenant: str) -> Guest:
    """A door to a running server, which others use too: for what needs no store of its own, and neither stops nor harms it."""
    return Guest(shared_driver, tenant)
