"""What is put is there, once, as it was last put; and what is gone is not."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from msgspec import structs

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.storage.vectors.contract import VectorIndex
from tests.vectors.conftest import Another
from tests.vectors.given import EVERYTHING, NOW_US, a_field, a_point, found, keys, scanned, some_points, vectors

FIELD = a_field()
INT64_MAX = 2**63 - 1


async def test_what_was_put_is_found_at_once(index: VectorIndex) -> None:
    one, two = vectors(2)
    assert await index.apply(FIELD, [a_point("one", one, revision=3), a_point("two", two, revision=4)], []) == []
    nearest, _ = await found(index, FIELD, by=one)
    assert (nearest.key, nearest.revision) == ("one", 3)
    assert nearest.score == pytest.approx(1.0, abs=1e-6)


async def test_nothing_is_found_where_nothing_was_put(index: VectorIndex) -> None:
    assert await found(index, FIELD) == []
    assert await index.count(FIELD) == 0
    assert await index.scan(FIELD, after="", limit=10) == ((), "")
    await index.drop(FIELD)
    assert await index.apply(FIELD, [], ["never put"]) == []
    assert await index.apply(FIELD, [], []) == []


async def test_done_again_it_changes_nothing(index: VectorIndex) -> None:
    points = some_points(20)
    for _ in range(3):
        await index.apply(FIELD, points, ["never put"])
    assert await index.count(FIELD) == 20
    assert sorted(await scanned(index, FIELD)) == [(point.key, point.revision) for point in points]


async def test_a_key_has_one_point_and_it_is_the_last(index: VectorIndex) -> None:
    before, after = vectors(2)
    await index.apply(FIELD, [a_point("k", before, revision=1, memory_type="fact", importance=0.1)], [])
    await index.apply(FIELD, [a_point("k", after, revision=2, memory_type="episode", importance=0.9)], [])
    (hit,) = await found(index, FIELD, by=after)
    assert (hit.key, hit.revision) == ("k", 2)
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    assert await index.count(FIELD) == 1


async def test_an_overwrite_leaves_nothing_of_what_was(index: VectorIndex) -> None:
    was = a_point("k", memory_type="fact", coordinates=(1.0, 2.0, 3.0), expire_time_us=NOW_US - 1)
    await index.apply(FIELD, [was], [])
    assert await keys(index, FIELD) == set()
    await index.apply(FIELD, [a_point("k", memory_type="", coordinates=(), expire_time_us=0)], [])
    assert await keys(index, FIELD) == {"k"}


async def test_gone_keys_are_gone_and_come_back_when_they_are_put(index: VectorIndex) -> None:
    await index.apply(FIELD, some_points(6), [])
    await index.apply(FIELD, [a_point("new")], ["k/000", "k/001", "never put"])
    assert {key for key, _ in await scanned(index, FIELD)} == {"k/002", "k/003", "k/004", "k/005", "new"}
    await index.apply(FIELD, [a_point("k/000", revision=99)], ["new"])
    assert ("k/000", 99) in await scanned(index, FIELD)
    assert await index.count(FIELD) == 5


async def test_many_at_once_are_all_there(index: VectorIndex) -> None:
    points = some_points(1700)
    await index.apply(FIELD, points, [])
    assert await index.count(FIELD) == 1700
    await index.apply(FIELD, [], [point.key for point in points[:1300]])
    assert sorted(await scanned(index, FIELD, limit=150)) == sorted((point.key, point.revision) for point in points[1300:])


async def test_all_is_there_after_it_was_closed(index: VectorIndex, another: Another) -> None:
    points = some_points(40)
    await index.apply(FIELD, points, [])
    before = await found(index, FIELD)
    await index.close()
    again = another()
    await again.open()
    try:
        assert await found(again, FIELD) == before
        assert await again.count(FIELD) == 40
    finally:
        await again.close()


async def test_who_asks_what_was_closed_is_told(index: VectorIndex) -> None:
    await index.close()
    await index.close()
    with pytest.raises(IndexUnavailable, match="closed"):
        await index.count(FIELD)


async def test_it_says_what_it_is(index: VectorIndex) -> None:
    assert "nothing kept yet" in await index.check()
    await index.apply(FIELD, [a_point("k")], [])
    assert "8" in await index.check()
    assert "cosine" in await index.check()


# ---- refusals


async def test_what_has_another_dimension_is_refused_and_the_others_are_taken(index: VectorIndex) -> None:
    short, good, long = (a_point(key, vectors(1, size)[0]) for key, size in (("short", 7), ("good", 8), ("long", 9)))
    refused = await index.apply(FIELD, [short, good, long, a_point("empty", vectors(1, 0)[0])], [])
    assert [r.key for r in refused] == ["short", "long", "empty"]
    assert refused[0].reason == "its vector has 7 numbers, and those it would lie among have 8"
    assert refused[0].revision == 1
    assert await keys(index, FIELD) == {"good"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e20])
async def test_numbers_that_cannot_be_compared_do_not_get_in(index: VectorIndex, bad: float) -> None:
    vector = vectors(1)[0]
    vector[5] = bad
    (refused,) = await index.apply(FIELD, [a_point("bad", vector), a_point("good")], [])
    assert refused.key == "bad"
    assert "not finite" in refused.reason
    assert await keys(index, FIELD) == {"good"}


@pytest.mark.parametrize("told", [{"importance": math.nan}, {"coordinates": (1.0, math.inf)}])
async def test_nor_do_others_that_are_not_finite(index: VectorIndex, told: dict[str, object]) -> None:
    (refused,) = await index.apply(FIELD, [a_point("bad", **told), a_point("good")], [])
    assert (refused.key, refused.reason) == ("bad", "its importance or one of its coordinates is not finite")
    assert await index.count(FIELD) == 1


async def test_a_refused_put_leaves_what_was_there(index: VectorIndex) -> None:
    await index.apply(FIELD, [a_point("k", revision=1)], [])
    await index.apply(FIELD, [a_point("k", vectors(1, 3)[0], revision=2)], [])
    assert await scanned(index, FIELD) == [("k", 1)]


# ---- values at their ends


@pytest.mark.parametrize("revision", [1, 2**53 + 1, INT64_MAX - 1, INT64_MAX])
async def test_revisions_are_exact(index: VectorIndex, revision: int) -> None:
    await index.apply(FIELD, [a_point("k", revision=revision)], [])
    assert [hit.revision for hit in await found(index, FIELD)] == [revision]
    assert await scanned(index, FIELD) == [("k", revision)]


async def test_times_may_be_as_large_as_they_get(index: VectorIndex) -> None:
    large = {"create_time_us": INT64_MAX, "update_time_us": INT64_MAX}
    await index.apply(
        FIELD, [a_point("late", expire_time_us=INT64_MAX, **large), a_point("never", expire_time_us=0, **large)], []
    )
    assert await keys(index, FIELD) == {"late", "never"}
    assert await keys(index, FIELD, now_us=2**53) == {"late", "never"}


async def test_vectors_may_be_views_of_something_larger(index: VectorIndex) -> None:
    block = vectors(3)
    views = memoryview(block.tobytes())
    points = [a_point(f"k{i}", revision=i + 1) for i in range(3)]
    given = [structs.replace(point, vector=views[32 * i : 32 * (i + 1)]) for i, point in enumerate(points)]
    await index.apply(FIELD, given, [])
    for i, vector in enumerate(block):
        assert (await found(index, FIELD, by=vector, limit=1))[0].key == f"k{i}"


async def test_bytes_are_little_endian_floats(index: VectorIndex) -> None:
    await index.apply(a_field(dimension=2), [a_point("k", np.array([0.6, 0.8]))], [])
    (hit,) = await index.search(a_field(dimension=2), struct.pack("<2f", 3, 4), EVERYTHING, now_us=NOW_US, limit=5)
    assert hit.score == pytest.approx(1.0, abs=1e-6)
