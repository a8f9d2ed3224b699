"""request_id: the same request again gets its first answer again; another one is told apart."""

from __future__ import annotations

import numpy as np
import pytest

from sfm_grpc.errors import InvalidRequest, RequestIdReused, RhoNotPsd, VersionConflict
from sfm_grpc.model import Kind
from tests.support.drivers import LAST_VALID, Ask, Delete, Driver, Put, put, restart, series
from tests.support.engines import Engine
from tests.support.matrices import density, sketch, with_eigenvalue

GENERIC = Kind.GENERIC


async def test_the_same_request_gets_the_first_answer_again(driver: Driver, engine: Engine) -> None:
    await put(driver, "n", 0, Put("rho", density(seed=9)))
    changes = [Put("rho", with_eigenvalue(-5e-9)), Put("g", sketch(), kind=GENERIC), Delete("x")]
    first = await put(driver, "n", 1, *changes, request_id="r", metadata={"a": "b"})
    before = engine.fingerprint(driver.settings)
    again = await put(driver, "n", 1, *changes, request_id="r", metadata={"a": "b"})
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.version, again.time_us, again.receipts) == (first.version, first.time_us, first.receipts)
    assert engine.fingerprint(driver.settings) == before


async def test_the_first_answer_outlives_the_server(driver: Driver) -> None:
    first = await put(driver, "n", 0, Put("rho", density()), request_id="r")
    await restart(driver)
    again = await put(driver, "n", 0, Put("rho", density()), request_id="r")
    assert (again.version, again.time_us, again.receipts, again.replayed) == (1, first.time_us, first.receipts, True)


async def test_a_replay_wins_over_a_version_conflict(guest: Driver) -> None:
    first = await put(guest, "n", 0, Put("rho", density()), request_id="r")
    await series(guest, "n", 3, start=1)
    again = await put(guest, "n", 0, Put("rho", density()), request_id="r")
    assert (again.version, again.time_us, again.replayed) == (1, first.time_us, True)
    assert (await guest.get("n")).version == 4


async def test_a_replay_wins_over_a_bound_on_the_step_that_would_now_refuse_it(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density(seed=1)))
    change = Put("rho", density(seed=2), max_step=10.0)
    first = await put(guest, "n", 1, change, request_id="r")
    assert (await put(guest, "n", 1, change, request_id="r")).receipts == first.receipts


@pytest.mark.settings(rho_history_versions=2)
async def test_the_first_answer_outlives_its_version(driver: Driver) -> None:
    first = await put(driver, "n", 0, Put("rho", density()), request_id="r")
    await series(driver, "n", 5, start=1)
    again = await put(driver, "n", 0, Put("rho", density()), request_id="r")
    assert (again.version, again.receipts, again.replayed) == (1, first.receipts, True)


@pytest.mark.parametrize(
    ("expected", "changes", "said"),
    [
        (0, [Put("rho", density(seed=2))], {}),
        (0, [Put("rho", density(dtype="<f4"))], {}),
        (0, [Put("other", density(), kind=Kind.DENSITY)], {}),
        (0, [Put("rho", density()), Delete("x")], {}),
        (0, [Delete("rho")], {}),
        (0, [Put("rho", density(), max_step=1.0)], {}),
        (0, [Put("rho", density())], {"metadata": {"a": "b"}}),
        (1, [Put("rho", density())], {}),
    ],
    ids=["numbers", "dtype", "key", "more", "delete", "max_step", "metadata", "expected_version"],
)
async def test_other_content_under_the_same_id_is_refused(
    driver: Driver, engine: Engine, expected: int, changes: list[Put | Delete], said: dict[str, object]
) -> None:
    first = await put(driver, "n", 0, Put("rho", density()), request_id="r")
    before = engine.fingerprint(driver.settings)
    with pytest.raises(RequestIdReused) as caught:
        await put(driver, "n", expected, *changes, request_id="r", **said)
    found = caught.value
    assert (found.namespace, found.reused_id, found.field) == ("n", "r", "request_id")
    assert abs(found.first_time_us - first.time_us) < 1_000_000
    assert engine.fingerprint(driver.settings) == before


async def test_the_shape_belongs_to_the_content(guest: Driver) -> None:
    numbers = sketch(4, 6)
    await put(guest, "n", 0, Put("g", numbers, kind=GENERIC), request_id="r")
    with pytest.raises(RequestIdReused):
        await put(guest, "n", 0, Put("g", numbers.reshape(6, 4), kind=GENERIC), request_id="r")


async def test_the_kind_and_the_layout_belong_to_the_content(guest: Driver) -> None:
    numbers = sketch(6, 6)
    await put(guest, "n", 0, Put("g", numbers, kind=Kind.DENSITY, form="factor"), request_id="r")
    with pytest.raises(RequestIdReused):
        await put(guest, "n", 0, Put("g", numbers, kind=GENERIC), request_id="r")


@pytest.mark.parametrize("form", ["doubles", "envelope", "zlib"])
async def test_the_same_numbers_in_another_wire_form_are_the_same_content(guest: Driver, form: str) -> None:
    await put(guest, "n", 0, Put("rho", density()), request_id="r")
    again = await put(guest, "n", 0, Put("rho", density(), form=form, kind=Kind.DENSITY), request_id="r")
    assert again.replayed


@pytest.mark.parametrize("form", ["doubles", "envelope"])
async def test_the_same_float32_numbers_in_another_wire_form_are_the_same_content(guest: Driver, form: str) -> None:
    rho = density(dtype="<f4")
    await put(guest, "n", 0, Put("rho", rho), request_id="r")
    assert (await put(guest, "n", 0, Put("rho", rho, form=form), request_id="r")).replayed


async def test_a_factor_in_an_envelope_is_the_same_content(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", sketch(), form="factor"), request_id="r")
    assert (await put(guest, "n", 0, Put("rho", sketch(), form="factor_envelope"), request_id="r")).replayed


async def test_a_clamped_matrix_is_recognized_by_what_was_sent(guest: Driver) -> None:
    sent = with_eigenvalue(-5e-9)
    await put(guest, "n", 0, Put("rho", sent), request_id="r")
    stored = np.frombuffer((await guest.get("n"))["rho"].numbers).reshape(6, 6)
    assert (await put(guest, "n", 0, Put("rho", sent), request_id="r")).replayed
    with pytest.raises(RequestIdReused):
        await put(guest, "n", 0, Put("rho", stored), request_id="r")


async def test_the_committer_does_not_belong_to_the_content(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()), request_id="r", committer="pod-1")
    assert (await put(guest, "n", 0, Put("rho", density()), request_id="r", committer="pod-2")).replayed


async def test_an_id_belongs_to_tenant_namespace_and_method(guest: Driver) -> None:
    change = Put("rho", density())
    answers = [
        await put(guest, "n", 0, change, request_id="r"),
        await put(guest, "m", 0, change, request_id="r"),
        await put(guest, "n", 0, change, request_id="r", tenant="other"),
    ]
    assert [a.replayed for a in answers] == [False, False, False]
    restored = await guest.restore(Ask(namespace="n", expected=1, request_id="r"), 1)
    assert (restored.version, restored.replayed) == (2, False)


async def test_only_successes_are_remembered(guest: Driver) -> None:
    with pytest.raises(VersionConflict):
        await put(guest, "n", 5, Put("rho", density()), request_id="r")
    with pytest.raises(RhoNotPsd):
        await put(guest, "n", 0, Put("rho", with_eigenvalue(-0.1)), request_id="r")
    await put(guest, "n", 0, Put("rho", density(seed=3)), request_id="r", validate_only=True)
    done = await put(guest, "n", 0, Put("rho", density()), request_id="r")
    assert (done.version, done.replayed) == (1, False)


async def test_without_an_id_a_retry_meets_the_version(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    with pytest.raises(VersionConflict):
        await put(guest, "n", 0, Put("rho", density()))
    assert (await put(guest, "n", 1, Put("rho", density()))).version == 2


async def test_validate_only_of_a_remembered_request_tells_the_first_answer(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()), request_id="r")
    said = await put(guest, "n", 0, Put("rho", density()), request_id="r", validate_only=True)
    assert (said.version, said.replayed) == (1, True)


@pytest.mark.parametrize("request_id", ["x" * 64, "é" * 32, "a b/c'%"])
async def test_any_string_of_64_bytes_is_an_id(guest: Driver, request_id: str) -> None:
    await put(guest, "n", 0, Put("rho", density()), request_id=request_id)
    assert (await put(guest, "n", 0, Put("rho", density()), request_id=request_id)).replayed


@pytest.mark.parametrize("request_id", ["x" * 65, "é" * 33, "a\nb", "\x00"])
async def test_another_string_is_not(guest: Driver, request_id: str) -> None:
    with pytest.raises(InvalidRequest, match="request_id: has"):
        await put(guest, "n", 0, Put("rho", density()), request_id=request_id)


# ---- restores ----------------------------------------------------------------------------------------------------------


async def test_a_restore_is_replayed_too(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 3)
    ask = Ask(namespace="n", expected=3, request_id="r", metadata={"why": "drift"})
    first = await driver.restore(ask, 1)
    before = engine.fingerprint(driver.settings)
    again = await driver.restore(ask, 1)
    assert (first.version, first.replayed, again.replayed) == (4, False, True)
    assert (again.version, again.time_us, again.restored_version, again.entries) == (4, first.time_us, 1, first.entries)
    assert engine.fingerprint(driver.settings) == before


async def test_a_restore_of_last_valid_is_replayed_as_what_it_was_then(guest: Driver) -> None:
    await series(guest, "n", 2)
    ask = Ask(namespace="n", expected=2, request_id="r")
    first = await guest.restore(ask, LAST_VALID)
    await series(guest, "n", 1, start=3)
    again = await guest.restore(ask, LAST_VALID)
    assert (first.restored_version, again.restored_version, again.version, again.replayed) == (2, 2, 3, True)


async def test_another_target_under_the_same_id_is_refused(guest: Driver) -> None:
    await series(guest, "n", 2)
    await guest.restore(Ask(namespace="n", expected=2, request_id="r"), 1)
    for target in (2, LAST_VALID):
        with pytest.raises(RequestIdReused):
            await guest.restore(Ask(namespace="n", expected=2, request_id="r"), target)


async def test_a_restore_that_is_only_validated_is_not_remembered(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 2)
    before = engine.fingerprint(driver.settings)
    said = await driver.restore(Ask(namespace="n", expected=2, request_id="r", validate_only=True), 1)
    assert (said.version, said.restored_version, said.replayed) == (3, 1, False)
    assert engine.fingerprint(driver.settings) == before
    assert not (await driver.restore(Ask(namespace="n", expected=2, request_id="r"), 2)).replayed
