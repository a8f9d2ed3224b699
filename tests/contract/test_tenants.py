"""Tenants do not see each other, not even by their errors."""

from __future__ import annotations

import pytest

from sfm_grpc.errors import InvalidRequest, NotFound
from sfm_grpc.model import Kind
from tests.support.drivers import Ask, Driver, Put, put
from tests.support.matrices import density, sketch


async def test_the_same_name_is_another_namespace_for_each_tenant(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density(seed=1)), tenant="a")
    await put(guest, "n", 0, Put("rho", sketch(2, 9), form="factor"), tenant="b")
    await put(guest, "n", 1, Put("rho", density(seed=2)), tenant="a")
    a, b = await guest.get("n", tenant="a"), await guest.get("n", tenant="b")
    assert (a.version, a["rho"].numbers) == (2, density(seed=2).tobytes())
    assert (b.version, b["rho"].numbers) == (1, sketch(2, 9).tobytes())


async def test_another_tenants_namespace_is_as_absent_as_one_that_never_was(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()), tenant="a")
    ask = Ask(namespace="n", expected=0, tenant="b")
    for call in (
        lambda: guest.get("n", tenant="b"),
        lambda: guest.get("n", tenant="b", version=1),
        lambda: guest.versions("n", tenant="b"),
        lambda: guest.restore(ask, 1),
    ):
        with pytest.raises(NotFound) as caught:
            await call()
        assert caught.value.facts() == {"what": "namespace", "namespace": "n", "names": "[]", "current": "0"}


async def test_kinds_are_each_tenants_own(guest: Driver) -> None:
    await put(guest, "n", 0, Put("k", sketch(), kind=Kind.GENERIC), tenant="a")
    assert (await put(guest, "n", 0, Put("k", density(), kind=Kind.DENSITY), tenant="b")).version == 1


async def test_names_that_join_to_the_same_string_stay_apart(guest: Driver) -> None:
    await put(guest, "bc", 0, Put("rho", density(seed=1)), tenant="a")
    await put(guest, "c", 0, Put("rho", density(seed=2)), tenant="ab")
    token = (await guest.versions("bc", page_size=1, tenant="a")).next_page_token
    assert token == ""
    for version in (1, 2):
        await put(guest, "bc", version, Put("rho", density(seed=1)), tenant="a")
        await put(guest, "c", version, Put("rho", density(seed=2)), tenant="ab")
    token = (await guest.versions("bc", page_size=1, tenant="a")).next_page_token
    with pytest.raises(InvalidRequest, match="page_token"):
        await guest.versions("c", page_size=1, page_token=token, tenant="ab")
    assert (await guest.get("c", tenant="ab"))["rho"].numbers == density(seed=2).tobytes()
