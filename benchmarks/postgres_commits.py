"""A commit on Postgres beside the sum of its bare parts, and beside etcd's compare-and-put of the same bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from threadpoolctl import threadpool_limits

from benchmarks import bare, etcd, postgres, processes
from benchmarks.commits import cases, row, split
from benchmarks.harness import Row, Samples, Section, compare, interleave, ms, repeats_for, size_of
from sfm_grpc.client import Client
from tests.support.services.absence import AbsentError

_TARGETS = {64: 1.5, 256: 1.2, 362: 1.2, 1024: 1.2}  # 32 KiB, 512 KiB, 1 MiB, 8 MiB
_PARTS = ("upload", "admission", "update")
# etcd is for small values; at most 1 MiB is compared. At 1 MiB ours is to be faster.
_ETCD_TARGETS: Mapping[int, float | None] = {64: None, 256: 1.1, 362: 1.0}
_KEY = b"rho"


def run(*, quick: bool) -> Section:
    """Commits at four sizes, what each part costs by itself, and etcd."""
    try:
        with postgres.database() as url:
            return _measured(url, 2.0 if quick else 20.0)
    except AbsentError as absent:
        return Section("Commit on Postgres", [], [str(absent)])


def _measured(url: str, budget_s: float) -> Section:
    rows: list[Row] = []
    parts: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        server = stack.enter_context(processes.ours(**postgres.settings(url)))
        plain = stack.enter_context(processes.bare_server())
        client = stack.enter_context(Client(server.address))
        peer = bare.BareClient(plain.address)
        stack.callback(peer.close)
        for n in _TARGETS:
            with contextlib.ExitStack() as mine:
                turns = cases(n, client, peer, _writes(n, url, mine))
                taken = interleave(turns, repeats_for(turns, budget_s, 40, 1500), warmup=10)
            rows += _rows(n, taken)
            parts.append(split(n, taken, _PARTS) + (f"; etcd {ms(taken['etcd'].median)}" if "etcd" in taken else ""))
        about = postgres.about(url)
    return Section(
        "Commit on Postgres: our client and server beside the sum of the bare parts, and beside etcd",
        rows,
        [
            *parts,
            "Parts: upload of the same bytes to a bare handler + admission with SHA-256 + compare-and-set UPDATE of these bytes",
            "(prepared, binary, autocommit, bytea STORAGE EXTERNAL) through the same URL as the server's, each timed by itself.",
            "The commit does more: ‖Δρ‖_F against the version before, remembered request, history, outbox event, retention.",
            about,
            f"{etcd.version()}, one node, fsync as it comes, compare version and put, our client's channel options."
            if etcd.available()
            else etcd.HOW_TO_GET,
        ],
    )


def _writes(n: int, url: str, stack: contextlib.ExitStack) -> dict[str, Callable[[bytes], object]]:
    table = stack.enter_context(postgres.BareTable(url))
    writes: dict[str, Callable[[bytes], object]] = {"update": table.update}
    if n in _ETCD_TARGETS and etcd.available():
        writes["etcd"] = _putting(stack.enter_context(etcd.Etcd()))
    return writes


def _putting(store: etcd.Etcd) -> Callable[[bytes], object]:
    done = 0

    def put(body: bytes) -> None:
        nonlocal done
        assert store.compare_and_put(_KEY, body, done)
        done += 1

    return put


def _rows(n: int, taken: Mapping[str, Samples]) -> list[Row]:
    rows = [row(n, taken, _PARTS, _TARGETS[n])]
    if "etcd" in taken:
        target = _ETCD_TARGETS[n]
        made = compare(f"  beside etcd, {size_of(n)}", taken["ours"], taken["etcd"], at_most=target)
        rows.append(made if target != 1.0 else replace(made, target="< 1", ok=taken["ours"].median < taken["etcd"].median))
    return rows
