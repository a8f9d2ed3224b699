"""Links from one memory to another, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection

from sfm_grpc.errors import NotFound
from sfm_grpc.model import Link, LinkName, LinkQuery, Scope
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.memory_columns import Parameters
from sfm_grpc.storage.memory_writes import WriteLink, WriteUnlink
from sfm_grpc.storage.postgres.spaces import named

SQL = statements.load(__package__, "links.sql")


def asked_for(scope: Scope, names: Sequence[LinkName]) -> dict[str, object]:
    """What `find_links` asks for: which of these are there."""
    sources, link_types, targets = zip(*names, strict=True)
    return named(scope) | {"sources": list(sources), "link_types": list(link_types), "targets": list(targets)}


async def write(connection: AsyncConnection, number: int, written: WriteLink | WriteUnlink, time_us: int) -> None:
    """Sends what was decided of a link."""
    values: dict[str, object] = dict(zip(("source", "link_type", "target"), written.name, strict=True), space_id=number)
    if isinstance(written, WriteLink):
        times = {"create_time_us": written.create_time_us, "update_time_us": time_us}
        await connection.execute(SQL["put_link"], values | times | {"weight": written.weight})
    else:
        await connection.execute(SQL["delete_link"], values)


async def cut(connection: AsyncConnection, number: int, keys: Sequence[str]) -> None:
    """Sends that all links of these memories go."""
    await connection.execute(SQL["cut_links"], {"space_id": number, "keys": list(keys)})


async def listed(connection: AsyncConnection, scope: Scope, query: LinkQuery) -> Sequence[Link]:
    """`MemoryTables.links`."""
    asked = {"key": query.key, "now_us": query.now_us}
    row = await (await connection.execute(SQL["find_living"], named(scope) | asked, binary=True)).fetchone()
    if row is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    if row[1] is None:
        raise NotFound(what="memory", namespace=scope.namespace, names=(query.key,))
    parameters = Parameters("%({})s", space_id=row[0], limit=query.limit, **asked)
    statement = memory_columns.links(SQL["list_links"], query, parameters)
    rows = await (await connection.execute(statement.encode(), parameters.values, binary=True)).fetchall()
    return [memory_columns.link_from(each) for each in rows]
