"""From Qdrant's wire to its engine and back: as much of it as our index says. Anything else is an assertion that fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qdrant_client.grpc as wire
import qdrant_edge as engine

_DISTANCES = {wire.Cosine: engine.Distance.Cosine, wire.Dot: engine.Distance.Dot, wire.Euclid: engine.Distance.Euclid}


def config(request: wire.CreateCollection) -> engine.EdgeConfig:
    params, hnsw, scalar = request.vectors_config.params, request.hnsw_config, request.quantization_config.scalar
    vectors = engine.EdgeVectorParams(size=params.size, distance=_DISTANCES[params.distance])
    if not request.HasField("hnsw_config"):
        return engine.EdgeConfig(vectors=vectors, wal_enabled=True)
    return engine.EdgeConfig(
        vectors=vectors,
        hnsw_config=engine.HnswIndexConfig(
            m=hnsw.m,
            payload_m=hnsw.payload_m,
            ef_construct=hnsw.ef_construct,
            full_scan_threshold=hnsw.full_scan_threshold,
        ),
        quantization_config=engine.ScalarQuantizationConfig(
            type=engine.ScalarType.Int8, quantile=scalar.quantile, always_ram=scalar.always_ram
        ),
        wal_enabled=True,
    )


def index(params: wire.PayloadIndexParams) -> Any:
    kind = params.WhichOneof("index_params")
    if kind == "keyword_index_params":
        words = params.keyword_index_params
        hnsw = words.enable_hnsw if words.HasField("enable_hnsw") else None
        return engine.KeywordIndexParams(is_tenant=words.is_tenant, enable_hnsw=hnsw, prefix=words.HasField("prefix"))
    if kind == "integer_index_params":
        whole = params.integer_index_params
        return engine.IntegerIndexParams(lookup=whole.lookup, range=whole.range, enable_hnsw=whole.enable_hnsw)
    assert kind == "float_index_params", kind
    return engine.FloatIndexParams(enable_hnsw=params.float_index_params.enable_hnsw)


def point(struct: wire.PointStruct) -> engine.Point:
    payload = {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in struct.payload.items()}
    return engine.Point(struct.id.uuid, list(struct.vectors.vector.dense.data), payload)


def id_(found: engine.ScoredPoint | engine.Record) -> wire.PointId:
    return wire.PointId(uuid=str(found.id))


def told(payload: Mapping[str, Any] | None) -> dict[str, wire.Value]:
    return {name: _value(value) for name, value in (payload or {}).items()}


def _value(value: object) -> wire.Value:
    if isinstance(value, str):
        return wire.Value(string_value=value)
    if isinstance(value, int):
        return wire.Value(integer_value=value)
    assert isinstance(value, float)
    return wire.Value(double_value=value)


def query(request: wire.QueryPoints) -> engine.QueryRequest:
    params = request.params
    return engine.QueryRequest(
        limit=request.limit,
        query=engine.Query.Nearest(list(request.query.nearest.dense.data)),
        filter=filter_(request.filter),
        with_payload=list(request.with_payload.include.fields),
        params=engine.SearchParams(
            hnsw_ef=params.hnsw_ef,
            quantization=engine.QuantizationSearchParams(
                rescore=params.quantization.rescore, oversampling=params.quantization.oversampling
            ),
            acorn=engine.AcornSearchParams(enable=True, max_selectivity=params.acorn.max_selectivity)
            if params.HasField("acorn")
            else None,
        ),
    )


def scroll(request: wire.ScrollPoints) -> engine.ScrollRequest:
    return engine.ScrollRequest(
        offset=request.offset.uuid or None,
        limit=request.limit,
        filter=filter_(request.filter),
        with_payload=list(request.with_payload.include.fields),
    )


def filter_(told: wire.Filter) -> engine.Filter:
    assert not told.should
    assert not told.must_not
    assert not told.HasField("min_should")
    return engine.Filter(must=[_condition(condition.field) for condition in told.must])


def _condition(told: wire.FieldCondition) -> engine.FieldCondition:
    if told.HasField("range"):
        ends = {name: getattr(told.range, name) for name in ("gt", "gte", "lt", "lte") if told.range.HasField(name)}
        return engine.FieldCondition(told.key, range=engine.RangeFloat(**ends))
    kind = told.match.WhichOneof("match_value")
    if kind == "prefix":
        return engine.FieldCondition(told.key, match=engine.MatchPrefix(told.match.prefix))
    if kind == "keywords":
        return engine.FieldCondition(told.key, match=engine.MatchAny(list(told.match.keywords.strings)))
    assert kind == "integers", kind
    return engine.FieldCondition(told.key, match=engine.MatchAny(list(told.match.integers.integers)))
