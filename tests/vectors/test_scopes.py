"""Nobody sees what is another's; scans come to everything; what is dropped is all of it, and only that."""

from __future__ import annotations

import asyncio

import pytest

from sfm_grpc.model import Distance, MemoryFilter
from sfm_grpc.storage.vectors.contract import Field, VectorIndex
from tests.vectors.given import a_field, a_point, found, keys, scanned, some_points, vectors

ALIKE = [
    a_field("a", tenant="t"),
    a_field("b", tenant="t"),
    a_field("a", tenant="u"),
    a_field("a"),
    a_field("ta"),
    a_field("a", tenant="t:a"),
    a_field(":a", tenant="t"),
    a_field("a", tenant="T"),
    a_field("a/b", tenant="t"),
    a_field("b", tenant="t/a"),
    a_field("é", tenant="é"),
    a_field("e\u0301", tenant="é"),
]


async def test_nobody_sees_what_is_anothers(index: VectorIndex) -> None:
    same = vectors(1)[0]
    for i, field in enumerate(ALIKE):
        await index.apply(field, [a_point("same key", same, revision=i + 1), a_point(f"own/{i}", same)], [])
    for i, field in enumerate(ALIKE):
        assert await keys(index, field) == {"same key", f"own/{i}"}
        assert await keys(index, field, MemoryFilter(key_prefix="same")) == {"same key"}
        assert [hit.revision for hit in await found(index, field, MemoryFilter(key_prefix="same"))] == [i + 1]
        assert sorted(await scanned(index, field)) == [(f"own/{i}", 1), ("same key", i + 1)]
        assert await index.count(field) == 2
    await index.apply(ALIKE[0], [], ["same key", "own/1"])
    assert [await index.count(field) for field in ALIKE] == [1] + [2] * (len(ALIKE) - 1)
    assert await keys(index, ALIKE[0]) == {"own/0"}


async def test_a_drop_leaves_the_others(index: VectorIndex) -> None:
    for field in ALIKE:
        await index.apply(field, some_points(5), [])
    for i, field in enumerate(ALIKE):
        await index.drop(field)
        assert [await index.count(f) for f in ALIKE] == [0] * (i + 1) + [5] * (len(ALIKE) - i - 1)
        assert await keys(index, field, now_us=0) == set()
    await index.apply(ALIKE[0], some_points(3), [])
    assert await index.count(ALIKE[0]) == 3


async def test_a_drop_of_many(index: VectorIndex) -> None:
    field, other = a_field("large"), a_field("other")
    await index.apply(field, some_points(1500), [])
    await index.apply(other, some_points(10), [])
    await index.drop(field)
    assert await index.count(field) == 0
    assert await index.count(other) == 10


@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
async def test_a_scan_comes_to_everything_once(index: VectorIndex, limit: int) -> None:
    odd = ["/", "//", "%", "_", "'", '"', "\\", " ", "a\u0308", "日本", "🧠", "x" * 256, "null", "0", "{}", "k/1", "K/1"]
    points = [*some_points(50), *(a_point(key, revision=7) for key in odd)]
    field = a_field()
    await index.apply(field, points, [])
    await index.apply(a_field("other"), points, [])
    assert sorted(await scanned(index, field, limit=limit)) == sorted((point.key, point.revision) for point in points)


async def test_a_scan_goes_on_while_points_come_and_go(index: VectorIndex) -> None:
    field = a_field()
    await index.apply(field, some_points(60), [])
    seen: list[str] = []
    after = ""
    for turn in range(100):
        page, after = await index.scan(field, after=after, limit=9)
        seen += [key for key, _ in page]
        if not after:
            break
        await index.apply(field, [a_point(f"new/{turn}")], [f"k/{turn:03}"])
    stayed = {f"k/{i:03}" for i in range(turn, 60)}
    assert stayed <= set(seen)
    assert len(seen) == len(set(seen))


async def test_what_is_discarded_is_gone_for_all_and_can_be_fed_again(index: VectorIndex) -> None:
    mine, others, elsewhere = a_field("mine"), a_field("others"), a_field("mine", distance=Distance.DOT)
    for field in (mine, others, elsewhere):
        await index.apply(field, some_points(4), [])
    before = index.identity
    await index.discard(mine.dimension, mine.distance)
    assert index.identity != before
    assert [await index.count(field) for field in (mine, others)] == [0, 0]
    await index.discard(mine.dimension, mine.distance)
    for field in (mine, elsewhere):
        await index.apply(field, some_points(4), [])
    assert [await index.count(field) for field in (mine, others, elsewhere)] == [4, 0, 4]
    assert index.identity != before


async def test_many_may_ask_and_change_at_once(index: VectorIndex) -> None:
    fields = [a_field(f"n{i}") for i in range(6)]

    async def live(field: Field) -> None:
        for i in range(5):
            await index.apply(field, [a_point(f"k{j}", revision=i + 1) for j in range(10)], [f"k{10 + i}"])
            assert {hit.revision for hit in await found(index, field)} == {i + 1}

    await asyncio.gather(*map(live, fields))
    assert [await index.count(field) for field in fields] == [10] * 6
