"""When the server fails, hangs, drains or is not there: gRPC retries what is safe, and what is left is an error with facts."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from sfm_grpc import errors
from sfm_grpc.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    StoreUnavailable,
    UnexpectedStatus,
    Unreachable,
)
from sfm_grpc.client.errors import translated
from tests.unit.client.test_reads import rho


def failing(times, error, method="CommitRho"):
    """A `before` that fails the first `times` calls of a method."""
    left = [times]

    def before(seen, context):
        if seen.method == method and left[0]:
            left[0] -= 1
            if isinstance(error, grpc.StatusCode):
                context.abort(error, "said so")
            raise error

    return before


DOWN = errors.StoreUnavailable(problem="no disk", outcome_unknown=True, retry_after_s=0.5)


@pytest.mark.parametrize("error", [grpc.StatusCode.UNAVAILABLE, DOWN], ids=["bare", "ours"])
@pytest.mark.parametrize("mebibytes", [0, 2, 32])
def test_a_commit_of_any_size_is_retried_and_happens_once(server, client, error, mebibytes) -> None:
    """gRPC gives up silently above its retry buffer; this is the one that would notice."""
    server.before = failing(2, error)
    array = np.ones((max(1, mebibytes * 128), 1024))
    assert client.namespace("n").commit({"m": array}, expected_version=0).version == 1
    calls = server.calls("CommitRho")
    assert len(calls) == 3
    assert len({c.request.request_id for c in calls}) == 1
    assert calls[2].request.updates[0].put.data == array.tobytes()


def test_a_commit_whose_answer_was_lost_is_not_done_twice(server, client) -> None:
    committed = []

    def lost(seen, context):
        if seen.method == "CommitRho" and not committed:
            committed.append(server.CommitRho(seen.request))
            context.abort(grpc.StatusCode.UNAVAILABLE, "the wire was cut after the commit")

    server.before = lost
    done = client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    assert (done.version, done.replayed) == (1, True)
    assert server.namespaces["n"].newest == 1


def test_reads_are_retried_too(server, client) -> None:
    client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    server.before = failing(3, DOWN, "GetRho")
    assert client.namespace("n").read().version == 1


def test_five_attempts_and_the_facts(server, client) -> None:
    server.before = failing(99, DOWN)
    with pytest.raises(StoreUnavailable) as caught:
        client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    assert len(server.calls("CommitRho")) == 5
    assert caught.value.problem == "no disk"
    assert caught.value.outcome_unknown is True
    assert caught.value.retry_delay_s == 0.5
    assert caught.value.request_id == "req-1"


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded(limit="bytes_in_flight", value=9, maximum=8),
        errors.VersionConflict(namespace="n", expected=1, current=7, committer="ré", commit_time_us=12),
        errors.RhoNotPsd(
            min_eigenvalue=-0.25, epsilon=1e-8, negative_count=2, trace=1.0, asymmetry=0.0, dtype="float64", dimension=2, key="ρ"
        ),
        errors.NotFound(what="key", namespace="ü" * 100, names=("é" * 100,) * 40, current=3),
        errors.InternalError(request_id="req-1"),
        errors.RhoCorrupt(namespace="n", version=1, key="rho", expected_digest="aa", found_digest="bb"),
        errors.Draining(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_error_comes_back_as_itself(server, client, error) -> None:
    server.before = failing(9, error)
    with pytest.raises(type(error)) as caught:
        client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    assert caught.value.facts() == error.facts()
    assert caught.value.request_id == "req-1"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert len(server.calls("CommitRho")) == (5 if isinstance(error, errors.Draining) else 1)


def test_the_request_id_that_was_used_before_is_not_the_calls_own(server, client) -> None:
    server.before = failing(1, errors.RequestIdReused(namespace="n", reused_id="mine", first_time_us=1))
    with pytest.raises(errors.RequestIdReused, match="'mine'") as caught:
        client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    assert (caught.value.reused_id, caught.value.request_id) == ("mine", "req-1")


def test_a_reason_of_a_later_release(server, client) -> None:
    class Later(errors.SfmError):
        code = errors.Code.FAILED_PRECONDITION
        reason = "OF_A_LATER_RELEASE"

    server.before = failing(1, Later())
    with pytest.raises(UnexpectedStatus) as caught:
        client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    assert caught.value.status == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    "details",
    [
        b"not a status",
        status_pb2.Status(code=10).SerializeToString(),
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]
        ).SerializeToString(),
    ],
)
def test_details_that_are_none(server, client, details) -> None:
    def before(seen, context):
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.ABORTED, "in words")

    server.before = before
    with pytest.raises(UnexpectedStatus, match="ABORTED: in words"):
        client.health()


@pytest.mark.parametrize("facts", [{"current": "many"}, {"domain": "other"}])
def test_facts_of_others(server, client, facts) -> None:
    def before(seen, context):
        info = error_details_pb2.ErrorInfo(reason="VERSION_CONFLICT", domain=facts.get("domain", "sfm"), metadata=facts)
        packed = any_pb2.Any()
        packed.Pack(info)
        status = status_pb2.Status(details=[packed])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.ABORTED, "in words")

    server.before = before
    with pytest.raises(UnexpectedStatus, match="ABORTED"):
        client.health()


def test_other_statuses_keep_their_words(server, client) -> None:
    server.before = failing(1, grpc.StatusCode.UNKNOWN)
    with pytest.raises(UnexpectedStatus) as caught:
        client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    assert (caught.value.status, caught.value.problem) == ("UNKNOWN", "said so")


# ---- time ----------------------------------------------------------------------------------------------------------


def test_every_call_has_a_deadline(server, connect) -> None:
    release = threading.Event()
    server.before = lambda seen, context: release.wait(30)
    client = connect(timeout_s=0.2)
    try:
        for call in (client.health, client.server_info, client.namespace("n").read, client.namespace("n").describe):
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                call()
            assert 0.15 < time.monotonic() - started < 2
            assert caught.value.deadline_ms == 200
        with pytest.raises(DeadlineExceeded) as caught:
            client.namespace("n").read(timeout_s=0.05)
        assert caught.value.deadline_ms == 50
    finally:
        release.set()


def test_the_servers_own_deadline_error_keeps_its_facts(server, client) -> None:
    server.before = failing(1, errors.DeadlineExceeded(deadline_ms=77))
    with pytest.raises(DeadlineExceeded) as caught:
        client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    assert caught.value.deadline_ms == 77


# ---- nobody there --------------------------------------------------------------------------------------------------


@pytest.fixture
def nobody() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_no_server(connect, nobody) -> None:
    started = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        connect(nobody).health()
    assert caught.value.target == nobody
    assert time.monotonic() - started < 6


def test_wait_for_ready_waits(server, connect) -> None:
    server.stop()
    client = connect(wait_for_ready=True)
    starter = threading.Timer(0.5, server.start)
    starter.start()
    try:
        assert client.health().ok
    finally:
        starter.join()
    server.stop()
    with pytest.raises(DeadlineExceeded):
        client.health(timeout_s=0.3)


def test_a_restarted_server_is_found_again(server, client) -> None:
    client.namespace("n").commit({"m": np.ones((2, 2))}, expected_version=0)
    server.stop()
    server.start()
    assert not client.namespace("n").read().modified


class Cancelled(grpc.RpcError):
    def __init__(self, words) -> None:
        self._words = words

    def code(self):
        return grpc.StatusCode.CANCELLED

    def details(self):
        return self._words

    def trailing_metadata(self):
        return ()


def test_a_call_that_a_stopping_server_cancels_is_unreachable_and_one_that_we_cancel_is_not() -> None:
    found = translated(Cancelled("CANCELLED"), target="there", timeout_s=1.0)
    assert isinstance(found, Unreachable)
    assert "the server ended the call" in str(found)
    for words in ("Locally cancelled by application!", "Channel closed!"):
        assert isinstance(translated(Cancelled(words), target="there", timeout_s=1.0), UnexpectedStatus)


def test_closed(server, client) -> None:
    client.health()
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.health()
    with pytest.raises(RuntimeError, match="closed"):
        client.namespace("n").read()


def test_with_closes(server) -> None:
    with Client(server.target) as client:
        snapshot = None
        client.namespace("n").commit({"rho": rho()}, expected_version=0)
        snapshot = client.namespace("n").read()
    assert snapshot["rho"].tobytes() == rho().tobytes()
    with pytest.raises(RuntimeError):
        client.health()


async def test_async_with_closes(server) -> None:
    async with AsyncClient(server.target) as client:
        assert (await client.health()).ok
    with pytest.raises(RuntimeError):
        await client.health()
    async with AsyncClient(server.target):
        pass  # never used, never connected


async def test_a_cancelled_task_is_just_cancelled(server) -> None:
    release = threading.Event()
    server.before = lambda seen, context: release.wait(30)
    try:
        async with AsyncClient(server.target) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.namespace("n").read(), 0.1)
            release.set()
            assert (await client.health()).ok
    finally:
        release.set()
