"""The final check of the memories: each that was committed is there as it was, and search finds what a scan of them all finds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from examples.cognitive_manager.recall import SHORTLIST, Recalled, recall
from examples.cognitive_manager.stream import FloatArray, Stream
from sfm_grpc.client import IndexUnavailable, Memories, MemoryRecord

_SAMPLES = ("json.dumps", "posixpath.join", "heapq.nlargest")
_QUERIES = 200
_TOP = 10
_PAGE_SIZE = 500
# A server that was killed while it fed the index is followed half a minute later.
_INDEX_S = 60.0
# Scores are of float32 vectors; nearer to each other than this, two memories are equally near.
_TIE = 1e-6


@dataclass(slots=True)
class Remembered:
    """What was found. It is well when there are no problems."""

    memories: int
    recall_at_10: float | None
    """Of the ten nearest, the part that search finds; None: no server's index had everything in time."""
    samples: Mapping[str, list[Recalled]]
    problems: list[str] = field(default_factory=list)


def check_memories(servers: Sequence[Memories], stream: Stream, taken: Sequence[int], rho: FloatArray) -> Remembered:
    """Compares the memories with the batches that are in ρ, and search with numpy.

    `servers`: the same memories, as each server has them.
    """
    held = {memory.key: memory for memory in servers[0].list(with_vectors=True, page_size=_PAGE_SIZE)}
    problems = _differences(held, stream, taken)
    rows = [row for batch in taken for row in stream.rows(batch)]
    found = with_index(servers, stream.vectors[0])
    if found is None:
        return Remembered(len(held), None, {}, [*problems, f"no index had everything within {_INDEX_S:g} s"])
    samples = {}
    for name in _SAMPLES:
        near = found.search(stream.vectors[stream.names.index(name)], SHORTLIST, with_vectors=True)
        samples[name] = recall(near, rho, but=name, top=3)
    return Remembered(len(held), recall_at_10(found, held, stream, rows), samples, problems)


def _differences(held: Mapping[str, MemoryRecord], stream: Stream, taken: Sequence[int]) -> list[str]:
    """A batch that is in ρ has all its memories, another none; each is what was put, its vector bit for bit."""
    due = {put.key: (put, row) for batch in taken for row, put in zip(stream.rows(batch), stream.memories(batch), strict=True)}
    problems = []
    if missing := [key for key in due if key not in held]:
        problems.append(f"{len(missing)} memories are missing: {missing[:5]}")
    if foreign := [key for key in held if key not in due]:
        problems.append(f"{len(foreign)} memories are there whose batches are not: {foreign[:5]}")
    bent = [key for key, (put, row) in due.items() if key in held and not _same(held[key], put.payload, stream.vectors[row])]
    if bent:
        problems.append(f"{len(bent)} memories are not as they were put: {bent[:5]}")
    return problems


def _same(memory: MemoryRecord, payload: object, vector: FloatArray) -> bool:
    kept = b"" if memory.vector is None else memory.vector.tobytes()
    return bool(memory.payload == payload) and kept == vector.astype("<f4").tobytes()


def with_index(servers: Sequence[Memories], vector: FloatArray) -> Memories | None:
    """The first server whose index has every write: the index follows. Of servers that share one file, one has the index."""
    ends = time.monotonic() + _INDEX_S
    while time.monotonic() < ends:
        for memories in servers:
            with contextlib.suppress(IndexUnavailable):
                told = memories.search(vector, 1)
                if told.indexed_revision >= told.newest_revision:
                    return memories
        time.sleep(0.05)
    return None


def recall_at_10(memories: Memories, held: Mapping[str, MemoryRecord], stream: Stream, rows: Sequence[int]) -> float | None:
    """Which part of the ten nearest search finds, beside a scan of all that is held, over evenly chosen rows."""
    keys = [key for key, memory in held.items() if memory.vector is not None]
    if not keys:
        return None
    places = {key: place for place, key in enumerate(keys)}
    vectors = np.array([held[key].vector for key in keys], dtype=np.float64)
    asked = rows[:: max(1, len(rows) // _QUERIES)]
    found = due = 0
    for row in asked:
        cosines = vectors @ stream.vectors[row]
        top = min(_TOP, len(keys))
        far_enough = np.partition(cosines, -top)[-top] - _TIE
        told = memories.search(stream.vectors[row], top)
        found += sum(cosines[places[n.memory.key]] >= far_enough for n in told if n.memory.key in places)
        due += top
    return round(float(found / due), 4)
