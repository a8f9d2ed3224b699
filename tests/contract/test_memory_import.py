"""ImportMemories: each line for itself, told by its number, durable when it is answered for."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sfm_grpc.errors import Draining, InvalidRequest, LimitExceeded, Overloaded
from sfm_grpc.settings import Settings
from tests.conftest import Serve
from tests.support.bulk import Import, counts_of, imported, line_of
from tests.support.memories import Memories, counts, put_of, us_of, vector_of
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


# ---- what a line says


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1.10,"a":123456789012345678901234567890.50}',
        '{ "a" : [ 1e300, -0.0 ,"\\u00e9é𝄞" ]}',
        '"x"',
        "null",
        "[]",
        json.dumps('quote " slash \\ end'),
    ],
)
async def test_a_payload_is_kept_byte_for_byte(memories: Memories, text: str) -> None:
    told = await imported(memories, f'{{"key": "raw", "payload": {text}}}', line_of("text", payload_json=text))
    assert counts_of(told) == (2, 0, 0, 0)
    assert [(await memories.get(key)).payload_json for key in ("raw", "text")] == [text, text]


async def test_only_payload_json_keeps_white_space_around_it(memories: Memories) -> None:
    await imported(memories, '{"key": "a", "payload":  {"x" : 1}  }', line_of("b", payload_json=' {"x" : 1}\n'))
    assert [(await memories.get(key)).payload_json for key in "ab"] == ['{"x" : 1}', ' {"x" : 1}\n']


async def test_everything_that_a_line_says_is_read(memories: Memories) -> None:
    expires = datetime.now(UTC) + timedelta(hours=1)
    said = {
        "memory_type": "fact",
        "importance": 0.1,
        "coordinates": [1, -2.5],
        "vector": (0.1, 0.2),
        "expire_time": expires.isoformat(),
    }
    besides = {"revision": 77, "create_time": "long ago", "update_time": None}
    assert counts_of(await imported(memories, line_of("schlüssel", {"x": 1}, **said, **besides))) == (1, 0, 0, 0)
    found = await memories.get("schlüssel")
    assert (found.memory_type, found.importance, list(found.coordinates)) == ("fact", 0.1, [1.0, -2.5])
    assert found.vector.data == vector_of(0.1, 0.2)
    assert us_of(found.expire_time) == (expires - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert found.revision == 1


async def test_a_vector_may_be_a_list_and_a_time_a_number(memories: Memories) -> None:
    far_us = 2**61
    told = await imported(
        memories, line_of("a", vector=[0.1, 2], expire_time=far_us), line_of("b", vector=None, expire_time=None)
    )
    assert counts_of(told) == (2, 0, 0, 0)
    assert (await memories.get("a")).vector.data == vector_of(0.1, 2)
    assert us_of((await memories.get("a")).expire_time) == far_us
    assert not (await memories.get("b")).HasField("vector")


async def test_lines_end_as_they_do_elsewhere(memories: Memories) -> None:
    told = await imported(memories, line_of("a") + b"\r", "", "  \t\r", line_of("b") + b" ", "{", line_of("c") + b"\r")
    assert (told.through_line, counts_of(told)) == (6, (3, 0, 0, 1))
    assert [e.line for e in told.errors] == [5]
    told = await imported(memories, line_of("d"), "")
    assert (told.through_line, told.created) == (1, 1)


# ---- lines that are refused


@pytest.mark.parametrize(
    ("line", "key", "field", "problem"),
    [
        ('{"key": "x", "payload": {"a": 1e}}', "", "", "is no JSON"),
        ("[1, 2]", "", "", "Expected `object`, got `array`"),
        (b'{"key": "\xff", "payload": 1}', "", "", "is not UTF-8"),
        (b'{"key": "x", "payload": "\xff"}', "x", "payload", "is not UTF-8"),
        ('{"payload": 1}', "", "key", "is required"),
        ('{"key": "a\\nb", "payload": 1}', "a\nb", "key", "control character U+000A"),
        ('{"key": 1, "payload": 1}', "", "key", "Expected `str`, got `int`"),
        ('{"key": "x"}', "x", "payload_json", "is required"),
        ('{"key": "x", "payload": 1, "payload_json": "1"}', "x", "payload", "is said twice"),
        ('{"key": "x", "payload_json": "{"}', "x", "payload_json", "is no JSON"),
        ('{"key": "x", "payload_json": {}}', "x", "payload_json", "Expected `str`, got `object`"),
        ('{"key": "x", "payload": ' + "[" * 65 + "]" * 65 + "}", "x", "payload_json", "json_depth_max is 64, this has 65"),
        ('{"key": "x", "payload": ' + "[" * 90_000 + "]" * 90_000 + "}", "", "", "json_depth_max is 64, this has 90001"),
        ('{"key": "x", "payload": "' + "x" * 1000 + '"}', "x", "payload_json", "payload_bytes_max is 1000, this has 1002"),
        ('{"key": "x", "payload": 1, "vektor": [1]}', "x", "vektor", "is no field of a line; these are: key, payload_json,"),
        ('{"key": "x", "payload": 1, "vector": [1, NaN]}', "", "", "is no JSON"),
        ('{"key": "x", "payload": 1, "vector": [1, 1e39]}', "x", "vector", "has inf at [1]"),
        ('{"key": "x", "payload": 1, "vector": [1, "2"]}', "x", "vector[1]", "Expected `float`, got `str`"),
        ('{"key": "x", "payload": 1, "vector": "%%%"}', "x", "vector", "Invalid base64"),
        ('{"key": "x", "payload": 1, "vector": "AAA="}', "x", "vector", "has 2 bytes, which are no float32 numbers"),
        (line_of("x", vector=(1.0, float("nan"))), "x", "vector", "has nan at [1]"),
        (line_of("x", vector=(1.0, 2.0, 3.0)), "x", "vector", "has 3 numbers; the vectors of 'n' have 2"),
        (line_of("x", vector=(0.0, 0.0)), "x", "vector", "has the length 0; under COSINE"),
        (line_of("x", importance="high"), "x", "importance", "Expected `float`, got `str`"),
        (line_of("x", coordinates=[1.0] * 9), "x", "coordinates", "coordinates_max is 8, this has 9"),
        (line_of("x", memory_type="t\0"), "x", "memory_type", "control character U+0000"),
        (line_of("x", expire_time="tomorrow"), "x", "expire_time", "Invalid RFC3339"),
        (line_of("x", expire_time="2999-01-01T00:00:00"), "x", "expire_time", "timezone"),
        (line_of("x", expire_time="2001-01-01T00:00:00Z"), "x", "expire_time", "s ago; the memory would be absent at once"),
    ],
)
@pytest.mark.settings(payload_bytes_max=1000)
async def test_a_bad_line_is_told_and_stops_nothing(own: Memories, line: Any, key: str, field: str, problem: str) -> None:
    told = await imported(own, line_of("before", vector=(1.0, 2.0)), line, line_of("after", vector=(3.0, 4.0)))
    assert (told.through_line, counts_of(told)) == (3, (2, 0, 0, 1))
    [error] = told.errors
    assert (error.line, error.key, error.field) == (2, key, field)
    assert problem in error.problem
    assert error.reason == ("LIMIT_EXCEEDED" if "_max is" in error.problem else "INVALID_REQUEST")
    assert await own.keys() == ["after", "before"]


@pytest.mark.settings(batch_max=7)
async def test_of_many_bad_lines_the_first_are_told_and_all_counted(own: Memories) -> None:
    told = await imported(own, *("{" if n % 3 else line_of(f"k{n}") for n in range(300)))
    assert counts_of(told) == (100, 0, 0, 200)
    assert [e.line for e in told.errors] == [n + 1 for n in range(300) if n % 3][:100]
    assert (await own.space()).memories == 100


async def test_what_another_writer_fixed_meanwhile_is_told_by_line(memories: Memories) -> None:
    """The import begins before the namespace has a dimension, and goes on after it got one."""
    stream = Import(memories)
    await stream.send(line_of("a"))
    assert counts_of(await stream.told()) == (1, 0, 0, 0)
    await memories.put("other", vector=[1, 2, 3])
    two, three = (1.0, 2.0), (1.0, 2.0, 3.0)
    await stream.send(line_of("b", vector=two), line_of("c"), line_of("d", vector=two), line_of("e", vector=three))
    told = await stream.told()
    assert counts_of(told) == (2, 0, 0, 2)
    assert [(e.line, e.field) for e in told.errors] == [(2, "vector"), (4, "vector")]
    assert await memories.keys() == ["a", "c", "e", "other"]
    await stream.end()


# ---- keys


@pytest.mark.parametrize("batch_max", [2, 1000])
async def test_of_a_key_that_comes_again_the_last_line_counts(settings: Settings, serve: Serve, batch_max: int) -> None:
    memories = Memories((await serve(settings.model_copy(update={"batch_max": batch_max}))).channel)
    told = await imported(memories, line_of("a", 1), line_of("b", 1), line_of("a", 2), line_of("a", 3), line_of("c", 1))
    assert counts_of(told) == (3, 2, 0, 0)
    assert [(await memories.get(key)).payload_json for key in "abc"] == ["3", "1", "1"]
    assert (await memories.space()).revision == 5


async def test_create_only_leaves_alone_what_lives(memories: Memories) -> None:
    await memories.puts(*(put_of(key, 0) for key in "abcd"))
    await memories.delete("b")
    await memories.put("c", 0, ttl_s=0.01)
    await asyncio.sleep(0.02)
    before = await memories.space()
    told = await imported(memories, *(line_of(key, 1) for key in "abcea"), mode=2)
    assert counts_of(told) == (3, 0, 2, 0)
    assert [(await memories.get(key)).payload_json for key in "abcde"] == ["0", "1", "1", "0", "1"]
    assert (await memories.space()).revision == before.revision + 3
    told = await imported(memories, *(line_of(key, 2) for key in "abcde"), mode=2)
    assert counts_of(told) == (0, 0, 5, 0)
    assert (await memories.space()).revision == before.revision + 3


async def test_the_same_lines_again_leave_the_same_memories(memories: Memories) -> None:
    lines = [line_of(f"k{n}", {"n": n}, vector=(1.0, float(n))) for n in range(120)]
    assert counts_of(await imported(memories, *lines)) == (120, 0, 0, 0)
    before = counts(await memories.space())
    assert counts_of(await imported(memories, *lines)) == (0, 120, 0, 0)
    assert counts(await memories.space()) == before
    assert (before["memories"], before["vectors"], before["tombstones"]) == (120, 120, 0)


async def test_a_validation_records_nothing(memories: Memories) -> None:
    told = await imported(memories, line_of("a", vector=(1.0,)), "{", line_of("b", vector=(1.0, 2.0)), validate_only=True)
    assert counts_of(told) == (1, 0, 0, 2)
    await memories.put("b")
    assert await memories.keys() == ["b"]
    assert (await memories.space()).dimension == 0
    assert counts_of(await imported(memories, line_of("a"), line_of("b"), validate_only=True)) == (1, 1, 0, 0)


# ---- streams


async def test_each_request_with_lines_is_answered_in_order(memories: Memories) -> None:
    stream = Import(memories)
    await stream.send()
    await stream.send(line_of("a"), line_of("b"))
    await stream.send(line_of("c"))
    await stream.send("{", line_of("d"), first_line=100)
    assert [(t.through_line, [e.line for e in t.errors]) for t in [await stream.told() for _ in range(3)]] == [
        (2, []),
        (3, []),
        (101, [100]),
    ]
    await stream.end()
    assert await memories.keys() == ["a", "b", "c", "d"]


async def test_what_is_answered_for_is_there(memories: Memories) -> None:
    stream = Import(memories)
    for n in range(5):
        await stream.send(line_of(f"k{n}"))
        assert (await stream.told()).through_line == n + 1
        assert (await memories.get(f"k{n}")).key == f"k{n}"
    stream.call.cancel()


async def test_the_index_is_fed(server: Server, own: Memories) -> None:
    await imported(own, *(line_of(f"k{n}", vector=(1.0, n / 10)) for n in range(20)))
    done = await own.put("last", vector=[1, 0])
    found = await own.ask("SearchMemories", namespace="n", vector={"data": vector_of(1, 1.9)}, limit=1)
    deadline = time.monotonic() + 10
    while found.indexed_revision < done.receipt.revision:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
        found = await own.ask("SearchMemories", namespace="n", vector={"data": vector_of(1, 1.9)}, limit=1)
    assert [n.memory.key for n in found.neighbours] == ["k19"]


@pytest.mark.parametrize(
    ("header", "said", "field"),
    [
        ({"namespace": ""}, {}, "namespace"),
        ({"mode": 7}, {}, "header.mode"),
        ({}, {"first_line": -1}, "first_line"),
    ],
)
async def test_what_is_no_import_is_refused(memories: Memories, header: dict[str, Any], said: dict[str, Any], field: str) -> None:
    stream = Import(memories, **header)
    await stream.send(line_of("a"), **said)
    with pytest.raises(InvalidRequest) as caught:
        await stream.told()
    assert caught.value.field == field


async def test_lines_are_numbered_upwards_and_one_header_is_enough(memories: Memories) -> None:
    stream = Import(memories)
    await stream.send(line_of("a"), line_of("b"))
    await stream.send(line_of("c"), first_line=2)
    assert (await stream.told()).created == 2
    with pytest.raises(InvalidRequest, match="first_line: is 2; it must be beyond 2"):
        await stream.told()
    stream = Import(memories)
    await stream.send(line_of("a"))
    stream._header = {"namespace": "m"}
    await stream.send(line_of("c"))
    assert (await stream.told()).updated == 1
    with pytest.raises(InvalidRequest, match="header: is there again"):
        await stream.told()
    stream = Import(memories)
    stream._header = None
    await stream.send(line_of("a"))
    with pytest.raises(InvalidRequest, match="header: is required"):
        await stream.told()
    assert await memories.keys() == ["a", "b"]


@pytest.mark.settings(batch_bytes_max=65_536, bulk_streams_max=2)
async def test_streams_and_requests_are_bounded(own: Memories) -> None:
    stream, other = Import(own), Import(own)
    for each in (stream, other):
        await each.send(line_of("a"))
        await each.told()
    with pytest.raises(Overloaded) as caught:
        await imported(own, line_of("a"))
    assert (caught.value.limit, caught.value.maximum) == ("bulk_streams_max", 2)
    await stream.send(line_of("b"))
    await stream.send(line_of("c", "x" * 70_000))
    assert (await stream.told()).created == 1
    with pytest.raises(LimitExceeded) as large:
        await stream.told()
    assert (large.value.limit, large.value.maximum) == ("batch_bytes_max", 65_536)
    await other.end()
    assert counts_of(await imported(own, line_of("a"))) == (0, 1, 0, 0)


@pytest.mark.settings(deadline_default_ms=300)
async def test_a_stream_has_no_default_deadline(own: Memories) -> None:
    stream = Import(own)
    await stream.send(line_of("a"))
    await stream.told()
    await asyncio.sleep(0.4)
    await stream.send(line_of("b"))
    assert (await stream.told()).created == 1
    stream.call.cancel()


async def test_a_draining_server_answers_what_it_has(server: Server, own: Memories) -> None:
    stream = Import(own)
    await stream.send(line_of("a"))
    assert (await stream.told()).created == 1
    server.app._guard.end_streams()
    with pytest.raises(Draining):
        await stream.told()
    with pytest.raises(Draining):
        await imported(own, line_of("b"))


async def test_a_callers_own_deadline_ends_the_stream(memories: Memories) -> None:
    call: Any = memories.stub.ImportMemories(timeout=0.2)
    with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
        await call.read()
