"""More than a server can do: some calls are told to come back, the others are answered, and memory stays where it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as probe_pb2
from grpc_health.v1 import health_pb2_grpc as probe_pb2_grpc
from sfm.v1 import health_pb2, rho_store_pb2

from sfm_grpc.errors import Overloaded
from sfm_grpc.model import Kind
from tests.conftest import Spawn
from tests.support.drivers import Put
from tests.support.matrices import density, sketch
from tests.support.messages import commit_of
from tests.support.metrics import sample, samples_at
from tests.support.processes import ServerProcess, health_stub, rho_stub
from tests.support.refusals import Refusal, outcome, refusal_of, refused
from tests.support.servers import Server, until
from tests.support.stalled import stalled_calls

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
Get = rho_store_pb2.GetRhoRequest
FULL = Get(namespace="n", view=rho_store_pb2.VIEW_FULL)
MIB = 1 << 20


async def metric(server: ServerProcess, name: str, **labels: str) -> float:
    return (await samples_at(server.http_address)).get((name, frozenset(labels.items())), 0.0)


# ---- calls that would wait -------------------------------------------------------------------------------------------


class Crowd:
    """Many callers that read and commit without a pause unless they are told to, and what became of their calls."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._rho = rho_stub(channel)
        self._going = True
        self.answered: Counter[str] = Counter()
        self.refusals: list[Refusal] = []

    @contextlib.asynccontextmanager
    async def going(self, readers: int, committers: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._read()) for _ in range(readers)]
        tasks += [asyncio.create_task(self._commit(f"c{place}", 64 if place % 5 else 600)) for place in range(committers)]
        try:
            yield
        finally:
            self._going = False
            await asyncio.gather(*tasks)

    async def _read(self) -> None:
        while self._going:
            await self._call("read", self._rho.GetRho(FULL, timeout=60))

    async def _commit(self, namespace: str, d: int) -> None:
        version = 0
        while self._going:
            request = commit_of(Put("g", sketch(d, d, seed=version), kind=Kind.GENERIC), namespace=namespace, expected=version)
            version += await self._call("commit", self._rho.CommitRho(request, timeout=60))

    async def _call(self, kind: str, call: Any) -> bool:
        """Anything but an answer or a refusal fails the test."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.refusals.append(refusal_of(error))
            await asyncio.sleep(self.refusals[-1].retry_delay_s or 0)
            return False
        self.answered[kind] += 1
        return True


async def test_what_would_wait_too_long_is_told_to_come_back(spawn: Spawn, tmp_path: Path) -> None:
    server = await spawn().start(data_dir=tmp_path / "data", http_listen="127.0.0.1:0", shed_wait_ms=5)
    async with server.channel() as channel, server.channel() as probing:
        stub = rho_stub(channel)
        # With a wait of five milliseconds allowed, a machine that does other things may refuse even the only call.
        await until(lambda: is_answered(stub.CommitRho(commit_of(Put("rho", density(256))), timeout=60)), within_s=60)
        crowd = Crowd(channel)
        async with crowd.going(readers=250, committers=10):
            await until(
                lambda: len(crowd.refusals) > 50 and min(crowd.answered["read"], crowd.answered["commit"]) > 5, within_s=120
            )
            # Whoever asks about the server is answered in the midst of it.
            assert (await health_stub(probing).GetHealth(health_pb2.GetHealthRequest(), timeout=60)).ready
            assert (await health_stub(probing).GetServerInfo(health_pb2.GetServerInfoRequest(), timeout=60)).limits
            check = probe_pb2_grpc.HealthStub(probing).Check(probe_pb2.HealthCheckRequest(), timeout=60)
            assert (await check).status == probe_pb2.HealthCheckResponse.SERVING
        _check_refusals(crowd.refusals)

        async def calm() -> bool:
            return await metric(server, "sfm_shedding") == 0

        await until(calm, within_s=60)
        for _ in range(20):
            await until(lambda: is_answered(stub.GetRho(FULL, timeout=60)), within_s=60)
        shed = await metric(server, "sfm_calls_shed_total", limit="shed_wait_ms")
        assert shed == await metric(server, "sfm_errors_total", reason="OVERLOADED") >= len(crowd.refusals)
        report = await health_stub(probing).GetHealth(health_pb2.GetHealthRequest(), timeout=60)
        counts = {latency.operation: latency.count for latency in report.latencies}
        # What is refused is not among the latencies.
        assert counts["read"] <= crowd.answered["read"] + 20


def _check_refusals(refusals: list[Refusal]) -> None:
    assert {(r.code, r.reason, r.facts["limit"]) for r in refusals} == {(EXHAUSTED, "OVERLOADED", "shed_wait_ms")}
    assert all(int(r.facts["value"]) > 0 and r.facts["maximum"] == "5" and r.request_id for r in refusals)
    delays = {r.retry_delay_s for r in refusals}
    assert min(d or 0 for d in delays) > 0
    assert len(delays) > 5, "those refused together come back together"


async def is_answered(call: Any) -> bool:
    return not isinstance(await outcome(call), Overloaded)


async def test_the_wait_for_a_turn_is_part_of_the_latency(spawn: Spawn, tmp_path: Path) -> None:
    """Handlers of a fraction of a millisecond, and hundreds of calls before it: the p95 that is told is the callers'."""
    server = await spawn().start(data_dir=tmp_path / "data", http_listen="127.0.0.1:0")
    async with server.channel() as channel:
        stub = rho_stub(channel)
        await stub.CommitRho(commit_of(Put("rho", density(256))), timeout=60)
        crowd = Crowd(channel)
        async with crowd.going(readers=400, committers=0):
            await until(lambda: crowd.answered["read"] > 1200, within_s=120)
        assert not crowd.refusals
        name = {"grpc_service": "sfm.v1.RhoStore", "grpc_method": "GetRho"}
        handlers_s = await metric(server, "grpc_server_handling_seconds_sum", **name)
        count = await metric(server, "grpc_server_handling_seconds_count", **name)
        assert await metric(server, "sfm_latency_p95_seconds", operation="read") > 5 * handlers_s / count


# ---- bytes of answers ------------------------------------------------------------------------------------------------


async def test_answers_that_nobody_takes_do_not_fill_memory(spawn: Spawn, tmp_path: Path) -> None:
    budget = 32 * MIB
    server = await spawn().start(
        data_dir=tmp_path / "data", http_listen="127.0.0.1:0", inflight_answer_bytes_max=budget, deadline_default_ms=60_000
    )
    async with server.channel() as channel:
        stub = rho_stub(channel)
        await stub.CommitRho(commit_of(Put("rho", density(1024))), timeout=60)
        assert (await stub.GetRho(FULL, timeout=60)).ByteSize() > 8 * MIB
        await until(lambda: _in_flight_is(server, 0))
        before = _resident_bytes(server)
        async with stalled_calls(server.address, "/sfm.v1.RhoStore/GetRho", FULL.SerializeToString(), count=80):
            refusals = await until(lambda: metric(server, "sfm_calls_shed_total", limit="inflight_answer_bytes_max"), within_s=60)
            assert refusals > 0
            refusal = await refused(stub.GetRho(FULL, timeout=60))
            assert (refusal.code, refusal.reason, refusal.facts["limit"]) == (
                EXHAUSTED,
                "OVERLOADED",
                "inflight_answer_bytes_max",
            )
            assert refusal.retry_delay_s
            assert int(refusal.facts["value"]) > budget
            assert 0 < await metric(server, "sfm_answer_bytes_in_flight") <= budget
            # Of 640 MiB that were asked for.
            assert _resident_bytes(server) - before < 200 * MIB
            # Small answers pass, and so does a commit as large as what is stuck.
            assert (await stub.GetRho(Get(namespace="n"), timeout=60)).version == 1
            assert (await stub.CommitRho(commit_of(Put("rho", density(1024, seed=1)), expected=1), timeout=60)).version == 2
        await until(lambda: _in_flight_is(server, 0), within_s=60)
        assert (await stub.GetRho(FULL, timeout=60)).version == 2


async def _in_flight_is(server: ServerProcess, size: float) -> bool:
    return await metric(server, "sfm_answer_bytes_in_flight") == size


def _resident_bytes(server: ServerProcess) -> int:
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.settings(inflight_answer_bytes_max=1 << 16, http_listen="127.0.0.1:0")
async def test_alone_even_the_largest_answer_passes(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("big", sketch(1000, 1000), kind=Kind.GENERIC)), timeout=60)

    async def sent() -> bool:
        return await sample(server, "sfm_answer_bytes_in_flight") == 0

    for _ in range(3):
        assert (await server.rho.GetRho(FULL, timeout=60)).ByteSize() > 7 * MIB
        await until(sent)
