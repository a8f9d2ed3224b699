"""The latency guard: p95 of reads under 32 readers and commits, also while Redis hangs; and what commits wait when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import postgres, processes
from benchmarks.harness import Row, Samples, Section, ms, summary
from benchmarks.matrices import Array, steps
from sfm_grpc.client import AsyncClient, Client, Overloaded
from tests.support.services.absence import AbsentError
from tests.support.services.proxy import FaultProxy
from tests.support.services.redis import own_redis

_N, _READERS = 256, 32
_COMMIT_EVERY_S = 0.25
_BOUND_S = 0.06
_STALL_S = 1.0 + 0.25 + 0.5
_NAMESPACE = "n"


@dataclass
class _Phase:
    """What was measured while something was so."""

    reads: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    degraded: int = 0
    refused: int = 0


def run(*, quick: bool) -> Section:
    """Three phases; the second and third begin with a fault."""
    lasting_s = 3.0 if quick else 20.0
    try:
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(postgres.database())
            redis = stack.enter_context(own_redis())
            way = stack.enter_context(FaultProxy.to(redis.url))
            settings = {**postgres.settings(database), "redis_url": way.url(redis.url), "redis_settle_s": 0}
            server = stack.enter_context(processes.ours(**settings))
            rows = []
            for keeps, what in ((128 << 20, "readers that keep what they have"), (0, "readers that move 512 KiB each time")):
                way.restore()
                phases = asyncio.run(_phases(server.address, way.hang, lasting_s, keeps))
                rows += [_read_row(f"{what}; {name}", phase) for name, phase in phases.items()]
                with contextlib.suppress(AssertionError):
                    way.restore()
            rows += _stalls(server.address, way, redis.kill)
    except AbsentError as absent:
        return Section("Latency guard", [], [str(absent)])
    return Section(
        f"Latency guard: {_READERS} readers of one 512 KiB ρ in one process, four commits a second beside them",
        rows,
        [
            "Seconds are the client's, with the time in its own event loop: 32 readers share one core of two with the server.",
            "'Redis hangs': a proxy before it passes nothing on, and keeps the connections.",
            "The first commit after Redis died waits at most lease 1 s + margin 0.25 s + fence time-out 0.4 s.",
        ],
    )


async def _phases(address: str, hang: Callable[[], None], lasting_s: float, keeps: int) -> dict[str, _Phase]:
    phases = {"Redis is well": _Phase(), "Redis hangs": _Phase()}
    async with AsyncClient(address, cache_bytes_max=keeps) as client, AsyncClient(address) as writer:
        arrays = itertools.cycle(steps(_N, 8))
        first = await writer.namespace(_NAMESPACE).update(lambda _: {"rho": next(arrays)})
        assert first is not None
        for name, phase in phases.items():
            if name == "Redis hangs":
                await asyncio.to_thread(hang)
            else:
                await asyncio.sleep(0.5)
            until = time.monotonic() + lasting_s
            async with asyncio.TaskGroup() as group:
                for _ in range(_READERS):
                    group.create_task(_read(client, phase, until))
                group.create_task(_commit(writer, arrays, phase, until))
    return phases


async def _read(client: AsyncClient, phase: _Phase, until: float) -> None:
    namespace = client.namespace(_NAMESPACE)
    while time.monotonic() < until:
        started = time.perf_counter()
        try:
            snapshot = await namespace.read()
        except Overloaded as refused:
            phase.refused += 1
            await asyncio.sleep(refused.retry_delay_s or 0)
            continue
        phase.reads.append(time.perf_counter() - started)
        phase.degraded += snapshot.degraded


async def _commit(client: AsyncClient, arrays: itertools.cycle[Array], phase: _Phase, until: float) -> None:
    while time.monotonic() < until:
        started = time.perf_counter()
        with contextlib.suppress(Overloaded):
            await client.namespace(_NAMESPACE).update(lambda _: {"rho": next(arrays)})
            phase.commits.append(time.perf_counter() - started)
        await asyncio.sleep(_COMMIT_EVERY_S)


def _read_row(what: str, phase: _Phase) -> Row:
    reads, commits = Samples(phase.reads), Samples(phase.commits)
    p95 = reads.quantile(0.95)
    told = [
        f"{len(phase.reads)} reads, p50 {ms(reads.median)}, p99 {ms(reads.quantile(0.99))}",
        f"{phase.degraded} degraded, {phase.refused} refused",
        f"{len(phase.commits)} commits, p50 {ms(commits.median)}, longest {ms(max(phase.commits))}",
    ]
    facts = {"reads_s": summary(reads), "commits_s": summary(commits)}
    return Row(f"p95 of reads, {what}", ms(p95), "", "; ".join(told), "< 60 ms", p95 < _BOUND_S, facts)


def _stalls(address: str, way: FaultProxy, kill: Callable[[], None]) -> list[Row]:
    """Commits of a namespace that is cached, when Redis dies."""
    taken: list[float] = []
    with Client(address) as client:
        namespace, arrays = client.namespace("stalled"), itertools.cycle(steps(_N, 4))
        way.restore()
        for _ in range(40):  # until its cache is on
            namespace.update(lambda _: {"rho": next(arrays)})
            namespace.read()
            time.sleep(0.05)
        thread = threading.Thread(target=kill)
        thread.start()
        thread.join()
        for _ in range(20):
            started = time.perf_counter()
            namespace.update(lambda _: {"rho": next(arrays)})
            taken.append(time.perf_counter() - started)
    first, later = taken[0], Samples(taken[1:])
    return [
        Row("first commit after Redis died", ms(first), "", "", f"≤ {_STALL_S:g} s", first <= _STALL_S, {"seconds": first}),
        Row("the later ones", ms(later.median), "", f"longest {ms(max(later.seconds))}", "", None, {"seconds": summary(later)}),
    ]
