"""Shed rather than queue, and never without a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2 as probe_pb2
from sfm.v1 import health_pb2, rho_store_pb2

from sfm_grpc.errors import NotFound
from sfm_grpc.model import Kind
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import density, sketch
from tests.support.messages import commit_of, seed
from tests.support.metrics import sample
from tests.support.refusals import refused
from tests.support.servers import Server, until

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
Get = rho_store_pb2.GetRhoRequest
WITH_HTTP = {"http_listen": "127.0.0.1:0"}


@pytest.fixture(autouse=True)
def _patient(engine: Engine) -> Iterator[None]:
    """What a test makes wait waits for the test, also on a slow machine."""
    with engine.patience(60):
        yield


async def in_flight(server: Server, count: int) -> None:
    async def seen() -> bool:
        return await sample(server, "sfm_calls_in_flight") == count

    await until(seen)


@pytest.mark.settings(concurrent_rpcs_max=1, **WITH_HTTP)
async def test_a_call_too_many_is_told_to_come_back_and_the_others_finish(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    with engine.busy(server.settings):
        waiting = asyncio.ensure_future(server.rho.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1)))
        await in_flight(server, 1)
        refusal = await refused(server.rho.GetRho(Get(namespace="n")))
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "OVERLOADED")
        assert (refusal.facts["limit"], refusal.facts["maximum"]) == ("concurrent_rpcs_max", "1")
        assert 0 < refusal.retry_delay_s < 1
        # Questions about the server itself are answered also when it is full.
        assert (await server.health.GetHealth(health_pb2.GetHealthRequest())).ok
        assert (await server.probe.Check(probe_pb2.HealthCheckRequest())).status == probe_pb2.HealthCheckResponse.SERVING
    assert (await waiting).version == 2
    assert (await server.rho.GetRho(Get(namespace="n"))).version == 2


@pytest.mark.settings(message_bytes_max=1 << 16, inflight_bytes_max=1 << 17, **WITH_HTTP)
async def test_bytes_too_many_are_told_to_come_back(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    big = Put("big", sketch(100, 100), kind=Kind.GENERIC)  # 80 000 bytes
    with engine.busy(server.settings):
        waiting = asyncio.ensure_future(server.rho.CommitRho(commit_of(big, expected=1)))
        await in_flight(server, 1)
        refusal = await refused(server.rho.CommitRho(commit_of(big, expected=1)))
        assert (refusal.code, refusal.reason, refusal.facts["limit"]) == (EXHAUSTED, "OVERLOADED", "inflight_bytes_max")
        assert int(refusal.facts["value"]) > 1 << 17
        assert refusal.retry_delay_s > 0
        assert (await server.rho.GetRho(Get(namespace="n"))).version == 1
    assert (await waiting).version == 2
    assert await sample(server, "sfm_request_bytes_in_flight") == 0.0


@pytest.mark.settings(deadline_default_ms=100, **WITH_HTTP)
async def test_a_call_without_a_deadline_gets_one_and_its_outcome_can_be_asked_for(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    request = commit_of(Put("rho", density(seed=1)), expected=1, request_id="r")
    with engine.busy(server.settings):
        refusal = await refused(server.rho.CommitRho(request))
        assert (refusal.code, refusal.reason, refusal.facts) == (LATE, "DEADLINE_EXCEEDED", {"deadline_ms": "100"})
        assert (await server.rho.GetRho(Get(namespace="n"), timeout=30)).version == 1

    async def again() -> bool:
        answer = await server.rho.CommitRho(request, timeout=30)
        assert answer.version == 2
        return bool(answer.replayed)

    # What was under way runs to its end: one commit, whoever asks and how often.
    await until(again)
    assert (await server.rho.GetRho(Get(namespace="n"), timeout=30)).version == 2


@pytest.mark.settings(deadline_default_ms=600, deadline_max_ms=600)
async def test_a_longer_deadline_is_cut_to_the_limit(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    with engine.busy(server.settings):
        refusal = await refused(server.rho.CommitRho(commit_of(Put("rho", density()), expected=1), timeout=60))
        assert (refusal.code, refusal.facts) == (LATE, {"deadline_ms": "600"})


async def test_a_deadline_that_passes_before_the_commit_leaves_nothing(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    before = engine.fingerprint(server.settings)
    big = commit_of(Put("rho", density(1500)), expected=1)  # takes far longer to admit
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.rho.CommitRho(big, timeout=0.03)
    assert caught.value.code() is LATE
    await asyncio.sleep(0.3)
    assert engine.fingerprint(server.settings) == before
    assert (await server.rho.CommitRho(commit_of(Put("rho", density()), expected=1))).version == 2


@pytest.mark.settings(**WITH_HTTP)
async def test_a_caller_that_hangs_up_does_not_undo_a_commit_nor_hold_its_place(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    with engine.busy(server.settings):
        call = server.rho.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1, request_id="r"))
        await in_flight(server, 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await in_flight(server, 0)

    async def committed() -> bool:
        return (await server.rho.GetRho(Get(namespace="n"))).version == 2

    await until(committed)
    assert (await server.rho.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1, request_id="r"))).replayed


async def test_reads_go_on_while_commits_wait(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    with engine.busy(server.settings):
        waiting = asyncio.ensure_future(server.rho.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1)))
        for freshness in ({}, {"consistency": 2}):
            read = await server.rho.GetRho(Get(namespace="n", view=rho_store_pb2.VIEW_FULL, freshness=freshness))
            assert read.version == 1
        assert not waiting.done()
    assert (await waiting).version == 2


@pytest.mark.settings(**WITH_HTTP)
async def test_what_is_refused_at_the_door_is_not_kept(server: Server, engine: Engine) -> None:
    """After many refusals nothing is left in flight, and nothing was created."""
    for place in range(50):
        error = (await refused(server.rho.GetRho(Get(namespace=f"n{place}")))).error
        assert isinstance(error, NotFound)
    assert await sample(server, "sfm_calls_in_flight") == 0.0
    assert (await server.health.GetHealth(health_pb2.GetHealthRequest())).namespaces == 0
