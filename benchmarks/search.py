"""Search over 100 000 memories with vectors of 384 float32, embedded: how fast, how much of it is found, how soon after a start.

One store is filled through the typed client; then, in this order:

- **Search**, by vectors of the same kind that are not in it: the ten nearest, one call after the other, the filters taking turns.
  Timed twice: *through gRPC*, by the caller, with the payloads of what was found; and, in a second pass, *inside the server*, by
  its own histogram `grpc_server_handling_seconds` (from the call's arrival to its answer, without gRPC's part). A quantile of a
  histogram is interpolated inside its bucket, whose ends are told with it. **Recall@10** is of the same answers beside an exact
  scan (numpy) of those that the filter takes in.
- **Reopen**: from the start of the process `sfm serve` to the first answer to a search. The files are in the page cache.
- **Rebuild**: the index's directory is emptied while the server is stopped. From the start of the process until a search says
  that the index has the newest revision; beside it, how long it takes until the graphs are built, too.

There is no peer: the targets are times. The search is called through the generated stub.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
from sfm.v1 import memory_pb2, memory_store_pb2, memory_store_pb2_grpc

from benchmarks import documents, processes
from benchmarks.bare import channel_options
from benchmarks.harness import Case, Row, Section, interleave, ms, summary
from sfm_grpc.client import AsyncClient

_COUNT, _QUICK_COUNT = 100_000, 20_000
_BATCH = 500
_FILLING = 2
"""Batches under way at once."""
_NEIGHBOURS = 10
_NAMESPACE = "bench"
_P95_S, _RECALL, _REOPEN_S, _REBUILD_S = 0.003, 0.99, 2.0, 60.0
_INDEX = "vectors"
"""The index's directory in the data directory."""
_WAIT_S = 900.0
_STILL_S = 5.0
_METHOD = "SearchMemories"


@dataclass(frozen=True, slots=True)
class Filter:
    """What a search is restricted to, and the same for numpy."""

    name: str
    types: tuple[str, ...] = ()
    importance: tuple[float, float] | None = None

    def message(self) -> memory_pb2.MemoryFilter:
        """As it is sent."""
        chosen = memory_pb2.MemoryFilter(memory_types=self.types)
        if self.importance is not None:
            chosen.importance.low, chosen.importance.high = self.importance
        return chosen

    def taken(self, types: npt.NDArray[np.str_], importances: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """The places of those it takes in."""
        taken = np.isin(types, self.types) if self.types else np.ones(len(types), bool)
        if self.importance is not None:
            taken &= (importances >= self.importance[0]) & (importances <= self.importance[1])
        return np.flatnonzero(taken)


_FILTERS = (
    Filter("everything"),
    Filter("memory_type, 54 %", ("object",)),
    Filter("memory_type, 6 %", ("module",)),
    Filter("importance, 25 %", importance=(0.5, 0.75)),
    Filter("importance, 1 %", importance=(0.5, 0.51)),
    Filter("both, 10 %", ("member",), (0.5, 0.75)),
)


def run(*, quick: bool) -> Section:
    """Fills a store, searches it, opens it again, and builds its index anew."""
    count = _QUICK_COUNT if quick else _COUNT
    vectors = documents.vectors(count)
    rows: list[Row] = []
    notes: list[str] = []
    with processes.scratch_directory() as directory:
        with processes.ours_in(directory, **processes.PATIENT) as server, _Searcher(server.address) as searcher:
            started = time.perf_counter()
            asyncio.run(_filled(server.address, vectors))
            put_s = time.perf_counter() - started
            _until_indexed(searcher, vectors[0])
            indexed_s = time.perf_counter() - started
            _until_built(directory)
            notes.append(
                f"Filling: {count} put in {put_s:.1f} s, in the index after {indexed_s:.1f} s, graphs after "
                f"{time.perf_counter() - started - _STILL_S:.1f} s."
            )
            rows += _searches(server, searcher, vectors, 100 if quick else 1_000)
        rows.append(_reopened(directory, vectors[0], 3 if quick else 7))
        rows.append(_rebuilt(directory, vectors[0]))
    if quick:
        rows = [replace(row, ok=None) for row in rows]
    return Section(
        f"Search over {count} × {documents.DIMENSION} in the embedded server",
        rows,
        [
            "'gRPC': what the caller waits for, the ten memories in it. 'Inside': the server's own histogram, interpolated.",
            *notes,
            *(["The quick run is over fewer: nothing that depends on their number is judged."] if quick else []),
        ],
    )


# ---- filling -----------------------------------------------------------------------------------------------------------


async def _filled(address: str, vectors: documents.Vectors) -> None:
    """Puts all, two batches at once."""
    puts = documents.puts(len(vectors))
    batches = iter(documents.in_batches(len(vectors), _BATCH))
    async with AsyncClient(address, timeout_s=60) as client:
        memories = client.namespace(_NAMESPACE).memories

        async def work() -> None:
            for places in batches:
                chosen = slice(places.start, places.stop)
                await memories.put_many(puts[chosen], vectors=vectors[chosen])

        await asyncio.gather(*(work() for _ in range(_FILLING)))


class _Searcher:
    """A blocking caller of the one method."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, channel_options(address))
        self._search = memory_store_pb2_grpc.MemoryStoreStub(self._channel).SearchMemories

    def __enter__(self) -> _Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def search(self, vector: documents.Vectors, chosen: Filter = _FILTERS[0]) -> memory_store_pb2.SearchMemoriesResponse:
        """The ten nearest."""
        request = memory_store_pb2.SearchMemoriesRequest(
            namespace=_NAMESPACE,
            vector=memory_pb2.Vector(data=vector.tobytes()),
            filter=chosen.message(),
            limit=_NEIGHBOURS,
        )
        return self._search(request, timeout=30)


def _until_indexed(searcher: _Searcher, vector: documents.Vectors) -> None:
    """Until a search says that the index has the newest revision."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        # Before the index is open it is UNAVAILABLE.
        with contextlib.suppress(grpc.RpcError):
            answer = searcher.search(vector)
            if answer.newest_revision and answer.indexed_revision == answer.newest_revision:
                return
        time.sleep(0.05)
    raise AssertionError("the index does not get there")


def _until_built(directory: Path) -> None:
    """Until graphs were built and one generation alone has been there for a while."""
    (geometry,) = (directory / _INDEX).glob(f"{documents.DIMENSION}-*")
    end, still = time.monotonic() + _WAIT_S, time.monotonic()
    before: list[str] = []
    while time.monotonic() < end:
        there = sorted(path.name for path in geometry.iterdir() if path.is_dir())
        if there != before or len(there) != 1 or there == ["g1"]:
            before, still = there, time.monotonic()
        elif time.monotonic() - still > _STILL_S:
            return
        time.sleep(0.1)
    raise AssertionError("the graphs are not built")


# ---- searching ---------------------------------------------------------------------------------------------------------


def _searches(server: processes.Server, searcher: _Searcher, vectors: documents.Vectors, repeats: int) -> list[Row]:
    types, importances = np.array(documents.types(len(vectors))), documents.importances(len(vectors))
    asked = documents.vectors(repeats, seed=11)
    cases: dict[str, Case] = {}
    answers: dict[str, list[list[str]]] = {}
    inside: dict[str, _Histogram] = {}
    rows = []
    for chosen in _FILTERS:
        answers[chosen.name] = []
        cases[chosen.name] = _case(searcher, chosen, asked, answers[chosen.name])
    taken = interleave(cases, repeats, warmup=20)
    for chosen in _FILTERS:
        before = _Histogram.scraped(server)
        for vector in asked:
            searcher.search(vector, chosen)
        inside[chosen.name] = _Histogram.scraped(server).since(before)
        recall = _recall(answers[chosen.name], asked, vectors, chosen.taken(types, importances))
        rows.append(_row(chosen, summary(taken[chosen.name]), inside[chosen.name], recall))
    return rows


def _case(searcher: _Searcher, chosen: Filter, asked: documents.Vectors, told: list[list[str]]) -> Case:
    places = itertools.cycle(range(len(asked)))

    def search() -> None:
        place = next(places)
        told.append([str(place), *(n.memory.key for n in searcher.search(asked[place], chosen).neighbours)])

    return search


def _recall(
    told: Sequence[Sequence[str]], asked: documents.Vectors, vectors: documents.Vectors, places: npt.NDArray[np.intp]
) -> float:
    """The part of the truly nearest that was found."""
    among = vectors[places]
    found = wanted = 0
    for place, *keys in told:
        near = among @ asked[int(place)]
        nearest = np.argpartition(-near, _NEIGHBOURS)[:_NEIGHBOURS]
        found += len({documents.key(i) for i in places[nearest].tolist()} & set(keys))
        wanted += _NEIGHBOURS
    return found / wanted


def _row(chosen: Filter, outside: dict[str, float], inside: _Histogram, recall: float) -> Row:
    p95, low, high = inside.quantile(0.95)
    return Row(
        f"search, {chosen.name}",
        f"inside: p95 {ms(p95)} (of {ms(low)}–{ms(high)}), mean {ms(inside.mean)}; "
        f"gRPC: p95 {ms(outside['p95'])}, p50 {ms(outside['median'])}",
        "",
        f"recall@{_NEIGHBOURS} {recall:.4f}",
        f"inside: p95 < {ms(_P95_S)}; recall ≥ {_RECALL:g}",
        p95 < _P95_S and recall >= _RECALL,
        {"grpc_s": outside, "inside_s": {"p95": p95, "p95_in": [low, high], "mean": inside.mean}, "recall": recall},
    )


@dataclass(frozen=True, slots=True)
class _Histogram:
    """How long the server was busy with searches."""

    edges: Sequence[float]
    counts: Sequence[float]
    """Up to each edge; the last is of all."""
    seconds: float

    @classmethod
    def scraped(cls, server: processes.Server) -> _Histogram:
        """Since the server began."""
        with urllib.request.urlopen(f"http://{server.http_address}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        buckets: list[tuple[float, float]] = []
        seconds = 0.0
        for line in lines:
            if not line.startswith("grpc_server_handling_seconds") or _METHOD not in line:
                continue
            value = float(line.rpartition(" ")[2])
            if (edge := re.search(r'le="([^"]+)"', line)) is not None:
                buckets.append((float(edge[1]), value))
            elif "_sum{" in line:
                seconds = value
        edges, counts = zip(*buckets, strict=True)
        return cls(edges, counts, seconds)

    def since(self, before: _Histogram) -> _Histogram:
        """What came after."""
        counts = [now - then for now, then in zip(self.counts, before.counts, strict=True)]
        return _Histogram(self.edges, counts, self.seconds - before.seconds)

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.seconds / self.counts[-1]

    def quantile(self, q: float) -> tuple[float, float, float]:
        """Seconds, as if evenly spread in their bucket, and the bucket's ends."""
        rank = q * self.counts[-1]
        low = below = 0.0
        for edge, count in zip(self.edges, self.counts, strict=True):
            if count >= rank:
                return low + (edge - low) * (rank - below) / (count - below), low, edge
            low, below = edge, count
        raise AssertionError("the last bucket has all")


# ---- starting ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _started(directory: Path) -> Iterator[tuple[float, _Searcher]]:
    """The server on what is there, and when its process was started."""
    started = time.perf_counter()
    with processes.ours_in(directory, **processes.PATIENT) as server, _Searcher(server.address) as searcher:
        yield started, searcher


def _reopened(directory: Path, vector: documents.Vectors, repeats: int) -> Row:
    took = []
    for _ in range(repeats):
        with _started(directory) as (started, searcher):
            took.append(_first_answer(searcher, vector) - started)
    median = float(np.median(took))
    shown = f"{median:.2f} s ({min(took):.2f}–{max(took):.2f})"
    return Row("reopen: until a search is answered", shown, "", "", f"< {_REOPEN_S:g} s", median < _REOPEN_S, {"seconds": took})


def _first_answer(searcher: _Searcher, vector: documents.Vectors) -> float:
    """When a search found what it should."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        with contextlib.suppress(grpc.RpcError):
            answer = searcher.search(vector)
            assert answer.neighbours[0].memory.key == documents.key(0), "it is its own nearest"
            return time.perf_counter()
        time.sleep(0.005)
    raise AssertionError("no search is answered")


def _rebuilt(directory: Path, vector: documents.Vectors) -> Row:
    shutil.rmtree(directory / _INDEX)
    with _started(directory) as (started, searcher):
        _until_indexed(searcher, vector)
        indexed_s = time.perf_counter() - started
        _until_built(directory)
        built_s = time.perf_counter() - started - _STILL_S
    return Row(
        "rebuild of an emptied index: until it has everything",
        f"{indexed_s:.1f} s",
        "",
        f"graphs after {built_s:.1f} s",
        f"< {_REBUILD_S:g} s",
        indexed_s < _REBUILD_S,
        {"indexed_s": indexed_s, "graphs_s": built_s},
    )
