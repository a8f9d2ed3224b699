"""A commit beside the sum of its bare parts: upload, admission, one durable write of the same bytes."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_limits

from benchmarks import bare, processes
from benchmarks.admission import admitted, sent
from benchmarks.harness import Case, Row, Samples, Section, compare, interleave, ms, repeats_for, size_of, summary
from benchmarks.matrices import Array, steps
from sfm_grpc.client import Client

T = TypeVar("T")

_TARGETS = {64: 1.5, 256: 1.2, 384: 1.2, 1024: 1.2}
_PARTS = ("upload", "admission", "insert")
_MATRICES = 4
_PAGE_BYTES = 16_384  # as the product's store


def run(*, quick: bool) -> Section:
    """Commits at four sizes, and what each part costs by itself."""
    rows: list[Row] = []
    parts: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        server = stack.enter_context(processes.ours())
        plain = stack.enter_context(processes.bare_server())
        client = stack.enter_context(Client(server.address))
        peer = bare.BareClient(plain.address)
        stack.callback(peer.close)
        for n in bare.SIZES:
            with processes.scratch_directory() as directory, _database(directory / "bare.db") as insert:
                turns = cases(n, client, peer, {"insert": insert})
                taken = interleave(turns, repeats_for(turns, 2.0 if quick else 20.0, 40, 1500), warmup=10)
            rows.append(row(n, taken, _PARTS, _TARGETS[n]))
            parts.append(split(n, taken, _PARTS))
    return Section(
        "Commit: our client and server beside the sum of the bare parts",
        rows,
        [
            *parts,
            "Parts: upload of the same bytes to a bare handler + admission with SHA-256 + INSERT of the same bytes into a fresh",
            "SQLite file (WAL, synchronous FULL, the same page size, SQLite's own autocheckpoint), each timed by itself.",
            "The commit does more: ‖Δρ‖_F against the version before, remembered request, history, outbox event, retention.",
        ],
    )


def cases(n: int, client: Client, peer: bare.BareClient, writes: Mapping[str, Callable[[bytes], object]]) -> dict[str, Case]:
    """Our commit, the upload, the admission and each of `writes`, all of the same matrices in turn."""
    arrays = steps(n, _MATRICES)
    bodies = [a.tobytes() for a in arrays]
    matrices = [sent(a) for a in arrays]
    namespace = client.namespace(f"commit-{n}")
    versions = itertools.count()

    def commit(array: Array) -> None:
        namespace.commit({"rho": array}, expected_version=next(versions))

    made = {"ours": _each(commit, arrays), "upload": _each(peer.upload, bodies), "admission": _each(admitted, matrices)}
    return made | {name: _each(write, bodies) for name, write in writes.items()}


def _each(work: Callable[[T], object], on: Sequence[T]) -> Case:
    turn = itertools.cycle(on)
    return lambda: work(next(turn))


def row(n: int, taken: Mapping[str, Samples], parts: Sequence[str], at_most: float) -> Row:
    """Our commit beside the sum of the parts; everything that was measured is in the facts."""
    made = compare(f"commit n = {n}, {size_of(n)}", taken["ours"], *(taken[part] for part in parts), at_most=at_most)
    return replace(made, facts={**made.facts, **{name: summary(samples) for name, samples in taken.items()}})


def split(n: int, taken: Mapping[str, Samples], parts: Sequence[str]) -> str:
    """What each part took."""
    return f"n = {n}: " + " + ".join(f"{part} {ms(taken[part].median)}" for part in parts)


@contextlib.contextmanager
def _database(path: Path) -> Iterator[Callable[[bytes], object]]:
    """What writes bytes durably into a fresh file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE body (body_id INTEGER PRIMARY KEY, numbers BLOB NOT NULL)")
        yield lambda body: connection.execute("INSERT INTO body (numbers) VALUES (?)", (body,))
