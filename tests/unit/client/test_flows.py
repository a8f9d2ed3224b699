"""Flows by hand, without a server: what the drivers are asked for, and races that a server cannot be made to lose."""

from __future__ import annotations

import pytest

from sfm_grpc.client.flows import COMMIT_RHO, GET_RHO, Flows, _backoff_s
from sfm_grpc.client.steps import Call, Pause, Run
from sfm_grpc.errors import DeadlineExceeded, NotFound, VersionConflict
from tests.unit.client.test_reads import rho

ABSENT = NotFound(what="namespace", namespace="n")


@pytest.fixture
def flows() -> Flows:
    return Flows(timeout_s=7.0, message_bytes_max=1 << 20, cache_bytes_max=1 << 20)


def test_an_update_asks_for_a_read_a_decision_a_commit_and_a_pause(flows) -> None:
    flow = flows.update("n", len)
    read = next(flow)
    assert isinstance(read, Call)
    assert (read.method, read.timeout_s) == (GET_RHO, 7.0)
    run = flow.throw(ABSENT)
    assert isinstance(run, Run)
    assert run.fn is len
    commit = flow.send({"rho": rho(0, 4)})
    assert isinstance(commit, Call)
    assert commit.method == COMMIT_RHO
    pause = flow.throw(VersionConflict(namespace="n", expected=0, current=4, committer="", commit_time_us=0))
    assert isinstance(pause, Pause)
    assert 0 <= pause.seconds <= 0.5
    assert flows.kept.newest_seen("n") == 4
    assert next(flow).method == GET_RHO


def test_a_namespace_that_is_created_while_its_absence_is_reported(flows) -> None:
    """Another thread's commit is answered between our NOT_FOUND and its handling: still an empty snapshot, the CAS decides."""
    flow = flows.update("n", len)
    next(flow)
    flows.kept.saw("n", 1)
    run = flow.throw(ABSENT)
    assert isinstance(run, Run)
    assert run.args[0].version == 0


def test_a_namespace_that_was_there_and_is_gone_is_no_empty_one(flows) -> None:
    flows.kept.saw("n", 3)
    flow = flows.update("n", len)
    next(flow)
    with pytest.raises(NotFound):
        flow.throw(ABSENT)


def test_time_that_is_left_goes_to_the_next_call(flows, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("sfm_grpc.client.flows.time.monotonic", lambda: now[0])
    flow = flows.update("n", len, timeout_s=5.0)
    assert next(flow).timeout_s == 5.0
    now[0] += 2
    flow.throw(ABSENT)
    assert flow.send({"rho": rho(0, 4)}).timeout_s == 3.0
    flow.throw(VersionConflict(namespace="n", expected=0, current=4, committer="", commit_time_us=0))
    now[0] += 3
    with pytest.raises(DeadlineExceeded):
        next(flow)


def test_pauses_grow_and_are_bounded() -> None:
    assert max(_backoff_s(1) for _ in range(200)) <= 0.008
    assert 0.1 < max(_backoff_s(40) for _ in range(200)) <= 0.5
    assert _backoff_s(5000) <= 0.5
