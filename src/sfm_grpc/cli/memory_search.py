"""`sfm memory search`: the memories that are nearest to a vector, or to a memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli import memory_filters
from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import CommandError
from sfm_grpc.cli.memory_reads import plain, shortened
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    import numpy as np

    from sfm_grpc.client import Memories, Neighbour


@connected
def search(
    connection: Connection,
    *,
    ns: NamespaceName,
    vector_file: Annotated[
        Path | None,
        typer.Option(
            "--vector-file", "--vector", metavar="FILE.npy|-", help="What to be near to; -: from stdin. JSON is fine, too."
        ),
    ] = None,
    like: Annotated[str | None, typer.Option(metavar="KEY", help="Near to this memory, which is not shown itself.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most this many.")] = 10,
    prefix: memory_filters.Prefix = "",
    memory_type: memory_filters.Types = None,
    min_importance: memory_filters.MinImportance = None,
    max_importance: memory_filters.MaxImportance = None,
    created_after: memory_filters.CreatedAfter = None,
    created_before: memory_filters.CreatedBefore = None,
    updated_after: memory_filters.UpdatedAfter = None,
    updated_before: memory_filters.UpdatedBefore = None,
    box: memory_filters.Box = None,
    as_json: Json = False,
) -> None:
    """Find the memories whose vectors are nearest.

    The index follows the writes: what was put a moment ago may not be found yet, and a line says so.
    """
    if (vector_file is None) == (like is None):
        raise CommandError("say either --vector-file or --like")
    asked = memory_filters.chosen(
        prefix=prefix,
        types=memory_type,
        importance=(min_importance, max_importance),
        created=(created_after, created_before),
        updated=(updated_after, updated_before),
        box=box,
    )
    vector = None if vector_file is None else _read(vector_file)
    with connection.open() as client:
        memories = client.namespace(ns).memories
        if vector is None:
            vector = _vector_of(memories, like or "")
        # One more, as the nearest to a memory is that memory itself.
        result = memories.search(vector, limit + (like is not None), **asked)
    found = [n for n in result if n.memory.key != like][:limit]
    revisions = {"indexed_revision": result.indexed_revision, "newest_revision": result.newest_revision}
    _print({"namespace": ns, "tenant": connection.tenant, **revisions}, found, as_json=as_json)


def _read(path: Path) -> np.ndarray[Any, Any]:
    from sfm_grpc.cli.files import read_vector

    return read_vector(path)


def _vector_of(memories: Memories, key: str) -> np.ndarray[Any, Any]:
    vector = memories.get(key, with_vector=True).vector
    if vector is None:
        raise CommandError(f"memory {key!r} has no vector: nothing is near to it")
    return vector


def _print(about: dict[str, Any], found: list[Neighbour], *, as_json: bool) -> None:
    from sfm_grpc.cli import output

    if as_json:
        output.print_json({**about, "neighbours": [{"score": n.score, **plain(n.memory)} for n in found]})
        return
    output.print_table(("Key", "Score >", "Type", "Importance >", "Payload ~"), map(_row, found))
    indexed, newest = about["indexed_revision"], about["newest_revision"]
    if indexed < newest:
        output.say(f"the index is at revision {indexed} of {newest}: what was written after it is not found yet")


def _row(neighbour: Neighbour) -> tuple[object, ...]:
    memory = neighbour.memory
    return memory.key, f"{neighbour.score:.4f}", memory.memory_type, memory.importance, shortened(memory.payload_json)
