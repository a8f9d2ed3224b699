"""Two server processes on one store: no update is lost, no read is stale, and one may die."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import SfmError, VersionConflict
from sfm_grpc.model import Kind
from sfm_grpc.settings import Settings
from tests.conftest import Spawn
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.processes import rho_stub
from tests.support.refusals import outcome
from tests.support.servers import store_of
from tests.support.transactions import N

WRITERS = 3
EACH = 12


def counting(value: float, expected: int) -> Any:
    counter = Put("counter", np.array([[value]]), kind=Kind.GENERIC)
    return commit_of(counter, Put("rho", density(16, seed=int(value))), expected=expected)


async def read(stub: Any) -> tuple[int, float]:
    found = await stub.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", keys=["counter"], view=rho_store_pb2.VIEW_FULL))
    return found.version, float(np.frombuffer(found.matrices[0].matrix.data)[0])


async def increment(stub: Any, other: Any, times: int) -> int:
    """Adds one to the counter again and again through one server, and looks through the other one at once."""
    conflicts = done = 0
    while done < times:
        version, value = await read(stub)
        answer = await outcome(stub.CommitRho(counting(value + 1, version), timeout=30))
        if isinstance(answer, SfmError):
            assert isinstance(answer, VersionConflict), answer
            conflicts += 1
            continue
        if answer is None:
            return conflicts
        done += 1
        seen, counted = await read(other)
        assert seen >= answer.version, "a read was older than a commit that had been answered"
        assert counted == seen - 1
    return conflicts


async def test_two_servers_on_one_store_lose_nothing_and_never_answer_stale(
    spawn: Spawn, settings: Settings, engine: Engine
) -> None:
    one = await spawn().start(**store_of(settings))
    two = await spawn().start(**store_of(settings))
    async with one.channel() as a, two.channel() as b:
        left, right = rho_stub(a), rho_stub(b)
        await left.CommitRho(counting(0, 0))
        conflicts = await asyncio.gather(
            *(increment(left, right, EACH) for _ in range(WRITERS)), *(increment(right, left, EACH) for _ in range(WRITERS))
        )
        total = 2 * WRITERS * EACH
        assert await read(left) == await read(right) == (total + 1, total)
        assert sum(conflicts) > 0
    assert (
        engine.versions(settings, N) == list(range(total + 1 - 99, total + 2)) or len(engine.versions(settings, N)) == total + 1
    )
    assert engine.damage(settings) == []


async def test_a_known_version_of_one_server_is_checked_by_the_other(spawn: Spawn, settings: Settings) -> None:
    one = await spawn().start(**store_of(settings))
    two = await spawn().start(**store_of(settings))
    async with one.channel() as a, two.channel() as b:
        left, right = rho_stub(a), rho_stub(b)
        for version in range(10):
            await left.CommitRho(commit_of(Put("rho", density(seed=version)), expected=version))
            for stub in (right, left):
                stale = await stub.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", known_version=version))
                assert (stale.version, stale.not_modified) == (version + 1, False)
                same = await stub.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", known_version=version + 1))
                assert same.not_modified


async def test_a_request_id_used_at_one_server_is_known_to_the_other(spawn: Spawn, settings: Settings) -> None:
    one = await spawn().start(**store_of(settings))
    two = await spawn().start(**store_of(settings))
    request = commit_of(Put("rho", density()), request_id="r")
    async with one.channel() as a, two.channel() as b:
        answers = await asyncio.gather(*(rho_stub(c).CommitRho(request) for c in (a, b, a, b)))
    assert sorted(x.replayed for x in answers) == [False, True, True, True]
    assert {x.version for x in answers} == {1}


async def test_when_one_server_is_killed_the_other_goes_on(spawn: Spawn, settings: Settings, engine: Engine) -> None:
    one = await spawn().start(**store_of(settings))
    two = await spawn().start(**store_of(settings))
    async with one.channel() as a, two.channel() as b:
        left, right = rho_stub(a), rho_stub(b)
        await left.CommitRho(counting(0, 0))
        doomed = asyncio.create_task(increment(left, right, 10_000))
        survivor = asyncio.create_task(increment(right, right, 40))
        await asyncio.sleep(0.15)
        one.kill()
        await one.ended()
        await survivor
        [end] = await asyncio.gather(doomed, return_exceptions=True)
        assert isinstance(end, int | grpc.aio.AioRpcError), end
        version, value = await read(right)
        assert value == version - 1
        await increment(right, right, 3)
    assert engine.damage(settings) == []
