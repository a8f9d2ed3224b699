"""`rho.status`: the truth about each commit lies in the outbox, in the order of the versions, written in the same transaction."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sfm.v1 import rho_store_pb2

from sfm_grpc.model import Kind
from tests.support.drivers import Delete, Put
from tests.support.matrices import density, sketch, with_eigenvalue
from tests.support.messages import commit_of
from tests.support.refusals import refused
from tests.support.servers import Server


async def events(server: Server) -> list[Any]:
    return list(await server.app.store.events(after=0, limit=100))


@pytest.mark.settings(node_id="node-7")
async def test_every_commit_is_told_with_its_certificates_truth(server: Server) -> None:
    before = time.time()
    put = Put("rho", with_eigenvalue(-5e-9))
    done = await server.rho.CommitRho(commit_of(put), metadata=[("x-soma-tenant", "a")])
    [event] = await events(server)
    assert (event.topic, event.version, event.scope.tenant, event.scope.namespace) == ("rho.status", 1, "a", "n")
    assert event.time_us == done.commit_time.ToMicroseconds()
    told = dict(event.payload)
    assert before - 1 <= told.pop("timestamp") <= time.time() + 1
    assert told == {
        "version": 1,
        "node_id": "node-7",
        "tenant": "a",
        "namespace": "n",
        "psd_ok": True,
        "trace_ok": True,
        "trace_error": done.receipts[0].certificate.trace_error,
        "clamped": True,
    }


@pytest.mark.settings(rho_enforcement="observe")
async def test_a_violation_is_told_as_one(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", with_eigenvalue(-0.25))))
    await server.rho.CommitRho(commit_of(Put("rho", density() * 1.5), expected=1))
    await server.rho.CommitRho(commit_of(Put("rho", density()), expected=2))
    found = [(e.payload["psd_ok"], e.payload["trace_ok"], e.payload["clamped"]) for e in await events(server)]
    assert found == [(False, True, False), (True, False, False), (True, True, False)]
    assert (await events(server))[1].payload["trace_error"] == pytest.approx(0.5)


async def test_restores_deletions_and_generic_matrices_have_events_too(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density()), Put("g", sketch(), kind=Kind.GENERIC)))
    await server.rho.CommitRho(commit_of(Delete("rho"), expected=1))
    await server.rho.RestoreRho(rho_store_pb2.RestoreRhoRequest(namespace="n", expected_version=2, version=1))
    found = await events(server)
    assert [e.version for e in found] == [1, 2, 3]
    assert [e.event_id for e in found] == sorted(e.event_id for e in found)
    assert all(e.payload["psd_ok"] for e in found)


async def test_what_did_not_happen_has_no_event(server: Server) -> None:
    request = commit_of(Put("rho", density()), request_id="r")
    await server.rho.CommitRho(request)
    await server.rho.CommitRho(request)
    await server.rho.CommitRho(commit_of(Put("rho", density()), expected=1, validate_only=True))
    await refused(server.rho.CommitRho(commit_of(Put("rho", density()), expected=5)))
    await refused(server.rho.CommitRho(commit_of(Put("rho", with_eigenvalue(-0.1)), expected=1)))
    assert [e.version for e in await events(server)] == [1]
