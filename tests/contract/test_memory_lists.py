"""Lists of memories and of namespaces: filters, orders, pages."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from sfm.v1 import memory_pb2

from sfm_grpc.errors import AlreadyExists, InvalidRequest, LimitExceeded, NotFound
from tests.support.memories import Memories, put_of, time_of
from tests.support.servers import Server

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.asyncio(loop_scope="module")]

ORDERS: dict[str, Callable[[Any], Any]] = {
    "KEY": lambda m: m.key.encode(),
    "CREATE_TIME": lambda m: (m.create_time.ToMicroseconds(), m.key.encode()),
    "UPDATE_TIME": lambda m: m.revision,
    "IMPORTANCE": lambda m: (m.importance, m.key.encode()),
}


@pytest.fixture
def memories(shared_server: Server, tenant: str) -> Memories:
    return Memories(shared_server.channel, tenant=tenant)


async def many(memories: Memories, count: int = 60, seed: int = 1) -> list[memory_pb2.Memory]:
    """Some memories, put in several calls, some of them again; as they are read."""
    rng = random.Random(seed)
    keys = [f"{rng.choice('abÄé𝄞')}{n}" for n in range(count)]
    for start in range(0, count, 10):
        puts = [
            put_of(
                key,
                {"n": key},
                memory_type=rng.choice(["", "note", "fact"]),
                importance=rng.choice([-1.0, 0.0, 0.5, 0.5, 2.0]),
                coordinates=[float(rng.randrange(5)) for _ in range(rng.choice([0, 2, 3]))],
            )
            for key in keys[start : start + 10]
        ]
        await memories.puts(*puts)
    for key in rng.sample(keys, count // 5):
        await memories.put(key, importance=3.0, mask=["importance"])
    await memories.deletes(*rng.sample(keys, count // 10))
    return list((await memories.gets(*keys)).memories)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("page_size", [1, 7, 100])
async def test_a_list_goes_by_its_order_page_by_page(memories: Memories, order: str, descending: bool, page_size: int) -> None:
    expected = sorted(await many(memories), key=ORDERS[order], reverse=descending)
    listed = await memories.keys(order=f"MEMORY_ORDER_{order}", descending=descending, page_size=page_size)
    assert listed == [m.key for m in expected]


FILTERS: dict[str, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    "nothing": ({}, lambda m: True),
    "prefix": ({"key_prefix": "a"}, lambda m: m.key.startswith("a")),
    "prefix_of_a_character": ({"key_prefix": "𝄞"}, lambda m: m.key.startswith("𝄞")),
    "prefix_of_none": ({"key_prefix": "%"}, lambda m: False),
    "types": ({"memory_types": ["note", "fact"]}, lambda m: m.memory_type in ("note", "fact")),
    "no_type": ({"memory_types": [""]}, lambda m: m.memory_type == ""),
    "importance": ({"importance": {"low": 0.5, "high": 2.0}}, lambda m: 0.5 <= m.importance <= 2.0),
    "at_least": ({"importance": {"low": 2.0}}, lambda m: m.importance >= 2.0),
    "at_most": ({"importance": {"high": 0.0}}, lambda m: m.importance <= 0.0),
    "box": (
        {"box": [{"low": 1, "high": 3}, {"low": 2}]},
        lambda m: len(m.coordinates) == 2 and 1 <= m.coordinates[0] <= 3 and m.coordinates[1] >= 2,
    ),
    "box_without_ends": ({"box": [{}, {}, {}]}, lambda m: len(m.coordinates) == 3),
    "all_at_once": (
        {"memory_types": ["note"], "importance": {"low": 0.0}, "box": [{"high": 3}, {}, {"low": 1}]},
        lambda m: (
            m.memory_type == "note"
            and m.importance >= 0
            and len(m.coordinates) == 3
            and m.coordinates[0] <= 3
            and m.coordinates[2] >= 1
        ),
    ),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_takes_in_what_it_says(memories: Memories, name: str) -> None:
    asked, is_in = FILTERS[name]
    expected = sorted((m for m in await many(memories, 80) if is_in(m)), key=ORDERS["KEY"])
    assert await memories.keys(filter=asked, page_size=7) == [m.key for m in expected]
    assert name == "prefix_of_none" or expected


@pytest.mark.parametrize("which", ["create_time", "update_time"])
async def test_times_are_ranges_too(memories: Memories, which: str) -> None:
    found = await many(memories)
    times = sorted({getattr(m, which).ToMicroseconds() for m in found})
    low, high = times[1], times[-2]
    asked = {which: {"start": time_of(low), "end": time_of(high)}}
    expected = {m.key for m in found if low <= getattr(m, which).ToMicroseconds() <= high}
    assert set(await memories.keys(filter=asked)) == expected
    assert 0 < len(expected) < len(found)


async def test_a_list_has_what_was_asked_for(memories: Memories) -> None:
    await memories.put("a", {"x": 1}, vector=[1, 2])
    plain = (await memories.page()).memories[0]
    assert (plain.payload_json, plain.HasField("vector")) == ('{"x": 1}', False)
    other = (await memories.page(without_payloads=True, with_vectors=True)).memories[0]
    assert (other.payload_json, other.HasField("vector"), other.payload_digest) == ("", True, plain.payload_digest)


async def test_what_is_written_meanwhile_moves_only_itself(memories: Memories) -> None:
    await memories.puts(*(put_of(f"k{n:02}") for n in range(20)))
    page = await memories.page(page_size=10)
    await memories.deletes("k03", "k12")
    await memories.puts(put_of("k05"), put_of("k15a"), put_of("a"))
    rest = await memories.page(page_size=100, page_token=page.next_page_token)
    assert [m.key for m in rest.memories] == ["k10", "k11", "k13", "k14", "k15", "k15a", "k16", "k17", "k18", "k19"]


async def test_a_token_is_of_one_list(memories: Memories) -> None:
    await memories.puts(*(put_of(f"k{n}") for n in range(5)))
    token = (await memories.page(page_size=2)).next_page_token
    others: list[dict[str, Any]] = [
        {"descending": True},
        {"order": memory_pb2.MEMORY_ORDER_IMPORTANCE},
        {"filter": {"key_prefix": "k"}},
        {"with_vectors": True},
    ]
    for other in others:
        with pytest.raises(InvalidRequest, match="page_token"):
            await memories.page(page_token=token, **other)
    await memories.of("m").put("a")
    for asked in (memories.of("m"), memories.of("n", "another")):
        with pytest.raises((InvalidRequest, NotFound)):
            await asked.page(page_token=token)
    for broken in ("x", token[:-4], "AAAA" + token[4:], "é"):
        with pytest.raises(InvalidRequest, match="page_token"):
            await memories.page(page_token=broken)
    assert len((await memories.page(page_token=token, page_size=100)).memories) == 3


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "page_size"),
        ({"order": 77}, "order"),
        ({"filter": {"importance": {"low": 2, "high": 1}}}, "filter.importance"),
        ({"filter": {"importance": {"low": float("nan")}}}, "filter.importance.low"),
        ({"filter": {"box": [{"high": float("nan")}]}}, "filter.box[0].high"),
        ({"filter": {"create_time": {"end": time_of(1 << 62)}}}, "filter.create_time.end"),
    ],
)
async def test_a_list_that_makes_no_sense_is_refused(memories: Memories, asked: dict[str, Any], field: str) -> None:
    await memories.put("a")
    with pytest.raises(InvalidRequest) as caught:
        await memories.page(**asked)
    assert caught.value.field == field


async def test_a_filter_has_bounds(memories: Memories) -> None:
    await memories.put("a")
    for asked, limit in (
        ({"memory_types": [str(n) for n in range(65)]}, "filter_types_max"),
        ({"box": [{}] * 9}, "coordinates_max"),
        ({"key_prefix": "k" * 257}, ""),
    ):
        with pytest.raises((LimitExceeded, InvalidRequest)) as caught:
            await memories.page(filter=asked)
        assert getattr(caught.value, "limit", "") == limit


# ---- namespaces


async def test_a_namespace_is_created_once_with_its_geometry(memories: Memories) -> None:
    made = await memories.ask("CreateNamespace", namespace="n", dimension=3, distance="DISTANCE_DOT")
    assert (made.existed, made.namespace.dimension, made.namespace.distance) == (False, 3, memory_pb2.DISTANCE_DOT)
    again = await memories.ask("CreateNamespace", namespace="n", dimension=3, distance="DISTANCE_DOT")
    assert (again.existed, again.namespace) == (True, made.namespace)
    for other in ({"dimension": 4, "distance": "DISTANCE_DOT"}, {"dimension": 3}):
        with pytest.raises(AlreadyExists):
            await memories.ask("CreateNamespace", namespace="n", **other)
    await memories.put("zero", vector=[0, 0, 0])  # has no direction, and needs none here
    with pytest.raises(InvalidRequest):
        await memories.put("a", vector=[1, 2])


async def test_a_geometry_that_is_not_fixed_yet_can_be(memories: Memories) -> None:
    await memories.put("a")
    made = await memories.ask("CreateNamespace", namespace="n", dimension=2, distance="DISTANCE_EUCLIDEAN")
    assert (made.existed, made.namespace.dimension, made.namespace.memories) == (True, 2, 1)


async def test_namespaces_are_listed_by_name(memories: Memories) -> None:
    names = ["b", "a", "é", "c"]
    for name in names:
        await memories.of(name).put("k")
    await memories.of("x", "another").put("k")
    first = await memories.ask("ListNamespaces", page_size=3)
    rest = await memories.ask("ListNamespaces", page_size=3, page_token=first.next_page_token)
    assert [n.name for n in [*first.namespaces, *rest.namespaces]] == ["a", "b", "c", "é"]
    assert rest.next_page_token == ""
    with pytest.raises(InvalidRequest):
        await memories.of("n", "another").ask("ListNamespaces", page_token=first.next_page_token)


async def test_what_does_not_exist_is_told(memories: Memories) -> None:
    for asked in (memories.space(), memories.page()):
        with pytest.raises(NotFound) as caught:
            await asked
        assert caught.value.what == "namespace"
    with pytest.raises(NotFound) as caught:
        await memories.get("a")
    assert (caught.value.what, caught.value.names) == ("memory", ("a",))
