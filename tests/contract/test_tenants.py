"""Tenants do not see each other, not even by their errors."""

from __future__ import annotations

import pytest

from sfm_grpc.errors import InvalidRequest, NotFound
from sfm_grpc.model import Kind
from tests.support.drivers import Ask, Driver, Put, put
from tests.support.matrices import density, sketch


async def test_the_same_name_is_another_namespace_for_each_tenant(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density(seed=1)), tenant="a")
    await put(driver, "n", 0, Put("rho", sketch(2, 9), form="factor"), tenant="b")
    await put(driver, "n", 1, Put("rho", density(seed=2)), tenant="a")
    a, b = await driver.get("n", tenant="a"), await driver.get("n", tenant="b")
    assert (a.version, a["rho"].numbers) == (2, density(seed=2).tobytes())
    assert (b.version, b["rho"].numbers) == (1, sketch(2, 9).tobytes())


async def test_another_tenants_namespace_is_as_absent_as_one_that_never_was(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density()), tenant="a")
    ask = Ask(namespace="n", expected=0, tenant="b")
    for call in (
        lambda: driver.get("n", tenant="b"),
        lambda: driver.get("n", tenant="b", version=1),
        lambda: driver.versions("n", tenant="b"),
        lambda: driver.restore(ask, 1),
    ):
        with pytest.raises(NotFound) as caught:
            await call()
        assert caught.value.facts() == {"what": "namespace", "namespace": "n", "names": "[]", "current": "0"}


async def test_kinds_are_each_tenants_own(driver: Driver) -> None:
    await put(driver, "n", 0, Put("k", sketch(), kind=Kind.GENERIC), tenant="a")
    assert (await put(driver, "n", 0, Put("k", density(), kind=Kind.DENSITY), tenant="b")).version == 1


async def test_names_that_join_to_the_same_string_stay_apart(driver: Driver) -> None:
    await put(driver, "bc", 0, Put("rho", density(seed=1)), tenant="a")
    await put(driver, "c", 0, Put("rho", density(seed=2)), tenant="ab")
    token = (await driver.versions("bc", page_size=1, tenant="a")).next_page_token
    assert token == ""
    for version in (1, 2):
        await put(driver, "bc", version, Put("rho", density(seed=1)), tenant="a")
        await put(driver, "c", version, Put("rho", density(seed=2)), tenant="ab")
    token = (await driver.versions("bc", page_size=1, tenant="a")).next_page_token
    with pytest.raises(InvalidRequest, match="page_token"):
        await driver.versions("c", page_size=1, page_token=token, tenant="ab")
    assert (await driver.get("c", tenant="ab"))["rho"].numbers == density(seed=2).tobytes()
