"""How long the event loop stands still while n = 1024 is committed, and why; beside gRPC that only receives the same bytes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import bare, processes
from benchmarks.harness import Row, Section, ms
from benchmarks.matrices import steps
from sfm_grpc import allocator
from sfm_grpc.app import App
from sfm_grpc.client import Client
from sfm_grpc.settings import load

_N = 1024
_TARGET_S = 0.005
_TICK_S = 0.001


@dataclass(frozen=True, slots=True)
class Gap:
    """One stretch in which the loop did not come round, beyond the tick itself."""

    seconds: float
    cpu_s: float
    """The loop's own work."""
    queued_s: float
    """Ready to run, but other threads had the cores."""

    @property
    def waited_s(self) -> float:
        """Neither: another thread held the GIL, or a lock."""
        return max(0.0, self.seconds + _TICK_S - self.cpu_s - self.queued_s)


Rounds = Sequence[Sequence[Gap]]


def run(*, quick: bool) -> Section:
    """The largest gaps of a ticker inside the server's loop, while another process commits (or uploads) one after the other."""
    rounds, count = (2, 8) if quick else (7, 25)
    rows: list[Row] = []
    worst: list[str] = []
    for n in (384, _N):
        ours, peer = [], []
        for _ in range(rounds):
            ours.append(uvloop.run(_watch_ours(n, count)))
            peer.append(uvloop.run(_watch_bare(n, count)))
        rows += _rows(n, ours, peer)
        worst.append(_worst(n, ours))
    return Section(
        "Event-loop stalls: a 1 ms ticker in the server's loop while another process commits one after the other",
        rows,
        [
            *worst,
            f"ours, peer: the median of {rounds} rounds of {count} commits; in brackets the best and the worst round.",
            "The peer is grpc.aio that only receives the same bytes. cpu: the loop's own work in the gap. queued: it was ready,",
            "others had the cores. waited: another thread held the GIL, or a lock. 'own' leaves out the time queued.",
        ],
    )


def _rows(n: int, ours: Rounds, peer: Rounds) -> list[Row]:
    rows = []
    for what, of in (("largest gap", _largest), ("largest gap, own", _largest_own), ("p99 of gaps", _p99)):
        a, b = sorted(map(of, ours)), sorted(map(of, peer))
        judged = n == _N and of is _largest_own
        rows.append(
            Row(
                f"n = {n}, {what}",
                _shown(a),
                _shown(b),
                f"{statistics.median(a) / statistics.median(b):.2f}",
                f"< {ms(_TARGET_S)}" if judged else "",
                statistics.median(a) < _TARGET_S if judged else None,
                {"ours_s": a, "peer_s": b},
            )
        )
    return rows


def _worst(n: int, ours: Rounds) -> str:
    every = sorted((gap for gaps in ours for gap in gaps), key=lambda g: -g.seconds)
    over = sum(g.seconds > _TARGET_S for g in every)
    told = "; ".join(
        f"{ms(g.seconds)} = {ms(g.cpu_s)} cpu + {ms(g.queued_s)} queued + {ms(g.waited_s)} waited" for g in every[:3]
    )
    return f"n = {n}: {over} of {len(every)} gaps over {ms(_TARGET_S)}; the largest: {told}"


def _shown(ordered: Sequence[float]) -> str:
    return f"{ms(statistics.median(ordered))} ({ms(ordered[0])} – {ms(ordered[-1])})"


def _largest(gaps: Sequence[Gap]) -> float:
    return max(g.seconds for g in gaps)


def _largest_own(gaps: Sequence[Gap]) -> float:
    return max(g.seconds - g.queued_s for g in gaps)


def _p99(gaps: Sequence[Gap]) -> float:
    return statistics.quantiles((g.seconds for g in gaps), n=100)[98]


# ---- the loop that is watched ----------------------------------------------------------------------------------------


async def _watch_ours(n: int, count: int) -> list[Gap]:
    with processes.scratch_directory() as directory:
        async with App(load({"data_dir": directory, "listen": "127.0.0.1:0", "http_listen": ""})) as app:
            gc.collect()
            gc.freeze()  # as `sfm serve` does
            return await _watched("commit", app.address, n, count)


async def _watch_bare(n: int, count: int) -> list[Gap]:
    allocator.keep_large_blocks()
    server, port = await bare.started()
    try:
        return await _watched("upload", f"127.0.0.1:{port}", n, count)
    finally:
        await server.stop(None)


async def _watched(work: str, address: str, n: int, count: int) -> list[Gap]:
    command = (sys.executable, "-m", "benchmarks.stalls", work, address, str(n), str(count))
    gaps: list[Gap] = []
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()  # it has connected and warmed up
    async with _ticking(gaps):
        await child.wait()
    return gaps


@contextlib.asynccontextmanager
async def _ticking(gaps: list[Gap]) -> AsyncIterator[None]:
    async def tick() -> None:
        before, cpu, queued = time.perf_counter(), time.thread_time(), _queued_s()
        while True:
            await asyncio.sleep(_TICK_S)
            now, now_cpu, now_queued = time.perf_counter(), time.thread_time(), _queued_s()
            gaps.append(Gap(max(0.0, now - before - _TICK_S), now_cpu - cpu, now_queued - queued))
            before, cpu, queued = now, now_cpu, now_queued

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def _queued_s() -> float:
    """How long this thread has been ready to run without running; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


# ---- the process that commits ----------------------------------------------------------------------------------------


def main() -> None:
    """What the child process runs: `commit|upload address n count`."""
    work, address, n, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    arrays = steps(n, 4)
    with Client(address) as client:
        versions = itertools.count()
        namespace, peer, body = client.namespace("stalls"), bare.BareClient(address), arrays[0].tobytes()

        def one() -> object:
            if work == "upload":
                return peer.upload(body)
            version = next(versions)
            return namespace.commit({"rho": arrays[version % len(arrays)]}, expected_version=version)

        for _ in range(3):
            one()
        print("ready", flush=True)
        for _ in range(count):
            one()


if __name__ == "__main__":
    main()
