"""Whether reads and health stay as fast with a long history and with many namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import processes
from benchmarks.harness import Case, Row, Samples, Section, compare, interleave, repeats_for
from benchmarks.matrices import density, steps
from sfm_grpc.client import AsyncClient, Client

_HISTORIES = (1, 100, 1000)
_NAMESPACES = (1, 1000, 10_000)
_N = 64
_FILL_N = 8
_FILL_AT_ONCE = 32
# "Flat" has to be a number: what the noise between two equal servers never exceeded.
_FLAT = 1.15


def run(*, quick: bool) -> Section:
    """Reads by history length; reads and health by number of namespaces."""
    rows = [*_by_history(quick=quick), *_by_namespaces(quick=quick)]
    return Section(
        "Flatness: history length and number of namespaces",
        rows,
        [
            "ours: with many; peer: the same with one. The read moves 32 KiB. GetHealth, /healthz and Check: the whole report,",
            "the probe's page and grpc.health.v1. Meanwhile the server re-verifies all heads in the background, as always.",
        ],
    )


# ---- history ---------------------------------------------------------------------------------------------------------


def _by_history(*, quick: bool) -> list[Row]:
    lengths = _HISTORIES[:2] if quick else _HISTORIES
    with (
        processes.ours(rho_history_versions=2 * max(lengths)) as server,
        Client(server.address, cache_bytes_max=0) as client,
    ):
        matrices = steps(_N, 2)
        for length in lengths:
            namespace = client.namespace(f"history-{length}")
            for version in range(length):
                namespace.commit({"rho": matrices[version % 2]}, expected_version=version)
        cases: dict[str, Case] = {}
        for length in lengths:
            namespace = client.namespace(f"history-{length}")
            cases[f"cached {length}"] = lambda ns=namespace: ns.read()  # type: ignore[misc]
            cases[f"canonical {length}"] = lambda ns=namespace: ns.read(consistency="canonical")  # type: ignore[misc]
        taken = interleave(cases, repeats_for(cases, 2 if quick else 15, 100, 3000), warmup=20)
    return [
        compare(f"{kind} read, {length} versions", taken[f"{kind} {length}"], taken[f"{kind} {lengths[0]}"], at_most=_FLAT)
        for kind in ("cached", "canonical")
        for length in lengths[1:]
    ]


# ---- namespaces ------------------------------------------------------------------------------------------------------


def _by_namespaces(*, quick: bool) -> list[Row]:
    counts = (1, 200) if quick else _NAMESPACES
    with contextlib.ExitStack() as stack:
        servers = {count: stack.enter_context(processes.ours()) for count in counts}
        for count, server in servers.items():
            asyncio.run(_fill(server.address, count))
        cases: dict[str, Case] = {}
        for count, server in servers.items():
            cases |= {f"{what} {count}": case for what, case in _questions(stack, server).items()}
        taken = interleave(cases, repeats_for(cases, 4 if quick else 60, 60, 2000), warmup=20)
    return [row for count in counts[1:] for row in _rows(count, taken)]


def _rows(count: int, taken: Mapping[str, Samples]) -> list[Row]:
    rows = []
    for what in ("read", "GetHealth", "healthz", "Check"):
        target = _FLAT if what == "read" else None  # the issue asks for health in the size of ρ; this one is shown
        rows.append(compare(f"{what}, {count} namespaces", taken[f"{what} {count}"], taken[f"{what} 1"], at_most=target))
    return rows


async def _fill(address: str, count: int) -> None:
    """One namespace that is read, the others only there."""
    waiting = list(range(count - 1))
    small = density(_FILL_N)
    async with AsyncClient(address, cache_bytes_max=0) as client:
        await client.namespace("read").commit({"rho": density(_N)}, expected_version=0)

        async def work() -> None:
            while waiting:
                await client.namespace(f"other-{waiting.pop()}").commit({"rho": small}, expected_version=0)

        await asyncio.gather(*(work() for _ in range(_FILL_AT_ONCE)))


def _questions(stack: contextlib.ExitStack, server: processes.Server) -> dict[str, Case]:
    client = stack.enter_context(Client(server.address, cache_bytes_max=0))
    namespace = client.namespace("read")
    return {"read": namespace.read, **health_questions(stack, server, client)}


def health_questions(stack: contextlib.ExitStack, server: processes.Server, client: Client) -> dict[str, Case]:
    """The three ways to ask how a server is, each on a connection that is kept."""
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    probe: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="rho")
    page = http.client.HTTPConnection(server.http_address)
    stack.callback(page.close)

    def healthz() -> bytes:
        page.request("GET", "/healthz")
        return page.getresponse().read()

    return {"GetHealth": client.health, "healthz": healthz, "Check": lambda: probe.Check(request)}
