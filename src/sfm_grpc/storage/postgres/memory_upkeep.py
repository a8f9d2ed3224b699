"""Memories in Postgres: what comes to its end."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection

from sfm_grpc.model import Scope
from sfm_grpc.storage import statements

SQL = statements.load(__package__, "memory_upkeep.sql")


async def expired(connection: AsyncConnection, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
    """`MemoryTables.expired`."""
    cursor = await connection.execute(SQL["list_expired"], {"now_us": now_us, "limit": limit}, binary=True)
    return [(Scope(tenant, name), key) for tenant, name, key in await cursor.fetchall()]


async def bury(connection: AsyncConnection, before_us: int, limit: int) -> int:
    """`MemoryTables.bury`."""
    row = await (await connection.execute(SQL["bury"], {"before_us": before_us, "limit": limit}, binary=True)).fetchone()
    return int(row[0]) if row else 0
