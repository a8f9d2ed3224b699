"""Memories in Postgres: what comes to its end, and how far an index is."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection

from sfm_grpc.model import Memory, Scope
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.memory_contract import Behind

SQL = statements.load(__package__, "memory_upkeep.sql")


async def expired(connection: AsyncConnection, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
    """`MemoryTables.expired`."""
    cursor = await connection.execute(SQL["list_expired"], {"now_us": now_us, "limit": limit}, binary=True)
    return [(Scope(tenant, name), key) for tenant, name, key in await cursor.fetchall()]


async def bury(connection: AsyncConnection, before_us: int, index: str, limit: int) -> int:
    """`MemoryTables.bury`."""
    asked = {"before_us": before_us, "index": index, "limit": limit}
    row = await (await connection.execute(SQL["bury"], asked, binary=True)).fetchone()
    return int(row[0]) if row else 0


async def behind(connection: AsyncConnection, index: str, limit: int) -> Sequence[Behind]:
    """`MemoryTables.behind`."""
    cursor = await connection.execute(SQL["list_behind"], {"index": index, "limit": limit}, binary=True)
    rows = await cursor.fetchall()
    return [Behind(Scope(tenant, name), memory_columns.space_from(row), indexed) for tenant, name, indexed, *row in rows]


async def indexed(connection: AsyncConnection, scope: Scope, index: str) -> int:
    """`MemoryTables.indexed`."""
    row = await (await connection.execute(SQL["find_indexed"], _named(scope) | {"index": index}, binary=True)).fetchone()
    return int(row[0]) if row else 0


async def take(connection: AsyncConnection, scope: Scope, index: str, owner: str, lasts_s: float) -> Behind | None:
    """`MemoryTables.take_index`."""
    named = _named(scope) | {"index": index}
    asked = named | {"owner": owner, "lasts_us": round(lasts_s * 1e6)}
    async with connection.pipeline():
        await connection.execute(SQL["begin_index"], named)
        cursor = await connection.execute(SQL["take_index"], asked, binary=True)
    row = await cursor.fetchone()
    return Behind(scope, memory_columns.space_from(row[1:]), row[0]) if row else None


async def changed(connection: AsyncConnection, scope: Scope, after: int, limit: int) -> Sequence[Memory]:
    """`MemoryTables.changed`."""
    statement = SQL["list_changed"].format(columns=memory_columns.columns(payloads=False, vectors=True))
    cursor = await connection.execute(statement.encode(), _named(scope) | {"after": after, "limit": limit}, binary=True)
    return [memory_columns.memory_from(row) for row in await cursor.fetchall()]


async def change(connection: AsyncConnection, scope: Scope, how: str, **values: object) -> bool:
    """Changes the row of an index, where it is as the statement says."""
    return (await connection.execute(SQL[how], _named(scope) | values)).rowcount > 0


def _named(scope: Scope) -> dict[str, object]:
    return {"tenant": scope.tenant, "namespace": scope.namespace}
