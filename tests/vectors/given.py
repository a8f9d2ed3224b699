"""Points and fields for the tests, and an index of the plainest kind to compare with: a dictionary, and numpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from msgspec import structs

from sfm_grpc.model import Between, Distance, MemoryFilter, Scope
from sfm_grpc.storage.vectors.contract import Field, Hit, Point, VectorIndex

NOW_US = 1_790_000_000_000_000
EVERYTHING = MemoryFilter()
Vectors = npt.NDArray[np.float32]


def a_field(
    namespace: str = "agent-7",
    *,
    tenant: str = "",
    number: int = 1,
    dimension: int = 8,
    distance: Distance = Distance.COSINE,
) -> Field:
    return Field(Scope(tenant, namespace), number, dimension, distance)


def vectors(count: int, dimension: int = 8, *, seed: int = 7) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype("<f4")


def a_point(key: str, vector: Vectors | None = None, **told: object) -> Point:
    """A point with a vector of its own, and what is told of it."""
    numbers = vectors(1, seed=sum(key.encode()))[0] if vector is None else vector
    usual = Point(key, 1, numbers.astype("<f4").tobytes(), "fact", 0.5, (), NOW_US - 10, NOW_US - 5, 0)
    return structs.replace(usual, **told)  # type: ignore[arg-type]


def some_points(count: int, dimension: int = 8, *, seed: int = 7) -> list[Point]:
    """Points that differ in everything."""
    types = ("fact", "episode", "")
    return [
        a_point(
            f"k/{i:03}",
            vector,
            revision=i + 1,
            memory_type=types[i % 3],
            importance=i / 10,
            coordinates=tuple(float(i - j) for j in range(i % 9)),
            create_time_us=NOW_US + i,
            update_time_us=NOW_US + 2 * i,
            expire_time_us=(0, NOW_US - 1, NOW_US, NOW_US + 1)[i % 4],
        )
        for i, vector in enumerate(vectors(count, dimension, seed=seed))
    ]


async def found(
    index: VectorIndex,
    field: Field,
    chosen: MemoryFilter = EVERYTHING,
    *,
    by: Vectors | None = None,
    now_us: int = NOW_US,
    limit: int = 1000,
) -> list[Hit]:
    """A search by that vector, or by any."""
    numbers = vectors(1, field.dimension, seed=99)[0] if by is None else by
    return list(await index.search(field, numbers.astype("<f4").tobytes(), chosen, now_us=now_us, limit=limit))


async def keys(index: VectorIndex, field: Field, chosen: MemoryFilter = EVERYTHING, *, now_us: int = NOW_US) -> set[str]:
    """What a search finds that has room for all."""
    hits = await found(index, field, chosen, now_us=now_us)
    assert len({hit.key for hit in hits}) == len(hits), "a key came twice"
    return {hit.key for hit in hits}


async def scanned(index: VectorIndex, field: Field, *, limit: int = 7) -> list[tuple[str, int]]:
    """All pages of a scan."""
    pages: list[tuple[str, int]] = []
    after = ""
    while True:
        page, after = await index.scan(field, after=after, limit=limit)
        assert len(page) <= limit
        pages += page
        if not after:
            return pages


@dataclass
class Plain:
    """The plainest index there is."""

    points: dict[tuple[Scope, str], Point] = field(default_factory=dict)

    def apply(self, where: Field, puts: Iterable[Point], gone: Iterable[str]) -> None:
        self.points |= {(where.scope, put.key): put for put in puts}
        for key in gone:
            self.points.pop((where.scope, key), None)

    def drop(self, where: Field) -> None:
        self.points = {at: point for at, point in self.points.items() if at[0] != where.scope}

    def of(self, where: Field) -> list[Point]:
        return [point for (scope, _), point in self.points.items() if scope == where.scope]

    def search(
        self, where: Field, vector: Vectors, chosen: MemoryFilter, *, now_us: int = NOW_US, limit: int = 1000
    ) -> list[Hit]:
        taken = [point for point in self.of(where) if takes_in(chosen, point) and not 0 < point.expire_time_us <= now_us]
        scores = [score(where.distance, vector, np.frombuffer(point.vector, "<f4")) for point in taken]
        hits = [Hit(point.key, point.revision, s) for point, s in zip(taken, scores, strict=True)]
        return sorted(hits, key=lambda hit: hit.score, reverse=where.distance is not Distance.EUCLIDEAN)[:limit]


def takes_in(chosen: MemoryFilter, point: Point) -> bool:
    return (
        point.key.startswith(chosen.key_prefix)
        and (not chosen.memory_types or point.memory_type in chosen.memory_types)
        and _within(chosen.importance, point.importance)
        and _within(chosen.create_time_us, point.create_time_us)
        and _within(chosen.update_time_us, point.update_time_us)
        and (not chosen.box or (len(chosen.box) == len(point.coordinates) and all(map(_within, chosen.box, point.coordinates))))
    )


def _within(between: Between, value: float) -> bool:
    return (between.low is None or between.low <= value) and (between.high is None or value <= between.high)


def score(distance: Distance, one: Vectors, other: Vectors) -> float:
    """As the contract says, in float64."""
    a, b = one.astype(float), other.astype(float)
    if distance is Distance.EUCLIDEAN:
        return float(np.linalg.norm(a - b))
    lengths = np.linalg.norm(a) * np.linalg.norm(b) if distance is Distance.COSINE else 1.0
    return float(a @ b / lengths)


def assert_same(told: Sequence[Hit], expected: Sequence[Hit]) -> None:
    """The same points in the same order, but for those whose scores float32 does not tell apart."""
    assert len(told) == len(expected)
    within = 1e-5 * max([1.0, *(abs(hit.score) for hit in expected)])
    by_key = {hit.key: hit for hit in expected}
    for mine, theirs in zip(told, expected, strict=True):
        assert abs(mine.score - theirs.score) < within, (mine, theirs)
        same = by_key.get(mine.key)
        if same is None:  # it is as near as the last that had room
            assert abs(mine.score - expected[-1].score) < within, mine
        else:
            assert (same.revision, same.score) == (mine.revision, pytest.approx(mine.score, abs=within))
