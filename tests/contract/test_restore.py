"""RestoreRho: an earlier version becomes the newest again, as a new commit."""

from __future__ import annotations

import pytest

from sfm_grpc.errors import InvalidRequest, NotFound, RequestIdReused, RhoCorrupt, VersionConflict
from sfm_grpc.model import Kind, Scope
from tests.support.drivers import LAST_VALID, Ask, Delete, Driver, Put, put, restart, series
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch, with_eigenvalue
from tests.support.servers import until

GENERIC = Kind.GENERIC
N = Scope("default", "n")


async def test_a_restore_is_a_new_commit_that_holds_what_the_version_held_and_nothing_else(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density(seed=1)), Put("old", sketch(), kind=GENERIC))
    await put(guest, "n", 1, Put("rho", density(seed=2)), Delete("old"), Put("new", sketch(), kind=GENERIC))
    done = await guest.restore(Ask(namespace="n", expected=2, committer="sre", metadata={"why": "drift"}), 1)
    assert (done.version, done.restored_version, done.replayed) == (3, 1, False)
    assert [(e.key, e.put_version) for e in done.entries] == [("old", 1), ("rho", 1)]
    read = await guest.get("n")
    assert {k: h.numbers for k, h in read.matrices.items()} == {"old": sketch().tobytes(), "rho": density(seed=1).tobytes()}
    newest = (await guest.versions("n")).versions[0]
    assert (newest.restored_version, newest.committer, dict(newest.metadata), newest.valid) == (1, "sre", {"why": "drift"}, True)
    assert newest.commit_time_us == done.time_us


async def test_restoring_is_idempotent_bit_for_bit(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", with_eigenvalue(-5e-9)), Put("f", sketch(), kind=Kind.DENSITY, form="factor"))
    before = await guest.get("n")
    for version in range(1, 4):
        await guest.restore(Ask(namespace="n", expected=version), version)
    after = await guest.get("n")
    assert after.version == 4
    assert {k: (h.numbers, h.certificate) for k, h in after.matrices.items()} == {
        k: (h.numbers, h.certificate) for k, h in before.matrices.items()
    }


async def test_the_head_can_be_restored(guest: Driver) -> None:
    await series(guest, "n", 2)
    assert (await guest.restore(Ask(namespace="n", expected=2), 2)).version == 3


async def test_a_version_that_held_nothing_can_be_restored(guest: Driver) -> None:
    await put(guest, "n", 0, Delete("x"))
    await series(guest, "n", 1, start=1)
    done = await guest.restore(Ask(namespace="n", expected=2), 1)
    assert (done.version, done.entries) == (3, ())
    assert (await guest.get("n")).matrices == {}


async def test_a_restored_version_outlives_the_server(driver: Driver) -> None:
    sent = await series(driver, "n", 3)
    await driver.restore(Ask(namespace="n", expected=3), 1)
    await restart(driver)
    assert (await driver.get("n"))["rho"].numbers == sent[0].tobytes()


@pytest.mark.settings(rho_history_versions=2)
async def test_what_was_restored_stays_when_its_first_version_goes(driver: Driver) -> None:
    sent = await series(driver, "n", 3)
    await driver.restore(Ask(namespace="n", expected=3), 2)
    await put(driver, "n", 4, Put("g", sketch(), kind=GENERIC))
    await until(lambda: _oldest_is(driver, 4))
    await restart(driver)
    held = (await driver.get("n"))["rho"]
    assert (held.numbers, held.put_version) == (sent[1].tobytes(), 2)


async def _oldest_is(driver: Driver, version: int) -> bool:
    return (await driver.versions("n")).oldest == version


async def test_a_deleted_kind_stays_fixed_through_a_restore(guest: Driver) -> None:
    await put(guest, "n", 0, Put("k", sketch(), kind=GENERIC))
    await put(guest, "n", 1, Delete("k"))
    await guest.restore(Ask(namespace="n", expected=2), 1)
    assert (await guest.get("n"))["k"].certificate.kind is GENERIC


async def test_another_version_is_a_conflict(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 3)
    before = engine.fingerprint(driver.settings)
    for expected in (0, 2, 4):
        with pytest.raises(VersionConflict) as caught:
            await driver.restore(Ask(namespace="n", expected=expected), 1)
        assert caught.value.current == 3
    assert engine.fingerprint(driver.settings) == before


async def test_the_expected_version_is_required(guest: Driver) -> None:
    await series(guest, "n", 1)
    with pytest.raises(InvalidRequest, match="expected_version: is required"):
        await guest.restore(Ask(namespace="n", expected=None), 1)


async def test_a_version_or_namespace_that_never_was_is_not_found(guest: Driver) -> None:
    for target in (1, LAST_VALID):
        with pytest.raises(NotFound) as caught:
            await guest.restore(Ask(namespace="n", expected=0), target)
        assert caught.value.what == "namespace"
    await series(guest, "n", 1)
    with pytest.raises(NotFound) as caught:
        await guest.restore(Ask(namespace="n", expected=1), 2)
    assert (caught.value.what, caught.value.names) == ("version", ("2",))


@pytest.mark.parametrize("target", [0, -7, -(2**63)])
async def test_versions_start_at_1(guest: Driver, target: int) -> None:
    await series(guest, "n", 1)
    with pytest.raises(InvalidRequest, match="version: is"):
        await guest.restore(Ask(namespace="n", expected=1), target)


async def test_a_restore_that_is_only_validated_records_nothing(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 2)
    before = engine.fingerprint(driver.settings)
    said = await driver.restore(Ask(namespace="n", expected=2, validate_only=True), 1)
    assert (said.version, said.restored_version, said.entries[0].certificate.digest) == (3, 1, sha256(density(seed=1)))
    assert engine.fingerprint(driver.settings) == before
    assert (await driver.get("n")).version == 2


# ---- LAST_VALID --------------------------------------------------------------------------------------------------------


async def test_last_valid_is_the_head_while_nothing_is_wrong(guest: Driver) -> None:
    await series(guest, "n", 3)
    assert (await guest.restore(Ask(namespace="n", expected=3), LAST_VALID)).restored_version == 3


@pytest.mark.settings(rho_enforcement="observe")
async def test_last_valid_passes_over_versions_that_violate_their_bounds(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density(seed=1)))
    await put(driver, "n", 1, Put("rho", with_eigenvalue(-0.25)))
    await put(driver, "n", 2, Put("rho", density() * 3))
    done = await driver.restore(Ask(namespace="n", expected=3), LAST_VALID)
    assert (done.version, done.restored_version) == (4, 1)
    assert (await driver.versions("n")).versions[0].valid


async def test_last_valid_passes_over_versions_whose_numbers_rotted(driver: Driver, engine: Engine) -> None:
    sent = await series(driver, "n", 4)
    engine.corrupt(driver.settings, N, 4, "rho")
    engine.corrupt(driver.settings, N, 3, "rho")
    done = await driver.restore(Ask(namespace="n", expected=4), LAST_VALID)
    assert (done.version, done.restored_version) == (5, 2)
    await restart(driver)
    assert (await driver.get("n"))["rho"].numbers == sent[1].tobytes()


async def test_last_valid_passes_over_every_version_that_shares_the_rotten_numbers(driver: Driver, engine: Engine) -> None:
    await put(driver, "n", 0, Put("rho", density(seed=1)), Put("g", sketch(), kind=GENERIC))
    await put(driver, "n", 1, Put("g", sketch(seed=2), kind=GENERIC))
    await series(driver, "n", 2, start=2)
    engine.corrupt(driver.settings, N, 4, "g")
    done = await driver.restore(Ask(namespace="n", expected=4), LAST_VALID)
    assert done.restored_version == 1


async def test_a_rotten_version_is_not_restored(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 2)
    engine.corrupt(driver.settings, N, 1, "rho")
    before = engine.fingerprint(driver.settings)
    with pytest.raises(RhoCorrupt) as caught:
        await driver.restore(Ask(namespace="n", expected=2), 1)
    assert (caught.value.version, caught.value.key) == (1, "rho")
    assert engine.fingerprint(driver.settings) == before


async def test_where_nothing_is_whole_last_valid_is_not_found(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 3)
    for version in (1, 2, 3):
        engine.corrupt(driver.settings, N, version, "rho")
    with pytest.raises(NotFound) as caught:
        await driver.restore(Ask(namespace="n", expected=3), LAST_VALID)
    assert (caught.value.what, caught.value.current) == ("valid version", 3)


@pytest.mark.settings(rho_history_versions=2)
@pytest.mark.parametrize("target", [1, LAST_VALID])
async def test_a_restore_is_replayed_when_its_target_was_compacted_since(driver: Driver, target: int) -> None:
    await put(driver, "n", 0, Put("rho", density()))
    ask = Ask(namespace="n", expected=1, request_id="r")
    first = await driver.restore(ask, target)
    await series(driver, "n", 4, start=2)
    await until(lambda: _oldest_is(driver, 5))
    again = await driver.restore(ask, target)
    assert (again.version, again.time_us, again.restored_version, again.entries, again.replayed) == (
        2,
        first.time_us,
        1,
        first.entries,
        True,
    )


async def test_a_restore_is_replayed_when_everything_rotted_since(driver: Driver, engine: Engine) -> None:
    await put(driver, "n", 0, Put("rho", density()))
    ask = Ask(namespace="n", expected=1, request_id="r")
    first = await driver.restore(ask, LAST_VALID)
    engine.corrupt(driver.settings, N, 1, "rho")
    again = await driver.restore(ask, LAST_VALID)
    assert (again.version, again.entries, again.replayed) == (2, first.entries, True)


async def test_a_restore_to_a_rotten_target_under_a_used_id_is_told_as_reuse(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 2)
    await driver.restore(Ask(namespace="n", expected=2, request_id="r"), 2)
    engine.corrupt(driver.settings, N, 1, "rho")
    with pytest.raises(RequestIdReused):
        await driver.restore(Ask(namespace="n", expected=2, request_id="r"), 1)
