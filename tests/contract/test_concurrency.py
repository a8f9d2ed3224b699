"""Many writers at once: nothing lost, nothing doubled, one winner for each version."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sfm_grpc.errors import NotFound, VersionCompacted, VersionConflict
from sfm_grpc.model import Kind
from tests.support.drivers import Ask, Driver, Put, put, series
from tests.support.matrices import density, sha256, sketch

WRITERS = 8
EACH = 6


@pytest.mark.settings(rho_history_versions=1000)
async def test_every_version_has_one_winner_and_no_commit_is_lost(driver: Driver) -> None:
    async def writer(place: int) -> list[int]:
        won, at = [], 0
        while len(won) < EACH:
            turn = len(won)
            change = Put("rho", density(seed=place * EACH + turn))
            try:
                at = (await put(driver, "n", at, change, committer=f"w{place}", metadata={"turn": str(turn)})).version
                won.append(at)
            except VersionConflict as conflict:
                at = conflict.current
        return won

    won = await asyncio.gather(*(writer(place) for place in range(WRITERS)))
    assert sorted(v for versions in won for v in versions) == list(range(1, WRITERS * EACH + 1))
    history = (await driver.versions("n", page_size=1000)).versions
    assert [v.version for v in history] == list(range(WRITERS * EACH, 0, -1))
    told = {version: (f"w{place}", str(turn)) for place, versions in enumerate(won) for turn, version in enumerate(versions)}
    assert {v.version: (v.committer, v.metadata["turn"]) for v in history} == told
    times = [v.commit_time_us for v in reversed(history)]
    assert times == sorted(times)


async def test_of_many_commits_on_one_version_exactly_one_succeeds(guest: Driver) -> None:
    sent = [density(seed=place) for place in range(12)]
    answers = await asyncio.gather(*(put(guest, "n", 0, Put("rho", rho)) for rho in sent), return_exceptions=True)
    won = [place for place, answer in enumerate(answers) if not isinstance(answer, Exception)]
    assert Counter(type(a) for a in answers)[VersionConflict] == 11
    assert (await guest.get("n")).digests() == {"rho": sha256(sent[won[0]])}


async def test_the_same_request_sent_many_times_at_once_commits_once(guest: Driver) -> None:
    ask = Ask(namespace="n", expected=0, request_id="r")
    answers = await asyncio.gather(*(guest.commit(ask, Put("rho", density())) for _ in range(12)))
    assert Counter(a.replayed for a in answers) == {False: 1, True: 11}
    assert len({(a.version, a.time_us, a.receipts) for a in answers}) == 1
    assert len((await guest.versions("n")).versions) == 1


async def test_of_different_requests_under_one_id_one_wins_and_the_others_are_told(guest: Driver) -> None:
    ask = Ask(namespace="n", expected=0, request_id="r")
    answers = await asyncio.gather(
        *(guest.commit(ask, Put("rho", density(seed=place))) for place in range(8)), return_exceptions=True
    )
    assert Counter(type(a).__name__ for a in answers) == {"Commit": 1, "RequestIdReused": 7}
    won = next(place for place, answer in enumerate(answers) if not isinstance(answer, Exception))
    assert (await guest.get("n")).digests() == {"rho": sha256(density(seed=won))}


@pytest.mark.settings(rho_history_versions=2)
async def test_versions_that_are_read_while_they_go_are_right_or_gone(driver: Driver) -> None:
    total, right, gone = 40, [], list[tuple[int, VersionCompacted]]()

    async def reader() -> None:
        version = 1
        while version < total:
            try:
                read = await driver.get("n", version=version)
                assert read["rho"].numbers == density(seed=version).tobytes()
                right.append(version)
                version += 1
            except VersionCompacted as error:
                gone.append((version, error))
                version = error.oldest
            except NotFound:
                await asyncio.sleep(0)

    await asyncio.gather(series(driver, "n", total), reader(), reader())
    assert right
    assert all(version < error.oldest <= error.current for version, error in gone)
    assert (await driver.get("n")).version == total


async def test_namespaces_do_not_wait_for_each_others_versions(guest: Driver) -> None:
    await asyncio.gather(*(series(guest, f"n{place}", 4, start=0) for place in range(6)))
    assert [(await guest.get(f"n{place}")).version for place in range(6)] == [4] * 6


async def test_readers_never_see_half_a_commit_nor_go_back(driver: Driver) -> None:
    """Two keys that always carry the same seed: a reader that saw one of each would know."""
    pairs = {sha256(density(seed=s)): sha256(sketch(seed=s)) for s in range(25)}
    done = False

    async def writer() -> None:
        nonlocal done
        for v in range(1, 25):
            await put(driver, "n", v, Put("rho", density(seed=v)), Put("g", sketch(seed=v), kind=Kind.GENERIC))
        done = True

    async def reader() -> int:
        seen = 0
        while not done:
            # What is durable and not yet answered for may be told by one look and missed by the next: `min_version`.
            read = await driver.get("n", canonical=seen % 2 == 1, min_version=seen)
            assert read.version >= seen
            assert pairs[sha256(read["rho"].numbers)] == sha256(read["g"].numbers)
            seen = read.version
            await asyncio.sleep(0)
        return seen

    await put(driver, "n", 0, Put("rho", density(seed=0)), Put("g", sketch(seed=0), kind=Kind.GENERIC))
    await asyncio.gather(writer(), *(reader() for _ in range(3)))
    assert (await driver.get("n")).version == 25
