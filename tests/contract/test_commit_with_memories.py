"""One commit of matrices and memories: both or neither."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from sfm.v1 import memory_pb2

from sfm_grpc.errors import AlreadyExists, InvalidRequest, LimitExceeded, NotFound, RequestIdReused, SfmError, VersionConflict
from sfm_grpc.model import Scope
from tests.support.drivers import Put
from tests.support.matrices import density
from tests.support.memories import Memories, counts, outcomes, put_of
from tests.support.messages import commit_of
from tests.support.refusals import refusal_of
from tests.support.servers import Server

RHO = {seed: density(seed=seed) for seed in range(4)}


@pytest.fixture
def memories(server: Server) -> Memories:
    return Memories(server.channel)


def change(key: str, payload: object = None, **how: Any) -> memory_pb2.MemoryChange:
    return memory_pb2.MemoryChange(put=put_of(key, payload, **how))


def gone(key: str) -> memory_pb2.MemoryChange:
    return memory_pb2.MemoryChange(delete_key=key)


async def commit(server: Server, expected: int, *changes: memory_pb2.MemoryChange, **how: Any) -> Any:
    request = commit_of(Put("rho", RHO[expected]), expected=expected, **how)
    request.memories.extend(changes)
    try:
        return await server.rho.CommitRho(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        raise refusal_of(error).error from error


async def version(server: Server) -> int:
    scope = Scope("default", "n")
    return (await server.app.store.newest([scope])).get(scope, 0)


async def test_both_are_there_or_neither(server: Server, memories: Memories) -> None:
    done = await commit(server, 0, change("a", {"x": 1}, vector=[1, 2]), change("b"))
    assert (done.version, outcomes(done.memories)) == (1, ["created", "created"])
    done = await commit(server, 1, gone("a"), change("c"), gone("nothing"))
    assert outcomes(done.memories) == ["deleted", "created", "unchanged"]
    assert await memories.keys() == ["b", "c"]
    told = await server.app.store.events(after=0, limit=10)
    assert [(e.topic, e.version) for e in told] == [
        ("rho.status", 1),
        ("memory.event", 2),
        ("rho.status", 2),
        ("memory.event", 4),
    ]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (change("a", create_only=True), AlreadyExists),
        (change("a", if_revision=7), VersionConflict),
        (change("x", mask=["importance"]), NotFound),
        (change("x", vector=[1, 2, 3]), InvalidRequest),
        (change("x", "{"), InvalidRequest),
        (change("a"), InvalidRequest),  # twice
        (memory_pb2.MemoryChange(), InvalidRequest),
    ],
)
async def test_a_memory_that_is_refused_refuses_the_commit(
    server: Server, memories: Memories, bad: memory_pb2.MemoryChange, kind: type[SfmError]
) -> None:
    await commit(server, 0, change("a", vector=[1, 2]))
    first = change("a") if bad.put.memory.key == "a" and kind is InvalidRequest else change("b")
    with pytest.raises(kind) as caught:
        await commit(server, 1, first, bad)
    field = getattr(caught.value, "field", "")
    assert field == "" or field.startswith("memories[1]")
    assert await version(server) == 1
    assert (await memories.space()).revision == 1


async def test_a_matrix_that_is_refused_refuses_the_memories(server: Server, memories: Memories) -> None:
    await commit(server, 0, change("a"))
    with pytest.raises(VersionConflict) as caught:
        await commit(server, 3, change("b"))
    assert (caught.value.key, caught.value.current) == ("", 1)
    bad = commit_of(Put("rho", RHO[1] * 2), expected=1)
    bad.memories.append(change("b"))
    with pytest.raises(grpc.aio.AioRpcError):
        await server.rho.CommitRho(bad, timeout=30)
    assert await memories.keys() == ["a"]
    assert await version(server) == 1


async def test_the_same_request_gets_its_first_answer_again(server: Server, memories: Memories) -> None:
    first = await commit(server, 0, change("a", 1), change("b", 2), request_id="r")
    await memories.put("a", 3)
    again = await commit(server, 0, change("a", 1), change("b", 2), request_id="r")
    assert again.replayed
    assert (again.version, list(again.memories)) == (1, list(first.memories))
    assert (await memories.get("a")).payload_json == "3"
    with pytest.raises(RequestIdReused):
        await commit(server, 0, change("a", 1), request_id="r")


async def test_a_validation_records_neither(server: Server, memories: Memories) -> None:
    done = await commit(server, 0, change("a"), validate_only=True)
    assert (done.version, outcomes(done.memories)) == (1, ["created"])
    assert await version(server) == 0
    with pytest.raises(NotFound):
        await memories.space()


async def test_of_rival_commits_one_wins_with_its_memories(server: Server, memories: Memories) -> None:
    await commit(server, 0)
    tried = await asyncio.gather(*(commit(server, 1, change(f"k{n}")) for n in range(8)), return_exceptions=True)
    won = [place for place, done in enumerate(tried) if not isinstance(done, BaseException)]
    assert len(won) == 1
    assert await memories.keys() == [f"k{won[0]}"]
    assert counts(await memories.space())["memories"] == 1


async def test_memories_and_commits_at_the_same_time_do_not_hinder_each_other(server: Server, memories: Memories) -> None:
    async def commits() -> None:
        for expected in range(4):
            await commit(server, expected, change("both", expected), change(f"v{expected}"))

    async def puts() -> None:
        for n in range(40):
            await memories.puts(put_of("both", -n), put_of(f"p{n}"))

    await asyncio.gather(commits(), puts())
    assert (await memories.space()).revision == 4 * 2 + 40 * 2
    assert counts(await memories.space())["memories"] == 1 + 4 + 40
    assert await version(server) == 4


@pytest.mark.settings(batch_max=2, batch_bytes_max=64 * 1024, fields_bytes_max=16 * 1024)
async def test_what_a_commit_may_carry_has_bounds(server: Server) -> None:
    await commit(server, 0, change("a", '"' + "x" * 40_000 + '"'))
    for changes, limit in (
        ([change(k) for k in "abc"], "batch_max"),
        ([change("a", '"' + "x" * 70_000 + '"')], "batch_bytes_max"),
    ):
        with pytest.raises(LimitExceeded) as caught:
            await commit(server, 1, *changes)
        assert caught.value.limit == limit
