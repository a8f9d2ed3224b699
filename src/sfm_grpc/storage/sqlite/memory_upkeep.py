"""Memories in SQLite: what comes to its end."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from sfm_grpc.model import Scope
from sfm_grpc.storage import statements

SQL = statements.load(__package__, "memory_upkeep.sql")


def expired(connection: sqlite3.Connection, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
    """`MemoryTables.expired`."""
    rows = connection.execute(SQL["list_expired"], {"now_us": now_us, "limit": limit})
    return [(Scope(tenant, name), key) for tenant, name, key in rows]


def bury(connection: sqlite3.Connection, before_us: int, limit: int) -> int:
    """`MemoryTables.bury`. The connection is inside a write transaction."""
    rows = connection.execute(SQL["list_buried"], {"before_us": before_us, "limit": limit}).fetchall()
    for memory_id, number, key in rows:
        connection.execute(SQL["delete_links_of"], {"space_id": number, "key": key})
        connection.execute(SQL["delete_memory"], (memory_id,))
    buried = Counter(number for _, number, _ in rows)
    connection.executemany(SQL["count_down"], [(count, number) for number, count in buried.items()])
    return len(rows)
