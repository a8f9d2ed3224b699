"""CommitRho: all or none, if the namespace is still at `expected_version`."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sfm_grpc.errors import (
    InvalidRequest,
    KindChanged,
    LimitExceeded,
    NotFound,
    RhoNotPsd,
    StepTooLarge,
    VersionConflict,
)
from sfm_grpc.model import Kind, Layout, PsdMethod
from tests.support.drivers import Ask, Delete, Driver, Put, put, restart, series
from tests.support.engines import Engine
from tests.support.matrices import density, diagonal, rank_one, sha256, sketch, with_eigenvalue

GENERIC = Kind.GENERIC

# ---- versions and compare-and-swap -------------------------------------------------------------------------------------


async def test_the_first_commit_creates_the_namespace_at_version_1(guest: Driver) -> None:
    before_us = time.time_ns() // 1000
    done = await put(guest, "n", 0, Put("rho", density()))
    assert (done.version, done.replayed) == (1, False)
    assert before_us <= done.time_us <= time.time_ns() // 1000
    assert (await guest.get("n")).version == 1


async def test_versions_count_commits_without_a_gap(guest: Driver) -> None:
    versions = [(await put(guest, "n", v, Put("rho", density(seed=v)))).version for v in range(5)]
    assert versions == [1, 2, 3, 4, 5]


async def test_namespaces_count_for_themselves(guest: Driver) -> None:
    await series(guest, "one", 3)
    assert (await put(guest, "two", 0, Put("rho", density()))).version == 1
    assert (await guest.get("one")).version == 3


@pytest.mark.parametrize("expected", [0, 1, 3, 2**62])
async def test_another_version_is_refused_with_who_made_the_current_one_and_when(guest: Driver, expected: int) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    second = await put(guest, "n", 1, Put("rho", density(seed=1)), committer="manager-7")
    with pytest.raises(VersionConflict) as caught:
        await put(guest, "n", expected, Put("rho", density(seed=2)), committer="late")
    assert caught.value.facts() == {
        "namespace": "n",
        "expected": str(expected),
        "current": "2",
        "committer": "manager-7",
        "key": "",
        "field": "",
        "commit_time_us": str(second.time_us),
    }
    assert (await guest.get("n"))["rho"].numbers == density(seed=1).tobytes()


async def test_a_version_of_a_namespace_without_commits_is_refused_and_creates_nothing(guest: Driver) -> None:
    with pytest.raises(VersionConflict) as caught:
        await put(guest, "n", 1, Put("rho", density()))
    assert (caught.value.current, caught.value.committer) == (0, "")
    with pytest.raises(NotFound):
        await guest.get("n")


async def test_the_expected_version_is_required(guest: Driver) -> None:
    with pytest.raises(InvalidRequest, match="expected_version: is required"):
        await guest.commit(Ask(namespace="n", expected=None), Put("rho", density()))


async def test_a_negative_expected_version_is_refused(guest: Driver) -> None:
    with pytest.raises(InvalidRequest, match="expected_version: is -1"):
        await put(guest, "n", -1, Put("rho", density()))


async def test_deleting_everything_never_sets_the_version_back(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    assert (await put(guest, "n", 1, Delete("rho"))).version == 2
    empty = await guest.get("n")
    assert (empty.version, empty.matrices) == (2, {})
    with pytest.raises(VersionConflict):
        await put(guest, "n", 0, Put("rho", density()))
    assert (await put(guest, "n", 2, Put("rho", density()))).version == 3


async def test_versions_go_on_after_a_restart(driver: Driver) -> None:
    sent = await series(driver, "n", 2)
    await restart(driver)
    assert (await driver.get("n"))["rho"].numbers == sent[-1].tobytes()
    assert (await put(driver, "n", 2, Put("rho", density()))).version == 3


async def test_commit_time_stands_still_while_the_clock_is_behind(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await put(driver, "n", 0, Put("rho", density(seed=1)))
    now = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now() - 3_600_000_000_000)
        second = await put(driver, "n", 1, Put("rho", density(seed=2)))
        restored = await driver.restore(Ask(namespace="n", expected=2), 1)
    third = await put(driver, "n", 3, Put("rho", density(seed=3)))
    assert first.time_us == second.time_us == restored.time_us < third.time_us


# ---- several keys, one version -----------------------------------------------------------------------------------------


async def test_the_keys_of_a_commit_become_one_version(guest: Driver) -> None:
    rho, fd = density(), sketch()
    done = await put(guest, "n", 0, Put("rho", rho), Put("fd_sketch", fd, kind=GENERIC))
    assert [r.key for r in done.receipts] == ["rho", "fd_sketch"]
    read = await guest.get("n")
    assert (read.version, {k: h.numbers for k, h in read.matrices.items()}) == (
        1,
        {"rho": rho.tobytes(), "fd_sketch": fd.tobytes()},
    )


async def test_one_refused_matrix_refuses_the_whole_commit(driver: Driver, engine: Engine) -> None:
    await put(driver, "n", 0, Put("rho", density()), Put("other", sketch(), kind=GENERIC))
    before = engine.fingerprint(driver.settings)
    with pytest.raises(RhoNotPsd) as caught:
        await put(driver, "n", 1, Put("other", sketch(seed=1), kind=GENERIC), Delete("gone"), Put("rho", with_eigenvalue(-0.1)))
    assert (caught.value.key, caught.value.field) == ("rho", "updates[2].put")
    assert engine.fingerprint(driver.settings) == before


async def test_of_several_refused_matrices_the_first_is_told(guest: Driver) -> None:
    wrong = with_eigenvalue(-0.1)
    with pytest.raises(RhoNotPsd) as caught:
        await put(guest, "n", 0, Put("a", density(), kind=Kind.DENSITY), *[Put(k, wrong, kind=Kind.DENSITY) for k in "bcd"])
    assert caught.value.key == "b"


async def test_keys_a_commit_does_not_name_are_carried_along(guest: Driver) -> None:
    rho, fd = density(), sketch()
    await put(guest, "n", 0, Put("rho", rho), Put("fd_sketch", fd, kind=GENERIC))
    await put(guest, "n", 1, Put("rho", density(seed=1)))
    read = await guest.get("n")
    assert read["fd_sketch"].numbers == fd.tobytes()
    assert (read["rho"].put_version, read["fd_sketch"].put_version) == (2, 1)
    assert (await guest.versions("n")).versions[0].changed_keys == ("rho",)


async def test_a_deleted_key_is_gone_and_the_others_stay(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()), Put("fd_sketch", sketch(), kind=GENERIC))
    done = await put(guest, "n", 1, Delete("fd_sketch"))
    assert (done["fd_sketch"].deleted, done["fd_sketch"].digest, done["fd_sketch"].certificate) == (True, b"", None)
    assert list((await guest.get("n")).matrices) == ["rho"]
    assert "fd_sketch" in (await guest.get("n", version=1)).matrices


async def test_deleting_an_absent_key_changes_nothing_but_makes_a_version(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()))
    done = await put(guest, "n", 1, Delete("never"))
    assert (done.version, done["never"].deleted) == (2, True)
    assert (await guest.get("n")).digests() == {"rho": sha256(density())}


async def test_a_namespace_may_begin_with_a_deletion(guest: Driver) -> None:
    assert (await put(guest, "n", 0, Delete("never"))).version == 1
    assert (await guest.get("n")).matrices == {}


async def test_answers_come_in_the_order_of_the_keys_bytes(guest: Driver) -> None:
    keys = ["é", "Z", "a", "𝜌", "zz", "ﬁ"]
    await put(guest, "n", 0, *[Put(key, sketch(), kind=GENERIC) for key in keys])
    expected = sorted(keys, key=str.encode)
    assert list((await guest.get("n")).matrices) == expected
    assert [e.key for e in (await guest.versions("n")).versions[0].entries] == expected


async def test_duplicate_keys_are_refused(guest: Driver) -> None:
    with pytest.raises(InvalidRequest, match="changed twice") as caught:
        await put(guest, "n", 0, Put("rho", density()), Delete("rho"))
    assert caught.value.field == "updates[1].key"


async def test_a_commit_of_nothing_is_refused(guest: Driver) -> None:
    with pytest.raises(InvalidRequest, match="updates: is empty"):
        await put(guest, "n", 0)


@pytest.mark.settings(keys_per_commit_max=3, keys_per_namespace_max=4)
async def test_too_many_keys_are_refused_by_name_of_the_limit(driver: Driver, engine: Engine) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await put(driver, "n", 0, *[Put(f"k{i}", sketch(), kind=GENERIC) for i in range(4)])
    assert (caught.value.limit, caught.value.value, caught.value.maximum) == ("keys_per_commit_max", 4, 3)
    await put(driver, "n", 0, *[Put(f"k{i}", sketch(), kind=GENERIC) for i in range(3)])
    before = engine.fingerprint(driver.settings)
    with pytest.raises(LimitExceeded) as caught:
        await put(driver, "n", 1, *[Put(f"m{i}", sketch(), kind=GENERIC) for i in range(2)])
    assert (caught.value.limit, caught.value.value, caught.value.maximum) == ("keys_per_namespace_max", 5, 4)
    assert engine.fingerprint(driver.settings) == before
    await put(driver, "n", 1, Put("m0", sketch(), kind=GENERIC))
    assert (await put(driver, "n", 2, Delete("m0"), Put("m1", sketch(), kind=GENERIC))).version == 3


# ---- kinds -------------------------------------------------------------------------------------------------------------


async def test_rho_is_a_density_matrix_unless_said_and_whatever_is_said(guest: Driver) -> None:
    assert (await put(guest, "n", 0, Put("rho", density()))).receipts[0].certificate.kind is Kind.DENSITY
    with pytest.raises(InvalidRequest, match="always MATRIX_KIND_DENSITY"):
        await put(guest, "n", 1, Put("rho", density(), kind=GENERIC))


async def test_other_keys_say_their_kind(guest: Driver) -> None:
    with pytest.raises(InvalidRequest, match=r"updates\[0\].put.kind: is required"):
        await put(guest, "n", 0, Put("fd_sketch", sketch()))


@pytest.mark.parametrize(("first", "then"), [(Kind.GENERIC, Kind.DENSITY), (Kind.DENSITY, Kind.GENERIC)])
async def test_a_kind_is_fixed_by_the_first_commit(driver: Driver, engine: Engine, first: Kind, then: Kind) -> None:
    await put(driver, "n", 0, Put("k", density(), kind=first))
    before = engine.fingerprint(driver.settings)
    with pytest.raises(KindChanged) as caught:
        await put(driver, "n", 1, Put("other", sketch(), kind=GENERIC), Put("k", density(), kind=then))
    found = caught.value
    assert (found.namespace, found.key, found.kind, found.requested) == ("n", "k", first.label, then.label)
    assert found.field == "updates[1].put.kind"
    assert engine.fingerprint(driver.settings) == before


async def test_a_kind_stays_fixed_after_the_key_was_deleted_and_the_server_restarted(driver: Driver) -> None:
    await put(driver, "n", 0, Put("k", sketch(), kind=GENERIC))
    await put(driver, "n", 1, Delete("k"))
    await restart(driver)
    with pytest.raises(KindChanged):
        await put(driver, "n", 2, Put("k", density(), kind=Kind.DENSITY))
    assert (await put(driver, "n", 2, Put("k", sketch(), kind=GENERIC))).version == 3


async def test_the_same_key_of_another_namespace_has_its_own_kind(guest: Driver) -> None:
    await put(guest, "one", 0, Put("k", sketch(), kind=GENERIC))
    assert (await put(guest, "two", 0, Put("k", density(), kind=Kind.DENSITY))).version == 1


async def test_a_key_may_change_its_dtype_dimension_and_layout(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density(6)))
    await put(guest, "n", 1, Put("rho", density(8, dtype="<f4")))
    await put(guest, "n", 2, Put("rho", sketch(2, 5), form="factor"))
    certificate = (await guest.get("n"))["rho"].certificate
    assert (certificate.layout, certificate.shape) == (Layout.FACTOR, (2, 5))


# ---- receipts ----------------------------------------------------------------------------------------------------------


async def test_the_receipt_is_the_truth_about_what_is_stored(guest: Driver) -> None:
    rho = density()
    receipt = (await put(guest, "n", 0, Put("rho", rho)))["rho"]
    certificate = receipt.certificate
    assert receipt.digest == certificate.digest == sha256(rho)
    assert (receipt.clamped, receipt.step, certificate.valid, certificate.psd_ok, certificate.trace_ok) == (
        False,
        None,
        True,
        True,
        True,
    )
    assert certificate.psd_method is PsdMethod.CHOLESKY
    assert -1e-12 < certificate.min_eigenvalue_bound <= np.linalg.eigvalsh(rho)[0]
    assert (certificate.trace_error < 1e-15, certificate.asymmetry) == (True, 0.0)
    assert (await guest.get("n"))["rho"].certificate == certificate


async def test_a_matrix_below_zero_within_epsilon_is_clamped_and_the_receipt_says_so(guest: Driver) -> None:
    sent = with_eigenvalue(-5e-9)
    receipt = (await put(guest, "n", 0, Put("rho", sent)))["rho"]
    assert receipt.clamped
    assert receipt.digest != sha256(sent)
    assert 0 < receipt.certificate.clamped_mass < 1e-7
    held = (await guest.get("n"))["rho"]
    stored = np.frombuffer(held.numbers).reshape(6, 6)
    assert sha256(held.numbers) == receipt.digest == held.certificate.digest
    assert np.linalg.eigvalsh(stored)[0] > -1e-12
    assert np.abs(stored - sent).max() < 1e-7


async def test_a_clamped_matrix_is_admitted_untouched_when_it_is_committed_again(guest: Driver) -> None:
    first = (await put(guest, "n", 0, Put("rho", with_eigenvalue(-5e-9))))["rho"]
    stored = np.frombuffer((await guest.get("n"))["rho"].numbers).reshape(6, 6)
    again = (await put(guest, "n", 1, Put("rho", stored)))["rho"]
    assert (again.clamped, again.digest, again.step) == (False, first.digest, 0.0)


@pytest.mark.parametrize("rho", [rank_one(), diagonal(1, 0, 0), density(1), diagonal(0.5, 0.5, 0)], ids=str)
async def test_singular_matrices_are_accepted_untouched(guest: Driver, rho: np.ndarray) -> None:
    receipt = (await put(guest, "n", 0, Put("rho", rho)))["rho"]
    assert (receipt.clamped, receipt.digest) == (False, sha256(rho))


# ---- steps -------------------------------------------------------------------------------------------------------------


async def test_the_step_is_the_distance_from_the_matrix_before(guest: Driver) -> None:
    old, new = density(seed=1), density(seed=2)
    assert (await put(guest, "n", 0, Put("rho", old)))["rho"].step is None
    assert (await put(guest, "n", 1, Put("rho", new)))["rho"].step == pytest.approx(np.linalg.norm(new - old), rel=1e-12)
    assert (await put(guest, "n", 2, Put("rho", new)))["rho"].step == 0.0


async def test_the_step_is_measured_after_a_restart_too(driver: Driver) -> None:
    old, new = density(seed=1), density(seed=2)
    await put(driver, "n", 0, Put("rho", old))
    await restart(driver)
    assert (await put(driver, "n", 1, Put("rho", new)))["rho"].step == pytest.approx(np.linalg.norm(new - old), rel=1e-12)


async def test_there_is_no_step_to_another_dimension_nor_over_a_deletion(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density(6)))
    assert (await put(guest, "n", 1, Put("rho", density(7), max_step=0.0)))["rho"].step is None
    await put(guest, "n", 2, Delete("rho"))
    assert (await put(guest, "n", 3, Put("rho", density(7), max_step=0.0)))["rho"].step is None


async def test_a_step_over_the_callers_bound_is_refused(driver: Driver, engine: Engine) -> None:
    old, new = density(seed=1), density(seed=2)
    size = float(np.linalg.norm(new - old))
    await put(driver, "n", 0, Put("rho", old))
    before = engine.fingerprint(driver.settings)
    with pytest.raises(StepTooLarge) as caught:
        await put(driver, "n", 1, Put("rho", new, max_step=size * 0.999))
    found = caught.value
    assert (found.namespace, found.key, found.bound) == ("n", "rho", size * 0.999)
    assert found.step == pytest.approx(size)
    assert engine.fingerprint(driver.settings) == before
    assert (await put(driver, "n", 1, Put("rho", new, max_step=size * 1.001))).version == 2


@pytest.mark.settings(rho_max_step=1e-3)
async def test_the_servers_bound_holds_where_the_caller_names_none(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", density(seed=1)))
    with pytest.raises(StepTooLarge) as caught:
        await put(driver, "n", 1, Put("rho", density(seed=2)))
    assert caught.value.bound == 1e-3
    assert (await put(driver, "n", 1, Put("rho", density(seed=2), max_step=10.0))).version == 2


@pytest.mark.parametrize("bound", [-1.0, float("nan"), float("-inf")])
async def test_a_bound_that_bounds_nothing_is_refused(guest: Driver, bound: float) -> None:
    with pytest.raises(InvalidRequest, match=r"updates\[0\].max_step"):
        await put(guest, "n", 0, Put("rho", density(), max_step=bound))


# ---- validate_only -----------------------------------------------------------------------------------------------------


async def test_validate_only_answers_what_a_commit_would_and_records_nothing(driver: Driver, engine: Engine) -> None:
    await put(driver, "n", 0, Put("rho", density()))
    before = engine.fingerprint(driver.settings)
    change = Put("rho", with_eigenvalue(-5e-9))
    said = await put(driver, "n", 1, change, validate_only=True, request_id="try")
    assert engine.fingerprint(driver.settings) == before
    assert (await driver.get("n")).version == 1
    done = await put(driver, "n", 1, change, request_id="try")
    assert (said.version, said.replayed, done.version, done.replayed) == (2, False, 2, False)
    assert (said["rho"].digest, said["rho"].clamped, said["rho"].step) == (
        done["rho"].digest,
        True,
        pytest.approx(done["rho"].step),
    )


async def test_validate_only_does_not_create_a_namespace(driver: Driver, engine: Engine) -> None:
    before = engine.fingerprint(driver.settings)
    assert (await put(driver, "n", 0, Put("rho", density()), validate_only=True)).version == 1
    assert engine.fingerprint(driver.settings) == before
    with pytest.raises(NotFound):
        await driver.get("n")


async def test_validate_only_checks_all_that_a_commit_checks(guest: Driver) -> None:
    await put(guest, "n", 0, Put("rho", density()), Put("g", sketch(), kind=GENERIC))
    with pytest.raises(VersionConflict):
        await put(guest, "n", 0, Put("rho", density()), validate_only=True)
    with pytest.raises(RhoNotPsd):
        await put(guest, "n", 1, Put("rho", with_eigenvalue(-0.1)), validate_only=True)
    with pytest.raises(KindChanged):
        await put(guest, "n", 1, Put("g", density(), kind=Kind.DENSITY), validate_only=True)
    with pytest.raises(StepTooLarge):
        await put(guest, "n", 1, Put("rho", density(seed=3), max_step=0.0), validate_only=True)


# ---- what is said beside the matrices ----------------------------------------------------------------------------------


async def test_metadata_and_committer_are_kept_with_the_version(guest: Driver) -> None:
    facts = {"why": "línea\n\x00 tab\t", "batch": "8", "empty": "", "ключ": "ρ" * 50}
    await put(guest, "n", 0, Put("rho", density()), metadata=facts, committer="manager-1")
    found = (await guest.versions("n")).versions[0]
    assert (dict(found.metadata), found.committer) == (facts, "manager-1")


@pytest.mark.settings(metadata_bytes_max=10)
async def test_too_much_metadata_is_refused(driver: Driver) -> None:
    assert (await put(driver, "n", 0, Put("rho", density()), metadata={"ab": "12345678"})).version == 1
    with pytest.raises(LimitExceeded) as caught:
        await put(driver, "n", 1, Put("rho", density()), metadata={"ab": "12345é78"})
    assert (caught.value.limit, caught.value.value) == ("metadata_bytes_max", 11)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is required"),
        ("x" * 257, "has 257 bytes"),
        ("é" * 129, "has 258 bytes"),
        ("a\x00b", r"control character U\+0000 at position 1"),
        ("a\nb", r"control character U\+000A at position 1"),
        ("\x7f", r"control character U\+007F at position 0"),
        ("\x85", r"control character U\+0085 at position 0"),
    ],
)
async def test_names_are_checked(guest: Driver, name: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"namespace: .*{problem}"):
        await put(guest, name, 0, Put("rho", density()))
    with pytest.raises(InvalidRequest, match=rf"updates\[1\].key: .*{problem}"):
        await put(guest, "n", 0, Delete("k"), Put(name, density(), kind=Kind.DENSITY))


async def test_the_longest_and_strangest_names_work(guest: Driver) -> None:
    for place, name in enumerate(["x" * 256, "𝜌" * 64, " ", "../..", "'; DROP TABLE namespace; --", "\u2028"]):
        done = await put(guest, name, 0, Put(name, sketch(seed=place), kind=GENERIC))
        assert done.version == 1
        assert (await guest.get(name, name))[name].numbers == sketch(seed=place).tobytes()
