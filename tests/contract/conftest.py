"""The same suite through every door, on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sfm_grpc.settings import Settings
from tests.support.drivers import DRIVERS, Driver


@pytest.fixture(params=sorted(DRIVERS))
async def driver(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Driver]:
    """A door to a running server; `restart` of tests.support.drivers stops and starts it."""
    driver = DRIVERS[request.param](settings)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()
