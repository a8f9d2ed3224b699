"""Namespaces of memories in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from sfm_grpc.errors import NotFound
from sfm_grpc.model import Distance, Scope, Space
from sfm_grpc.storage import memories, memory_columns, statements

SQL = statements.load(__package__, "spaces.sql", space=memory_columns.SPACE)

_ROWS_AT_ONCE = 500


def row(connection: sqlite3.Connection, scope: Scope) -> Space | None:
    """A namespace's row, also of one that was dropped."""
    found = connection.execute(SQL["find_space"], named(scope)).fetchone()
    return memory_columns.space_from(found) if found else None


def find(connection: sqlite3.Connection, scope: Scope) -> Space | None:
    """A namespace that is there."""
    found = row(connection, scope)
    return found if found is not None and found.exists else None


def needed(connection: sqlite3.Connection, scope: Scope) -> Space:
    """A namespace that is there. Raises NotFound."""
    found = find(connection, scope)
    if found is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    return found


def listed(connection: sqlite3.Connection, tenant: str, after: str, limit: int) -> Sequence[tuple[str, Space]]:
    """`MemoryTables.spaces`."""
    rows = connection.execute(SQL["list_spaces"], {"tenant": tenant, "after": after, "limit": limit})
    return [(name, memory_columns.space_from(each)) for name, *each in rows]


def count_expired(connection: sqlite3.Connection, scope: Scope, now_us: int) -> int:
    """How many memories have expired, and are counted still."""
    count: int = connection.execute(SQL["count_expired"], named(scope) | {"now_us": now_us}).fetchone()[0]
    return count


def create(connection: sqlite3.Connection, scope: Scope, new: Space) -> int:
    """Makes a namespace's row; its number."""
    values = named(scope) | memory_columns.row_of(new)
    number: int = connection.execute(SQL["create_space"], values).fetchone()[0]
    return number


def created(connection: sqlite3.Connection, scope: Scope, dimension: int, distance: Distance, time_us: int) -> tuple[Space, bool]:
    """`MemoryTables.create_space`. The connection is inside a write transaction."""
    found = row(connection, scope)
    made, existed = memories.created(scope, found, dimension, distance, time_us)
    if found is None:
        return replace(made, number=create(connection, scope, made)), existed
    if made != found:
        advance(connection, made)
    return made, existed


def advance(connection: sqlite3.Connection, after: Space) -> None:
    """Makes a namespace's row so."""
    connection.execute(SQL["advance_space"], memory_columns.row_of(after))


def drop(connection: sqlite3.Connection, scope: Scope, after: Space) -> None:
    """Gives a namespace's row, which is as it was, another number; what is under the old one is to be taken away."""
    connection.execute(SQL["drop_space"], {"space_id": after.number, "drop_time_us": after.update_time_us})
    connection.execute(SQL["delete_space"], {"space_id": after.number})
    create(connection, scope, after)


def clear_dropped(connection: sqlite3.Connection) -> int:
    """`MemoryTables.clear_dropped`. The connection is inside a write transaction."""
    cleared = 0
    for (number,) in connection.execute(SQL["list_dropped"], {"limit": _ROWS_AT_ONCE}).fetchall():
        place = {"space_id": number, "limit": _ROWS_AT_ONCE - cleared}
        for statement in ("delete_memories", "delete_links"):
            cleared += connection.execute(SQL[statement], place).rowcount
            place["limit"] = _ROWS_AT_ONCE - cleared
        if cleared >= _ROWS_AT_ONCE:
            break
        connection.execute(SQL["delete_refused"], place)
        connection.execute(SQL["end_dropped"], place)
    return cleared


def named(scope: Scope) -> dict[str, object]:
    """A namespace's name, as statements ask for it."""
    return {"tenant": scope.tenant, "namespace": scope.namespace}
