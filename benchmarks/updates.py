"""What a cognitive manager gets: `update(fn)` in a loop, and reads beside a writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np

from benchmarks import processes
from benchmarks.harness import Row, Samples, Section, ms, summary
from benchmarks.matrices import Array, density
from sfm_grpc.client import AsyncClient, Client, Snapshot

_N = 384
_READERS = 8
_GUARD_S = 0.060
# The stated load: a manager that updates several times a second, readers that recall all the time.
_UPDATES_PER_S = 4
_READS_PER_S = 20
_DECAY = 0.02


def run(*, quick: bool) -> Section:
    """Updates alone; then reads under the stated load and under all the load there can be."""
    seconds = 2.0 if quick else 15.0
    with processes.ours() as server:
        with Client(server.address) as client:
            client.namespace("ema").commit({"rho": density(_N)}, expected_version=0)
            alone = _updates(client, seconds)
        paced = asyncio.run(_beside(server.address, seconds, 1 / _READS_PER_S, 1 / _UPDATES_PER_S))
        flooded = asyncio.run(_beside(server.address, seconds, 0.0, 0.0))
    rows = [
        Row(
            f"update(fn), d = {_N}, one after the other", f"{1 / alone.mean:.0f} /s", "", _quantiles(alone), facts=summary(alone)
        ),
        *_rows(f"{_READERS} readers × {_READS_PER_S}/s, writer {_UPDATES_PER_S}/s", *paced, guard=True),
        *_rows(f"{_READERS} readers and a writer, no pause", *flooded, guard=False),
    ]
    return Section(
        "Updates: exponential moving average through update(fn), and reads beside it",
        rows,
        [
            "Readers are tasks of one process, each with a client of its own that keeps what it has: most reads are 'not",
            "modified', the first after each update moves 1.1 MiB. The writer is in it too. The guard: p95 under 60 ms.",
        ],
    )


def _rows(load: str, reads: Samples, updates: Samples, elapsed_s: float, *, guard: bool) -> list[Row]:
    p95 = reads.quantile(0.95)
    told = f"{len(reads.seconds) / elapsed_s:.0f} reads/s, {len(updates.seconds) / elapsed_s:.1f} updates/s"
    facts = {"reads_s": summary(reads), "updates_s": summary(updates), "elapsed_s": elapsed_s}
    target, ok = ("p95 < 60 ms", p95 < _GUARD_S) if guard else ("", None)
    return [
        Row(f"reads: {load}", told, "", _quantiles(reads), target, ok, facts),
        Row(f"updates: {load}", "", "", _quantiles(updates)),
    ]


def _quantiles(samples: Samples) -> str:
    return f"p50 {ms(samples.median)}, p95 {ms(samples.quantile(0.95))}, max {ms(max(samples.seconds))}"


def _step(rng: np.random.Generator) -> Callable[[Snapshot], dict[str, Array]]:
    def step(snapshot: Snapshot) -> dict[str, Array]:
        vector = rng.standard_normal(_N)
        return {"rho": (1 - _DECAY) * snapshot["rho"] + _DECAY * np.outer(vector, vector) / (vector @ vector)}

    return step


def _updates(client: Client, seconds: float) -> Samples:
    namespace, step, taken = client.namespace("ema"), _step(np.random.default_rng(1)), []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        namespace.update(step)
        taken.append(time.perf_counter() - started)
    return Samples(taken)


async def _beside(address: str, seconds: float, read_every_s: float, update_every_s: float) -> tuple[Samples, Samples, float]:
    end = time.perf_counter() + seconds
    reads: list[float] = []
    updates: list[float] = []
    step = _step(np.random.default_rng(2))

    async def reader(place: int) -> None:
        async with AsyncClient(address) as client:
            namespace = client.namespace("ema")
            await asyncio.sleep(read_every_s * place / _READERS)
            await _paced(namespace.read, read_every_s, end, reads)

    async def writer() -> None:
        async with AsyncClient(address) as client:
            namespace = client.namespace("ema")
            await _paced(lambda: namespace.update(step), update_every_s, end, updates)

    await asyncio.gather(writer(), *(reader(place) for place in range(_READERS)))
    return Samples(reads), Samples(updates), seconds


async def _paced(call: Callable[[], Awaitable[object]], every_s: float, end: float, taken: list[float]) -> None:
    """Calls at a steady pace (as fast as it goes: 0) until `end`; a late call makes the next one late, not double."""
    await call()  # the first one connects
    while (started := time.perf_counter()) < end:
        await call()
        spent = time.perf_counter() - started
        taken.append(spent)
        await asyncio.sleep(max(0.0, every_s - spent))
