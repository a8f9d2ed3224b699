"""Namespaces of memories in Postgres."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection

from sfm_grpc.errors import NotFound
from sfm_grpc.model import Distance, Scope, Space
from sfm_grpc.storage import memories, memory_columns, statements

SQL = statements.load(__package__, "spaces.sql", space=memory_columns.SPACE)

_ROWS_AT_ONCE = 500


async def find(connection: AsyncConnection, scope: Scope) -> Space | None:
    """A namespace that is there."""
    row = await (await connection.execute(SQL["find_space"].encode(), named(scope), binary=True)).fetchone()
    return memory_columns.space_from(row) if row else None


async def needed(connection: AsyncConnection, scope: Scope) -> Space:
    """A namespace that is there. Raises NotFound."""
    found = await find(connection, scope)
    if found is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    return found


async def listed(connection: AsyncConnection, tenant: str, after: str, limit: int) -> Sequence[tuple[str, Space]]:
    """`MemoryTables.spaces`."""
    asked = {"tenant": tenant, "after": after, "limit": limit}
    rows = await (await connection.execute(SQL["list_spaces"].encode(), asked, binary=True)).fetchall()
    return [(name, memory_columns.space_from(row)) for name, *row in rows]


async def count_expired(connection: AsyncConnection, scope: Scope, now_us: int) -> int:
    """How many memories have expired, and are counted still."""
    asked = named(scope) | {"now_us": now_us}
    row = await (await connection.execute(SQL["count_expired"].encode(), asked, binary=True)).fetchone()
    return int(row[0]) if row else 0


async def create(connection: AsyncConnection, scope: Scope) -> int | None:
    """Makes a namespace's row, which is to be advanced; its number. None: somebody else has, and it must be locked."""
    new = named(scope) | {"distance": memories.EMPTY.distance}
    row = await (await connection.execute(SQL["create_space"].encode(), new)).fetchone()
    return row[0] if row else None


async def created(
    connection: AsyncConnection, scope: Scope, dimension: int, distance: Distance, time_us: int
) -> tuple[Space, bool]:
    """`MemoryTables.create_space`."""
    async with connection.transaction():
        await create(connection, scope)
        row = await (await connection.execute(SQL["lock_space"].encode(), named(scope), binary=True)).fetchone()
        assert row is not None, "it was there, or was made"
        found = memory_columns.space_from(row)
        made, existed = memories.created(scope, found, dimension, distance, time_us)
        if made != found:
            await advance(connection, made)
        return made, existed


async def advance(connection: AsyncConnection, after: Space) -> None:
    """Makes a namespace's row so."""
    await connection.execute(SQL["advance_space"].encode(), memory_columns.row_of(after))


async def drop(connection: AsyncConnection, after: Space) -> None:
    """Gives a namespace's row, which is as it was, another number; what is under the old one is to be taken away."""
    await connection.execute(SQL["drop_space"].encode(), {"space_id": after.number, "drop_time_us": after.update_time_us})
    await advance(connection, after)
    await connection.execute(SQL["renumber_space"].encode(), {"space_id": after.number})


async def clear_dropped(connection: AsyncConnection) -> int:
    """`MemoryTables.clear_dropped`."""
    row = await (await connection.execute(SQL["clear_dropped"].encode(), {"limit": _ROWS_AT_ONCE})).fetchone()
    cleared = int(row[0]) if row else 0
    if not cleared:
        await connection.execute(SQL["end_dropped"].encode())
    return cleared


def named(scope: Scope) -> dict[str, object]:
    """A namespace's name, as statements ask for it."""
    return {"tenant": scope.tenant, "namespace": scope.namespace}
