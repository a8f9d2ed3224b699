"""The line to Postgres cut at every moment of a commit: the caller is told that nobody knows, asks again, and it is made once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import numpy as np
import pytest
from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import StoreUnavailable
from sfm_grpc.model import Kind, Scope
from sfm_grpc.settings import Settings
from tests.conftest import Serve
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import Array, sketch
from tests.support.messages import commit_of
from tests.support.refusals import outcome, refused
from tests.support.servers import Server, settings_for, until
from tests.support.services.fixtures import StartProxy
from tests.support.services.proxy import FaultProxy

MARK = b"in the middle of numbers"

pytestmark = pytest.mark.engines("postgres")


def marked(d: int, seed: int) -> Array:
    """d×d numbers with a mark in the middle."""
    numbers = bytearray(np.random.default_rng(seed).standard_normal((d, d)).tobytes())
    middle = len(numbers) // 2
    numbers[middle : middle + len(MARK)] = MARK
    return np.frombuffer(bytes(numbers)).reshape(d, d)


@dataclass
class Line:
    """A server, the proxy between it and Postgres, and the way around that."""

    server: Server
    proxy: FaultProxy
    engine: Engine
    direct: Settings

    def versions(self) -> list[int]:
        return self.engine.versions(self.direct, Scope("default", "n"))

    def small(self, keys: int, expected: int, request_id: str) -> Any:
        puts = [Put(f"g{key}", sketch(2, 2 + key, seed=expected), kind=Kind.GENERIC) for key in range(keys)]
        return commit_of(*puts, expected=expected, request_id=request_id)

    async def small_commit(self, keys: int, expected: int, request_id: str) -> int:
        return int((await self.server.rho.CommitRho(self.small(keys, expected, request_id), timeout=30)).version)

    async def commit(self, version: int) -> Any:
        change = Put("g", marked(64, seed=version), kind=Kind.GENERIC)
        return await self.server.rho.CommitRho(commit_of(change, expected=version - 1), timeout=30)


@pytest.fixture
async def line(settings: Settings, engine: Engine, serve: Serve, fault_proxy: StartProxy) -> AsyncIterator[Line]:
    assert settings.postgres_url is not None
    url = settings.postgres_url.get_secret_value()
    proxy = fault_proxy(url)
    server = await serve(settings_for(postgres_url=proxy.url(url)))
    yield Line(server, proxy, engine, settings)
    proxy.restore()


@contextlib.asynccontextmanager
async def before_any_byte(line: Line) -> AsyncIterator[None]:
    line.proxy.when(b"cut-me", line.proxy.drop, before=True)
    yield


@contextlib.asynccontextmanager
async def in_the_middle_of_the_request(line: Line) -> AsyncIterator[None]:
    line.proxy.when(MARK, line.proxy.drop)
    yield


@contextlib.asynccontextmanager
async def between_request_and_answer(line: Line) -> AsyncIterator[None]:
    """Postgres has committed, and says so to nobody."""
    line.proxy.when(MARK, lambda: line.proxy.hang("down"))

    async def cut() -> None:
        await until(lambda: line.versions() == [1, 2])
        line.proxy.drop()
        line.proxy.restore()

    cutting = asyncio.create_task(cut())
    yield
    await cutting


@contextlib.asynccontextmanager
async def in_the_middle_of_the_answer(line: Line) -> AsyncIterator[None]:
    """The row that says which version was made has come; that it is committed has not."""
    line.proxy.when(struct.pack("!iq", 8, 2), line.proxy.drop, direction="down")
    yield


Cut = Callable[[Line], contextlib.AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("known", [True, False], ids=["known", "looked"])
@pytest.mark.parametrize(
    ("cut", "d", "made"),
    [
        (before_any_byte, 64, False),
        (in_the_middle_of_the_request, 1024, False),
        (between_request_and_answer, 64, True),
        (in_the_middle_of_the_answer, 64, True),
    ],
)
async def test_a_commit_whose_line_is_cut_is_made_once(
    line: Line, serve: Serve, cut: Cut, d: int, made: bool, known: bool
) -> None:
    """Whether the server knows the namespace from its own last commit (one round trip), or looks first (two)."""
    if known:
        await line.commit(1)
    else:
        other = await serve(line.direct)
        await Line(other, line.proxy, line.engine, line.direct).commit(1)
    numbers = marked(d, seed=2)
    request = commit_of(Put("g", numbers, kind=Kind.GENERIC), expected=1, request_id="cut-me")
    async with cut(line):
        told = await refused(line.server.rho.CommitRho(request, timeout=30))
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    # Cut while it only looks, nothing can have happened, and that is what is told.
    unknown = known or cut is not before_any_byte
    assert (told.facts["outcome_unknown"] == "true", "same request id" in told.message) == (unknown, unknown)
    assert told.retry_delay_s is not None
    if made:
        assert line.versions() == [1, 2]
    done = await line.server.rho.CommitRho(request, timeout=30)
    assert (done.version, done.replayed) == (2, made)
    again = await line.server.rho.CommitRho(request, timeout=30)
    assert (again.version, again.replayed, list(again.receipts)) == (2, True, list(done.receipts))
    assert line.versions() == [1, 2]
    read = await line.server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL))
    assert (read.version, read.matrices[0].matrix.data) == (2, numbers.tobytes())
    assert line.engine.damage(line.direct) == []


CUTS = 24


@pytest.mark.parametrize("keys", [1, 2], ids=["one", "two"])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_commit_cut_after_any_byte_is_made_once(line: Line, direction: Literal["up", "down"], keys: int) -> None:
    """Of its last request, or of the answer to it, in one network round trip: told the truth, and made once."""
    version, told = 0, Counter[str]()
    for turn in range(4):  # until every connection of the pool knows the statement
        version = await line.small_commit(keys, version, f"first-{turn}")
    passed = line.proxy.bytes_up, line.proxy.bytes_down
    version = await line.small_commit(keys, version, "measured")
    length = line.proxy.bytes_up - passed[0] if direction == "up" else line.proxy.bytes_down - passed[1]
    for after in range(0, length + 5, max(1, length // CUTS)):
        request = line.small(keys, version, f"cut-{after:06}")
        if direction == "up":
            line.proxy.truncate(after, "up")
        else:
            line.proxy.when(request.request_id.encode(), functools.partial(line.proxy.truncate, after, "down"))
        refusals = 0
        # One that was not cut leaves what was meant for it to the next.
        while isinstance(answer := await outcome(line.server.rho.CommitRho(request, timeout=30)), StoreUnavailable):
            refusals += 1
            made = line.versions()[-1] > version
            assert answer.outcome_unknown or not made, f"{after} bytes: {answer}"
            line.proxy.restore()
        assert (answer.version, answer.replayed) == (version + 1, made if refusals else False), f"{after} bytes"
        told["answered" if not refusals else "made" if made else "not made"] += 1
        version += 1
    assert line.versions() == list(range(1, version + 1))
    assert line.engine.damage(line.direct) == []
    assert told["made" if direction == "down" else "not made"] >= CUTS // 6, told
