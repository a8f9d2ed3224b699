"""Memories one by one: what is put is what is read, and what a key may become."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time

import pytest

from sfm_grpc.errors import AlreadyExists, InvalidRequest, LimitExceeded, NotFound, RequestIdReused, VersionConflict
from sfm_grpc.settings import Settings
from tests.conftest import Serve
from tests.support.memories import Memories, counts, outcomes, put_of, us_of, vector_of
from tests.support.servers import Server

pytestmark = pytest.mark.engines("sqlite", "postgres")

TEXTS = [
    "{}",
    "null",
    "0",
    '""',
    '  {"a" : 1 }\n',
    '{"n": 123456789012345678901234567890.5}',
    '{"a": 1, "a": 2}',
    '"\\u0000"',
    '"é\\u00e9𝄞"',
    json.dumps({"k": ["v"] * 500}),
]


@pytest.fixture
def memories(shared_server: Server, tenant: str) -> Memories:
    """As a tenant of its own on a server that all tests share."""
    return Memories(shared_server.channel, tenant=tenant)


@pytest.fixture
def own(server: Server) -> Memories:
    """On a server of its own."""
    return Memories(server.channel)


# ---- what is put is what is read


@pytest.mark.parametrize("text", TEXTS)
async def test_a_payload_is_kept_byte_for_byte(memories: Memories, text: str) -> None:
    put = await memories.put("a", text)
    found = await memories.get("a")
    assert found.payload_json == text
    assert found.payload_digest == put.receipt.payload_digest == hashlib.sha256(text.encode()).digest()


async def test_everything_that_is_put_is_read(memories: Memories) -> None:
    begun_us = time.time_ns() // 1000
    expire_us = begun_us + 3_600_000_000
    how = {"memory_type": "episode", "importance": 0.1, "coordinates": [0.1, -1e-300, 3e300], "vector": [0.1, 0.2, 1e17]}
    put = await memories.put("a", {"x": 1}, expire_us=expire_us, **how)
    found = await memories.get("a")
    assert (found.key, found.memory_type, found.importance) == ("a", "episode", 0.1)
    assert [c.hex() for c in found.coordinates] == [c.hex() for c in how["coordinates"]]  # type: ignore[union-attr]
    assert found.vector.data == vector_of(0.1, 0.2, 1e17)
    assert us_of(found.expire_time) == expire_us
    assert found.revision == put.receipt.revision == 1
    assert begun_us <= us_of(found.create_time) == us_of(found.update_time) <= time.time_ns() // 1000
    assert not (await memories.get("a", with_vector=False)).HasField("vector")


@pytest.mark.parametrize("key", ["a", "é", "𝄞", "a/b c", "%_'\"\\", "k" * 256, "\ud7ff\ue000"])
async def test_keys_are_text(memories: Memories, key: str) -> None:
    await memories.put(key, {"it": key})
    assert json.loads((await memories.get(key)).payload_json) == {"it": key}
    assert await memories.keys() == [key]


async def test_there_is_one_zero(memories: Memories) -> None:
    await memories.put("a", importance=-0.0, coordinates=[-0.0])
    found = await memories.get("a")
    assert [n.hex() for n in (found.importance, *found.coordinates)] == [(0.0).hex()] * 2


async def test_a_vector_may_be_sent_number_by_number(memories: Memories) -> None:
    put = put_of("a")
    put.memory.vector.float_values.values.extend([1.5, -2.0])
    await memories.ask("PutMemory", namespace="n", put=put)
    assert (await memories.get("a")).vector.data == vector_of(1.5, -2.0)


async def test_it_is_there_after_a_restart(settings: Settings, serve: Serve) -> None:
    server = await serve(settings)
    await Memories(server.channel).put("a", {"x": 1}, vector=[1, 2])
    await server.app.__aexit__(None, None, None)
    again = Memories((await serve(settings)).channel)
    assert (await again.get("a")).vector.data == vector_of(1, 2)
    assert (await again.put("b")).receipt.revision == 2


# ---- what a key may become


async def test_a_put_replaces_all_of_it(memories: Memories) -> None:
    first = await memories.put("a", {"x": 1}, memory_type="t", importance=1.0, coordinates=[1.0], vector=[1, 2], ttl_s=60)
    second = await memories.put("a", {"y": 2})
    found = await memories.get("a")
    assert (found.payload_json, found.memory_type, found.importance, list(found.coordinates)) == ('{"y": 2}', "", 0.0, [])
    assert not found.HasField("vector")
    assert not found.HasField("expire_time")
    assert found.create_time == first.receipt.create_time
    assert found.update_time == second.receipt.update_time
    assert (outcomes([first.receipt]), outcomes([second.receipt])) == (["created"], ["updated"])
    assert (first.receipt.revision, second.receipt.revision) == (1, 2)


@pytest.mark.parametrize("part", ["payload_json", "memory_type", "importance", "coordinates", "vector", "expiry"])
async def test_a_partial_put_changes_what_it_names(memories: Memories, part: str) -> None:
    before = {"memory_type": "t", "importance": 1.0, "coordinates": [1.0, 2.0], "vector": [1, 2], "ttl_s": 600}
    await memories.put("a", {"x": 1}, **before)
    was = await memories.get("a")
    after = {"memory_type": "u", "importance": 2.0, "coordinates": [3.0], "vector": [3, 4], "ttl_s": 6000}
    receipt = (await memories.put("a", {"x": 2}, mask=[part], **after)).receipt
    found = await memories.get("a")
    names = {"expiry": "expire_time"}
    assert getattr(found, names.get(part, part)) != getattr(was, names.get(part, part))
    for same in {"payload_json", "memory_type", "importance", "coordinates", "vector", "expire_time"} - {names.get(part, part)}:
        assert getattr(found, same) == getattr(was, same)
    assert (found.revision, found.create_time) == (2, was.create_time)
    assert receipt.payload_digest == found.payload_digest == hashlib.sha256(found.payload_json.encode()).digest()


async def test_a_partial_put_takes_away_what_it_names_and_does_not_say(memories: Memories) -> None:
    await memories.put("a", {"x": 1}, vector=[1, 2], ttl_s=600, coordinates=[1.0])
    await memories.put("a", mask=["vector", "expiry", "coordinates"])
    found = await memories.get("a")
    assert not found.HasField("vector")
    assert not found.HasField("expire_time")
    assert list(found.coordinates) == []
    assert found.payload_json == '{"x": 1}'
    assert counts(await memories.space())["vectors"] == 0


async def test_a_partial_put_needs_a_memory(memories: Memories) -> None:
    for mask in (["importance"], ["payload_json", "memory_type", "importance", "coordinates", "vector", "expiry"]):
        with pytest.raises(NotFound, match="'a'"):
            await memories.put("a", {}, mask=mask)
    await memories.put("b")
    await memories.delete("b")
    with pytest.raises(NotFound):
        await memories.put("b", importance=2.0, mask=["importance"])


async def test_create_only_needs_an_absent_key(memories: Memories) -> None:
    await memories.put("a", create_only=True)
    with pytest.raises(AlreadyExists) as caught:
        await memories.put("a", create_only=True)
    assert (caught.value.key, caught.value.revision) == ("a", 1)
    await memories.delete("a")
    assert outcomes([(await memories.put("a", create_only=True)).receipt]) == ["created"]


async def test_if_revision_needs_that_revision(memories: Memories) -> None:
    with pytest.raises(VersionConflict) as caught:
        await memories.put("a", if_revision=1)
    assert (caught.value.key, caught.value.expected, caught.value.current) == ("a", 1, 0)
    await memories.put("a")
    await memories.put("a", if_revision=1)
    with pytest.raises(VersionConflict) as caught:
        await memories.put("a", if_revision=1)
    assert (caught.value.expected, caught.value.current) == (1, 2)
    with pytest.raises(VersionConflict):
        await memories.delete("a", if_revision=1)
    await memories.delete("a", if_revision=2)


async def test_of_many_writers_that_expect_the_same_revision_one_wins(memories: Memories) -> None:
    await memories.put("a", 0)
    tried = await asyncio.gather(*(memories.put("a", n, if_revision=1) for n in range(20)), return_exceptions=True)
    assert sum(not isinstance(t, BaseException) for t in tried) == 1
    assert all(isinstance(t, VersionConflict) for t in tried if isinstance(t, BaseException))
    assert (await memories.get("a")).revision == 2


async def test_revisions_rise_with_every_write_and_none_is_used_again(memories: Memories) -> None:
    done = await asyncio.gather(*(memories.put(f"k{n % 7}", n) for n in range(40)))
    assert sorted(d.receipt.revision for d in done) == list(range(1, 41))
    await memories.delete("k0")
    await memories.purge("k1")
    assert (await memories.put("k0")).receipt.revision == 43
    assert (await memories.space()).revision == 43


# ---- deleting


async def test_what_is_deleted_is_absent_and_can_be_undeleted(memories: Memories) -> None:
    await memories.put("a", {"x": 1}, vector=[1, 2], importance=3.0)
    was = await memories.get("a")
    deleted = (await memories.delete("a")).receipt
    assert (outcomes([deleted]), deleted.revision) == (["deleted"], 2)
    with pytest.raises(NotFound):
        await memories.get("a")
    assert await memories.keys() == []
    assert counts(await memories.space()) == {"memories": 0, "vectors": 0, "payload_bytes": 0, "tombstones": 1}
    undone = (await memories.undelete("a")).receipts
    assert outcomes(undone) == ["undeleted"]
    found = await memories.get("a")
    assert (found.payload_json, found.vector, found.importance, found.revision) == (was.payload_json, was.vector, 3.0, 3)
    assert counts(await memories.space()) == {"memories": 1, "vectors": 1, "payload_bytes": 8, "tombstones": 0}


async def test_deleting_what_is_absent_changes_nothing(memories: Memories) -> None:
    assert outcomes([(await memories.delete("a")).receipt]) == ["unchanged"]
    with pytest.raises(NotFound):
        await memories.space()
    await memories.put("a")
    await memories.delete("a")
    again = (await memories.delete("a")).receipt
    assert (outcomes([again]), again.revision) == (["unchanged"], 0)
    assert (await memories.space()).revision == 2


async def test_undeleting_what_lives_changes_nothing_and_what_never_was_is_told(memories: Memories) -> None:
    await memories.put("a")
    receipt = (await memories.undelete("a")).receipts[0]
    assert (outcomes([receipt]), receipt.revision) == (["unchanged"], 1)
    with pytest.raises(NotFound, match="cannot be undeleted"):
        await memories.undelete("b")


async def test_a_put_ends_the_right_to_undelete(memories: Memories) -> None:
    await memories.put("a", {"x": 1})
    await memories.delete("a")
    await memories.put("a", {"x": 2})
    await memories.undelete("a")
    assert (await memories.get("a")).payload_json == '{"x": 2}'


@pytest.mark.settings(undelete_s=0)
async def test_after_the_window_it_is_gone_for_good(own: Memories) -> None:
    await own.put("a")
    await own.delete("a")
    await asyncio.sleep(0.002)
    with pytest.raises(NotFound, match="cannot be undeleted"):
        await own.undelete("a")


@pytest.mark.parametrize("deleted_first", [False, True])
async def test_nothing_is_kept_of_what_is_purged(memories: Memories, deleted_first: bool) -> None:
    await memories.put("a", {"secret": 1}, vector=[1, 2])
    if deleted_first:
        await memories.delete("a")
    assert outcomes((await memories.purge("a", "b")).receipts) == ["purged", "unchanged"]
    with pytest.raises(NotFound):
        await memories.get("a")
    with pytest.raises(NotFound):
        await memories.undelete("a")
    assert outcomes((await memories.purge("a")).receipts) == ["unchanged"]
    assert outcomes([(await memories.put("a")).receipt]) == ["created"]


# ---- expiry


async def test_what_has_expired_is_absent(memories: Memories) -> None:
    await memories.put("b")
    await memories.put("a", {"x": 1}, ttl_s=0.5)
    assert await memories.keys() == ["a", "b"]
    await asyncio.sleep(0.55)
    with pytest.raises(NotFound):
        await memories.get("a")
    assert await memories.keys() == ["b"]
    found = await memories.gets("a", "b")
    assert ([m.key for m in found.memories], list(found.missing)) == (["b"], ["a"])
    assert outcomes([(await memories.delete("a")).receipt]) == ["unchanged"]
    assert outcomes([(await memories.put("a", create_only=True)).receipt]) == ["created"]
    assert (await memories.get("a")).create_time == (await memories.get("a")).update_time


async def test_an_expiry_that_has_passed_is_refused(memories: Memories) -> None:
    with pytest.raises(InvalidRequest, match="ago"):
        await memories.put("a", expire_us=time.time_ns() // 1000 - 1_000_000)
    with pytest.raises(InvalidRequest, match="years"):
        await memories.put("a", expire_us=1 << 62)
    for ttl_s in (0, -1):
        with pytest.raises(InvalidRequest, match="ttl"):
            await memories.put("a", ttl_s=ttl_s)


# ---- requests


async def test_the_same_request_gets_its_first_answer_again(memories: Memories) -> None:
    first = await memories.put("a", {"x": 1}, request_id="r", ttl_s=60)
    await memories.put("a", {"x": 2})
    again = await memories.put("a", {"x": 1}, request_id="r", ttl_s=60)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.receipt == first.receipt
    assert (await memories.get("a")).payload_json == '{"x": 2}'
    with pytest.raises(RequestIdReused):
        await memories.put("a", {"x": 3}, request_id="r", ttl_s=60)
    deleted = await memories.delete("a", request_id="r")  # another method's
    assert (await memories.delete("a", request_id="r")).receipt == deleted.receipt


async def test_only_successes_are_remembered(memories: Memories) -> None:
    with pytest.raises(VersionConflict):
        await memories.put("a", if_revision=1, request_id="r")
    await memories.put("a")
    assert not (await memories.put("a", if_revision=1, request_id="r")).replayed


async def test_the_same_request_at_the_same_time_is_done_once(memories: Memories) -> None:
    done = await asyncio.gather(*(memories.put("a", {"x": 1}, request_id="r") for _ in range(10)))
    assert sum(not d.replayed for d in done) == 1
    assert {d.receipt.revision for d in done} == {1}


async def test_validation_records_nothing(memories: Memories) -> None:
    would = await memories.put("a", {"x": 1}, validate_only=True, request_id="r")
    assert (outcomes([would.receipt]), would.receipt.revision) == (["created"], 1)
    with pytest.raises(NotFound):
        await memories.space()
    assert not (await memories.put("a", {"x": 1}, request_id="r")).replayed
    with pytest.raises(AlreadyExists):
        await memories.put("a", create_only=True, validate_only=True)


# ---- whose


async def test_namespaces_and_tenants_do_not_see_each_other(memories: Memories) -> None:
    other, foreign = memories.of("m"), memories.of("n", "another")
    for place, one in enumerate((memories, other, foreign)):
        await one.put("a", place)
    for place, one in enumerate((memories, other, foreign)):
        assert (await one.get("a")).payload_json == str(place)
        assert (await one.get("a")).revision == 1
    await foreign.delete("a")
    assert (await memories.get("a")).payload_json == "0"


# ---- what is refused


@pytest.mark.parametrize(
    "text", ["", "{", "nul", "{'a': 1}", '{"a": NaN}', '{"a": 1}}', "[1,]", '"\x01"', "\ufeff{}", '{"a": 01}', '"\\ud800"']
)
async def test_what_is_no_json_is_refused(memories: Memories, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await memories.put("a", text)
    assert caught.value.field == "put.memory.payload_json"


@pytest.mark.settings(json_depth_max=10)
async def test_json_may_be_nested_so_deep(own: Memories) -> None:
    deep = "[" * 10 + "]" * 10
    await own.put("a", deep)
    await own.put("b", json.dumps(["[" * 50, *([[]] * 50)]))
    with pytest.raises(LimitExceeded) as caught:
        await own.put("a", f"[{deep}]")
    assert (caught.value.limit, caught.value.value, caught.value.maximum) == ("json_depth_max", 11, 10)


@pytest.mark.settings(payload_bytes_max=100)
async def test_a_payload_may_have_so_many_bytes(own: Memories) -> None:
    await own.put("a", '"' + "é" * 49 + '"')
    with pytest.raises(LimitExceeded, match="payload_bytes_max is 100, this has 102"):
        await own.put("a", '"' + "é" * 50 + '"')


@pytest.mark.settings(vector_dimension_max=3)
@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"vector": [float("nan"), 1]}, "put.memory.vector"),
        ({"vector": [1, float("-inf")]}, "put.memory.vector"),
        ({"vector": [0, 0]}, "put.memory.vector"),
        ({"vector": [1e-30, 0]}, "put.memory.vector"),
        ({"vector": b""}, "put.memory.vector"),
        ({"vector": b"abc"}, "put.memory.vector"),
        ({"importance": float("nan")}, "put.memory.importance"),
        ({"importance": float("inf")}, "put.memory.importance"),
        ({"coordinates": [1.0, float("nan")]}, "put.memory.coordinates[1]"),
        ({"memory_type": "a\nb"}, "put.memory.memory_type"),
        ({"mask": ["importance", "nothing"]}, "put.update_mask"),
        ({"mask": []}, "put.update_mask"),
        ({"mask": ["importance"], "create_only": True}, "put.create_only"),
        ({"if_revision": 0}, "put.if_revision"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_its_name(own: Memories, how: dict[str, object], field: str) -> None:
    put = put_of("a", **how)
    if how.get("mask") == []:
        put.update_mask.SetInParent()
    with pytest.raises(InvalidRequest) as caught:
        await own.ask("PutMemory", namespace="n", put=put)
    assert caught.value.field == field
    with pytest.raises(NotFound):
        await own.get("a")


@pytest.mark.settings(vector_dimension_max=3)
async def test_limits_are_named(own: Memories) -> None:
    for how, limit in (({"vector": [1, 2, 3, 4]}, "vector_dimension_max"), ({"coordinates": [1.0] * 9}, "coordinates_max")):
        with pytest.raises(LimitExceeded) as caught:
            await own.put("a", **how)  # type: ignore[arg-type]
        assert caught.value.limit == limit


async def test_the_first_vector_fixes_the_dimension(memories: Memories) -> None:
    await memories.put("a")
    assert (await memories.space()).dimension == 0
    await memories.put("b", vector=[1, 2, 3])
    assert (await memories.space()).dimension == 3
    with pytest.raises(InvalidRequest, match="has 2 numbers; the vectors of 'n' have 3"):
        await memories.put("c", vector=[1, 2])
    await memories.purge("b")
    with pytest.raises(InvalidRequest):
        await memories.put("c", vector=[1, 2])
