"""The typed client's memories, blocking and asyncio, on a real server: what is put is what is read, and every refusal is told."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from sfm_grpc.client import (
    KEEP,
    AlreadyExists,
    AsyncClient,
    Client,
    InvalidRequest,
    LimitExceeded,
    MemoryDelete,
    MemoryPut,
    MemoryUpdate,
    NotFound,
    RawJson,
    RequestIdReused,
    VersionConflict,
)
from tests.support.servers import Server, until

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.asyncio(loop_scope="module")]

_NOTHING_MORE = object()


class Threaded:
    """A blocking client called as if it were asyncio's: each call in a thread, iterators as asynchronous ones."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if name in ("memories", "prunes"):
            return Threaded(member)
        if name == "namespace":
            return lambda name: Threaded(member(name))
        if name in ("audits", "links", "list", "namespaces", "plans", "prune_plans", "versions"):
            return lambda *args, **how: self._iterated(member(*args, **how))
        return lambda *args, **how: asyncio.to_thread(member, *args, **how)

    async def _iterated(self, items: Iterator[Any]) -> AsyncIterator[Any]:
        while (item := await asyncio.to_thread(next, items, _NOTHING_MORE)) is not _NOTHING_MORE:
            yield item


@pytest_asyncio.fixture(params=["sync", "asyncio"], loop_scope="module")
async def client(request: pytest.FixtureRequest, shared_server: Server, tenant: str) -> AsyncIterator[Any]:
    if request.param == "sync":
        with Client(shared_server.app.address, name="test", tenant=tenant) as blocking:
            yield Threaded(blocking)
    else:
        async with AsyncClient(shared_server.app.address, name="test", tenant=tenant) as client:
            yield client


@pytest.fixture
def memories(client: Any) -> Any:
    return client.namespace("n").memories


async def keys_of(listed: AsyncIterator[Any]) -> list[str]:
    return [memory.key async for memory in listed]


# ---- what is put is what is read


@pytest.mark.parametrize(
    "payload", [None, True, 1, -0.5, 10**20, "é𝄞\n", [], {"a": [1, {"b": None}]}, {"ключ": "значение"}, "x" * 100_000]
)
async def test_a_payload_comes_back_as_it_was(memories: Any, payload: object) -> None:
    receipt = await memories.put("a", payload)
    found = await memories.get("a")
    assert found.payload == payload
    assert found.payload is found.payload
    assert found.payload_digest == receipt.payload_digest == hashlib.sha256(found.payload_json.encode()).digest()
    assert payload != {"ключ": "значение"} or found.payload_json == '{"ключ":"значение"}'


@pytest.mark.parametrize(
    "text", ['  {"a" : 1.10 }\n', '{"n": 123456789012345678901234567890.5}', '{"a": 1, "a": 2}', '"\\u00e9"']
)
async def test_raw_json_is_kept_byte_for_byte(memories: Any, text: str) -> None:
    await memories.put("a", RawJson(text))
    assert (await memories.get("a")).payload_json == text


async def test_everything_that_is_put_is_read(memories: Any) -> None:
    begun = datetime.now(UTC)
    expires = (begun + timedelta(hours=1)).astimezone(UTC)
    vector = np.array([0.1, 0.2, 1e17])
    receipt = await memories.put(
        "a", {"x": 1}, memory_type="episode", importance=0.1, coordinates=(0.1, -1e-300), vector=vector, expire_time=expires
    )
    found = await memories.get("a", with_vector=True)
    assert (found.key, found.revision, found.memory_type, found.importance) == ("a", 1, "episode", 0.1)
    assert found.coordinates == (0.1, -1e-300)
    assert found.vector.dtype == np.dtype("<f4")
    assert found.vector.tobytes() == vector.astype("<f4").tobytes()
    assert not found.vector.flags.writeable
    assert not found.vector.flags.owndata
    assert found.expire_time == expires
    assert begun <= found.create_time == found.update_time == receipt.create_time == receipt.update_time <= datetime.now(UTC)
    assert (receipt.key, receipt.outcome, receipt.revision, receipt.replayed) == ("a", "created", 1, False)
    assert len(receipt.request_id) == 32
    assert (await memories.get("a")).vector is None


async def test_a_time_may_be_microseconds_or_a_length(memories: Any) -> None:
    at_us = (time.time_ns() // 1000) + 3_600_000_001
    await memories.put("a", {}, expire_time=at_us)
    assert (await memories.get("a")).expire_time_us == at_us
    before = datetime.now(UTC)
    await memories.put("a", {}, ttl_s=90.5)
    expires = (await memories.get("a")).expire_time
    assert before + timedelta(seconds=90.5) <= expires <= datetime.now(UTC) + timedelta(seconds=90.5)
    await memories.put("a", {}, ttl_s=300_000_000_000)
    assert (await memories.get("a")).expire_time == datetime.max.replace(tzinfo=UTC)
    await memories.put("a", {})
    assert (await memories.get("a")).expire_time is None


async def test_what_has_expired_is_not_found(memories: Any) -> None:
    await memories.put("a", {}, ttl_s=0.2)

    async def is_gone() -> bool:
        return (await memories.get_many("a")).missing == ("a",)

    await until(is_gone)
    with pytest.raises(NotFound, match="memory 'a' not found"):
        await memories.get("a")


# ---- conditions, parts, repetitions


async def test_conditions(memories: Any) -> None:
    first = await memories.put("a", 1, create_only=True)
    with pytest.raises(AlreadyExists) as exists:
        await memories.put("a", 2, create_only=True)
    assert (exists.value.key, exists.value.revision, exists.value.what) == ("a", 1, "memory")
    second = await memories.put("a", 2, if_revision=first.revision)
    assert (second.outcome, second.revision) == ("updated", 2)
    for late in (
        lambda: memories.put("a", 3, if_revision=1),
        lambda: memories.update("a", payload=3, if_revision=1),
        lambda: memories.delete("a", if_revision=1),
    ):
        with pytest.raises(VersionConflict) as conflict:
            await late()
        assert (conflict.value.key, conflict.value.expected, conflict.value.current) == ("a", 1, 2)
    assert (await memories.get("a")).payload == 2


BEFORE: dict[str, Any] = {"memory_type": "t", "importance": 1.0, "coordinates": (1.0, 2.0), "vector": [1, 2], "ttl_s": 600}
CHANGES: dict[str, dict[str, Any]] = {
    "payload": {"payload": {"x": 2}},
    "null": {"payload": None},
    "type": {"memory_type": "u"},
    "importance": {"importance": -2},
    "coordinates": {"coordinates": [3]},
    "no coordinates": {"coordinates": None},
    "vector": {"vector": np.array([3, 4], ">f8")},
    "no vector": {"vector": None},
    "expiry": {"ttl_s": 6000},
    "no expiry": {"ttl_s": None},
    "no expiry either": {"expire_time": None},
    "many": {"vector": None, "importance": 7.0, "memory_type": ""},
}


@pytest.mark.parametrize("what", CHANGES)
async def test_an_update_changes_what_it_names(memories: Any, what: str) -> None:
    def facts(m: Any) -> dict[str, Any]:
        vector = None if m.vector is None else m.vector.tolist()
        found = {"payload": m.payload, "vector": vector, "coordinates": m.coordinates, "memory_type": m.memory_type}
        return found | {"importance": m.importance, "expires": m.expire_time_us}

    await memories.put("a", {"x": 1}, **BEFORE)
    was = facts(await memories.get("a", with_vector=True))
    change = CHANGES[what]
    assert (await memories.update("a", **change)).outcome == "updated"
    now = facts(await memories.get("a", with_vector=True))
    expires = now.pop("expires"), was.pop("expires")
    if {"ttl_s", "expire_time"} & change.keys():
        assert (expires[0] > expires[1]) if change.get("ttl_s") else expires[0] == 0
    else:
        assert expires[0] == expires[1]
    said = {name: value for name, value in change.items() if name not in ("ttl_s", "expire_time")}
    if "vector" in said and said["vector"] is not None:
        said["vector"] = said["vector"].tolist()
    if "coordinates" in said:
        said["coordinates"] = tuple(said["coordinates"] or ())
    assert now == was | said


async def test_an_update_needs_a_memory_and_something_to_change(memories: Any) -> None:
    with pytest.raises(NotFound):
        await memories.update("a", importance=1.0)
    await memories.put("a", {})
    with pytest.raises(InvalidRequest, match="update_mask: names nothing"):
        await memories.update("a", payload=KEEP)


async def test_the_same_request_is_written_once(memories: Any) -> None:
    first = await memories.put("a", {"x": 1}, vector=[1, 2], request_id="r")
    await memories.put("a", {"x": 2})
    again = await memories.put("a", {"x": 1}, vector=[1, 2], request_id="r")
    assert (again.replayed, again.revision, again.request_id) == (True, first.revision, "r")
    assert (await memories.get("a")).payload == {"x": 2}
    with pytest.raises(RequestIdReused):
        await memories.put("a", {"x": 3}, request_id="r")
    deleted = await memories.delete("a", request_id="d")
    await memories.undelete("a", request_id="u")
    assert (await memories.delete("a", request_id="d")) == type(deleted)(
        **{name: getattr(deleted, name) for name in deleted.__struct_fields__} | {"replayed": True}
    )
    assert (await memories.get("a")).payload == {"x": 2}


async def test_a_validation_writes_nothing(memories: Any) -> None:
    assert (await memories.put("a", {}, validate_only=True)).outcome == "created"
    with pytest.raises(NotFound):
        await memories.get("a")
    await memories.put("a", {})
    assert (await memories.delete("a", validate_only=True)).outcome == "deleted"
    assert [r.outcome for r in await memories.purge(["a"], validate_only=True)] == ["purged"]
    assert (await memories.get("a")).revision == 1


# ---- many


async def test_a_batch_is_one_array_in_and_one_array_out(memories: Any) -> None:
    vectors = np.random.default_rng(1).standard_normal((500, 64)).astype("<f4")
    names = [f"k{n:03}" for n in range(500)]
    receipts = await memories.put_many((MemoryPut(key, {"n": n}) for n, key in enumerate(names)), vectors=vectors)
    assert [(r.key, r.outcome, r.revision) for r in receipts] == [(key, "created", n + 1) for n, key in enumerate(names)]
    asked = [*names[::-1], "x", "y"]
    found = await memories.get_many(asked, with_vectors=True)
    assert (list(found), found.missing, len(found)) == (names[::-1], ("x", "y"), 500)
    assert found.vectors().tobytes() == vectors[::-1].tobytes()
    assert found.vectors(names).tobytes() == vectors.tobytes()
    assert found.vectors().shape == (500, 64)
    assert not found.vectors().flags.writeable
    assert found["k007"].payload == {"n": 7}
    assert found["k007"].vector.tobytes() == vectors[7].tobytes()
    assert "x" not in found


@pytest.mark.parametrize("order", ["C", "F", "strided", ">f4", "<f8", "integers"])
async def test_rows_of_any_array_are_what_it_says(memories: Any, order: str) -> None:
    whole = np.arange(24, dtype="<f4").reshape(6, 4)
    arrays = {"C": whole, "F": np.asfortranarray(whole), "strided": whole[::2, ::-1], "integers": whole.astype("i8")}
    vectors = arrays[order] if order in arrays else whole.astype(order)
    names = [f"k{n}" for n in range(len(vectors))]
    await memories.put_many([MemoryPut(key, {}) for key in names], vectors=vectors)
    assert (await memories.get_many(names, with_vectors=True)).vectors().tolist() == vectors.tolist()


async def test_a_batch_is_all_or_nothing_and_may_update(memories: Any) -> None:
    await memories.put("b", 0, vector=[1, 2])
    with pytest.raises(AlreadyExists):
        await memories.put_many([MemoryPut("a", 1), MemoryPut("b", 1, create_only=True)])
    with pytest.raises(InvalidRequest, match=r"puts\[1\].memory.vector"):
        await memories.put_many([MemoryPut("a", 1), MemoryPut("c", 1, vector=[1, 2, 3])])
    assert await keys_of(memories.list()) == ["b"]
    done = await memories.put_many([MemoryUpdate("b", importance=3.0), MemoryPut("a", 1)], vectors=[[5, 6], [7, 8]])
    assert [r.outcome for r in done] == ["updated", "created"]
    found = await memories.get_many(["a", "b"], with_vectors=True)
    assert found.vectors().tolist() == [[7, 8], [5, 6]]
    assert (found["b"].payload, found["b"].importance) == (0, 3.0)


async def test_a_batch_is_not_split(memories: Any) -> None:
    await memories.put("k0", 0)
    keys = [f"k{n}" for n in range(1_001)]
    asks = (
        lambda: memories.put_many([MemoryPut(key, 0) for key in keys]),
        lambda: memories.get_many(keys),
        lambda: memories.delete_many(keys),
        lambda: memories.undelete(keys),
        lambda: memories.purge(keys),
    )
    for ask in asks:
        with pytest.raises(LimitExceeded) as caught:
            await ask()
        assert (caught.value.limit, caught.value.value, caught.value.maximum) == ("batch_max", 1_001, 1_000)
    assert await keys_of(memories.list()) == ["k0"]


async def test_many_are_deleted_undeleted_and_purged(memories: Any) -> None:
    await memories.put_many([MemoryPut(f"k{n}", n) for n in range(5)])
    gone = await memories.delete_many(["k1", "nothing", "k2"])
    assert [r.outcome for r in gone] == ["deleted", "unchanged", "deleted"]
    assert (gone[1].revision, gone[1].create_time, gone[1].payload_digest) == (0, None, b"")
    assert (await memories.delete("k1")).outcome == "unchanged"
    with pytest.raises(NotFound, match="nothing"):
        await memories.undelete(["k1", "nothing"])
    assert [r.outcome for r in await memories.undelete(["k1", "k0"])] == ["undeleted", "unchanged"]
    assert [r.outcome for r in await memories.purge(iter(["k2", "k3"]))] == ["purged", "purged"]
    with pytest.raises(NotFound):
        await memories.undelete("k2")
    assert await keys_of(memories.list()) == ["k0", "k1", "k4"]


async def test_a_key_that_stands_alone_is_one_key(memories: Any) -> None:
    await memories.put_many([MemoryPut(key, 0) for key in ("abc", "a", "b", "c")])
    assert [r.key for r in await memories.purge("abc")] == ["abc"]
    assert (await memories.get_many("a")).found.keys() == {"a"}
    assert await keys_of(memories.list()) == ["a", "b", "c"]


# ---- lists


async def some(memories: Any) -> None:
    items = [
        MemoryPut(
            f"{letter}{n}",
            {"n": n},
            memory_type=kind,
            importance=n / 2,
            coordinates=(n, -n) if letter == "a" else (),
            vector=[n, 1.0],
        )
        for n, (letter, kind) in enumerate(itertools.product("abc", ["note", "fact", ""]))
    ]
    for start in range(0, len(items), 3):
        await memories.put_many(items[start : start + 3])
    await memories.update("b4", payload={"n": "new"})


LISTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "all": ({}, ["a0", "a1", "a2", "b3", "b4", "b5", "c6", "c7", "c8"]),
    "prefix": ({"key_prefix": "b"}, ["b3", "b4", "b5"]),
    "one type": ({"memory_types": "note"}, ["a0", "b3", "c6"]),
    "types": ({"memory_types": ["note", "fact"]}, ["a0", "a1", "b3", "b4", "c6", "c7"]),
    "importance": ({"importance": (1.0, 2.5)}, ["a2", "b3", "b4", "b5"]),
    "at least": ({"importance": (3.5, None)}, ["c7", "c8"]),
    "box": ({"box": [(1, None), (None, -1)]}, ["a1", "a2"]),
    "any of two coordinates": ({"box": [(None, None)] * 2}, ["a0", "a1", "a2"]),
    "by importance, falling": ({"order": "importance", "descending": True, "key_prefix": "c"}, ["c8", "c7", "c6"]),
    "by update": ({"order": "update_time", "memory_types": ["fact"]}, ["a1", "c7", "b4"]),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("page_size", [0, 2])
async def test_a_list_goes_over_all_pages(memories: Any, name: str, page_size: int) -> None:
    await some(memories)
    asked, expected = LISTS[name]
    # What can be iterated once only is enough for all pages.
    asked = {k: iter(v) if k in ("box", "memory_types") and not isinstance(v, str) else v for k, v in asked.items()}
    assert await keys_of(memories.list(page_size=page_size, **asked)) == expected


async def test_lists_by_time(memories: Any) -> None:
    await some(memories)
    found = await memories.get_many(["a0", "b3", "c6", "b4"])
    start, end = found["b3"].create_time, found["c6"].create_time
    assert await keys_of(memories.list(create_time=(start, None), key_prefix="a")) == []
    assert await keys_of(memories.list(create_time=(start, end))) == ["b3", "b4", "b5", "c6", "c7", "c8"]
    updated_us = (found["b4"].update_time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert await keys_of(memories.list(update_time=(updated_us, updated_us))) == ["b4"]
    with pytest.raises(InvalidRequest, match="nothing is in it"):
        await keys_of(memories.list(create_time=(end, start)))


async def test_a_page_goes_on_where_the_one_before_ended(client: Any, memories: Any) -> None:
    await some(memories)
    first = await memories.page(page_size=5, order="importance")
    assert [m.key for m in first.memories] == ["a0", "a1", "a2", "b3", "b4"]
    second = await memories.page(page_size=100, order="importance", page_token=first.next_page_token)
    assert ([m.key for m in second.memories], second.next_page_token) == (["b5", "c6", "c7", "c8"], "")
    with pytest.raises(InvalidRequest, match="page_token"):
        await memories.page(order="key", page_token=first.next_page_token)
    with pytest.raises(NotFound, match="namespace"):
        await client.namespace("nowhere").memories.page()


async def test_a_list_has_what_was_asked_for(memories: Any) -> None:
    await memories.put("a", {"x": 1}, vector=[1, 2])
    (plain,) = (await memories.page()).memories
    assert (plain.payload, plain.vector) == ({"x": 1}, None)
    (bare,) = (await memories.page(payloads=False, with_vectors=True)).memories
    assert (bare.payload_json, bare.vector.tolist(), bare.payload_digest) == ("", [1, 2], plain.payload_digest)
    with pytest.raises(LookupError, match="listed without its payload"):
        _ = bare.payload


async def test_a_page_is_asked_for_when_it_is_needed(memories: Any) -> None:
    await memories.put_many([MemoryPut(f"k{n}", n) for n in range(4)])
    listed = memories.list(page_size=2)
    found = [(await anext(listed)).key for _ in range(2)]
    await memories.purge("k2")  # before its page was asked for
    assert found + await keys_of(listed) == ["k0", "k1", "k3"]


# ---- search


async def ring(memories: Any) -> None:
    """Eight around the unit circle, the nearer to (1, 0) the smaller the number."""
    items = [
        MemoryPut(f"k{n}", {"n": n}, memory_type=["even", "odd"][n % 2], importance=n, coordinates=(n, -n) if n < 4 else ())
        for n in range(8)
    ]
    angles = np.arange(8) / 3
    told = await memories.put_many(items, vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1), wait_indexed_s=20)
    assert all(receipt.indexed for receipt in told)


@pytest.mark.parametrize("vector", [[1, 0], (1.0, 0.0), np.array([1, 0]), np.array([2.0, 0.0], ">f8"), np.eye(2)[:, 0]])
async def test_the_nearest_come_first(memories: Any, vector: Any) -> None:
    await ring(memories)
    result = await memories.search(vector, 3)
    assert [n.memory.key for n in result] == ["k0", "k1", "k2"]
    assert [n.score for n in result] == pytest.approx(np.cos(np.arange(3) / 3), abs=1e-6)
    assert (len(result), result[0].memory.payload, result[0].memory.vector) == (3, {"n": 0}, None)
    assert (result.indexed_revision, result.newest_revision) == (8, 8)


async def test_a_search_has_what_was_asked_for(memories: Any) -> None:
    await ring(memories)
    assert len(await memories.search([1, 0])) == 8
    (nearest,) = await memories.search([1, 0], limit=1, with_vectors=True)
    assert nearest.memory.vector.tolist() == [1.0, 0.0]
    assert not nearest.memory.vector.flags.writeable
    assert nearest.memory.payload == {"n": 0}


SEARCHES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "prefix": ({"key_prefix": "k7"}, ["k7"]),
    "type": ({"memory_types": "odd"}, ["k1", "k3", "k5", "k7"]),
    "types": ({"memory_types": iter(["odd", "even"])}, [f"k{n}" for n in range(8)]),
    "importance": ({"importance": (2, 3)}, ["k2", "k3"]),
    "box": ({"box": [(1, None), (None, None)]}, ["k1", "k2", "k3"]),
    "everything": ({"memory_types": "odd", "importance": (2, None), "box": [(None, None)] * 2}, ["k3"]),
    "nothing": ({"memory_types": "neither"}, []),
}


@pytest.mark.parametrize("what", SEARCHES)
async def test_a_search_keeps_to_its_filter(memories: Any, what: str) -> None:
    await ring(memories)
    chosen, expected = SEARCHES[what]
    assert [n.memory.key for n in await memories.search([1, 0], **chosen)] == expected


async def test_a_search_by_time(memories: Any) -> None:
    await ring(memories)
    last = await memories.update("k5", importance=0.0, wait_indexed_s=20)
    created = (await memories.get("k5")).create_time
    assert [n.memory.key for n in await memories.search([1, 0], update_time=(last.update_time, None))] == ["k5"]
    assert len(await memories.search([1, 0], create_time=(created, created))) == 8
    assert len(await memories.search([1, 0], create_time=(None, created - timedelta(seconds=1)))) == 0


BAD_SEARCHES: dict[str, tuple[Any, str]] = {
    "a matrix": (np.ones((1, 2)), r"vector: has shape \(1, 2\), not \(d,\)"),
    "a number": (1.0, r"vector: has shape \(\), not \(d,\)"),
    "words": (["a", "b"], "vector: is an array of <U1; real numbers are needed"),
    "complex": ([1j, 0], "vector: is an array of complex128"),
    "nothing": (None, "vector: is an array of object"),
    "ragged": ([[1], [1, 2]], "vector: is no array"),
    "empty": ([], "vector: has 0 numbers; the vectors of 'n' have 2"),
    "long": (np.ones(3), "vector: has 3 numbers; the vectors of 'n' have 2"),
    "nan": ([1, math.nan], "vector: has a number that is not finite"),
    "large": ([1, 1e300], "vector: has a number that is not finite"),
    "zero": ([0, 0], "vector: is zero"),
}


@pytest.mark.parametrize("what", BAD_SEARCHES)
async def test_a_search_for_no_vector_says_why(memories: Any, what: str) -> None:
    await ring(memories)
    vector, problem = BAD_SEARCHES[what]
    with pytest.raises(InvalidRequest, match=problem):
        await memories.search(vector)


async def test_searches_that_cannot_be(client: Any, memories: Any) -> None:
    await ring(memories)
    for how, problem in (({"limit": -1}, "limit: is -1"), ({"limit": 1 << 40}, "limit"), ({"importance": (2, 1)}, "importance")):
        with pytest.raises(InvalidRequest, match=problem):
            await memories.search([1, 0], **how)
    with pytest.raises(NotFound, match="namespace 'nowhere'"):
        await client.namespace("nowhere").memories.search([1, 0])


async def test_a_put_may_wait_until_it_can_be_found(memories: Any) -> None:
    assert not (await memories.put("a", 1, vector=[1, 0])).indexed, "it was not asked for"
    assert (await memories.put("b", 2, vector=[1, 1], wait_indexed_s=20)).indexed
    assert [n.memory.key for n in await memories.search([1, 0])] == ["a", "b"]
    assert (await memories.update("a", vector=[-1, 0], wait_indexed_s=20)).indexed
    assert [n.memory.key for n in await memories.search([1, 0])] == ["b", "a"]
    assert not (await memories.delete("a")).indexed
    for seconds in (-1, math.nan, math.inf):
        with pytest.raises(InvalidRequest, match="wait_indexed"):
            await memories.put("c", 3, wait_indexed_s=seconds)


# ---- with a commit of matrices


RHO = np.eye(2) / 2


async def test_a_commit_writes_both_or_neither(client: Any, memories: Any) -> None:
    namespace = client.namespace("n")
    puts = [MemoryPut("a", {"x": 1}, vector=[1, 0]), MemoryPut("b", 2, coordinates=iter([1.0]))]
    first = await namespace.commit({"rho": RHO}, expected_version=0, memories=iter(puts), request_id="r")
    assert [(r.key, r.outcome, r.revision, r.replayed) for r in first.memories] == [
        ("a", "created", 1, False),
        ("b", "created", 2, False),
    ]
    again = await namespace.commit({"rho": RHO}, expected_version=0, memories=puts, request_id="r")
    assert (again.version, again.replayed, [r.replayed for r in again.memories]) == (1, True, [True, True])
    with pytest.raises(VersionConflict) as conflict:
        await namespace.commit({"rho": RHO}, expected_version=0, memories=[MemoryPut("c", 3)])
    assert (conflict.value.key, conflict.value.current) == ("", 1)
    with pytest.raises(AlreadyExists):
        await namespace.commit({"rho": RHO}, expected_version=1, memories=[MemoryPut("a", 3, create_only=True)])
    assert (await namespace.describe()).version == 1
    changes = [MemoryDelete("a"), MemoryUpdate("b", importance=7.0), MemoryDelete("x")]
    done = await namespace.commit({"rho": RHO}, expected_version=1, memories=changes)
    assert [r.outcome for r in done.memories] == ["deleted", "updated", "unchanged"]
    (left,) = [memory async for memory in memories.list()]
    assert (left.key, left.payload, left.importance, left.coordinates) == ("b", 2, 7.0, (1.0,))
    assert (await namespace.commit({"rho": RHO}, expected_version=2)).memories == ()


async def test_an_update_takes_its_memories_along(client: Any, memories: Any) -> None:
    namespace, calls = client.namespace("n"), 0

    def step(_snapshot: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return {"rho": RHO}

    done = await namespace.update(step, memories=iter([MemoryPut("a", {"n": 1})]))
    assert (done.version, [r.key for r in done.memories]) == (1, ["a"])
    with pytest.raises(VersionConflict) as conflict:
        await namespace.update(step, memories=[MemoryUpdate("a", importance=1.0, if_revision=9)])
    assert (conflict.value.key, calls) == ("a", 2), "to read again does not change what was expected of a memory"


async def test_a_commit_refuses_memories_that_cannot_be_sent(client: Any) -> None:
    namespace = client.namespace("n")
    wrong = {
        r"memories\[1\].put.memory.vector: has shape": MemoryPut("b", 1, vector=[[1]]),
        r"memories\[1\].put.memory.payload_json: cannot": MemoryUpdate("b", payload=math.nan),
        r"memories\[1\].delete_key": MemoryDelete("\ud800"),
    }
    for problem, item in wrong.items():
        with pytest.raises(InvalidRequest, match=problem):
            await namespace.commit({"rho": RHO}, expected_version=0, memories=[MemoryPut("a", 1), item])


# ---- namespaces


async def test_namespaces(client: Any) -> None:
    made = await client.create_namespace("v", 3, "euclidean")
    assert (made.existed, made.namespace.dimension, made.namespace.distance) == (False, 3, "euclidean")
    assert (await client.create_namespace("v", dimension=3, distance="euclidean")).existed
    with pytest.raises(AlreadyExists, match="namespace 'v' exists already"):
        await client.create_namespace("v", 3)
    memories = client.namespace("v").memories
    with pytest.raises(InvalidRequest, match="vector"):
        await memories.put("a", {}, vector=[1, 2])
    await memories.put_many([MemoryPut("a", 1), MemoryPut("b", {"x": 1}, vector=[1, 2, 3]), MemoryPut("c", 1)])
    await memories.delete("c")
    await client.namespace("w").memories.put("a", None, vector=[1, 2])
    info = await memories.describe()
    assert (info.name, info.revision, info.memories, info.vectors, info.payload_bytes, info.tombstones) == ("v", 4, 2, 1, 8, 1)
    assert info.create_time <= info.update_time
    listed = [i async for i in client.namespaces(page_size=1)]
    assert [(i.name, i.dimension, i.distance) for i in listed] == [("v", 3, "euclidean"), ("w", 2, "cosine")]
    assert listed[0] == dataclasses.replace(info, indexed_revision=None)
    with pytest.raises(NotFound):
        await client.namespace("nowhere").memories.describe()


# ---- refusals that never leave


def _holding_itself() -> list[Any]:
    held: list[Any] = []
    held.append(held)
    return held


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"payload": {"x": math.nan}}, "put.memory.payload_json: cannot be written as JSON"),
    "infinity": ({"payload": [math.inf]}, "put.memory.payload_json: cannot be written as JSON"),
    "bytes": ({"payload": b"{}"}, "put.memory.payload_json: cannot be written as JSON"),
    "array": ({"payload": np.ones(2)}, "put.memory.payload_json: cannot be written as JSON"),
    "itself": ({"payload": _holding_itself()}, "put.memory.payload_json: cannot be written as JSON"),
    "half a character": ({"payload": "\ud800"}, "put.memory.payload_json: .*surrogates"),
    "raw half a character": ({"payload": RawJson('"\udfff"')}, "put.memory.payload_json: .*surrogates"),
    "a matrix": ({"vector": np.ones((2, 2))}, r"put.memory.vector: has shape \(2, 2\), not \(d,\)"),
    "a number": ({"vector": 1.0}, r"put.memory.vector: has shape \(\), not \(d,\)"),
    "complex": ({"vector": [1j]}, "put.memory.vector: is an array of complex128"),
    "words": ({"vector": ["a"]}, "put.memory.vector: is an array of <U1"),
    "ragged": ({"vector": [[1], [1, 2]]}, "put.memory.vector: is no array"),
    "two expiries": ({"ttl_s": 1, "expire_time": 1}, "put.memory.expiry: is said twice"),
    "no zone": ({"expire_time": datetime(2100, 1, 1)}, "put.memory.expire_time: 2100-01-01T00:00:00 has no time zone"),
    "for ever": ({"ttl_s": math.inf}, "put.memory.ttl: is inf s"),
    "never": ({"ttl_s": math.nan}, "put.memory.ttl: is nan s"),
    "after all": ({"expire_time": 10**30}, "put.memory.expire_time"),
    "two conditions": ({"create_only": True, "if_revision": 1}, "put.if_revision: cannot be so with create_only"),
    "a large revision": ({"if_revision": 1 << 64}, "put.if_revision"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_the_client_refuses_what_cannot_be_sent(memories: Any, name: str) -> None:
    how, problem = REFUSED[name]
    with pytest.raises(InvalidRequest, match=problem) as caught:
        await memories.put("a", how.get("payload", {}), **{k: v for k, v in how.items() if k != "payload"})
    assert caught.value.request_id == ""  # no server was asked


async def test_the_server_refuses_what_is_wrong(memories: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"vector": []}, "has 0 bytes"),
        ({"vector": [1.0, 1e300]}, r"has inf at \[1\]"),
        ({"ttl_s": -0.5}, "is -0.5 s"),
        ({"expire_time": 1}, "s ago"),
        ({"coordinates": [math.nan]}, "is nan"),
        ({"importance": math.inf}, "is inf"),
        ({"payload": RawJson("{")}, "is no JSON"),
    ]
    for how, problem in wrong:
        with pytest.raises(InvalidRequest, match=problem) as caught:
            await memories.put("a", how.get("payload", {}), **{k: v for k, v in how.items() if k != "payload"})
        assert caught.value.request_id


async def test_rows_must_fit_their_items(memories: Any) -> None:
    items = [MemoryPut("a", 1), MemoryPut("b", 2)]
    for vectors in (np.ones((3, 2)), np.ones(2), np.ones((2, 2, 2))):
        with pytest.raises(InvalidRequest, match=r"vectors: has shape .*, not \(2, d\)"):
            await memories.put_many(items, vectors=vectors)
    for item in (MemoryPut("b", 2, vector=[1]), MemoryUpdate("b", vector=None)):
        with pytest.raises(InvalidRequest, match=r"puts\[1\].memory.vector: is said twice"):
            await memories.put_many([items[0], item], vectors=np.ones((2, 2)))
    with pytest.raises(InvalidRequest, match="puts: is empty"):
        await memories.put_many([], vectors=np.ones((0, 2)))
