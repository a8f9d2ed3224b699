"""Operational truth: health, probes and gauges report the mathematics of what is stored, and which namespace is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as probe_pb2
from sfm.v1 import health_pb2, rho_store_pb2

from sfm_grpc.model import Kind, Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage.leases import LEASE_S
from tests.conftest import Serve
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch, with_eigenvalue
from tests.support.messages import commit_of, seed
from tests.support.metrics import sample
from tests.support.refusals import refused
from tests.support.servers import Server, serving, until

CANONICAL = rho_store_pb2.Freshness(consistency=rho_store_pb2.CONSISTENCY_CANONICAL)
SERVING, NOT_SERVING = probe_pb2.HealthCheckResponse.SERVING, probe_pb2.HealthCheckResponse.NOT_SERVING
OFTEN = pytest.mark.settings(http_listen="127.0.0.1:0", rho_verify_interval_s=0.05)
SELDOM = pytest.mark.settings(http_listen="127.0.0.1:0", rho_verify_interval_s=3600, rho_cache_bytes_max=0)
Restore = rho_store_pb2.RestoreRhoRequest
LAST_VALID = rho_store_pb2.LastValid()


async def status(server: Server, name: str) -> int:
    return (await server.probe.Check(probe_pb2.HealthCheckRequest(service=name))).status


async def rho_is(server: Server, wanted: int) -> bool:
    return await status(server, "rho") == wanted


async def report(server: Server, namespace: str = "") -> Any:
    return await server.health.GetHealth(health_pb2.GetHealthRequest(namespace=namespace))


async def commit(server: Server, namespace: str, *matrices: Any, **metadata: Any) -> None:
    for version, matrix in enumerate(matrices):
        await server.rho.CommitRho(commit_of(Put("rho", matrix), expected=version, namespace=namespace))


@OFTEN
async def test_a_rho_corrupted_behind_the_servers_back_is_found_named_and_mended_by_a_restore(
    server: Server, engine: Engine
) -> None:
    await commit(server, "fine", density(seed=1))
    await commit(server, "n", density(seed=2), density(seed=3))
    await until(lambda: rho_is(server, SERVING))
    assert (await server.http("/healthz")).status_code == 200

    engine.corrupt(server.settings, Scope("default", "n"), 2, "rho")
    await until(lambda: rho_is(server, NOT_SERVING), within_s=5)

    found = await report(server)
    assert (found.ok, found.psd_ok, found.ready, found.live, found.sample_version) == (False, False, True, True, 2)
    worst = found.rho[0]
    assert (worst.namespace, worst.tenant, worst.version, worst.corrupt, worst.psd_ok) == ("n", "default", 2, True, False)
    assert "rho" in worst.problem
    assert sha256(density(seed=3)).hex()[:16] in worst.problem
    assert [(r.namespace, r.psd_ok) for r in found.rho[1:]] == [("fine", True)]
    health = await server.http("/healthz")
    told = health.json()
    assert (health.status_code, told["corrupt"]) == (503, 1)
    assert (told["ok"], told["psd_ok"], told["rho"]["psd_ok"]) == (False, False, False)
    assert [(p["namespace"], p["version"]) for p in told["problems"]] == [("n", 2)]
    assert await sample(server, "somabrain_rho_psd_ok") == 0.0
    assert await sample(server, "sfm_rho_corrupt_namespaces") == 1.0
    assert "namespaces are wrong" in (await server.http("/")).text

    # ρ is shared: replicas stay ready, whatever it holds.
    assert [await status(server, name) for name in ("", "readiness", "liveness", "sfm.v1.RhoStore")] == [SERVING] * 4
    assert (await server.http("/readyz")).status_code == 200

    await server.rho.RestoreRho(Restore(namespace="n", expected_version=2, last_valid=LAST_VALID))
    await until(lambda: rho_is(server, SERVING), within_s=5)
    assert ((await report(server)).ok, (await server.http("/healthz")).status_code) == (True, 200)
    assert await sample(server, "somabrain_rho_psd_ok") == 1.0
    assert await sample(server, "sfm_rho_corrupt_namespaces") == 0.0


@OFTEN
@pytest.mark.parametrize("harm", ["garble", "lose"])
async def test_a_certificate_or_numbers_that_are_gone_are_found_too(
    serve: Serve, settings: Settings, engine: Engine, harm: str
) -> None:
    """Nothing that was stored may vanish without a word: not while the server runs, not over a restart."""
    async with serving(settings) as first:
        await seed(first.rho)
        await first.rho.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1))
        await first.rho.CommitRho(commit_of(Put("g", sketch(seed=1), kind=Kind.GENERIC), expected=2))
        getattr(engine, harm)(settings, Scope("default", "n"), 3, "rho")
        await until(lambda: rho_is(first, NOT_SERVING), within_s=5)
    server = await serve(settings)
    await until(lambda: rho_is(server, NOT_SERVING), within_s=5)
    worst = (await report(server)).rho[0]
    assert (worst.namespace, worst.version, worst.psd_ok) == ("n", 3, False)
    assert "rho" in worst.problem
    # Of the store: a cache before it has the numbers as they were.
    asked = rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL, freshness=CANONICAL)
    refusal = await refused(server.rho.GetRho(asked))
    assert (refusal.reason, refusal.facts["key"]) == ("RHO_CORRUPT", "rho")
    # The other key is still served, history still told, and a commit of something else does not lose what was lost.
    one = await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", keys=["g"], view=rho_store_pb2.VIEW_FULL))
    assert one.matrices[0].matrix.data == sketch(seed=1).tobytes()
    await server.rho.CommitRho(commit_of(Put("g", sketch(seed=2), kind=Kind.GENERIC), expected=3))
    listed = (await server.rho.ListRhoVersions(rho_store_pb2.ListRhoVersionsRequest(namespace="n"))).versions
    assert [[e.key for e in v.entries] for v in listed] == [["g", "rho"]] * 4
    assert not listed[0].valid
    assert await status(server, "rho") == NOT_SERVING
    done = await server.rho.RestoreRho(Restore(namespace="n", expected_version=4, last_valid=LAST_VALID))
    assert done.restored_version == 1
    await until(lambda: rho_is(server, SERVING), within_s=5)


@OFTEN
async def test_a_watcher_is_told_when_rho_turns_wrong_and_right(server: Server, engine: Engine) -> None:
    await commit(server, "n", density(seed=1), density(seed=2))
    seen: list[int] = []

    async def watch() -> None:
        stream = server.probe.Watch(probe_pb2.HealthCheckRequest(service="rho"))
        while True:
            seen.append((await stream.read()).status)

    watching = asyncio.create_task(watch())
    await until(lambda: seen)
    engine.corrupt(server.settings, Scope("default", "n"), 2, "rho")
    await until(lambda: len(seen) == 2)
    await server.rho.RestoreRho(Restore(namespace="n", expected_version=2, last_valid=LAST_VALID))
    await until(lambda: len(seen) == 3)
    assert seen == [SERVING, NOT_SERVING, SERVING]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@OFTEN
async def test_a_rotten_generic_matrix_counts_too_and_a_commit_over_it_mends(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    engine.corrupt(server.settings, Scope("default", "n"), 1, "g")
    await until(lambda: rho_is(server, NOT_SERVING), within_s=5)
    assert (await report(server, "n")).rho[0].problem.startswith("g: ")
    # A commit that leaves the rotten numbers in place changes nothing about them.
    await server.rho.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1))
    assert await status(server, "rho") == NOT_SERVING
    await server.rho.CommitRho(commit_of(Put("g", sketch(seed=1), kind=Kind.GENERIC), expected=2))
    assert await status(server, "rho") == SERVING


@SELDOM
async def test_a_read_that_meets_rotten_numbers_tells_health_at_once(serve: Serve, settings: Settings, engine: Engine) -> None:
    async with serving(settings) as first:
        await commit(first, "n", density())
    server = await serve(settings)
    await until(lambda: _verified(server))
    engine.corrupt(server.settings, Scope("default", "n"), 1, "rho")
    assert await status(server, "rho") == SERVING
    for how in ({}, {"version": 1}):
        request = rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL, **how)
        refusal = await refused(server.rho.GetRho(request))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "RHO_CORRUPT")
        assert (refusal.facts["namespace"], refusal.facts["version"], refusal.facts["key"]) == ("n", "1", "rho")
        assert refusal.facts["expected_digest"] == sha256(density()).hex()
    assert await status(server, "rho") == NOT_SERVING
    assert (await report(server)).rho[0].corrupt


async def _verified(server: Server) -> bool:
    return (await report(server)).verifications > 0


@OFTEN
async def test_numbers_that_rotted_while_the_server_was_down_are_found_when_it_is_back(
    serve: Serve, settings: Settings, engine: Engine
) -> None:
    async with serving(settings) as first:
        await commit(first, "n", density())
    engine.corrupt(settings, Scope("default", "n"), 1, "rho")
    second = await serve(settings)
    await until(lambda: rho_is(second, NOT_SERVING), within_s=5)
    assert (await report(second)).rho[0].namespace == "n"


@OFTEN
async def test_only_the_head_counts_an_older_version_may_rot(server: Server, engine: Engine) -> None:
    await commit(server, "n", density(seed=1), density(seed=2))
    engine.corrupt(server.settings, Scope("default", "n"), 1, "rho")
    before = (await report(server)).verifications
    await until(lambda: _verified_more(server, before + 3))
    assert await status(server, "rho") == SERVING


async def _verified_more(server: Server, count: int) -> bool:
    return (await report(server)).verifications > count


@pytest.mark.settings(http_listen="127.0.0.1:0", rho_enforcement="observe")
async def test_a_violation_that_observe_lets_in_is_flagged_at_once(server: Server) -> None:
    await commit(server, "fine", density())
    assert await status(server, "rho") == SERVING
    await commit(server, "n", with_eigenvalue(-0.25))
    assert await status(server, "rho") == NOT_SERVING
    found = await report(server)
    assert (found.psd_ok, found.rho[0].namespace, found.rho[0].psd_ok, found.rho[0].corrupt) == (False, "n", False, False)
    assert found.rho[0].min_eigenvalue_bound == pytest.approx(-0.25, abs=1e-6)
    assert "λ_min" in found.rho[0].problem
    assert await sample(server, "somabrain_rho_psd_ok") == 0.0
    await server.rho.CommitRho(commit_of(Put("rho", density() * 1.5), expected=1))
    found = await report(server)
    assert (found.ok, found.psd_ok, found.rho[0].trace_ok) == (False, True, False)
    assert found.trace_error == pytest.approx(0.5)
    assert await sample(server, "somabrain_rho_trace_norm_error") == pytest.approx(0.5)
    assert (await server.http("/healthz")).status_code == 503
    await server.rho.CommitRho(commit_of(Put("rho", density()), expected=2))
    assert await status(server, "rho") == SERVING
    assert (await server.http("/healthz")).status_code == 200


async def test_the_report_holds_the_certificate_of_the_worst_matrix(server: Server) -> None:
    await commit(server, "n", density())
    found = (await report(server, "n")).rho[0]
    assert (found.version, found.psd_ok, found.trace_ok, found.corrupt, found.problem) == (1, True, True, False, "")
    assert found.certificate.digest == sha256(density())
    assert found.min_eigenvalue_bound == found.certificate.min_eigenvalue_bound
    assert found.trace_error == found.certificate.trace_error


@OFTEN
async def test_stored_numbers_are_proved_again_and_the_report_says_when(server: Server) -> None:
    await commit(server, "n", density())
    await until(lambda: _verify_time(server))
    assert (await report(server)).verifications >= 1
    assert await sample(server, "sfm_rho_verifications_total") >= 1


async def _verify_time(server: Server) -> bool:
    return (await report(server, "n")).rho[0].HasField("verify_time")


async def test_the_worst_twenty_are_shown_and_all_are_counted(server: Server) -> None:
    for place in range(25):
        await commit(server, f"n{place:02}", density(seed=place))
    found = await report(server)
    assert (found.namespaces, len(found.rho)) == (25, 20)
    errors = [r.trace_error for r in found.rho]
    assert errors == sorted(errors, reverse=True)
    assert found.trace_error == errors[0]
    assert [r.namespace for r in (await report(server, "n24")).rho] == ["n24"]
    assert list((await report(server, "absent")).rho) == []


async def test_of_a_named_namespace_only_the_callers_own_is_reported(server: Server) -> None:
    for tenant in ("a", "b"):
        await server.rho.CommitRho(commit_of(Put("rho", density())), metadata=[("x-soma-tenant", tenant)])
    asked = health_pb2.GetHealthRequest(namespace="n")
    assert [r.tenant for r in (await server.health.GetHealth(asked, metadata=[("x-soma-tenant", "b")])).rho] == ["b"]
    assert list((await report(server, "n")).rho) == []
    assert sorted(r.tenant for r in (await report(server)).rho) == ["a", "b"]


@pytest.mark.settings(http_listen="127.0.0.1:0")
async def test_without_a_store_the_server_is_not_ready_but_alive_and_comes_back(
    serve: Serve, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfm_grpc.coordinator.presence._CHECK_S", 0.05)
    server = await serve(settings)
    await commit(server, "n", density())
    assert await sample(server, "somabrain_rho_degraded_mode") == 0.0
    with engine.unplugged(server.settings):
        await until(lambda: _ready_is(server, NOT_SERVING))
        if engine.leases:
            await asyncio.sleep(LEASE_S)  # while one stands no store is needed
        refusal = await refused(server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert refusal.retry_delay_s > 0
        assert await sample(server, "somabrain_rho_degraded_mode") == 1.0
        assert (await server.http("/readyz")).status_code == 503
        assert await status(server, "liveness") == SERVING
        found = await report(server)
        assert (found.ok, found.live, found.ready, found.components[0].ok) == (False, True, False, False)
        assert found.components[0].detail
    await until(lambda: _ready_is(server, SERVING))
    await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))
    found = await report(server)
    assert (found.ok, found.degraded) == (True, False)
    assert await sample(server, "somabrain_rho_degraded_mode") == 0.0


@OFTEN
async def test_every_namespace_is_known_after_a_restart_however_many_pages_of_them_there_are(
    serve: Serve, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfm_grpc.coordinator.health._HEADS_AT_ONCE", 2)
    async with serving(settings) as first:
        for place in range(5):
            await commit(first, f"n{place}", density(seed=place))
    engine.corrupt(settings, Scope("default", "n4"), 1, "rho")
    server = await serve(settings)
    assert (await report(server)).namespaces == 5
    await until(lambda: rho_is(server, NOT_SERVING), within_s=5)
    assert (await report(server)).rho[0].namespace == "n4"


async def _ready_is(server: Server, wanted: int) -> bool:
    return await status(server, "readiness") == wanted
