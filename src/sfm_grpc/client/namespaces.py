"""Namespaces as MemoryStore knows them: records, and what is sent for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias, Unpack, cast

from sfm.v1 import memory_pb2, memory_store_pb2

from sfm_grpc.client.cache import Kept
from sfm_grpc.client.convert import believed, us_of
from sfm_grpc.client.flows import new_request_id
from sfm_grpc.client.memory_convert import sendable
from sfm_grpc.client.memory_records import WriteOptions
from sfm_grpc.client.records import moment
from sfm_grpc.client.steps import Call, Flow
from sfm_grpc.errors import InvalidRequest

DistanceName: TypeAlias = Literal["cosine", "dot", "euclidean", "unknown"]

CREATE_NAMESPACE = "/sfm.v1.MemoryStore/CreateNamespace"
GET_NAMESPACE = "/sfm.v1.MemoryStore/GetNamespace"
LIST_NAMESPACES = "/sfm.v1.MemoryStore/ListNamespaces"
DELETE_NAMESPACE = "/sfm.v1.MemoryStore/DeleteNamespace"
METHODS = (CREATE_NAMESPACE, GET_NAMESPACE, LIST_NAMESPACES, DELETE_NAMESPACE)

_DISTANCES: Mapping[DistanceName, memory_pb2.Distance.ValueType] = {
    "cosine": memory_pb2.DISTANCE_COSINE,
    "dot": memory_pb2.DISTANCE_DOT,
    "euclidean": memory_pb2.DISTANCE_EUCLIDEAN,
}
_NAMES = {value: name for name, value in _DISTANCES.items()}


@dataclass(frozen=True, slots=True)
class RefusedVector:
    """A memory that cannot be found by its vector, as the index does not take it."""

    key: str
    revision: int
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """What is known of a namespace's memories as a whole."""

    name: str
    dimension: int
    """Of its vectors; 0: the first vector will fix it."""
    distance: DistanceName
    """How they are compared. `cosine` and `dot`: larger is nearer; `euclidean`: smaller is."""
    revision: int
    """The newest that was given; 0: nothing was ever put."""
    memories: int
    """How many live."""
    vectors: int
    """How many of these have a vector."""
    payload_bytes: int
    tombstones: int
    """Deleted memories that are still kept."""
    create_time: datetime
    update_time: datetime
    indexed_revision: int | None = None
    """The vector index has every write up to this one; None: not asked, only `describe` tells it."""
    refused: tuple[RefusedVector, ...] = ()
    """At most 100 memories whose vectors the index does not take; only `describe` tells them."""


@dataclass(frozen=True, slots=True)
class CreatedNamespace:
    """The answer to a creation."""

    namespace: NamespaceInfo
    existed: bool
    """It was there already, with the same dimension and distance."""


@dataclass(frozen=True, slots=True)
class DeletedNamespace:
    """The answer to a deletion."""

    revision: int
    """That it took; 0: there were no memories. A namespace of this name goes on after it."""
    version: int
    """Of its matrices now, which holds none; 0: there were none before."""
    replayed: bool
    """The request id had been used with the same content: this is the first answer again."""
    request_id: str


@dataclass(frozen=True, slots=True)
class NamespacePage:
    """One page of the tenant's namespaces."""

    namespaces: tuple[NamespaceInfo, ...]
    """By name, in the order of the UTF-8 bytes."""
    next_page_token: str
    """Empty on the last page."""


def create(name: str, dimension: int, distance: DistanceName, timeout_s: float) -> Flow[CreatedNamespace]:
    """Creates a namespace; one that is the same already is no error."""
    if distance not in _DISTANCES:
        raise InvalidRequest(field="distance", problem=f"{distance!r} is none of {', '.join(_DISTANCES)}")
    with sendable("request"):
        request = memory_store_pb2.CreateNamespaceRequest(
            namespace=name, dimension=dimension, distance=_DISTANCES[distance]
        ).SerializeToString()
    reply = cast(bytes, (yield Call(CREATE_NAMESPACE, request, timeout_s)))
    with believed("CreateNamespace"):
        response = memory_store_pb2.CreateNamespaceResponse.FromString(reply)
        return CreatedNamespace(_info(response.namespace), response.existed)


def describe(name: str, timeout_s: float) -> Flow[NamespaceInfo]:
    """One namespace."""
    with sendable("namespace"):
        request = memory_store_pb2.GetNamespaceRequest(namespace=name).SerializeToString()
    reply = cast(bytes, (yield Call(GET_NAMESPACE, request, timeout_s)))
    with believed("GetNamespace"):
        found = memory_store_pb2.GetNamespaceResponse.FromString(reply).namespace
        refused = tuple(RefusedVector(r.key, r.revision, r.reason, moment(us_of(r.time))) for r in found.refused)
        return replace(_info(found), indexed_revision=found.indexed_revision, refused=refused)


def delete(
    kept: Kept, name: str, confirm: str, if_revision: int | None, client_timeout_s: float, **options: Unpack[WriteOptions]
) -> Flow[DeletedNamespace]:
    """Deletes a namespace with all that is in it."""
    given = options.get("request_id")
    request_id = new_request_id() if given is None else given
    with sendable("request"):
        request = memory_store_pb2.DeleteNamespaceRequest(
            namespace=name,
            confirm=confirm,
            if_revision=if_revision,
            request_id=request_id,
            validate_only=options.get("validate_only", False),
        ).SerializeToString()
    timeout_s = options.get("timeout_s")
    reply = cast(bytes, (yield Call(DELETE_NAMESPACE, request, client_timeout_s if timeout_s is None else timeout_s)))
    with believed("DeleteNamespace"):
        done = memory_store_pb2.DeleteNamespaceResponse.FromString(reply)
    if not options.get("validate_only"):
        kept.saw(name, done.version)
    return DeletedNamespace(done.revision, done.version, done.replayed, request_id)


def page(page_size: int, page_token: str, timeout_s: float) -> Flow[NamespacePage]:
    """A page of the tenant's namespaces."""
    with sendable("page_size"):
        request = memory_store_pb2.ListNamespacesRequest(page_size=page_size, page_token=page_token).SerializeToString()
    reply = cast(bytes, (yield Call(LIST_NAMESPACES, request, timeout_s)))
    with believed("ListNamespaces"):
        response = memory_store_pb2.ListNamespacesResponse.FromString(reply)
        return NamespacePage(tuple(map(_info, response.namespaces)), response.next_page_token)


def _info(m: memory_store_pb2.Namespace) -> NamespaceInfo:
    return NamespaceInfo(
        name=m.name,
        dimension=m.dimension,
        distance=_NAMES.get(m.distance, "unknown"),
        revision=m.revision,
        memories=m.memories,
        vectors=m.vectors,
        payload_bytes=m.payload_bytes,
        tombstones=m.tombstones,
        create_time=moment(us_of(m.create_time)),
        update_time=moment(us_of(m.update_time)),
    )
