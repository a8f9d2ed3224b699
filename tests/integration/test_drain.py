"""SIGTERM to a real process: what is in flight finishes, what is new is refused, nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2 as probe_pb2
from grpc_health.v1 import health_pb2_grpc as probe_pb2_grpc
from sfm.v1 import rho_store_pb2

from sfm_grpc.app import App
from sfm_grpc.settings import Settings
from tests.conftest import Spawn
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.processes import ServerProcess, rho_stub
from tests.support.refusals import Refusal, refusal_of
from tests.support.servers import serving, settings_for, store_of, until
from tests.support.transactions import N


async def turned_away(stub: Any) -> Refusal | None:
    """How a caller who comes now is turned away."""
    try:
        await stub.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"), timeout=2)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    return None


async def in_flight(server: ServerProcess, count: int) -> None:
    async def seen() -> bool:
        async with httpx.AsyncClient(verify=False) as client:
            text = (await client.get(f"http://{server.http_address}/metrics")).text
        return f"sfm_calls_in_flight {count:.1f}" in text

    await until(seen)


async def test_a_commit_in_flight_finishes_while_new_calls_are_refused(spawn: Spawn, engine: Engine, settings: Settings) -> None:
    server = await spawn().start(**store_of(settings), http_listen="127.0.0.1:0")
    async with server.channel() as channel:
        stub = rho_stub(channel)
        await stub.CommitRho(commit_of(Put("rho", density())))
        with engine.busy(settings):
            waiting = asyncio.ensure_future(stub.CommitRho(commit_of(Put("rho", density(seed=1)), expected=1), timeout=30))
            await in_flight(server, 1)
            server.terminate()
            told = await until(lambda: turned_away(stub))
            assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert told.retry_delay_s > 0
            async with server.channel() as other:
                assert (await turned_away(rho_stub(other))).reason == "DRAINING"
            assert not waiting.done()
        assert (await waiting).version == 2
    assert await server.ended() == 0
    assert engine.versions(settings, N) == [1, 2]
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_ends_at_once_and_says_nothing(spawn: Spawn, tmp_path: Path, number: signal.Signals) -> None:
    server = await spawn().start(data_dir=tmp_path / "data", http_listen="127.0.0.1:0")
    started = time.monotonic()
    server.signal(number)
    assert await server.ended() == 0
    assert time.monotonic() - started < 5
    assert server.log == ""


async def test_before_it_refuses_calls_it_says_that_it_is_not_ready(spawn: Spawn, tmp_path: Path) -> None:
    """The notice: load balancers see readiness go while calls are still answered."""
    server = await spawn().start(data_dir=tmp_path / "data", drain_notice_s=1.0)
    async with server.channel() as channel:
        probe = probe_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            return int((await probe.Check(probe_pb2.HealthCheckRequest(service=name))).status)

        async def not_ready() -> bool:
            return await status("readiness") == probe_pb2.HealthCheckResponse.NOT_SERVING

        server.terminate()
        await until(not_ready)
        assert await status("liveness") == probe_pb2.HealthCheckResponse.SERVING
        assert (await rho_stub(channel).CommitRho(commit_of(Put("rho", density())))).version == 1
    assert await server.ended() == 0


async def test_what_cannot_be_served_with_ends_the_process_with_a_sentence(spawn: Spawn, tmp_path: Path) -> None:
    server = spawn()
    with pytest.raises(AssertionError, match=r"SFM_LISTEN is 0\.0\.0\.0:1, beyond loopback"):
        await server.start(data_dir=tmp_path / "data", listen="0.0.0.0:1")
    assert await server.ended() == 1
    assert not (tmp_path / "data").exists()


async def test_a_port_in_use_is_told_and_nothing_stays_open(settings: Settings) -> None:
    async with serving(settings) as server:
        with socket.create_server(("127.0.0.1", 0)) as other:
            busy = f"127.0.0.1:{other.getsockname()[1]}"
            for taken in ({"listen": server.app.address}, {"http_listen": busy}):
                with pytest.raises(OSError, match="cannot be listened on"):
                    await App(settings_for(data_dir=settings.data_dir, **taken)).__aenter__()
        # The first server never noticed.
        assert (await server.rho.CommitRho(commit_of(Put("rho", density())))).version == 1
