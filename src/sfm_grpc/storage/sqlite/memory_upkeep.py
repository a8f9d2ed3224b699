"""Memories in SQLite: what comes to its end, and how far an index is."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence

from sfm_grpc.model import Memory, Scope, Space
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.memory_contract import Behind

SQL = statements.load(__package__, "memory_upkeep.sql")
_FIND_SPACE = statements.load(__package__, "memories.sql")["find_space"]


def expired(connection: sqlite3.Connection, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
    """`MemoryTables.expired`."""
    rows = connection.execute(SQL["list_expired"], {"now_us": now_us, "limit": limit})
    return [(Scope(tenant, name), key) for tenant, name, key in rows]


def bury(connection: sqlite3.Connection, before_us: int, index: str, limit: int) -> int:
    """`MemoryTables.bury`. The connection is inside a write transaction."""
    asked = {"before_us": before_us, "index": index, "limit": limit}
    rows = connection.execute(SQL["list_buried"], asked).fetchall()
    connection.executemany(SQL["delete_memory"], [(memory_id,) for memory_id, _ in rows])
    buried = Counter(space_id for _, space_id in rows)
    connection.executemany(SQL["count_down"], [(count, space_id) for space_id, count in buried.items()])
    return len(rows)


def behind(connection: sqlite3.Connection, index: str, limit: int) -> Sequence[Behind]:
    """`MemoryTables.behind`."""
    rows = connection.execute(SQL["list_behind"], {"index": index, "limit": limit})
    return [Behind(Scope(tenant, name), memory_columns.space_from(row), indexed) for tenant, name, indexed, *row in rows]


def indexed(connection: sqlite3.Connection, scope: Scope, index: str) -> int:
    """`MemoryTables.indexed`."""
    named = {"tenant": scope.tenant, "namespace": scope.namespace, "index": index}
    row = connection.execute(SQL["find_indexed"], named).fetchone()
    return int(row[0]) if row else 0


def take(connection: sqlite3.Connection, scope: Scope, index: str, owner: str, lasts_s: float) -> Behind | None:
    """`MemoryTables.take_index`. The connection is inside a write transaction."""
    found = find_space(connection, scope)
    if found is None:
        return None
    space_id, space = found
    place = {"space_id": space_id, "index": index}
    connection.execute(SQL["begin_index"], place)
    taken = connection.execute(SQL["take_index"], place | {"owner": owner} | _times(lasts_s)).rowcount
    return Behind(scope, space, indexed(connection, scope, index)) if taken else None


def changed(connection: sqlite3.Connection, scope: Scope, after: int, limit: int) -> Sequence[Memory]:
    """`MemoryTables.changed`."""
    found = find_space(connection, scope)
    if found is None:
        return []
    statement = SQL["list_changed"].format(columns=memory_columns.columns(payloads=False, vectors=True))
    asked = {"space_id": found[0], "after": after, "limit": limit}
    return [memory_columns.memory_from(row) for row in connection.execute(statement, asked)]


def change(connection: sqlite3.Connection, scope: Scope, how: str, **values: object) -> bool:
    """Changes the row of an index, where it is as the statement says. The connection is inside a write transaction."""
    found = find_space(connection, scope)
    return found is not None and connection.execute(SQL[how], values | {"space_id": found[0]}).rowcount > 0


def until_us(lasts_s: float) -> int:
    """When what begins now and lasts so long ends."""
    return _times(lasts_s)["until_us"]


def _times(lasts_s: float) -> dict[str, int]:
    now_us = time.time_ns() // 1000
    return {"now_us": now_us, "until_us": now_us + round(lasts_s * 1e6)}


def find_space(connection: sqlite3.Connection, scope: Scope) -> tuple[int, Space] | None:
    """A namespace's row."""
    row = connection.execute(_FIND_SPACE, {"tenant": scope.tenant, "namespace": scope.namespace}).fetchone()
    return (row[0], memory_columns.space_from(row[1:])) if row else None
