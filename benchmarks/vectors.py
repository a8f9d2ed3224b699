"""Memories with vectors of 384 float32, beside a Chroma server: both are processes of their own, asked from here.

Batches of 100, each of a text that makes the memory about 900 bytes of JSON, a type, an importance and a vector: put under new
keys, put again with other content, get with the vectors. Ours is the embedded server (SQLite, WAL, synchronous FULL) through the
typed client and gRPC; theirs is called through their HTTP client. The same texts and vectors go to both, both are durable when
they answer, and both bring their index up to date later: on the same cores, while the next rounds are timed.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Sequence

import numpy as np

from benchmarks import chroma, documents, processes
from benchmarks.harness import Case, Row, Section, faster, interleave, repeats_for
from sfm_grpc.client import Client, MemoryPut

_BATCH = 100
_KEPT = 2_000
_VECTORS = 20_000
_NAMESPACE = "bench"


def run(*, quick: bool) -> Section:
    """Puts and gets."""
    budget_s = 6.0 if quick else 40.0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(processes.ours(**processes.PATIENT))
        client = stack.enter_context(Client(server.address))
        content = _Content()
        sides: list[_Side] = [_Ours(content, client), _Theirs(content, stack.enter_context(chroma.served()))]
        for side in sides:
            side.fill()
        rows = [_row(what, sides, budget_s) for what in ("put_new", "put_again", "get")]
    return Section(
        f"Memories of {documents.PAYLOAD_BYTES} bytes with vectors of {documents.DIMENSION} float32, beside a Chroma server",
        rows,
        [f"Times are of {_BATCH} memories. Ours: embedded, gRPC. {chroma.version()}: HTTP."],
    )


def _row(what: str, sides: Sequence[_Side], budget_s: float) -> Row:
    ours, theirs = (getattr(side, what) for side in sides)
    cases: dict[str, Case] = {"ours": ours, "peer": theirs}
    taken = interleave(cases, repeats_for(cases, budget_s, 20, 300), warmup=3)
    return faster(f"{what.replace('_', ', ')} × {_BATCH}; Chroma", taken["ours"], taken["peer"], at_least=2)


class _Content:
    """What both put."""

    def __init__(self) -> None:
        self.payloads = documents.payloads(_KEPT)
        self.vectors = documents.vectors(_VECTORS)
        self.types = documents.types(_KEPT)
        self.importances = documents.importances(_KEPT).tolist()


class _Side:
    """The same calls for both, each at its own pace through the same content."""

    def __init__(self, content: _Content) -> None:
        self._content = content
        self._new = itertools.count(_KEPT, _BATCH)
        self._random = random.Random(5)

    def fill(self) -> None:
        """Puts what is there before."""
        for places in documents.in_batches(_KEPT, _BATCH):
            self._put([*places], places.start)

    def put_new(self) -> None:
        """Under new keys."""
        start = next(self._new)
        self._put([*range(start, start + _BATCH)], start)

    def put_again(self) -> None:
        """Under keys that are there, with other content."""
        self._put(self._random.sample(range(_KEPT), _BATCH), self._random.randrange(_VECTORS))

    def get(self) -> None:
        """Contents as Python objects, vectors as one array."""
        self._get(self._random.sample(range(_KEPT), _BATCH))

    def _put(self, places: Sequence[int], first: int) -> None:
        """Content from `first` on, under the keys of these places."""
        raise NotImplementedError

    def _get(self, places: Sequence[int]) -> None:
        raise NotImplementedError

    def _rows(self, first: int) -> tuple[list[int], documents.Vectors]:
        """Which payloads, and which vectors."""
        rows = np.arange(first, first + _BATCH)
        return (rows % _KEPT).tolist(), self._content.vectors[rows % _VECTORS]


class _Ours(_Side):
    def __init__(self, content: _Content, client: Client) -> None:
        super().__init__(content)
        self._memories = client.namespace(_NAMESPACE).memories

    def _put(self, places: Sequence[int], first: int) -> None:
        c = self._content
        rows, vectors = self._rows(first)
        puts = [
            MemoryPut(documents.key(place), c.payloads[row], memory_type=c.types[row], importance=c.importances[row])
            for place, row in zip(places, rows, strict=True)
        ]
        self._memories.put_many(puts, vectors=vectors)

    def _get(self, places: Sequence[int]) -> None:
        found = self._memories.get_many([documents.key(place) for place in places], with_vectors=True)
        assert len([memory.payload for memory in found.found.values()]) == len(found.vectors()) == _BATCH


class _Theirs(_Side):
    def __init__(self, content: _Content, peer: chroma.Peer) -> None:
        super().__init__(content)
        self._peer = peer

    def _put(self, places: Sequence[int], first: int) -> None:
        c = self._content
        rows, vectors = self._rows(first)
        texts = [str(c.payloads[row]["text"]) for row in rows]
        facts: list[dict[str, str | float]] = [
            {"memory_type": c.types[row], "importance": c.importances[row], "name": str(c.payloads[row]["name"])} for row in rows
        ]
        self._peer.put([documents.key(place) for place in places], texts, facts, vectors)

    def _get(self, places: Sequence[int]) -> None:
        texts, vectors = self._peer.get([documents.key(place) for place in places])
        assert len(texts) == len(vectors) == _BATCH
