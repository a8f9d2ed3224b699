"""Links from one memory to another, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from sfm_grpc.errors import NotFound
from sfm_grpc.model import Link, LinkName, LinkQuery, Scope
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.memory_columns import Parameters
from sfm_grpc.storage.memory_writes import WriteLink, WriteUnlink
from sfm_grpc.storage.sqlite import spaces

SQL = statements.load(__package__, "links.sql")


def find(connection: sqlite3.Connection, number: int, names: Iterable[LinkName]) -> dict[LinkName, int]:
    """When those of these links that are there were made."""
    rows = [(name, connection.execute(SQL["find_link"], (number, *name)).fetchone()) for name in names]
    return {name: row[0] for name, row in rows if row is not None}


def write(connection: sqlite3.Connection, number: int, written: WriteLink | WriteUnlink, time_us: int) -> None:
    """Writes what was decided of a link."""
    values: dict[str, object] = dict(zip(("source", "link_type", "target"), written.name, strict=True), space_id=number)
    if isinstance(written, WriteLink):
        times = {"create_time_us": written.create_time_us, "update_time_us": time_us}
        connection.execute(SQL["put_link"], values | times | {"weight": written.weight})
    else:
        connection.execute(SQL["delete_link"], values)


def cut(connection: sqlite3.Connection, number: int, key: str) -> None:
    """Takes away all links of a memory."""
    for statement in ("delete_links_from", "delete_links_to"):
        connection.execute(SQL[statement], {"space_id": number, "key": key})


def listed(connection: sqlite3.Connection, scope: Scope, query: LinkQuery) -> Sequence[Link]:
    """`MemoryTables.links`."""
    space = spaces.needed(connection, scope)
    asked = {"space_id": space.number, "key": query.key, "now_us": query.now_us}
    if connection.execute(SQL["find_living"], asked).fetchone() is None:
        raise NotFound(what="memory", namespace=scope.namespace, names=(query.key,))
    parameters = Parameters(":{}", limit=query.limit, **asked)
    statement = memory_columns.links(SQL["list_links"], query, parameters)
    return [memory_columns.link_from(row) for row in connection.execute(statement, parameters.values)]
