"""What is said to a Qdrant server, as messages of its gRPC interface."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

import qdrant_client.grpc as wire

from sfm_grpc.model import Buffer, Distance
from sfm_grpc.storage.vectors import points
from sfm_grpc.storage.vectors.contract import Field, Point
from sfm_grpc.storage.vectors.points import INDEXED, TOLD, Condition, Effort, Identities, Kind, scope_name

_DISTANCES = {Distance.COSINE: wire.Cosine, Distance.DOT: wire.Dot, Distance.EUCLIDEAN: wire.Euclid}
_TYPES = {
    Kind.TENANT: wire.FieldTypeKeyword,
    Kind.TEXT: wire.FieldTypeKeyword,
    Kind.PREFIX: wire.FieldTypeKeyword,
    Kind.NUMBER: wire.FieldTypeFloat,
    Kind.TIME: wire.FieldTypeInteger,
    Kind.COUNT: wire.FieldTypeInteger,
}
_TOLD = wire.WithPayloadSelector(include=wire.PayloadIncludeSelector(fields=TOLD))
_DATA_TAG = wire.DenseVector(data=[0.0]).SerializeToString()[:1]
"""That of DenseVector's numbers, which are packed: a length, and the float32 numbers, little-endian."""

_ENTRIES = uuid.UUID("5d0f8f3e-3a2b-4a4c-9a53-6f0f0d6b7c11")
_ENTRY = "collection"


# ---- collections


def creation(collection: str, dimension: int, distance: Distance) -> wire.CreateCollection:
    """Of a collection for a geometry."""
    return wire.CreateCollection(
        collection_name=collection,
        vectors_config=wire.VectorsConfig(params=wire.VectorParams(size=dimension, distance=_DISTANCES[distance])),
        hnsw_config=wire.HnswConfigDiff(
            m=0, payload_m=points.M, ef_construct=points.EF_CONSTRUCT, full_scan_threshold=points.FULL_SCAN_KB
        ),
        quantization_config=wire.QuantizationConfig(
            scalar=wire.ScalarQuantization(type=wire.Int8, quantile=points.QUANTILE, always_ram=True)
        ),
    )


def ledger(collection: str) -> wire.CreateCollection:
    """Of a collection that lists others: its points have no vectors worth the name."""
    params = wire.VectorParams(size=1, distance=wire.Dot)
    return wire.CreateCollection(collection_name=collection, vectors_config=wire.VectorsConfig(params=params))


def indexing(collection: str, name: str) -> wire.CreateFieldIndexCollection:
    """Of an index for one of the fields in `INDEXED`."""
    kind = INDEXED[name]
    return wire.CreateFieldIndexCollection(
        collection_name=collection, wait=True, field_name=name, field_type=_TYPES[kind], field_index_params=_parameters(kind)
    )


def _parameters(kind: Kind) -> wire.PayloadIndexParams:
    match kind:
        case Kind.TENANT:
            return wire.PayloadIndexParams(keyword_index_params=wire.KeywordIndexParams(is_tenant=True))
        case Kind.TEXT:
            return wire.PayloadIndexParams(keyword_index_params=wire.KeywordIndexParams(enable_hnsw=False))
        case Kind.PREFIX:
            prefix = wire.KeywordIndexParams(enable_hnsw=False, prefix=wire.KeywordPrefixParams())
            return wire.PayloadIndexParams(keyword_index_params=prefix)
        case Kind.NUMBER:
            return wire.PayloadIndexParams(float_index_params=wire.FloatIndexParams(enable_hnsw=False))
        case Kind.TIME:
            time = wire.IntegerIndexParams(lookup=False, range=True, enable_hnsw=False)
            return wire.PayloadIndexParams(integer_index_params=time)
        case Kind.COUNT:
            count = wire.IntegerIndexParams(lookup=True, range=False, enable_hnsw=False)
            return wire.PayloadIndexParams(integer_index_params=count)


# ---- changes


def upsert(collection: str, field: Field, puts: Sequence[Point]) -> wire.UpsertPoints:
    """Of points with all that is kept of them."""
    scope, identities = scope_name(field), Identities(field)
    structs = [
        wire.PointStruct(
            id=wire.PointId(uuid=identities.of(put.key)),
            payload={name: _value(value) for name, value in points.payload(scope, put).items()},
            vectors=wire.Vectors(vector=wire.Vector(dense=_dense(put.vector))),
        )
        for put in puts
    ]
    return wire.UpsertPoints(collection_name=collection, wait=True, points=structs)


def _value(value: str | int | float) -> wire.Value:
    if isinstance(value, str):
        return wire.Value(string_value=value)
    return wire.Value(integer_value=value) if isinstance(value, int) else wire.Value(double_value=value)


def _dense(vector: Buffer) -> wire.DenseVector:
    """The numbers as they are: eight times as fast as handing them over one by one."""
    length, size = bytearray(), len(vector)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return wire.DenseVector.FromString(b"".join((_DATA_TAG, length, vector)))


def deletion(collection: str, field: Field, gone: Collection[str]) -> wire.DeletePoints:
    """Of the points of these keys."""
    identities = Identities(field)
    ids = wire.PointsIdsList(ids=[wire.PointId(uuid=identities.of(key)) for key in gone])
    return wire.DeletePoints(collection_name=collection, wait=True, points=wire.PointsSelector(points=ids))


def drop(collection: str, field: Field) -> wire.DeletePoints:
    """Of all points of a namespace."""
    return wire.DeletePoints(collection_name=collection, wait=True, points=wire.PointsSelector(filter=_belonging(field)))


def entry(ledger: str, collection: str) -> wire.UpsertPoints:
    """Of a collection's name in a ledger: done twice, it is there once."""
    point = wire.PointStruct(
        id=wire.PointId(uuid=str(uuid.uuid5(_ENTRIES, collection))),
        payload={_ENTRY: wire.Value(string_value=collection)},
        vectors=wire.Vectors(vector=wire.Vector(dense=wire.DenseVector(data=[1.0]))),
    )
    return wire.UpsertPoints(collection_name=ledger, wait=True, points=[point])


# ---- questions


def query(collection: str, vector: Buffer, conditions: Sequence[Condition], effort: Effort, limit: int) -> wire.QueryPoints:
    """For the nearest."""
    quantization = wire.QuantizationSearchParams(rescore=True, oversampling=points.OVERSAMPLING)
    acorn = wire.AcornSearchParams(enable=True, max_selectivity=1.0) if effort.wide else None
    return wire.QueryPoints(
        collection_name=collection,
        query=wire.Query(nearest=wire.VectorInput(dense=_dense(vector))),
        filter=_filter(conditions),
        params=wire.SearchParams(hnsw_ef=effort.beam, quantization=quantization, acorn=acorn),
        limit=limit,
        with_payload=_TOLD,
    )


def count(collection: str, field: Field) -> wire.CountPoints:
    """For how many points a namespace has."""
    return wire.CountPoints(collection_name=collection, filter=_belonging(field), exact=True)


def scroll(collection: str, field: Field, after: str, limit: int) -> wire.ScrollPoints:
    """For a stretch of a namespace's points, in the order of their ids."""
    offset = wire.PointId(uuid=after) if after else None
    return wire.ScrollPoints(collection_name=collection, filter=_belonging(field), offset=offset, limit=limit, with_payload=_TOLD)


def entries(ledger: str, after: str, limit: int) -> wire.ScrollPoints:
    """For a stretch of what a ledger lists."""
    offset = wire.PointId(uuid=after) if after else None
    told = wire.WithPayloadSelector(include=wire.PayloadIncludeSelector(fields=[_ENTRY]))
    return wire.ScrollPoints(collection_name=ledger, offset=offset, limit=limit, with_payload=told)


def entered(point: wire.RetrievedPoint) -> str:
    """The collection that a point of a ledger names."""
    return str(point.payload[_ENTRY].string_value)


def _belonging(field: Field) -> wire.Filter:
    return _filter([Condition("scope", any_of=(scope_name(field),))])


def _filter(conditions: Sequence[Condition]) -> wire.Filter:
    return wire.Filter(must=[wire.Condition(field=_condition(c)) for c in conditions])


def _condition(condition: Condition) -> wire.FieldCondition:
    if condition.prefix:
        return wire.FieldCondition(key=condition.field, match=wire.Match(prefix=condition.prefix))
    if not condition.any_of:
        ends = wire.Range(gt=condition.above, gte=condition.low, lte=condition.high)
        return wire.FieldCondition(key=condition.field, range=ends)
    numbers = [value for value in condition.any_of if isinstance(value, int)]
    words = [value for value in condition.any_of if isinstance(value, str)]
    if numbers:
        return wire.FieldCondition(key=condition.field, match=wire.Match(integers=wire.RepeatedIntegers(integers=numbers)))
    return wire.FieldCondition(key=condition.field, match=wire.Match(keywords=wire.RepeatedStrings(strings=words)))
