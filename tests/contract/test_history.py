"""ListRhoVersions and retention: what is kept, in which order, for how long."""

from __future__ import annotations

import asyncio
import base64

import pytest

from sfm_grpc.errors import InvalidRequest, NotFound, VersionCompacted
from sfm_grpc.model import Kind
from tests.support.drivers import LAST_VALID, Ask, Delete, Driver, Page, Put, put, restart, series
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch
from tests.support.servers import until


async def pages(driver: Driver, namespace: str, size: int) -> list[Page]:
    """The whole history, page by page."""
    found = [await driver.versions(namespace, page_size=size)]
    while found[-1].next_page_token:
        found.append(await driver.versions(namespace, page_size=size, page_token=found[-1].next_page_token))
    return found


def numbers(page: Page) -> list[int]:
    return [v.version for v in page.versions]


async def compacted(driver: Driver, oldest: int) -> None:
    """Waits until the background has taken away what is older."""

    async def seen() -> bool:
        return (await driver.versions("n")).oldest == oldest

    await until(seen)


async def test_history_is_told_newest_first_with_what_each_version_held(guest: Driver) -> None:
    first = await put(guest, "n", 0, Put("rho", density()), committer="a", metadata={"step": "1"})
    second = await put(guest, "n", 1, Put("g", sketch(), kind=Kind.GENERIC), committer="b")
    third = await put(guest, "n", 2, Delete("rho"), Put("g", sketch(seed=1), kind=Kind.GENERIC))
    page = await guest.versions("n")
    assert (page.newest, page.oldest, page.next_page_token) == (3, 1, "")
    assert [(v.version, v.commit_time_us, v.committer, dict(v.metadata)) for v in page.versions] == [
        (3, third.time_us, "", {}),
        (2, second.time_us, "b", {}),
        (1, first.time_us, "a", {"step": "1"}),
    ]
    assert [v.changed_keys for v in page.versions] == [("rho", "g"), ("g",), ("rho",)]
    assert [[(e.key, e.put_version) for e in v.entries] for v in page.versions] == [
        [("g", 3)],
        [("g", 2), ("rho", 1)],
        [("rho", 1)],
    ]
    assert all(v.valid and v.restored_version == 0 for v in page.versions)
    assert page.versions[2].entries[0].certificate.digest == sha256(density())


async def test_a_namespace_that_was_never_committed_to_has_no_history(guest: Driver) -> None:
    with pytest.raises(NotFound):
        await guest.versions("n")


async def test_history_outlives_the_server(driver: Driver) -> None:
    await series(driver, "n", 3)
    before = await driver.versions("n")
    await restart(driver)
    assert await driver.versions("n") == before


# ---- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
async def test_pages_cover_history_once_each(guest: Driver, size: int) -> None:
    await series(guest, "n", 6)
    found = await pages(guest, "n", size)
    assert [n for page in found for n in numbers(page)] == [6, 5, 4, 3, 2, 1]
    assert len(found) == -(-6 // size)


async def test_a_page_has_fifty_unless_said(guest: Driver) -> None:
    await put(guest, "n", 0, Delete("x"))
    for version in range(1, 51):
        await put(guest, "n", version, Delete("x"))
    page = await guest.versions("n")
    assert (len(page.versions), numbers(page)[-1]) == (50, 2)
    assert numbers(await guest.versions("n", page_token=page.next_page_token)) == [1]


async def test_paging_is_not_disturbed_by_commits(guest: Driver) -> None:
    await series(guest, "n", 4)
    first = await guest.versions("n", page_size=2)
    await series(guest, "n", 3, start=4)
    second = await guest.versions("n", page_size=2, page_token=first.next_page_token)
    assert (numbers(first), numbers(second), second.newest, second.next_page_token) == ([4, 3], [2, 1], 7, "")


async def test_a_token_works_after_a_restart(driver: Driver) -> None:
    await series(driver, "n", 3)
    first = await driver.versions("n", page_size=2)
    await restart(driver)
    assert numbers(await driver.versions("n", page_size=2, page_token=first.next_page_token)) == [1]


@pytest.mark.settings(rho_history_versions=2)
async def test_a_page_whose_versions_are_gone_is_the_last_one(driver: Driver) -> None:
    await series(driver, "n", 2)
    first = await driver.versions("n", page_size=1)
    await series(driver, "n", 4, start=2)
    await compacted(driver, oldest=5)
    second = await driver.versions("n", page_size=1, page_token=first.next_page_token)
    assert (numbers(second), second.next_page_token, second.oldest) == ([], "", 5)


async def test_a_token_of_another_list_is_refused(guest: Driver) -> None:
    for namespace, tenant in (("n", "default"), ("m", "default"), ("n", "other")):
        for version in range(2):
            await put(guest, namespace, version, Delete("x"), tenant=tenant)
    token = (await guest.versions("n", page_size=1)).next_page_token
    with pytest.raises(InvalidRequest, match="page_token"):
        await guest.versions("m", page_size=1, page_token=token)
    with pytest.raises(InvalidRequest, match="page_token"):
        await guest.versions("n", page_size=1, page_token=token, tenant="other")


def token_of(token: str, place: str) -> str:
    """A token of the same list, which goes on after something else."""
    return base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)[:16] + place.encode()).decode()


async def test_a_token_that_was_never_given_is_refused(guest: Driver) -> None:
    await series(guest, "n", 2)
    token = (await guest.versions("n", page_size=1)).next_page_token
    made = [token_of(token, place) for place in ("0", "-1", str(2**63), "1.5", '"1"', "null", "[]", "{", "NaN")]
    for wrong in ("garbage", "é", token[:-4], token + token, token[::-1], "A" * len(token), "x" * 100_000, "\x00", *made):
        with pytest.raises(InvalidRequest, match="page_token: is not a token of this list"):
            await guest.versions("n", page_token=wrong)


@pytest.mark.settings(page_size_max=10)
@pytest.mark.parametrize("size", [-1, 11, 2**31 - 1, -(2**31)])
async def test_absurd_page_sizes_are_refused(driver: Driver, size: int) -> None:
    await series(driver, "n", 1)
    with pytest.raises(InvalidRequest, match=f"page_size: is {size}; it must be 1 to 10"):
        await driver.versions("n", page_size=size)
    assert numbers(await driver.versions("n", page_size=10)) == [1]


# ---- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.settings(rho_history_versions=3)
async def test_old_versions_go_and_the_newest_stay(driver: Driver) -> None:
    sent = await series(driver, "n", 8)
    await compacted(driver, oldest=6)
    assert numbers(await driver.versions("n")) == [8, 7, 6]
    for version in (6, 7, 8):
        assert (await driver.get("n", version=version))["rho"].numbers == sent[version - 1].tobytes()
    with pytest.raises(VersionCompacted) as caught:
        await driver.restore(Ask(namespace="n", expected=8), 5)
    assert caught.value.oldest == 6


@pytest.mark.settings(rho_history_versions=2)
async def test_numbers_that_a_kept_version_still_holds_stay(driver: Driver) -> None:
    await put(driver, "n", 0, Put("g", sketch(), kind=Kind.GENERIC), Put("rho", density()))
    await series(driver, "n", 5, start=1)
    await compacted(driver, oldest=5)
    await restart(driver)
    for version in (None, 5):
        held = (await driver.get("n", version=version))["g"]
        assert (held.numbers, held.put_version) == (sketch().tobytes(), 1)


@pytest.mark.settings(rho_history_versions=2, rho_enforcement="observe")
async def test_the_newest_valid_version_stays_however_old(driver: Driver) -> None:
    [good] = await series(driver, "n", 1)
    for version in range(1, 7):
        await put(driver, "n", version, Put("rho", density(seed=version) * 2))
    await until(lambda: _list_is(driver, [7, 6, 1]))
    assert (await driver.versions("n")).oldest == 1
    with pytest.raises(VersionCompacted) as caught:
        await driver.get("n", version=3)
    assert caught.value.oldest == 1
    with pytest.raises(VersionCompacted):
        await driver.restore(Ask(namespace="n", expected=7), 3)
    restored = await driver.restore(Ask(namespace="n", expected=7), LAST_VALID)
    assert (restored.version, restored.restored_version) == (8, 1)
    assert (await driver.get("n"))["rho"].numbers == good.tobytes()


async def _list_is(driver: Driver, expected: list[int]) -> bool:
    return numbers(await driver.versions("n")) == expected


@pytest.mark.settings(rho_history_versions=1, rho_history_age_s=1)
async def test_the_head_stays_however_old(driver: Driver) -> None:
    sent = await series(driver, "n", 2)
    await asyncio.sleep(1.1)
    await restart(driver)
    await compacted(driver, oldest=2)
    assert (await driver.get("n"))["rho"].numbers == sent[1].tobytes()


@pytest.mark.settings(rho_history_age_s=1)
async def test_versions_that_grew_too_old_while_the_server_was_down_go(driver: Driver) -> None:
    await series(driver, "n", 3)
    await asyncio.sleep(1.1)
    await restart(driver)
    await compacted(driver, oldest=3)
    assert numbers(await driver.versions("n")) == [3]


@pytest.mark.settings(rho_history_versions=2)
async def test_compaction_gives_the_space_back(driver: Driver, engine: Engine) -> None:
    await series(driver, "n", 6)
    await compacted(driver, oldest=5)
    assert engine.bodies(driver.settings) == 2
