"""GetRho: one consistent version, as fresh as it is asked for."""

from __future__ import annotations

import asyncio
import time

import pytest

from sfm_grpc.errors import (
    InvalidRequest,
    LimitExceeded,
    NotFound,
    RhoCorrupt,
    StoreUnavailable,
    VersionCompacted,
    VersionNotReached,
)
from sfm_grpc.model import Kind, Scope
from sfm_grpc.storage.leases import LEASE_S
from tests.support.drivers import Delete, Driver, Put, put, restart, series
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch
from tests.support.servers import until

GENERIC = Kind.GENERIC
N = Scope("default", "n")


async def test_a_namespace_that_was_never_committed_to_is_not_found(guest: Driver) -> None:
    with pytest.raises(NotFound) as caught:
        await guest.get("n")
    assert (caught.value.what, caught.value.namespace) == ("namespace", "n")


async def test_all_keys_come_when_none_is_named_and_only_the_named_ones_otherwise(guest: Driver) -> None:
    await put(guest, "n", 0, *[Put(key, sketch(), kind=GENERIC) for key in "abc"])
    assert list((await guest.get("n")).matrices) == ["a", "b", "c"]
    assert list((await guest.get("n", "c", "a")).matrices) == ["a", "c"]


async def test_every_absent_key_is_named(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    with pytest.raises(NotFound) as caught:
        await guest.get("n", "rho", "x", "ρ")
    assert (caught.value.what, caught.value.names, caught.value.current) == ("key", ("x", "ρ"), 1)


async def test_a_deleted_key_is_absent(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()), Put("g", sketch(), kind=GENERIC))
    await put(guest, "n", 1, Delete("g"))
    with pytest.raises(NotFound) as caught:
        await guest.get("n", "g")
    assert caught.value.names == ("g",)


async def test_many_long_absent_names_still_make_an_error_that_arrives(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    names = ["𝜌" * 62 + f"{place:03}" for place in range(200)]
    with pytest.raises(NotFound) as caught:
        await guest.get("n", *names)
    assert caught.value.what == "key"
    assert caught.value.names == tuple(names[: len(caught.value.names)]) != ()


@pytest.mark.settings(keys_per_namespace_max=4)
async def test_more_keys_than_a_namespace_may_hold_are_refused(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density()))
    with pytest.raises(LimitExceeded) as caught:
        await driver.get("n", "a", "b", "c", "d", "e")
    assert (caught.value.limit, caught.value.value) == ("keys_per_namespace_max", 5)


@pytest.mark.parametrize(
    ("keys", "problem"), [(["a", "a"], "twice"), ([""], "is required"), (["x" * 300], "300 bytes"), (["\n"], "U\\+000A")]
)
async def test_keys_that_cannot_be_are_refused(guest: Driver, keys: list[str], problem: str) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    with pytest.raises(InvalidRequest, match=f"keys.*{problem}"):
        await guest.get("n", *keys)


# ---- freshness ---------------------------------------------------------------------------------------------------------


async def test_what_was_just_committed_is_read_from_memory(driver: Driver, engine: Engine) -> None:
    [rho] = await series(driver, "n", 1)
    read = await driver.get("n")
    assert (read.degraded, read["rho"].numbers) == (False, rho.tobytes())
    assert read.cached or engine.leases, "behind Redis it may be another server that is asked"


async def test_after_a_restart_the_store_is_read_once_and_memory_then(driver: Driver) -> None:
    [rho] = await series(driver, "n", 1)
    await restart(driver)
    first, second = await driver.get("n"), await driver.get("n")
    assert (first.cached, second.cached) == (False, True)
    assert first["rho"].numbers == second["rho"].numbers == rho.tobytes()


async def test_canonical_asks_the_store(driver: Driver) -> None:
    [rho] = await series(driver, "n", 1)
    read = await driver.get("n", canonical=True)
    assert (read.cached, read["rho"].numbers) == (False, rho.tobytes())


@pytest.mark.settings(rho_cache_bytes_max=0)
async def test_without_memory_every_read_is_right(driver: Driver, engine: Engine) -> None:
    for rho in await series(driver, "n", 2):
        del rho
    for _ in range(2):
        read = await driver.get("n")
        assert (read.version, read["rho"].numbers) == (2, density(seed=2).tobytes())
        assert engine.leases or not read.cached


@pytest.mark.settings(rho_cache_bytes_max=20_000)
async def test_memory_that_is_too_small_for_all_stays_right(driver: Driver) -> None:
    for place in range(6):
        await put(driver, f"n{place}", 0, Put("rho", density(12, seed=place)))
    for _ in range(2):
        for place in range(6):
            assert (await driver.get(f"n{place}"))["rho"].numbers == density(12, seed=place).tobytes()


async def test_a_read_is_never_older_than_a_commit_that_was_answered(guest: Driver) -> None:
    for version, seed in enumerate(range(20), start=1):
        await put(guest, "n", version - 1, Put("rho", density(seed=seed)))
        read = await guest.get("n")
        assert (read.version, read["rho"].numbers) == (version, density(seed=seed).tobytes())


async def test_min_version_that_is_reached_is_answered_and_another_is_told(guest: Driver) -> None:
    await series(guest, "n", 2)
    assert (await guest.get("n", min_version=2)).version == 2
    for canonical in (False, True):
        with pytest.raises(VersionNotReached) as caught:
            await guest.get("n", min_version=3, canonical=canonical)
        assert (caught.value.min_version, caught.value.current) == (3, 2)


@pytest.mark.parametrize("canonical", [False, True])
async def test_a_known_version_moves_no_numbers(guest: Driver, canonical: bool) -> None:
    await series(guest, "n", 2)
    same = await guest.get("n", known_version=2, canonical=canonical)
    assert (same.version, same.not_modified, same.matrices) == (2, True, {})
    newer = await guest.get("n", known_version=1, canonical=canonical)
    assert (newer.version, newer.not_modified, list(newer.matrices)) == (2, False, ["rho"])


async def test_a_known_version_that_is_not_there_yet_is_answered_with_the_newest(guest: Driver) -> None:
    await series(guest, "n", 1)
    read = await guest.get("n", known_version=7)
    assert (read.version, read.not_modified) == (1, False)


async def test_a_known_version_does_not_hide_an_absent_key(guest: Driver) -> None:
    await series(guest, "n", 1)
    with pytest.raises(NotFound):
        await guest.get("n", "absent", known_version=1)


async def test_not_modified_is_as_of_now(guest: Driver) -> None:
    await series(guest, "n", 1)
    asked_us = time.time_ns() // 1000
    read = await guest.get("n", known_version=1)
    assert asked_us - 1_000_000 <= read.as_of_us <= time.time_ns() // 1000


async def test_the_summary_has_everything_but_the_numbers(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    held = (await guest.get("n", numbers=False))["rho"]
    assert held.numbers is None
    assert (held.certificate.digest, held.certificate.shape, held.put_version) == (sha256(density()), (6, 6), 1)


async def test_a_summary_after_a_restart_reads_no_numbers_and_the_full_view_still_comes(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density()), Put("g", sketch(), kind=GENERIC))
    await restart(driver)
    assert (await driver.get("n", numbers=False)).matrices.keys() == {"rho", "g"}
    assert (await driver.get("n", "g"))["g"].numbers == sketch().tobytes()
    assert (await driver.get("n"))["rho"].numbers == density().tobytes()


# ---- an exact version --------------------------------------------------------------------------------------------------


async def test_every_kept_version_reads_as_it_was_committed(guest: Driver) -> None:
    sent = await series(guest, "n", 5)
    for version, rho in enumerate(sent, start=1):
        read = await guest.get("n", version=version)
        assert (read.version, read["rho"].numbers, read["rho"].put_version) == (version, rho.tobytes(), version)


async def test_a_version_that_never_was_is_not_found(guest: Driver) -> None:
    await series(guest, "n", 2)
    with pytest.raises(NotFound) as caught:
        await guest.get("n", version=3)
    assert (caught.value.what, caught.value.names, caught.value.current) == ("version", ("3",), 2)


@pytest.mark.settings(rho_history_versions=2)
async def test_a_version_that_is_no_longer_kept_is_told_with_the_oldest_that_is(driver: Driver) -> None:
    await series(driver, "n", 6)
    await until(lambda: _oldest_is(driver, 5))
    with pytest.raises(VersionCompacted) as caught:
        await driver.get("n", version=4)
    assert (caught.value.version, caught.value.oldest, caught.value.current) == (4, 5, 6)
    assert (await driver.get("n", version=5))["rho"].numbers == density(seed=5).tobytes()


async def _oldest_is(driver: Driver, version: int) -> bool:
    return (await driver.versions("n")).oldest == version


async def test_an_exact_version_can_be_known_too(guest: Driver) -> None:
    await series(guest, "n", 2)
    assert (await guest.get("n", version=1, known_version=1)).not_modified
    assert not (await guest.get("n", version=1, known_version=2)).not_modified


# ---- when the store fails ----------------------------------------------------------------------------------------------


async def test_without_the_store_a_read_fails_unless_staleness_is_accepted(driver: Driver, engine: Engine) -> None:
    [rho] = await series(driver, "n", 1)
    for _ in range(3):  # whichever server is asked, it has read it once
        await driver.get("n")
    with engine.unplugged(driver.settings):
        if engine.leases:
            await asyncio.sleep(LEASE_S)  # while one stands no store is needed
        for how in ({}, {"canonical": True}, {"min_version": 1}):
            with pytest.raises(StoreUnavailable):
                await driver.get("n", **how)
        read = await driver.get("n", max_staleness_s=60)
        assert (read.version, read.degraded, read.cached, read["rho"].numbers) == (1, True, True, rho.tobytes())
        assert read.as_of_us <= time.time_ns() // 1000
    back = await driver.get("n")
    assert (back.version, back.degraded) == (1, False)


async def test_staleness_has_an_end(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 1)
    with engine.unplugged(driver.settings), pytest.raises(StoreUnavailable):
        await driver.get("n", max_staleness_s=0)


async def test_staleness_does_not_make_up_what_memory_does_not_hold(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 1)
    await restart(driver)
    with engine.unplugged(driver.settings), pytest.raises(StoreUnavailable):
        await driver.get("n", max_staleness_s=60)


async def test_staleness_is_not_used_while_the_store_answers(guest: Driver) -> None:
    sent = await series(guest, "n", 2)
    read = await guest.get("n", max_staleness_s=3600)
    assert (read.version, read.degraded, read["rho"].numbers) == (2, False, sent[-1].tobytes())


async def test_without_the_store_a_commit_fails_and_later_succeeds(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 1)
    with engine.unplugged(driver.settings), pytest.raises(StoreUnavailable):
        await put(driver, "n", 1, Put("rho", density(seed=5)), request_id="r")
    done = await put(driver, "n", 1, Put("rho", density(seed=5)), request_id="r")
    assert (done.version, done.replayed) == (2, False)


# ---- when stored numbers rot -------------------------------------------------------------------------------------------


async def test_numbers_that_fail_their_digest_are_never_served(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 2)
    engine.corrupt(driver.settings, N, 2, "rho")
    await restart(driver)
    # Where a cache stands before the store, it has the numbers as they were, and they match.
    for how in ({"version": 2}, {"canonical": True}, *([] if engine.leases else [{}])):
        with pytest.raises(RhoCorrupt) as caught:
            await driver.get("n", **how)
        assert (caught.value.namespace, caught.value.version, caught.value.key) == ("n", 2, "rho")
        assert caught.value.expected_digest == sha256(density(seed=2)).hex() != caught.value.found_digest
    assert (await driver.get("n", version=1))["rho"].numbers == density(seed=1).tobytes()


async def test_a_rotten_key_does_not_hide_the_others(driver: Driver, engine: Engine) -> None:
    await put(driver, "n", 0, Put("rho", density()), Put("g", sketch(), kind=GENERIC))
    engine.corrupt(driver.settings, N, 1, "rho")
    await restart(driver)
    assert (await driver.get("n", "g"))["g"].numbers == sketch().tobytes()
    assert (await driver.get("n", numbers=False)).digests()["rho"] == sha256(density())


async def test_a_rotten_head_can_be_committed_over(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 1)
    engine.corrupt(driver.settings, N, 1, "rho")
    await restart(driver)
    done = await put(driver, "n", 1, Put("rho", density(seed=4)))
    assert (done.version, done["rho"].step) == (2, None)
    assert (await driver.get("n"))["rho"].numbers == density(seed=4).tobytes()
