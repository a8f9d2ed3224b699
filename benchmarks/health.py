"""Whether asking how ρ is costs the same whatever its size."""

from __future__ import annotations

import contextlib

from benchmarks import processes
from benchmarks.flatness import health_questions
from benchmarks.harness import Case, Row, Section, compare, interleave, repeats_for
from benchmarks.matrices import density
from sfm_grpc.client import Client

_DIMENSIONS = (16, 256, 1024)
_FLAT = 1.15


def run(*, quick: bool) -> Section:
    """GetHealth, /healthz and Check on servers that hold one ρ of different sizes."""
    with contextlib.ExitStack() as stack:
        cases: dict[str, Case] = {}
        for n in _DIMENSIONS:
            server = stack.enter_context(processes.ours())
            client = stack.enter_context(Client(server.address))
            client.namespace("only").commit({"rho": density(n)}, expected_version=0)
            cases |= {f"{what} {n}": case for what, case in health_questions(stack, server, client).items()}
        taken = interleave(cases, repeats_for(cases, 2 if quick else 30, 60, 3000), warmup=20)
    rows: list[Row] = [
        compare(f"{what}, n = {n}", taken[f"{what} {n}"], taken[f"{what} {_DIMENSIONS[0]}"], at_most=_FLAT)
        for what in ("GetHealth", "healthz", "Check")
        for n in _DIMENSIONS[1:]
    ]
    return Section(
        "Health: O(1) in the size of ρ", rows, [f"ours: at that size; peer: the same question at n = {_DIMENSIONS[0]}."]
    )
