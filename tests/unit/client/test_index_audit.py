"""Verifying and repairing the index, on the wire: progress, the report, and how a stream ends."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from sfm.v1.memory_store_pb2 import IndexProgress as Progress
from sfm.v1.memory_store_pb2 import IndexReport as Report
from sfm.v1.memory_store_pb2 import VerifyIndexResponse

from sfm_grpc.client import IndexProgress, IndexReport, IndexUnavailable, UnexpectedStatus
from tests.unit.client.small_server import SmallServer
from tests.unit.client.test_failures import failing

METHODS = {"VerifyIndex": "verify_index", "RepairIndex": "repair_index"}


@pytest.fixture
def memories(client: Any) -> Any:
    return client.namespace("n").memories


def progress(phase: str, done: int, total: int) -> bytes:
    return VerifyIndexResponse(progress=Progress(phase=phase, done=done, total=total)).SerializeToString()


def report(**facts: Any) -> bytes:
    return VerifyIndexResponse(report=Report(**facts)).SerializeToString()


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_told_and_the_report_answered(server: SmallServer, memories: Any, method: str) -> None:
    facts = {"indexed_revision": 9, "memories": 5, "points": 4, "memories_hash": b"a" * 8, "points_hash": b"b" * 8}
    counts = {"missing": 1, "orphaned": 2, "stale": 3, "refused": 4, "mended": 6}
    told = report(**facts, **counts, sample_keys=["a", "b"])
    server.streamed = [progress("feeding", 1, 2), VerifyIndexResponse().SerializeToString(), progress("comparing", 3, 0), told]
    steps: list[IndexProgress] = []
    found = getattr(memories, METHODS[method])(on_progress=steps.append)
    assert found == IndexReport(**facts, **counts, sample_keys=("a", "b"))
    assert steps == [IndexProgress("feeding", 1, 2), IndexProgress("comparing", 3, 0)]
    assert getattr(memories, METHODS[method])() == found
    (first, _) = server.calls(method)
    assert (first.request.namespace, first.metadata["x-soma-client"]) == ("n", "test")


@pytest.mark.parametrize("wrong", ["", "missing", "orphaned", "stale", "refused"])
def test_it_is_ok_where_nothing_is_wrong_with_the_index_itself(server: SmallServer, memories: Any, wrong: str) -> None:
    server.streamed = [report(**({wrong: 1} if wrong else {}))]
    assert memories.verify_index().ok == (wrong in ("", "refused"))


def test_a_repair_may_make_it_anew(server: SmallServer, memories: Any) -> None:
    server.streamed = [report(mended=3)]
    assert memories.repair_index(rebuild=True).mended == 3
    memories.repair_index()
    assert [call.request.rebuild for call in server.calls("RepairIndex")] == [True, False]


def test_who_asked_may_have_enough(server: SmallServer, memories: Any) -> None:
    server.streamed, server.holding = [progress("feeding", 1, 2)], True

    def enough(step: IndexProgress) -> None:
        raise LookupError(step.phase)

    with pytest.raises(LookupError, match="feeding"):
        memories.verify_index(on_progress=enough)
    assert server.ended.wait(5)


@pytest.mark.parametrize("told", [[], [progress("feeding", 0, 0)]], ids=["nothing", "no report"])
def test_an_end_without_a_report_is_none(server: SmallServer, memories: Any, told: list[bytes]) -> None:
    server.streamed = told
    with pytest.raises(UnexpectedStatus, match="ended the stream without a report"):
        memories.verify_index()


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_is_none_is_not_believed(server: SmallServer, memories: Any, method: str) -> None:
    server.streamed = [b"\xff\xff"]
    with pytest.raises(UnexpectedStatus, match=f"the answer of {method} is not what it should be"):
        getattr(memories, METHODS[method])()


def test_refusals_have_their_facts(server: SmallServer, memories: Any) -> None:
    server.before = failing(99, IndexUnavailable(problem="it is away"), "VerifyIndex")
    with pytest.raises(IndexUnavailable, match="it is away"):
        memories.verify_index()
    server.before = failing(2, grpc.StatusCode.UNAVAILABLE, "RepairIndex")
    server.streamed = [report()]
    assert memories.repair_index().ok, "what is unavailable is asked again"
