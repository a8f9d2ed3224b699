"""SIGKILL at random moments of a stream of commits: every acknowledged commit is there, every other one happens once or not."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field
from typing import Any

from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import SfmError, VersionConflict
from sfm_grpc.model import Kind
from sfm_grpc.settings import Settings
from tests.conftest import Spawn
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch
from tests.support.messages import commit_of
from tests.support.processes import rho_stub
from tests.support.refusals import outcome
from tests.support.servers import store_of, until

ROUNDS_MIN, ROUNDS_MAX, ENOUGH_S = 8, 25, 8.0
CLIENTS = [("shared", 24), ("shared", 24), ("large", 160), ("small", 8)]
"""The namespace and the size of what each client commits; two share one."""
_IDS = itertools.count()


@dataclass
class Ledger:
    """What the clients know: the only truth that counts."""

    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)
    """(namespace, version) → the request id that was told that it made it."""
    digests: dict[str, bytes] = field(default_factory=dict)
    """What each request put."""
    unknown: list[Any] = field(default_factory=list)
    """Requests that no answer came to."""
    versions: dict[str, int] = field(default_factory=dict)
    """Where each namespace was when it was last heard of."""

    def acknowledge(self, request: Any, version: int) -> None:
        """An answer came."""
        place = request.namespace, version
        assert self.acknowledged.setdefault(place, request.request_id) == request.request_id, f"{place} was won twice"
        self.versions[request.namespace] = max(version, self.versions.get(request.namespace, 0))

    def next_request(self, namespace: str, d: int) -> Any:
        """A request that was never sent before."""
        turn = next(_IDS)
        rho = density(d, seed=turn)
        request_id = f"r{turn}"
        self.digests[request_id] = sha256(rho)
        return commit_of(
            Put("rho", rho),
            Put("turn", sketch(1, 1, seed=turn), kind=Kind.GENERIC),
            namespace=namespace,
            expected=self.versions.get(namespace, 0),
            request_id=request_id,
            metadata={"id": request_id},
        )


async def client(stub: Any, ledger: Ledger, namespace: str, d: int) -> None:
    """Commits until the server is gone."""
    while True:
        request = ledger.next_request(namespace, d)
        if not await sent(stub, ledger, request):
            return


async def sent(stub: Any, ledger: Ledger, request: Any) -> bool:
    """Sends a request; whether an answer came."""
    answer = await outcome(stub.CommitRho(request, timeout=30))
    if answer is None:
        ledger.unknown.append(request)
    elif isinstance(answer, SfmError):
        assert isinstance(answer, VersionConflict), answer
        ledger.versions[request.namespace] = answer.current
    else:
        ledger.acknowledge(request, answer.version)
    return answer is not None


async def settle(stub: Any, ledger: Ledger) -> int:
    """Asks again for everything whose outcome is unknown; returns how many had been committed before the kill."""
    unknown, ledger.unknown = ledger.unknown, []
    replayed = 0
    for request in unknown:
        answer = await outcome(stub.CommitRho(request, timeout=30))
        if isinstance(answer, SfmError):
            assert isinstance(answer, VersionConflict), answer
            continue
        ledger.acknowledge(request, answer.version)
        replayed += answer.replayed
        again = await stub.CommitRho(request, timeout=30)
        assert (again.version, again.replayed) == (answer.version, True)
    return replayed


async def check(stub: Any, ledger: Ledger, namespace: str) -> None:
    """History against the ledger."""
    history = [v async for v in whole_history(stub, namespace)]
    assert [v.version for v in history] == list(range(len(history), 0, -1))
    made = [v.metadata["id"] for v in history]
    assert len(set(made)) == len(made), "a request was committed twice"
    for v in history:
        digest = next(e.certificate.digest for e in v.entries if e.key == "rho")
        assert digest == ledger.digests[v.metadata["id"]]
    told = {version: request_id for (name, version), request_id in ledger.acknowledged.items() if name == namespace}
    kept = {v.version: v.metadata["id"] for v in history}
    assert told.items() <= kept.items(), "an acknowledged commit is lost"
    times = [v.commit_time.ToNanoseconds() for v in history]
    assert times == sorted(times, reverse=True)


async def whole_history(stub: Any, namespace: str) -> Any:
    token = ""
    while True:
        request = rho_store_pb2.ListRhoVersionsRequest(namespace=namespace, page_size=500, page_token=token)
        page = await stub.ListRhoVersions(request)
        for version in page.versions:
            yield version
        token = page.next_page_token
        if not token:
            return


async def test_every_acknowledged_commit_survives_sigkill(spawn: Spawn, settings: Settings, engine: Engine) -> None:
    ledger, replayed, killed, rng = Ledger(), 0, 0, random.Random()
    rounds, started = 0, time.monotonic()
    while rounds < ROUNDS_MIN or (rounds < ROUNDS_MAX and time.monotonic() - started < ENOUGH_S):
        rounds += 1
        server = await spawn().start(**store_of(settings), rho_history_versions=1_000_000)
        async with server.channel() as channel:
            stub = rho_stub(channel)
            replayed += await settle(stub, ledger)
            clients = [asyncio.create_task(client(stub, ledger, name, d)) for name, d in CLIENTS]
            # Somewhere among the first dozen commits, at any moment of one.
            wanted = len(ledger.acknowledged) + rng.randrange(16)
            await until(lambda wanted=wanted: len(ledger.acknowledged) >= wanted)
            await asyncio.sleep(rng.uniform(0, 0.01))
            server.kill()
            assert await server.ended() == -9
            await asyncio.gather(*clients)
            killed += len(ledger.unknown)
    server = await spawn().start(**store_of(settings), rho_history_versions=1_000_000)
    async with server.channel() as channel:
        await settle(rho_stub(channel), ledger)
        for namespace in {name for name, _ in CLIENTS}:
            await check(rho_stub(channel), ledger, namespace)
    assert engine.damage(settings) == []
    # It was a real test: commits were acknowledged, commits were cut.
    assert len(ledger.acknowledged) > rounds
    assert killed > rounds
    print(f"{rounds} kills: {len(ledger.acknowledged)} acknowledged, {killed} cut, {replayed} of those had been committed")
