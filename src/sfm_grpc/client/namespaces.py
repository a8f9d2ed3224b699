"""Namespaces as MemoryStore knows them: records, and what is sent for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, cast

from sfm.v1 import memory_pb2, memory_store_pb2

from sfm_grpc.client.convert import believed, us_of
from sfm_grpc.client.memory_convert import sendable
from sfm_grpc.client.records import moment
from sfm_grpc.client.steps import Call, Flow
from sfm_grpc.errors import InvalidRequest

DistanceName: TypeAlias = Literal["cosine", "dot", "euclidean", "unknown"]

CREATE_NAMESPACE = "/sfm.v1.MemoryStore/CreateNamespace"
GET_NAMESPACE = "/sfm.v1.MemoryStore/GetNamespace"
LIST_NAMESPACES = "/sfm.v1.MemoryStore/ListNamespaces"
METHODS = (CREATE_NAMESPACE, GET_NAMESPACE, LIST_NAMESPACES)

_DISTANCES: Mapping[DistanceName, memory_pb2.Distance.ValueType] = {
    "cosine": memory_pb2.DISTANCE_COSINE,
    "dot": memory_pb2.DISTANCE_DOT,
    "euclidean": memory_pb2.DISTANCE_EUCLIDEAN,
}
_NAMES = {value: name for name, value in _DISTANCES.items()}


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


@dataclass(frozen=True, slots=True)
class CreatedNamespace:
    """The answer to a creation."""

    namespace: NamespaceInfo
    existed: bool
    """It was there already, with the same dimension and distance."""


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
        return _info(memory_store_pb2.GetNamespaceResponse.FromString(reply).namespace)


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
