"""A commit beside the sum of its bare parts: upload, admission, one durable write of the same bytes."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks import bare, processes
from benchmarks.admission import admitted, sent
from benchmarks.harness import Case, Row, Samples, Section, compare, interleave, ms, repeats_for, size_of, summary
from benchmarks.matrices import steps
from sfm_grpc.client import Client

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
            with processes.scratch_directory() as directory, _database(directory / "bare.db") as database:
                cases = _cases(n, client, peer, database)
                taken = interleave(cases, repeats_for(cases, 2.0 if quick else 20.0, 40, 1500), warmup=10)
            rows.append(_row(n, taken))
            parts.append(_split(n, taken))
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


def _cases(n: int, client: Client, peer: bare.BareClient, database: sqlite3.Connection) -> dict[str, Case]:
    arrays = steps(n, _MATRICES)
    bodies = [a.tobytes() for a in arrays]
    matrices = [sent(a) for a in arrays]
    namespace = client.namespace(f"commit-{n}")
    versions = itertools.count()
    turn = {name: itertools.cycle(range(_MATRICES)) for name in ("ours", *_PARTS)}

    def commit() -> None:
        namespace.commit({"rho": arrays[next(turn["ours"])]}, expected_version=next(versions))

    def insert() -> None:
        database.execute("INSERT INTO body (numbers) VALUES (?)", (bodies[next(turn["insert"])],))

    return {
        "ours": commit,
        "upload": lambda: peer.upload(bodies[next(turn["upload"])]),
        "admission": lambda: admitted(matrices[next(turn["admission"])]),
        "insert": insert,
    }


def _row(n: int, taken: dict[str, Samples]) -> Row:
    row = compare(f"commit n = {n}, {size_of(n)}", taken["ours"], *(taken[part] for part in _PARTS), at_most=_TARGETS[n])
    return replace(row, facts={**row.facts, **{name: summary(samples) for name, samples in taken.items()}})


def _split(n: int, taken: dict[str, Samples]) -> str:
    return f"n = {n}: " + " + ".join(f"{part} {ms(taken[part].median)}" for part in _PARTS)


@contextlib.contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE body (body_id INTEGER PRIMARY KEY, numbers BLOB NOT NULL)")
        yield connection
