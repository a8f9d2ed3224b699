"""A read by our client beside a bare handler that returns the same bytes; and a re-read of what did not change."""

from __future__ import annotations

import contextlib

from benchmarks import bare, processes
from benchmarks.harness import Case, Row, Section, compare, faster, interleave, repeats_for, size_of
from benchmarks.matrices import density
from sfm_grpc.client import Client

_TARGETS = {64: 1.2, 256: 1.1, 384: 1.1, 1024: 1.1}
_UNCHANGED = 1024
_IN_A_ROW = 20


def run(*, quick: bool) -> Section:
    """Reads at four sizes, then the unchanged one."""
    rows: list[Row] = []
    budget_s = 1.0 if quick else 15.0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(processes.ours())
        plain = stack.enter_context(processes.bare_server())
        # Keeps nothing, so that every read moves the numbers.
        forgetful = stack.enter_context(Client(server.address, cache_bytes_max=0))
        keeping = stack.enter_context(Client(server.address))
        peer = bare.BareClient(plain.address)
        stack.callback(peer.close)
        for n in bare.SIZES:
            forgetful.namespace(f"n{n}").commit({"rho": density(n)}, expected_version=0)
            cases = _moving(n, forgetful, peer)
            repeats = repeats_for(cases, budget_s, 60, 5000)
            taken = interleave(cases, repeats, warmup=30)
            rows.append(compare(f"read n = {n}, {size_of(n)}", taken["ours"], taken["bare"], at_most=_TARGETS[n]))
            taken = interleave(cases, max(3, repeats // _IN_A_ROW // 3), warmup=30, in_a_row=_IN_A_ROW)
            rows.append(compare(f"  the same, {_IN_A_ROW} in a row", taken["ours"], taken["bare"]))
        namespace = keeping.namespace(f"n{_UNCHANGED}")
        cases = {"unchanged": lambda: namespace.read()["rho"], **_moving(_UNCHANGED, forgetful, peer)}
        for turns, in_a_row in (("in a row", _IN_A_ROW), ("each after two moves", 1)):
            repeats = max(3, repeats_for(cases, budget_s, 60, 4000) // in_a_row)
            taken = interleave(cases, repeats, warmup=30, in_a_row=in_a_row)
            target = 10 if in_a_row > 1 else None
            rows.append(faster(f"unchanged 8 MiB, {turns}; our move", taken["unchanged"], taken["ours"], target))
            rows.append(faster(f"unchanged 8 MiB, {turns}; bare move", taken["unchanged"], taken["bare"], target))
    return Section(
        "Read: our client beside a bare gRPC handler that returns the same bytes",
        rows,
        [
            "The peer: grpc.aio on uvloop without interceptors, identity serializers on both ends, the product's own server and",
            "channel options and allocator settings, np.frombuffer. Single calls take turns (A B A B …): the caches are cold for",
            f"both, as for a caller that reads now and then. '{_IN_A_ROW} in a row' also counts what a server does afterwards.",
            "An unchanged read is of a client that keeps what it has: shown as how many times faster it is than moving 8 MiB.",
        ],
    )


def _moving(n: int, client: Client, peer: bare.BareClient) -> dict[str, Case]:
    namespace = client.namespace(f"n{n}")
    return {"ours": lambda: namespace.read()["rho"], "bare": lambda: peer.read(n)}
