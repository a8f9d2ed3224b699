"""ExportMemories: what ImportMemories takes, by key, from wherever it was left off."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime
from typing import Any

import pytest
from sfm.v1 import memory_store_pb2

from sfm_grpc.errors import InvalidRequest, NotFound, Overloaded
from tests.support.bulk import chunks, counts_of, exported, imported, line_of, lines_of
from tests.support.memories import Memories, put_of, us_of, vector_of
from tests.support.servers import Server

pytestmark = pytest.mark.engines("sqlite", "postgres")


@pytest.fixture
def memories(shared_server: Server, tenant: str) -> Memories:
    """As a tenant of its own on a server that all tests share."""
    return Memories(shared_server.channel, tenant=tenant)


@pytest.fixture
def own(server: Server) -> Memories:
    """On a server of its own."""
    return Memories(server.channel)


async def test_what_is_exported_can_be_imported_and_is_the_same(memories: Memories) -> None:
    expire_us = 4_000_000_000_123_456
    await memories.puts(
        put_of("é𝄞", '  {"a" : 1.10, "a": 123456789012345678901234567890}\n', vector=[0.1, -1e-30, 1e17], expire_us=expire_us),
        put_of("all", {"x": '\u2028\u0000"'}, memory_type="t é", importance=0.1, coordinates=[1e-300, 0.0, -2.5]),
        put_of("far", {}, expire_us=2**61),
        put_of("bare", "null"),
    )
    found = await exported(memories)
    other = memories.of("other")
    told = await imported(other, b"".join(chunk.lines for chunk in found))
    assert counts_of(told) == (4, 0, 0, 0)
    for key in await memories.keys():
        one, two = await memories.get(key), await other.get(key)
        for message in (one, two):
            for answered in ("revision", "create_time", "update_time"):
                message.ClearField(answered)
        assert one == two
    assert [line["key"] for line in lines_of(found)] == ["all", "bare", "far", "é𝄞"]
    assert lines_of(await exported(other)) == [
        {**line, **{name: here[name] for name in ("revision", "create_time", "update_time")}}
        for line, here in zip(lines_of(found), lines_of(await exported(other)), strict=True)
    ]


async def test_a_line_says_what_there_is_and_nothing_else(memories: Memories) -> None:
    await memories.put("bare", {})
    await memories.put(
        "full", "[1]", memory_type="t", importance=2.0, coordinates=[3.0], vector=[1, 2], expire_us=4_000_000_000_000_001
    )
    [bare, full] = lines_of(await exported(memories))
    assert sorted(bare) == ["create_time", "key", "payload_json", "revision", "update_time"]
    assert (full["payload_json"], full["memory_type"], full["importance"], full["coordinates"]) == ("[1]", "t", 2.0, [3.0])
    assert base64.b64decode(full["vector"]) == vector_of(1, 2)
    assert full["expire_time"] == "2096-10-02T07:06:40.000001Z"
    assert full["revision"] == 2
    assert "vector" not in lines_of(await exported(memories, without_vectors=True))[1]


async def test_a_filter_chooses_and_what_is_absent_is_not_there(memories: Memories) -> None:
    await memories.puts(*(put_of(key, memory_type=key[0]) for key in ("a/1", "a/2", "b/1", "b/2", "c")))
    await memories.delete("a/2")
    await memories.put("c", ttl_s=0.01)
    await asyncio.sleep(0.02)
    assert [line["key"] for line in lines_of(await exported(memories))] == ["a/1", "b/1", "b/2"]
    assert [line["key"] for line in lines_of(await exported(memories, filter={"key_prefix": "b/"}))] == ["b/1", "b/2"]
    found = await exported(memories, filter={"memory_types": ["a"]})
    assert ([line["key"] for line in lines_of(found)], found[0].total) == (["a/1"], 0)
    assert await exported(memories, filter={"key_prefix": "x"}) == []


async def test_it_goes_on_where_it_was(memories: Memories) -> None:
    await imported(memories, *(line_of(f"k{n:04}", "x" * 20_000) for n in range(150)))
    found = await exported(memories)
    assert len(found) > 2
    assert all(len(chunk.lines) <= 1 << 20 and chunk.count == chunk.lines.count(b"\n") for chunk in found)
    assert {chunk.total for chunk in found} == {150}
    keys = [line["key"] for line in lines_of(found)]
    assert keys == sorted(keys)
    assert len(set(keys)) == 150
    for place, chunk in enumerate(found):
        rest = await exported(memories, resume_token=chunk.resume_token)
        assert [line["key"] for line in lines_of(rest)] == [line["key"] for line in lines_of(found[place + 1 :])]
    # What is written meanwhile moves nothing else.
    await memories.delete("k0000")
    await memories.put("a")
    rest = await exported(memories, resume_token=found[0].resume_token)
    assert lines_of(rest) == lines_of(found[1:])


async def test_a_line_may_be_larger_than_a_chunk(memories: Memories) -> None:
    await memories.put("a", '"' + "x" * 1_040_000 + '"')
    await memories.put("b", '"' + '\\"' * 500_000 + '"')
    await memories.put("c", 1)
    found = await exported(memories)
    assert [json.loads(json.loads(chunk.lines.splitlines()[0])["payload_json"])[:1] for chunk in found[:2]] == ["x", '"']
    assert sum(chunk.count for chunk in found) == 3


@pytest.mark.parametrize(
    ("asked", "kind", "field"),
    [
        ({"namespace": ""}, InvalidRequest, "namespace"),
        ({"namespace": "nobody"}, NotFound, ""),
        ({"filter": {"importance": {"low": 2, "high": 1}}}, InvalidRequest, "filter.importance"),
        ({"resume_token": "x"}, InvalidRequest, "resume_token"),
        ({"resume_token": "OTHER"}, InvalidRequest, "resume_token"),
    ],
)
async def test_what_is_no_export_is_refused(memories: Memories, asked: dict[str, Any], kind: type[Exception], field: str) -> None:
    await memories.put("a")
    if asked.get("resume_token") == "OTHER":
        asked = {"resume_token": (await exported(memories, filter={"key_prefix": "a"}))[0].resume_token}
    with pytest.raises(kind) as caught:
        await exported(memories.of(asked.get("namespace", "n")), **{k: v for k, v in asked.items() if k != "namespace"})
    assert getattr(caught.value, "field", "") == field


@pytest.mark.settings(bulk_streams_max=1)
async def test_exports_are_bounded_and_one_that_is_left_is_over(own: Memories) -> None:
    await imported(own, *(line_of(f"k{n:04}", "x" * 20_000) for n in range(300)))
    one = chunks(own)
    assert isinstance(await anext(one), memory_store_pb2.ExportMemoriesResponse)
    with pytest.raises(Overloaded):
        await exported(own)
    await one.aclose()
    async with asyncio.timeout(5):
        while True:
            try:
                assert sum(chunk.count for chunk in await exported(own)) == 300
                return
            except Overloaded:
                await asyncio.sleep(0.02)


async def test_times_are_those_of_the_memory(memories: Memories) -> None:
    put = await memories.put("a")
    [line] = lines_of(await exported(memories))
    assert line["create_time"].endswith("Z")
    assert round(datetime.fromisoformat(line["update_time"]).timestamp() * 1e6) == us_of(put.receipt.update_time)
