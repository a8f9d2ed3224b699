"""The engine itself: one shard of Qdrant's, with all points of a geometry. Every call holds the interpreter's lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as engine

from sfm_grpc.model import Buffer, Distance
from sfm_grpc.storage.vectors import points
from sfm_grpc.storage.vectors.points import INDEXED, TOLD, Condition, Kind

WAL = "wal"

# Points that are made, put, or let go before a question may be answered: each takes the engine five to ten milliseconds.
_MAKE_STEP = 128
_PUT_STEP = 256
_DROP_STEP = 512

_DISTANCES = {
    Distance.COSINE: engine.Distance.Cosine,
    Distance.DOT: engine.Distance.Dot,
    Distance.EUCLIDEAN: engine.Distance.Euclid,
}


class Shard:
    """An open shard."""

    def __init__(self, directory: Path, dimension: int, distance: Distance, *, create: bool, threads: int) -> None:
        """Opens the one that lies there, or makes it; raises what the engine raises. `threads` are those that build graphs."""
        self.directory = directory
        config = _config(dimension, distance, threads)
        if create:
            directory.mkdir(parents=True, exist_ok=True)
            self._shard = engine.EdgeShard.create(str(directory), config)
            for name, kind in INDEXED.items():
                self._shard.update(engine.UpdateOperation.create_field_index(name, _index(kind)))
            self._shard.flush()
        else:
            self._shard = engine.EdgeShard.load(str(directory), config)
        self._dimension = dimension

    @property
    def sizes(self) -> tuple[int, int]:
        """How many points there are, and how many of them the graphs know of."""
        info = self._shard.info()
        return info.points_count, info.indexed_vectors_count

    # ---- changes, step by step: whoever takes the next step may do something else before it

    def apply(
        self, puts: Sequence[tuple[str, dict[str, Any]]], gone: Sequence[str], numbers: Buffer | bytearray
    ) -> Iterator[None]:
        """Puts points, given by id and payload, and lets go of others; their vectors follow one another in `numbers`."""
        vectors = memoryview(numbers).cast("f")
        size = self._dimension
        made: list[engine.Point] = []
        for i, (identity, payload) in enumerate(puts):
            vector: Any = vectors[size * i : size * (i + 1)]  # a view: the engine takes any sequence, and this is the fastest
            made.append(engine.Point(identity, vector, payload))
            if len(made) == _PUT_STEP or i == len(puts) - 1:
                yield
                self._shard.update(engine.UpdateOperation.upsert_points(made))
                made = []
            if i % _MAKE_STEP == 0:
                yield
        for start in range(0, len(gone), _DROP_STEP):
            self._shard.update(engine.UpdateOperation.delete_points(list(gone[start : start + _DROP_STEP])))
            yield

    def drop(self, scope: str) -> Iterator[None]:
        """Lets go of all points of a namespace."""
        belongs = _filter([Condition("scope", any_of=(scope,))])
        while True:
            found, _ = self._shard.scroll(engine.ScrollRequest(limit=_DROP_STEP, filter=belongs, with_payload=False))
            if not found:
                return
            self._shard.update(engine.UpdateOperation.delete_points([record.id for record in found]))
            yield

    def optimize(self) -> None:
        """Builds the graphs that are wanting, and makes one of several small segments. Seconds, or minutes."""
        self._shard.optimize()

    def flush(self) -> None:
        """Has all of it on the disk, and forgets the log."""
        self._shard.flush()

    def close(self) -> None:
        """Flushes it, and lets go."""
        self._shard.close()

    # ---- questions

    def search(
        self, conditions: Sequence[Condition], vector: memoryview, *, limit: int, beam: int, wide: bool
    ) -> list[tuple[str, int, float]]:
        """Keys, revisions and scores of the nearest, nearest first."""
        numbers: Any = vector.cast("f")
        effort = engine.SearchParams(
            hnsw_ef=beam,
            quantization=engine.QuantizationSearchParams(rescore=True, oversampling=points.OVERSAMPLING),
            acorn=engine.AcornSearchParams(enable=True, max_selectivity=1.0) if wide else None,
        )
        request = engine.QueryRequest(
            limit=limit,
            query=engine.Query.Nearest(numbers),
            filter=_filter(conditions),
            with_payload=list(TOLD),
            params=effort,
        )
        return [(*_told(hit.payload), hit.score) for hit in self._shard.query(request)]

    def look(self) -> bool:
        """Reads a point, if there is one."""
        found, _ = self._shard.scroll(engine.ScrollRequest(limit=1, with_payload=True, with_vector=True))
        return len(found) == 1

    def count(self, scope: str) -> int:
        """How many points of a namespace there are."""
        return self._shard.count(engine.CountRequest(exact=True, filter=_filter([Condition("scope", any_of=(scope,))])))

    def scan(self, scope: str, *, after: str, limit: int) -> tuple[list[tuple[str, int]], str]:
        """Keys and revisions from an id on, and the id to go on at."""
        found, following = self._shard.scroll(
            engine.ScrollRequest(
                offset=after or None,
                limit=limit,
                filter=_filter([Condition("scope", any_of=(scope,))]),
                with_payload=list(TOLD),
            )
        )
        return [_told(record.payload) for record in found], str(following or "")


def _told(payload: dict[str, Any] | None) -> tuple[str, int]:
    assert payload is not None, "it was asked for"
    return payload["key"], payload["revision"]


def _config(dimension: int, distance: Distance, threads: int) -> engine.EdgeConfig:
    quantization = engine.ScalarQuantizationConfig(type=engine.ScalarType.Int8, quantile=points.QUANTILE, always_ram=True)
    return engine.EdgeConfig(
        vectors=engine.EdgeVectorParams(size=dimension, distance=_DISTANCES[distance]),
        hnsw_config=engine.HnswIndexConfig(
            m=0,
            payload_m=points.M,
            ef_construct=points.EF_CONSTRUCT,
            full_scan_threshold=points.FULL_SCAN_KB,
            max_indexing_threads=threads,
        ),
        quantization_config=quantization,
        # Whatever an optimization finds is to be indexed: when there is enough for one, `geometry` decides.
        optimizers=engine.EdgeOptimizersConfig(default_segment_number=2, indexing_threshold=1),
        wal_enabled=True,  # without it, what was not flushed is lost with the process
    )


def _index(kind: Kind) -> Any:
    match kind:
        case Kind.TENANT:
            return engine.KeywordIndexParams(is_tenant=True)
        # No graph for the values of the others: thirteen more graphs, and no search goes by two.
        case Kind.TEXT | Kind.PREFIX:
            return engine.KeywordIndexParams(enable_hnsw=False, prefix=kind is Kind.PREFIX)
        case Kind.NUMBER:
            return engine.FloatIndexParams(enable_hnsw=False)
        case Kind.TIME:
            return engine.IntegerIndexParams(lookup=False, range=True, enable_hnsw=False)
        case Kind.COUNT:
            return engine.IntegerIndexParams(lookup=True, range=False, enable_hnsw=False)


def _filter(conditions: Sequence[Condition]) -> engine.Filter:
    return engine.Filter(must=[_condition(c) for c in conditions])


def _condition(condition: Condition) -> engine.FieldCondition:
    if len(condition.any_of) == 1:
        return engine.FieldCondition(condition.field, match=engine.MatchValue(condition.any_of[0]))
    if condition.any_of:
        return engine.FieldCondition(condition.field, match=engine.MatchAny(list(condition.any_of)))  # type: ignore[arg-type]
    if condition.prefix:
        return engine.FieldCondition(condition.field, match=engine.MatchPrefix(condition.prefix))
    ends = engine.RangeFloat(gt=condition.above, gte=condition.low, lte=condition.high)
    return engine.FieldCondition(condition.field, range=ends)
