"""Histories made up at random: after each step, an index says what a dictionary would."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sfm_grpc.model import Between, Distance, MemoryFilter
from sfm_grpc.storage.vectors.contract import Field, Point, VectorIndex
from tests.vectors.conftest import Another
from tests.vectors.given import NOW_US, Plain, a_field, a_point, assert_same, found, scanned

KEYS = [f"{a}/{b}" for a in "xyX" for b in range(6)]
TYPES = ("fact", "episode", "skill")


@pytest.mark.parametrize("seed", range(4))
async def test_a_history(another: Another, seed: int) -> None:
    chance, distance = random.Random(seed), list(Distance)[seed % 3]
    fields = [a_field(n, tenant=t, dimension=4, distance=distance) for n, t in (("a", ""), ("b", ""), ("a", "t"))]
    plain, index = Plain(), another()
    await index.open()
    try:
        for step in range(60):
            field = chance.choice(fields)
            match chance.randrange(12):
                case 0:
                    await index.drop(field)
                    plain.drop(field)
                case 1:
                    await index.close()
                    index = another()
                    await index.open()
                case _:
                    keys = chance.sample(KEYS, chance.randrange(1, 9))
                    cut = chance.randrange(len(keys) + 1)
                    puts, gone = [_point(chance, key, step + 1) for key in keys[:cut]], keys[cut:]
                    plain.apply(field, puts, gone)
                    assert await index.apply(field, puts, gone) == []
            await _assert_as_plain(index, plain, chance, field)
        for field in fields:
            await _assert_as_plain(index, plain, chance, field)
    finally:
        await index.close()


async def _assert_as_plain(index: VectorIndex, plain: Plain, chance: random.Random, field: Field) -> None:
    assert await index.count(field) == len(plain.of(field))
    assert sorted(await scanned(index, field, limit=5)) == sorted((p.key, p.revision) for p in plain.of(field))
    vector = np.array([chance.gauss(0, 1) for _ in range(4)], "<f4")
    chosen, now_us, limit = _filter(chance), NOW_US + chance.randrange(-2, 3), chance.choice((1, 3, 100))
    told = await found(index, field, chosen, by=vector, now_us=now_us, limit=limit)
    assert_same(told, plain.search(field, vector, chosen, now_us=now_us, limit=limit))


def _point(chance: random.Random, key: str, revision: int) -> Point:
    return a_point(
        key,
        np.array([chance.gauss(0, 1) for _ in range(4)], "<f4"),
        revision=revision,
        memory_type=chance.choice(TYPES),
        importance=chance.randrange(5) / 4,
        coordinates=tuple(float(chance.randrange(3)) for _ in range(chance.randrange(3))),
        create_time_us=NOW_US + chance.randrange(4),
        update_time_us=NOW_US + chance.randrange(4),
        expire_time_us=chance.choice((0, 0, NOW_US + chance.randrange(-2, 3))),
    )


def _filter(chance: random.Random) -> MemoryFilter:
    def maybe(between: Between) -> Between:
        return between if chance.randrange(3) == 0 else Between()

    return MemoryFilter(
        key_prefix=chance.choice(("", "", "x", "X/", "y/3")),
        memory_types=tuple(chance.sample(TYPES, chance.choice((0, 0, 1, 2)))),
        importance=maybe(Between(0.25, 0.75)),
        create_time_us=maybe(Between(NOW_US + 1)),
        update_time_us=maybe(Between(None, NOW_US + 2)),
        box=chance.choice(((), (), (Between(1.0),), (Between(), Between(None, 1.0)))),
    )
