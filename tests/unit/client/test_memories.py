"""Memories on the wire: what goes out, what is sent again, and answers that cannot be believed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest
from sfm.v1 import memory_pb2, memory_store_pb2

from sfm_grpc.client import (
    KEEP,
    DeadlineExceeded,
    LimitExceeded,
    Link,
    MemoryPut,
    MemoryUpdate,
    RawJson,
    StoreUnavailable,
    UnexpectedStatus,
)
from sfm_grpc.client.memory_convert import found_of, put_of
from tests.unit.client.small_server import SmallServer
from tests.unit.client.test_failures import DOWN, failing

WRITES: dict[str, Callable[..., Any]] = {
    "PutMemory": lambda m, **how: m.put("a", {"x": 1}, vector=[1, 2], **how),
    "BatchPutMemories": lambda m, **how: m.put_many([MemoryPut("a", 1), MemoryUpdate("b", importance=2)], **how),
    "DeleteMemory": lambda m, **how: m.delete("a", **how),
    "BatchDeleteMemories": lambda m, **how: m.delete_many(["a", "b"], **how),
    "UndeleteMemories": lambda m, **how: m.undelete(["a", "b"], **how),
    "PurgeMemories": lambda m, **how: m.purge("a", **how),
    "PutLinks": lambda m, **how: m.link("a", "t", "b", **how),
    "DeleteLinks": lambda m, **how: m.unlink_many([Link("a", "t", "b"), Link("b", "t", "a")], **how),
}
READS: dict[str, Callable[..., Any]] = {
    "GetMemory": lambda m, **how: m.get("a", **how),
    "BatchGetMemories": lambda m, **how: m.get_many(["a"], **how),
    "ListMemories": lambda m, **how: [*m.list(**how)],
    "SearchMemories": lambda m, **how: m.search([1, 2], **how),
    "GetMemoryStats": lambda m, **how: m.stats(**how),
    "ListLinks": lambda m, **how: [*m.links("a", **how)],
    "GetNamespace": lambda m, **how: m.describe(**how),
}
METHODS = WRITES | READS


@pytest.fixture
def memories(client: Any) -> Any:
    return client.namespace("agent-7").memories


# ---- what goes out


def test_a_put_says_all_of_it() -> None:
    now = datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    vector = np.array([1.5, -2.0, 1e-3])
    item = MemoryPut("k", {"ü": 1.5}, memory_type="t", importance=2, coordinates=np.array([1, 2]), vector=vector, expire_time=now)
    put = put_of(item, "put")
    assert not put.HasField("update_mask")
    assert put.WhichOneof("condition") is None
    m = put.memory
    assert (m.key, m.payload_json, m.memory_type, m.importance, list(m.coordinates)) == ("k", '{"ü":1.5}', "t", 2.0, [1.0, 2.0])
    assert m.vector.data == vector.astype("<f4").tobytes()
    assert m.expire_time.ToDatetime(UTC) == now
    bare = put_of(MemoryPut("k", RawJson(" {}"), create_only=True, ttl_s=0.25), "put")
    assert (bare.memory.payload_json, bare.create_only, bare.memory.ttl.ToMicroseconds()) == (" {}", True, 250_000)
    assert not bare.memory.HasField("vector")
    assert put_of(MemoryPut("k", 1, if_revision=7), "put").if_revision == 7


MASKS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, []),
    "all of it": (
        {"payload": 1, "memory_type": "t", "importance": 1.0, "coordinates": [1.0], "vector": [1.0], "ttl_s": 1.0},
        ["payload_json", "memory_type", "importance", "coordinates", "vector", "expiry"],
    ),
    "null": ({"payload": None}, ["payload_json"]),
    "what is taken away": ({"vector": None, "coordinates": None, "expire_time": None}, ["coordinates", "vector", "expiry"]),
    "one expiry by two names": ({"ttl_s": None, "expire_time": 4_000_000_000_000_000}, ["expiry"]),
    "said to be kept": ({"payload": KEEP, "importance": 0.0}, ["importance"]),
}


@pytest.mark.parametrize("what", MASKS)
def test_an_update_names_its_parts(what: str) -> None:
    parts, paths = MASKS[what]
    put = put_of(MemoryUpdate("k", **parts), "put")
    assert put.HasField("update_mask")
    assert list(put.update_mask.paths) == paths
    assert put.memory.HasField("vector") == (parts.get("vector") is not None)


def test_rows_go_out_as_they_are(server: SmallServer, memories: Any) -> None:
    vectors = np.random.default_rng(3).standard_normal((200, 32)).astype("<f4")
    memories.put_many([MemoryPut(f"k{n}", n) for n in range(200)], vectors=vectors[:, ::2])
    (call,) = server.calls("BatchPutMemories")
    assert [p.memory.key for p in call.request.puts] == [f"k{n}" for n in range(200)]
    assert b"".join(p.memory.vector.data for p in call.request.puts) == vectors[:, ::2].tobytes()
    assert (call.request.namespace, call.metadata["x-soma-tenant"], call.metadata["x-soma-client"]) == (
        "agent-7",
        "default",
        "test",
    )


def test_a_condition_of_a_delete(server: SmallServer, memories: Any) -> None:
    memories.delete("a", if_revision=3)
    memories.delete("a")
    first, second = (call.request for call in server.calls("DeleteMemory"))
    assert (first.if_revision, second.HasField("if_revision")) == (3, False)


def test_a_search_says_all_of_it(server: SmallServer, memories: Any) -> None:
    memories.search(np.array([1.5, -2.0]), 3, with_vectors=True, memory_types="t", importance=(1, None), box=[(0, 1)])
    memories.search((1, 2), key_prefix="k")
    first, second = (call.request for call in server.calls("SearchMemories"))
    assert (first.namespace, first.vector.data) == ("agent-7", np.array([1.5, -2.0], "<f4").tobytes())
    assert (first.limit, first.with_vectors, list(first.filter.memory_types)) == (3, True, ["t"])
    assert (first.filter.importance.low, first.filter.importance.HasField("high"), first.filter.box[0].high) == (1.0, False, 1.0)
    assert (second.limit, second.with_vectors, second.filter.key_prefix) == (10, False, "k")


def test_a_put_waits_for_the_index_where_it_is_told_to(server: SmallServer, memories: Any) -> None:
    server.told["PutMemory"] = memory_store_pb2.PutMemoryResponse(indexed=True).SerializeToString()
    server.told["BatchPutMemories"] = memory_store_pb2.BatchPutMemoriesResponse(receipts=[{}], indexed=True).SerializeToString()
    assert memories.put("a", 1, wait_indexed_s=0.25).indexed
    assert memories.update("a", importance=1.0, wait_indexed_s=0).indexed
    assert [r.indexed for r in memories.put_many([MemoryPut("a", 1)], wait_indexed_s=2)] == [True]
    memories.put("a", 1)
    waits = [call.request.wait_indexed for call in server.seen]
    assert [wait.ToMilliseconds() for wait in waits[:3]] == [250, 0, 2000]
    assert [call.request.HasField("wait_indexed") for call in server.seen] == [True, True, True, False]


# ---- request ids and retries


@pytest.mark.parametrize("method", WRITES)
def test_every_write_has_a_request_id_of_its_own(server: SmallServer, memories: Any, method: str) -> None:
    write = WRITES[method]
    for _ in range(2):
        write(memories)
    write(memories, request_id="mine", validate_only=True)
    first, second, mine = (call.request for call in server.calls(method))
    assert len({first.request_id, second.request_id, ""}) == 3
    assert (first.validate_only, mine.request_id, mine.validate_only) == (False, "mine", True)


@pytest.mark.parametrize("error", [grpc.StatusCode.UNAVAILABLE, DOWN], ids=["bare", "ours"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_unavailable_is_asked_again_alike(server: SmallServer, memories: Any, method: str, error: Any) -> None:
    server.before = failing(2, error, method)
    METHODS[method](memories)
    calls = server.calls(method)
    assert len(calls) == 3
    assert len({call.raw for call in calls}) == 1


def test_a_large_batch_is_sent_again_too(server: SmallServer, memories: Any) -> None:
    server.before = failing(2, grpc.StatusCode.UNAVAILABLE, "BatchPutMemories")
    vectors = np.ones((1000, 2048), "<f4")
    memories.put_many([MemoryPut(f"k{n}", n) for n in range(1000)], vectors=vectors)
    calls = server.calls("BatchPutMemories")
    assert (len(calls), len({call.request.request_id for call in calls})) == (3, 1)
    assert len(calls[2].raw) > vectors.nbytes


def test_five_attempts_and_the_facts(server: SmallServer, memories: Any) -> None:
    server.before = failing(99, DOWN, "PutMemory")
    with pytest.raises(StoreUnavailable) as caught:
        memories.put("a", 1)
    assert len(server.calls("PutMemory")) == 5
    assert (caught.value.problem, caught.value.request_id) == ("no disk", "req-1")


def test_a_message_that_no_server_would_take(connect: Any) -> None:
    memories = connect(message_bytes_max=1 << 20).namespace("n").memories
    with pytest.raises(LimitExceeded) as caught:
        memories.put("a", RawJson("x" * (3 << 20)))
    assert caught.value.limit == "message_bytes_max"


@pytest.mark.parametrize("method", METHODS)
def test_every_call_has_a_deadline(server: SmallServer, memories: Any, method: str) -> None:
    server.before = lambda seen, context: time.sleep(0.5)
    with pytest.raises(DeadlineExceeded) as caught:
        METHODS[method](memories, timeout_s=0.05)
    assert caught.value.deadline_ms == 50


# ---- what comes back


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_is_none_is_not_believed(server: SmallServer, memories: Any, method: str) -> None:
    server.told[method] = b"\xff\xff"
    with pytest.raises(UnexpectedStatus, match=f"the answer of {method} is not what it should be"):
        METHODS[method](memories)


def test_a_vector_of_half_numbers_is_not_believed(server: SmallServer, memories: Any) -> None:
    memory = memory_pb2.Memory(key="a", vector=memory_pb2.Vector(data=b"12345"))
    server.told["GetMemory"] = memory_store_pb2.GetMemoryResponse(memory=memory).SerializeToString()
    with pytest.raises(UnexpectedStatus, match="the answer of GetMemory"):
        memories.get("a", with_vector=True)


def test_what_a_later_server_says_has_a_name(server: SmallServer, client: Any) -> None:
    receipt = memory_pb2.MemoryReceipt(key="a", outcome=99, revision=3)  # type: ignore[arg-type]
    server.told["PutMemory"] = memory_store_pb2.PutMemoryResponse(receipt=receipt).SerializeToString()
    done = client.namespace("n").memories.put("a", 1)
    assert (done.outcome, done.revision, done.create_time, done.update_time) == ("unknown", 3, None, None)
    space = memory_store_pb2.Namespace(name="n", distance=99)  # type: ignore[arg-type]
    server.told["GetNamespace"] = memory_store_pb2.GetNamespaceResponse(namespace=space).SerializeToString()
    assert client.namespace("n").memories.describe().distance == "unknown"


def found(**vectors: list[float] | None) -> bytes:
    def memory(key: str, numbers: list[float] | None) -> memory_pb2.Memory:
        vector = None if numbers is None else memory_pb2.Vector(data=np.array(numbers, "<f4").tobytes())
        return memory_pb2.Memory(key=key, payload_json="{}", vector=vector)

    response = memory_store_pb2.BatchGetMemoriesResponse(missing=["z"])
    response.memories.extend(memory(key, numbers) for key, numbers in vectors.items())
    return response.SerializeToString()


def test_vectors_are_rows() -> None:
    held = found_of(found(a=[1, 2], b=None, c=[3, 4]), with_vectors=True)
    assert held.vector_keys == ("a", "c")
    assert held.vectors().tolist() == [[1, 2], [3, 4]]
    assert held.vectors(["c", "a", "c"]).tolist() == [[3, 4], [1, 2], [3, 4]]
    assert held.vectors([]).shape == (0, 0)
    with pytest.raises(ValueError, match="read-only"):
        held.vectors()[0, 0] = 1
    with pytest.raises(KeyError, match="z"):
        held.vectors(["z"])
    with pytest.raises(LookupError, match=r"'b' has no vector$"):
        held.vectors(["a", "b"])


def test_vectors_that_were_not_asked_for() -> None:
    held = found_of(found(a=None), with_vectors=False)
    for ask in (held.vectors, lambda: held.vectors(["a"]), lambda: held.vector_keys):
        with pytest.raises(LookupError, match=r"get_many\(keys, with_vectors=True\)"):
            ask()
