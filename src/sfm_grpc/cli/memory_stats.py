"""`sfm memory stats`: how much there is of each type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfm_grpc.cli import memory_filters
from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import MemoryTypeStats


@connected
def stats(
    connection: Connection,
    *,
    ns: NamespaceName,
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
    """Count the memories of each type. All of them are looked at."""
    from sfm_grpc.cli import output

    asked = memory_filters.chosen(
        prefix=prefix,
        types=memory_type,
        importance=(min_importance, max_importance),
        created=(created_after, created_before),
        updated=(updated_after, updated_before),
        box=box,
    )
    with connection.open() as client:
        found = client.namespace(ns).memories.stats(**asked)
    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, "types": found})
        return
    columns = ("Type", "Memories >", "Vectors >", "Payloads >", "Expiring >", "Importance", "Oldest", "Written")
    output.print_table(columns, map(_row, found))


def _row(one: MemoryTypeStats) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    importance = f"{one.importance_min:g} to {one.importance_max:g}, mean {one.importance_mean:.4g}"
    times = output.time_of(one.oldest_time), output.time_of(one.newest_time)
    return one.memory_type, one.memories, one.vectors, output.size_of(one.payload_bytes), one.expiring, importance, *times
