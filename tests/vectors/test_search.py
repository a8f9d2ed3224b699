"""Whom a search finds, in what order, with what scores; and whom a filter takes in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sfm_grpc.model import Between, Distance, MemoryFilter
from sfm_grpc.storage.vectors.contract import VectorIndex
from tests.vectors.given import NOW_US, Plain, a_field, a_point, assert_same, found, keys, some_points, takes_in, vectors

FIELD = a_field()


@pytest.mark.parametrize("dimension", [1, 3, 384])
@pytest.mark.parametrize("distance", Distance)
async def test_order_and_scores_are_those_of_the_geometry(index: VectorIndex, distance: Distance, dimension: int) -> None:
    field = a_field(dimension=dimension, distance=distance)
    lengths = np.exp(np.linspace(-2, 2, 60))[:, None]
    plain, points = Plain(), [a_point(f"k{i}", v, revision=i + 1) for i, v in enumerate(vectors(60, dimension) * lengths)]
    plain.apply(field, points, [])
    await index.apply(field, points, [])
    for vector in vectors(5, dimension, seed=8) * 3:
        for limit in (1, 10, 60, 1000):
            assert_same(
                await found(index, field, by=vector, limit=limit), plain.search(field, vector, MemoryFilter(), limit=limit)
            )


async def test_what_scores_mean(index: VectorIndex) -> None:
    three_four = np.array([3.0, 4.0])
    expected = {Distance.COSINE: 0.8, Distance.DOT: 8.0, Distance.EUCLIDEAN: 13**0.5}
    for distance, score in expected.items():
        field = a_field(dimension=2, distance=distance)
        await index.apply(field, [a_point("k", three_four)], [])
        (hit,) = await found(index, field, by=np.array([0.0, 2.0]))
        assert hit.score == pytest.approx(score, rel=1e-6)


async def test_geometries_do_not_see_one_another(index: VectorIndex) -> None:
    fields = [a_field(dimension=d, distance=g) for d in (2, 3) for g in (Distance.COSINE, Distance.DOT)]
    for i, field in enumerate(fields):
        await index.apply(field, [a_point(f"k{i}", vectors(1, field.dimension)[0])], [])
    assert [await keys(index, field) for field in fields] == [{"k0"}, {"k1"}, {"k2"}, {"k3"}]
    await index.drop(fields[0])
    assert [await index.count(field) for field in fields] == [0, 1, 1, 1]


@pytest.mark.parametrize("length", [1e-30, 1e-22, 1e-6, 1e-4, 1e-2, 1e3, 1e18])
async def test_a_cosine_does_not_know_of_lengths(index: VectorIndex, length: float) -> None:
    one, two = vectors(2)
    plain = Plain()
    points = [a_point("one", one * np.float32(length)), a_point("two", two)]
    plain.apply(FIELD, points, [])
    await index.apply(FIELD, points, [])
    for vector in (one, one * np.float32(length), two * np.float32(length)):
        assert_same(await found(index, FIELD, by=vector), plain.search(FIELD, vector, MemoryFilter()))


async def test_a_vector_of_zeros_is_near_to_nothing(index: VectorIndex) -> None:
    await index.apply(FIELD, [a_point("zero", np.zeros(8)), a_point("k")], [])
    assert {hit.key: hit.score for hit in await found(index, FIELD)}["zero"] == 0
    assert {hit.score for hit in await found(index, FIELD, by=np.zeros(8))} == {0}


async def test_a_limit_of_none_finds_none(index: VectorIndex) -> None:
    await index.apply(FIELD, some_points(3), [])
    assert await found(index, FIELD, limit=0) == []


async def test_what_has_expired_is_not_found(index: VectorIndex) -> None:
    times = {"never": 0, "past": NOW_US - 1, "now": NOW_US, "soon": NOW_US + 1}
    await index.apply(FIELD, [a_point(key, expire_time_us=time) for key, time in times.items()], [])
    assert await keys(index, FIELD) == {"never", "soon"}
    assert await keys(index, FIELD, now_us=NOW_US - 2) == {"never", "past", "now", "soon"}
    assert await keys(index, FIELD, now_us=NOW_US + 1) == {"never"}
    assert await index.count(FIELD) == 4


CREATED, UPDATED = NOW_US + 7, NOW_US + 14
PARTS: dict[str, list[MemoryFilter]] = {
    "types": [MemoryFilter(memory_types=types) for types in [("fact",), ("fact", "episode"), ("",), ("fac",), ("Fact", "x")]],
    "importance": [
        MemoryFilter(importance=b) for b in (Between(0.7), Between(None, 0.7), Between(0.3, 0.3), Between(0.31, 0.39))
    ],
    "create_time": [
        MemoryFilter(create_time_us=b) for b in (Between(CREATED), Between(None, CREATED), Between(CREATED, CREATED))
    ],
    "update_time": [
        MemoryFilter(update_time_us=b) for b in (Between(UPDATED), Between(None, UPDATED), Between(UPDATED + 1, UPDATED))
    ],
    "box": [
        MemoryFilter(box=box)
        for box in [
            (Between(),),
            (Between(), Between()),
            (Between(10.0),),
            (Between(10.0, 10.0), Between(None, 9.0)),
            (Between(),) * 8,
            (Between(8.0),) * 8,
            (Between(),) * 9,
        ]
    ],
    "prefix": [MemoryFilter(key_prefix=prefix) for prefix in ("k/", "k/01", "k/012", "K", "k/0120", "k")],
}


@pytest.mark.parametrize("part", PARTS)
async def test_each_part_of_a_filter(index: VectorIndex, part: str) -> None:
    points = some_points(40)
    await index.apply(FIELD, points, [])
    for chosen in PARTS[part]:
        expected = {point.key for point in points if takes_in(chosen, point)}
        assert await keys(index, FIELD, chosen, now_us=0) == expected, chosen


async def test_all_parts_of_a_filter_together(index: VectorIndex) -> None:
    plain, points = Plain(), some_points(200)
    plain.apply(FIELD, points, [])
    await index.apply(FIELD, points, [])
    vector = vectors(1, seed=3)[0]
    types = [(), ("fact",), ("fact", "")]
    importance = [Between(), Between(2, 15), Between(None, 11.5)]
    created = [Between(), Between(NOW_US + 9, NOW_US + 150)]
    boxes = [(), (Between(),) * 3, (Between(30.0), Between(None, 120.0))]
    sizes = set()
    for t, i, c, box, prefix in itertools.product(types, importance, created, boxes, ("", "k/0", "k/1")):
        chosen = MemoryFilter(prefix, t, i, c, Between(NOW_US + 10, None), box)
        expected = plain.search(FIELD, vector, chosen)
        assert_same(await found(index, FIELD, chosen, by=vector), expected)
        sizes.add(len(expected))
    assert len(sizes) > 10


PREFIXED = [
    *(
        "a",
        "A",
        "a/",
        "a/b",
        "a/B",
        "a%",
        "a%b",
        "a_",
        "a_b",
        "ab",
        "a*",
        "a\\",
        "a b",
        " a",
        "'",
        '"',
        "[",
        "$.x",
        "a.b",
        "a[0]",
    ),
    *("ä", "a\u0308", "Ä", "é/1", "é/2", "e\u0301/1", "日本", "日本語", "日", "🧠", "🧠🧠", "\U0010ffff"),
    *("ß", "ss", "ﬁ", "fi", "İ", "i", "\u200b"),
]


async def test_a_prefix_is_matched_by_code_points(index: VectorIndex) -> None:
    await index.apply(FIELD, [a_point(key) for key in PREFIXED], [])
    prefixes = {key[:n] for key in PREFIXED for n in (1, 2, 3)} | {"x", "a/b/", "%", "_", "\\", "日本語語"}
    for prefix in sorted(prefixes):
        expected = {key for key in PREFIXED if key.startswith(prefix)}
        assert await keys(index, FIELD, MemoryFilter(key_prefix=prefix)) == expected, prefix


async def test_keys_and_prefixes_may_be_as_long_as_they_get(index: VectorIndex) -> None:
    long = ["x" * 255 + "a", "x" * 255 + "b", "é" * 128, "🧠" * 64]
    await index.apply(FIELD, [a_point(key) for key in long], [])
    assert await keys(index, FIELD, MemoryFilter(key_prefix="x" * 255)) == set(long[:2])
    for key in long:
        assert await keys(index, FIELD, MemoryFilter(key_prefix=key)) == {key}


async def test_coordinates_are_compared_exactly(index: VectorIndex) -> None:
    values = [0.1, np.nextafter(0.1, 1).item(), 0.1 + 0.2, 0.3, -0.0, 1e-300, 1e300, -1e300]
    await index.apply(FIELD, [a_point(f"k{i}", coordinates=(value,)) for i, value in enumerate(values)], [])
    for value in values:
        chosen = MemoryFilter(box=(Between(value, value),))
        assert await keys(index, FIELD, chosen) == {f"k{i}" for i, v in enumerate(values) if v == value}
