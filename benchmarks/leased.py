"""Reads and commits on Postgres behind Redis: beside a bare handler, beside redis-py, beside ourselves without Redis."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import numpy as np
import redis

from benchmarks import bare, postgres, processes
from benchmarks.harness import Case, Row, Section, compare, faster, interleave, repeats_for, size_of
from benchmarks.matrices import Array, density, steps
from sfm_grpc.client import Client
from tests.support.services.absence import AbsentError
from tests.support.services.redis import own_redis

_BARE = {64: 1.4, 256: 1.15, 384: 1.15, 1024: 1.15}
_LARGE = 1024
_COMMITTED = (64, 256, 384, 1024)
_IN_A_ROW = 10


def run(*, quick: bool) -> Section:
    """Reads at four sizes, an unchanged one, and commits."""
    budget_s = 1.0 if quick else 15.0
    rows: list[Row] = []
    try:
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(postgres.database())
            other = stack.enter_context(postgres.database())
            server = stack.enter_context(own_redis())
            settings = {**postgres.settings(database), "redis_url": server.url, "redis_settle_s": 0}
            leased = stack.enter_context(processes.ours(**settings))
            alone = stack.enter_context(processes.ours(**postgres.settings(other)))
            plain = stack.enter_context(processes.bare_server())
            peer = bare.BareClient(plain.address)
            stack.callback(peer.close)
            store = stack.enter_context(redis.Redis.from_url(server.url))
            rows += _reads(leased, peer, store, budget_s)
            rows += _commits(leased, alone, budget_s)
            about = [postgres.about(database), f"{server.name}, by the loopback, persistence off."]
    except AbsentError as absent:
        return Section("Behind Redis", [], [str(absent)])
    return Section(
        "Behind Redis: reads beside a bare gRPC handler and beside redis-py, commits beside the same server without Redis",
        rows,
        [
            "Each read asks Redis which version is live, then answers from memory; the bare handler asks nobody. Our client",
            "keeps nothing, so each read moves the numbers; 'unchanged' is of a client that keeps what it has.",
            "redis-py: GET by the blocking client with hiredis, np.frombuffer, from the same Redis.",
            *about,
        ],
    )


def _reads(server: processes.Server, peer: bare.BareClient, store: redis.Redis, budget_s: float) -> list[Row]:
    rows = []
    with Client(server.address, cache_bytes_max=0) as forgetful, Client(server.address) as keeping:
        for n in bare.SIZES:
            rho = density(n)
            forgetful.namespace(f"n{n}").commit({"rho": rho}, expected_version=0)
            store.set(f"bench-{n}", rho.tobytes())
            read = _reader(forgetful, n)
            _until_cached(forgetful, n)
            cases: dict[str, Case] = {"ours": read, "bare": lambda n=n: peer.read(n), "redis": _getter(store, n)}
            taken = interleave(cases, repeats_for(cases, budget_s, 60, 4000), warmup=30)
            rows.append(compare(f"read n = {n}, {size_of(n)}; bare handler", taken["ours"], taken["bare"], at_most=_BARE[n]))
            at_most = 1.1 if n == _LARGE else None
            rows.append(compare("  redis-py GET + frombuffer", taken["ours"], taken["redis"], at_most=at_most))
        unchanged = _reader(keeping, _LARGE)
        cases = {"unchanged": unchanged, "redis": _getter(store, _LARGE)}
        repeats = max(3, repeats_for(cases, budget_s, 60, 4000) // _IN_A_ROW)
        taken = interleave(cases, repeats, warmup=30, in_a_row=_IN_A_ROW)
        rows.append(faster("unchanged 8 MiB; redis-py GET", taken["unchanged"], taken["redis"], at_least=8))
    return rows


def _reader(client: Client, n: int) -> Callable[[], Array]:
    namespace = client.namespace(f"n{n}")
    return lambda: namespace.read()["rho"]


def _getter(store: redis.Redis, n: int) -> Callable[[], Array]:
    return lambda: np.frombuffer(store.get(f"bench-{n}"), np.float64).reshape(n, n)


def _until_cached(client: Client, n: int) -> None:
    """Reads until the cache is on; the first reads register it."""
    for _ in range(50):
        if client.namespace(f"n{n}").read().source == "cache":
            return
    raise AssertionError("reads do not come from the cache")


def _commits(leased: processes.Server, alone: processes.Server, budget_s: float) -> list[Row]:
    rows = []
    with Client(leased.address) as one, Client(alone.address) as other:
        for n in _COMMITTED:
            cases: dict[str, Case] = {"with": _committer(one, n), "without": _committer(other, n)}
            taken = interleave(cases, repeats_for(cases, budget_s, 40, 1500), warmup=10)
            rows.append(compare(f"commit n = {n}, {size_of(n)}; without Redis", taken["with"], taken["without"], at_most=1.15))
    return rows


def _committer(client: Client, n: int) -> Callable[[], object]:
    namespace, arrays, versions = client.namespace(f"commit-{n}"), itertools.cycle(steps(n, 4)), itertools.count()
    return lambda: namespace.commit({"rho": next(arrays)}, expected_version=next(versions))
