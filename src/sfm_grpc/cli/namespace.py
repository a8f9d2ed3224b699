"""`sfm namespace create`, `list` and `describe`: namespaces as their memories make them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import Memories, NamespaceInfo

_PAGE_SIZE = 500


@connected
def create(
    connection: Connection,
    *,
    ns: NamespaceName,
    dimension: Annotated[
        int, typer.Option(min=0, metavar="D", help="How many numbers its vectors have; 0: as many as the first one.")
    ] = 0,
    distance: Annotated[
        str, typer.Option(metavar="DISTANCE", help="How vectors are compared: cosine, dot or euclidean.")
    ] = "cosine",
    as_json: Json = False,
) -> None:
    """Create a namespace for memories. One that is the same already is left alone.

    The first put creates one too: with the dimension of its vector, and cosine.
    """
    from sfm_grpc.cli import output

    said: Any = distance
    with connection.open() as client:
        done = client.create_namespace(ns, dimension, said)
    if as_json:
        output.print_json({"tenant": connection.tenant, **output.plain(done)})
        return
    print(f"{output.clean(ns)} {'existed already, the same' if done.existed else 'is created'}")
    output.print_facts(_facts(done.namespace))


@connected
def list_namespaces(connection: Connection, *, as_json: Json = False) -> None:
    """List the tenant's namespaces that have memories, or were created."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        found = list(client.namespaces(page_size=_PAGE_SIZE))
    if as_json:
        output.print_json({"tenant": connection.tenant, "namespaces": found})
        return
    columns = ("Namespace ~", "Memories >", "Vectors >", "Dimension >", "Distance", "Payloads >", "Revision >", "Written")
    output.print_table(columns, map(_row, found))


def _row(info: NamespaceInfo) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    dimension = info.dimension or ""
    payloads, written = output.size_of(info.payload_bytes), output.time_of(info.update_time)
    return info.name, info.memories, info.vectors, dimension, info.distance, payloads, info.revision, written


@connected
def describe(connection: Connection, *, ns: NamespaceName, as_json: Json = False) -> None:
    """Show what is known of a namespace's memories as a whole."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        memories = client.namespace(ns).memories
        info = memories.describe()
        indexed = _indexed(memories, info)
    if as_json:
        revision = indexed if isinstance(indexed, int) else None
        output.print_json({"tenant": connection.tenant, **output.plain(info), "indexed_revision": revision})
        return
    output.print_facts([("namespace", info.name), *_facts(info), ("index", _index(indexed, info))])


def _indexed(memories: Memories, info: NamespaceInfo) -> int | str:
    """How far the index is, as a search says; why nobody knows, if it cannot."""
    from sfm_grpc.client import IndexUnavailable

    try:
        # Any vector will do. Without a dimension there is none yet, and nothing to index.
        return memories.search([1.0] * info.dimension, 1).indexed_revision if info.dimension else info.revision
    except IndexUnavailable as error:
        return error.problem


def _index(indexed: int | str, info: NamespaceInfo) -> str:
    if isinstance(indexed, str):
        return f"not available: {indexed}"
    return "has every write" if indexed >= info.revision else f"has the writes up to revision {indexed}"


def _facts(info: NamespaceInfo) -> Iterator[tuple[str, Any]]:
    from sfm_grpc.cli import output

    yield "dimension", info.dimension or "the first vector's"
    yield "distance", info.distance
    yield "memories", f"{info.memories}, {info.vectors} of them with a vector"
    mean = f", {output.size_of(round(info.payload_bytes / info.memories))} on average" if info.memories else ""
    yield "payloads", output.size_of(info.payload_bytes) + mean
    if info.vectors:
        yield "vectors", output.size_of(4 * info.dimension * info.vectors)
    yield "deleted", f"{info.tombstones} still kept"
    yield "revision", info.revision
    yield "created", output.time_of(info.create_time)
    yield "written", output.time_of(info.update_time)
