"""Small requests that would cost much, and what is refused before it costs anything."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from sfm.v1 import rho_store_pb2

from sfm_grpc.density.envelope import serialize_matrix
from sfm_grpc.density.matrix import dense, from_array, step_norm
from sfm_grpc.errors import InvalidRequest, Overloaded, RhoNotPsd
from sfm_grpc.model import Enforcement, Kind, Layout
from sfm_grpc.settings import Settings
from tests.conftest import Serve
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import density, sketch, with_eigenvalue
from tests.support.messages import commit_of, envelope_update, rho_update, seed
from tests.support.refusals import refused
from tests.support.servers import Server

MIB = 1 << 20
Get = rho_store_pb2.GetRhoRequest


def test_the_step_of_tall_factors_is_that_of_what_they_mean() -> None:
    """By Gram matrices of k×k two factors of 6000×1 took gigabytes."""
    rng = np.random.default_rng(0)
    tall = [from_array(rng.standard_normal((k, 3)), kind=Kind.DENSITY, layout=Layout.FACTOR) for k in (6000, 5000)]
    expected = np.linalg.norm(dense(tall[0]) - dense(tall[1]))
    assert step_norm(*tall) == pytest.approx(expected, rel=1e-12)


async def test_many_keys_are_refused_before_they_are_parsed(server: Server) -> None:
    raw = Get(namespace="n", keys=[""] * MIB).SerializeToString()
    refusal = await refused(server.raw("RhoStore/GetRho")(raw))
    assert (refusal.reason, refusal.facts["limit"]) == ("LIMIT_EXCEEDED", "fields_bytes_max")
    assert int(refusal.facts["value"]) == len(raw)


@pytest.mark.parametrize("method", ["RestoreRho", "ListRhoVersions", "CommitRho"])
async def test_what_is_not_numbers_is_bounded_in_every_request(server: Server, method: str) -> None:
    kind = getattr(rho_store_pb2, f"{method}Request")
    field = "page_token" if method == "ListRhoVersions" else "request_id"
    refusal = await refused(getattr(server.rho, method)(kind(namespace="n", **{field: "x" * MIB})))
    assert (refusal.reason, refusal.facts["limit"]) == ("LIMIT_EXCEEDED", "fields_bytes_max")


async def test_a_shape_of_a_million_numbers_is_refused(server: Server) -> None:
    refusal = await refused(server.rho.CommitRho(commit_of(rho_update(shape=[6] * MIB))))
    assert refusal.facts["limit"] == "fields_bytes_max"
    refusal = await refused(server.rho.CommitRho(commit_of(rho_update(shape=[6] * 1000))))
    assert refusal.reason == "MATRIX_MALFORMED"


@pytest.mark.settings(message_bytes_max=MIB)
async def test_envelopes_may_not_become_more_than_a_message_together(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    before = engine.fingerprint(server.settings)
    zeros = serialize_matrix(np.zeros((300, 300)), compression="zlib")
    updates = [envelope_update(zeros, kind=Kind.GENERIC) for _ in range(2)]
    for place, update in enumerate(updates):
        update.key = f"bomb-{place}"
    refusal = await refused(server.rho.CommitRho(commit_of(*updates, expected=1)))
    assert (refusal.reason, refusal.facts["limit"]) == ("LIMIT_EXCEEDED", "message_bytes_max")
    assert int(refusal.facts["value"]) == 2 * 300 * 300 * 8
    assert engine.fingerprint(server.settings) == before
    assert (await server.rho.CommitRho(commit_of(updates[0], expected=1))).version == 2


@pytest.mark.settings(slow_admissions_max=1)
async def test_matrices_that_need_eigenvalues_do_not_keep_the_others_waiting(server: Server) -> None:
    wrong = commit_of(Put("rho", with_eigenvalue(-0.1, d=700)))
    calls = [asyncio.ensure_future(server.rho.CommitRho(wrong, timeout=60)) for _ in range(6)]
    right = await server.rho.CommitRho(commit_of(Put("rho", density(300)), namespace="other"), timeout=60)
    assert right.version == 1
    errors = [(await refused(call)).error for call in calls]
    assert {type(e) for e in errors} == {RhoNotPsd, Overloaded}
    told = next(e for e in errors if isinstance(e, Overloaded))
    assert (told.limit, told.maximum) == ("slow_admissions_max", 1)
    assert told.retry_delay_s


async def test_a_commit_that_waited_too_long_is_not_begun(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    with engine.busy(server.settings):
        requests = [commit_of(Put("g", sketch(seed=i), kind=Kind.GENERIC), expected=1, request_id=f"r{i}") for i in range(3)]
        results = await asyncio.gather(*(server.rho.CommitRho(r, timeout=0.3) for r in requests), return_exceptions=True)
        assert {r.code() for r in results if isinstance(r, grpc.aio.AioRpcError)} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        await asyncio.sleep(0.3)  # until those that wait inside the store have been given up there
    # The first had begun and may yet be committed; the second and third had not.
    answer = await server.rho.CommitRho(
        commit_of(Put("h", sketch(), kind=Kind.GENERIC), expected=0, namespace="after"), timeout=30
    )
    assert answer.version == 1
    newest = (await server.rho.GetRho(Get(namespace="n"))).version
    assert newest <= 2
    for request in requests[1:]:
        request.expected_version = newest
        assert not (await server.rho.CommitRho(request, timeout=30)).replayed
        newest += 1


async def test_what_observe_let_in_is_not_restored_under_enforce(settings: Settings, serve: Serve) -> None:
    observing = await serve(settings.model_copy(update={"rho_enforcement": Enforcement.OBSERVE}))
    await observing.rho.CommitRho(commit_of(Put("rho", with_eigenvalue(-0.5))))
    await observing.rho.CommitRho(commit_of(Put("rho", density()), expected=1))
    enforcing = await serve(settings)
    request = rho_store_pb2.RestoreRhoRequest(namespace="n", expected_version=2, version=1)
    error = (await refused(enforcing.rho.RestoreRho(request))).error
    assert isinstance(error, InvalidRequest)
    assert "observe" in error.problem
    request.last_valid.SetInParent()
    assert (await enforcing.rho.RestoreRho(request)).restored_version == 2


async def test_the_event_of_a_commit_speaks_of_all_that_the_version_holds(settings: Settings, serve: Serve) -> None:
    server = await serve(settings.model_copy(update={"rho_enforcement": Enforcement.OBSERVE}))
    await server.rho.CommitRho(commit_of(Put("rho", with_eigenvalue(-0.5))))
    await server.rho.CommitRho(commit_of(Put("g", sketch(), kind=Kind.GENERIC), expected=1))
    last = (await server.app.store.events(after=0, limit=10))[-1]
    assert (last.version, last.payload["version"], last.payload["psd_ok"]) == (2, 2, False)
