"""Many memories in one call: all or none, and what is told of each."""

from __future__ import annotations

import asyncio

import pytest

from sfm_grpc.errors import AlreadyExists, InvalidRequest, LimitExceeded, NotFound, VersionConflict
from tests.support.memories import Memories, counts, outcomes, put_of
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


async def test_a_batch_is_put_in_its_order(memories: Memories) -> None:
    await memories.put("b")
    done = await memories.puts(put_of("c", 1), put_of("a", 2, vector=[1, 2]), put_of("b", 3))
    assert [r.key for r in done.receipts] == ["c", "a", "b"]
    assert outcomes(done.receipts) == ["created", "created", "updated"]
    assert [r.revision for r in done.receipts] == [2, 3, 4]
    assert {r.update_time.ToMicroseconds() for r in done.receipts} == {(await memories.space()).update_time.ToMicroseconds()}
    found = await memories.gets("b", "x", "a", "c", "y", with_vectors=True)
    assert [(m.key, m.payload_json) for m in found.memories] == [("b", "3"), ("a", "2"), ("c", "1")]
    assert list(found.missing) == ["x", "y"]
    assert [m.HasField("vector") for m in found.memories] == [False, True, False]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (put_of("b", create_only=True), AlreadyExists),
        (put_of("b", if_revision=7), VersionConflict),
        (put_of("x", mask=["importance"]), NotFound),
        (put_of("x", vector=[1, 2, 3]), InvalidRequest),
        (put_of("x", "{"), InvalidRequest),
        (put_of("", {}), InvalidRequest),
    ],
)
async def test_one_that_is_refused_refuses_all(memories: Memories, bad: object, kind: type[Exception]) -> None:
    await memories.put("b", 0, vector=[1, 2])
    before = await memories.space()
    with pytest.raises(kind) as caught:
        await memories.puts(put_of("a", 1), bad, put_of("c", 1))  # type: ignore[arg-type]
    field = getattr(caught.value, "field", "")
    assert field == "" or field.startswith("puts[1]")
    assert await memories.space() == before
    assert await memories.keys() == ["b"]


async def test_each_key_may_be_there_once(memories: Memories) -> None:
    with pytest.raises(InvalidRequest, match=r"puts\[2\].memory.key: is 'a', as puts\[0\].memory.key is"):
        await memories.puts(put_of("a"), put_of("b"), put_of("a"))
    for ask in (memories.deletes, memories.gets, memories.undelete, memories.purge):
        with pytest.raises(InvalidRequest, match=r"keys\[1\]: is 'a', as keys\[0\] is"):
            await ask("a", "a")
        with pytest.raises(InvalidRequest, match="is empty"):
            await ask()


@pytest.mark.settings(batch_max=3)
async def test_a_batch_may_have_so_many(own: Memories) -> None:
    await own.puts(*(put_of(f"k{n}") for n in range(3)))
    with pytest.raises(LimitExceeded) as caught:
        await own.puts(*(put_of(f"k{n}") for n in range(4)))
    assert (caught.value.limit, caught.value.value, caught.value.maximum) == ("batch_max", 4, 3)
    with pytest.raises(LimitExceeded):
        await own.gets("a", "b", "c", "d")


@pytest.mark.settings(batch_bytes_max=100_000)
async def test_a_batch_may_have_so_many_bytes(own: Memories) -> None:
    await own.puts(put_of("a", '"' + "x" * 90_000 + '"'))
    with pytest.raises(LimitExceeded) as caught:
        await own.puts(put_of("a", '"' + "x" * 110_000 + '"'))
    assert caught.value.limit == "batch_bytes_max"


async def test_many_are_deleted_undeleted_and_purged_at_once(memories: Memories) -> None:
    await memories.puts(*(put_of(f"k{n}", vector=[1, n]) for n in range(10)))
    done = await memories.deletes("k3", "nothing", "k5")
    assert outcomes(done.receipts) == ["deleted", "unchanged", "deleted"]
    assert counts(await memories.space()) == {"memories": 8, "vectors": 8, "payload_bytes": 16, "tombstones": 2}
    with pytest.raises(NotFound):
        await memories.undelete("k3", "nothing")
    with pytest.raises(NotFound):
        await memories.get("k3")
    assert outcomes((await memories.undelete("k3", "k5", "k0")).receipts) == ["undeleted", "undeleted", "unchanged"]
    assert outcomes((await memories.purge("k1", "k2")).receipts) == ["purged", "purged"]
    assert await memories.keys() == ["k0", "k3", "k4", "k5", "k6", "k7", "k8", "k9"]
    assert counts(await memories.space())["memories"] == 8


async def test_a_batch_that_is_repeated_gets_its_first_answer(memories: Memories) -> None:
    batch = [put_of(f"k{n}", n) for n in range(50)]
    first = await memories.puts(*batch, request_id="r")
    await memories.deletes("k3")
    again = await memories.puts(*batch, request_id="r")
    assert again.replayed
    assert list(again.receipts) == list(first.receipts)
    with pytest.raises(NotFound):
        await memories.get("k3")


async def test_rival_batches_are_each_whole(memories: Memories) -> None:
    keys = [f"k{n}" for n in range(20)]
    batches = [[put_of(key, writer) for key in (keys if writer % 2 else keys[::-1])] for writer in range(12)]
    await asyncio.gather(*(memories.puts(*batch) for batch in batches))
    found = (await memories.gets(*keys)).memories
    assert len({m.payload_json for m in found}) == 1
    assert (await memories.space()).revision == 240
    assert counts(await memories.space())["memories"] == 20


async def test_a_write_is_told_to_the_world_once_without_payloads(server: Server, own: Memories) -> None:
    await own.puts(put_of("a", {"secret": 1}), put_of("b"))
    await own.deletes("a", "nothing")
    await own.deletes("nothing")
    told = await server.app.store.events(after=0, limit=10)
    assert [e.topic for e in told] == ["memory.event"] * 2
    changes = [[(c["key"], c["change"], c["revision"]) for c in e.payload["changes"]] for e in told]  # type: ignore[attr-defined]
    assert changes == [[("a", "created", 1), ("b", "created", 2)], [("a", "deleted", 3)]]
    assert "secret" not in str([e.payload for e in told])
    assert [e.version for e in told] == [2, 3]
