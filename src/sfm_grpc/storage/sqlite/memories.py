"""Memories in SQLite: the questions, and the part of the one write path that is about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import replace

import orjson

from sfm_grpc.model import (
    Distance,
    Link,
    LinkQuery,
    Memory,
    MemoryFilter,
    MemoryQuery,
    MemoryWrites,
    Part,
    Scope,
    Space,
    TypeStats,
)
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.memories import is_near_limit
from sfm_grpc.storage.memory_columns import Parameters
from sfm_grpc.storage.memory_writes import (
    Decided,
    Held,
    Known,
    WriteDrop,
    WriteErase,
    WriteLink,
    WriteMark,
    WritePut,
    WriteUnlink,
)
from sfm_grpc.storage.sqlite import links, memory_upkeep, spaces
from sfm_grpc.storage.sqlite.runs import Runs

SQL = statements.load(__package__, "memories.sql")

# A row of the statement `put`; `delete_time_us` is the one that is not said.
_ROW = f"(0, {', '.join(['?'] * 20)})"
_PUT = SQL["put"].format(rows=_ROW)
# Many rows in one step of SQLite: it lets the GIL go once for all of them, and does not wait for it after each.
_ROWS_AT_ONCE = 50
_PUT_MANY = SQL["put"].format(rows=", ".join([_ROW] * _ROWS_AT_ONCE))


class SqliteMemories:
    """`storage.memory_contract.MemoryTables` on one file."""

    def __init__(self, read: Runs, transact: Runs) -> None:
        self._read = read
        self._transact = transact

    async def space(self, scope: Scope) -> Space | None:
        """See the contract."""
        return await self._read(lambda c: spaces.find(c, scope))

    async def spaces(self, tenant: str, *, after: str, limit: int) -> Sequence[tuple[str, Space]]:
        """See the contract."""
        return await self._read(lambda c: spaces.listed(c, tenant, after, limit))

    async def create_space(self, scope: Scope, dimension: int, distance: Distance, time_us: int) -> tuple[Space, bool]:
        """See the contract."""
        return await self._transact(lambda c: spaces.created(c, scope, dimension, distance, time_us))

    async def get(self, scope: Scope, keys: Collection[str], *, now_us: int, vectors: bool) -> Sequence[Memory]:
        """See the contract."""
        statement = SQL["get"].format(columns=memory_columns.columns(payloads=True, vectors=vectors))
        asked = spaces.named(scope) | {"keys": orjson.dumps(list(keys)).decode(), "now_us": now_us}
        return await self._read(lambda c: [memory_columns.memory_from(row) for row in c.execute(statement, asked)])

    async def page(self, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
        """See the contract."""
        return await self._read(lambda c: _page(c, scope, query))

    async def links(self, scope: Scope, query: LinkQuery) -> Sequence[Link]:
        """See the contract."""
        return await self._read(lambda c: links.listed(c, scope, query))

    async def stats(self, scope: Scope, wanted: MemoryFilter, now_us: int) -> Sequence[TypeStats]:
        """See the contract."""
        return await self._read(lambda c: _stats(c, scope, wanted, now_us))

    # ---- what comes to its end

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
        """See the contract."""
        return await self._read(lambda c: memory_upkeep.expired(c, now_us, limit))

    async def bury(self, before_us: int, limit: int) -> int:
        """See the contract."""
        return await self._transact(lambda c: memory_upkeep.bury(c, before_us, limit))

    async def clear_dropped(self) -> int:
        """See the contract."""
        return await self._transact(spaces.clear_dropped)


def _page(connection: sqlite3.Connection, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
    space = spaces.needed(connection, scope)
    parameters = Parameters(":{}", space_id=space.number, now_us=query.now_us, limit=query.limit)
    statement = memory_columns.page(SQL["page"], query, parameters)
    return [memory_columns.memory_from(row) for row in connection.execute(statement, parameters.values)]


def _stats(connection: sqlite3.Connection, scope: Scope, wanted: MemoryFilter, now_us: int) -> Sequence[TypeStats]:
    space = spaces.needed(connection, scope)
    parameters = Parameters(":{}", space_id=space.number, now_us=now_us)
    statement = memory_columns.stats(SQL["list_stats"], wanted, parameters)
    return [TypeStats(*row) for row in connection.execute(statement, parameters.values)]


# ---- the one write path


def look(connection: sqlite3.Connection, scope: Scope, asked: MemoryWrites, time_us: int) -> tuple[Space | None, Held]:
    """A namespace's row, also of one that was dropped, and what it holds of what a transaction is about."""
    space = spaces.row(connection, scope)
    if space is None:
        return None, Held({})
    held = _held(connection, space.number, asked)
    if is_near_limit(space, asked.changes):
        held = replace(held, expired=spaces.count_expired(connection, scope, time_us))
    return space, held


def _held(connection: sqlite3.Connection, number: int, asked: MemoryWrites) -> Held:
    return Held(known(connection, number, asked.keys), links.find(connection, number, asked.links))


def known(connection: sqlite3.Connection, number: int, keys: Sequence[str]) -> dict[str, Known]:
    """What is known of these keys, living or not."""
    asked = {"space_id": number, "keys": orjson.dumps(keys).decode()}
    return {
        key: Known(revision, digest, payload_bytes, bool(has_vector), *times)
        for key, revision, digest, payload_bytes, has_vector, *times in connection.execute(SQL["list_known"], asked)
    }


def write(connection: sqlite3.Connection, scope: Scope, decided: Decided) -> None:
    """Writes what was decided."""
    number = decided.space.number or spaces.create(connection, scope, decided.space)
    after = replace(decided.space, number=number)
    if any(isinstance(each, WriteDrop) for each in decided.writes):
        spaces.drop(connection, scope, after)
        return
    spaces.advance(connection, after)
    whole = [w for w in decided.writes if isinstance(w, WritePut) and w.put.parts == Part.ALL]
    _write_whole(connection, [(number, decided.time_us, *memory_columns.whole_of(w)) for w in whole])
    for each in decided.writes:
        if isinstance(each, WriteLink | WriteUnlink):
            links.write(connection, number, each, decided.time_us)
        elif isinstance(each, WritePut):
            if each.put.parts != Part.ALL:
                _write_parts(connection, number, each, decided.time_us)
            if each.anew:
                links.cut(connection, number, each.put.key)
        elif isinstance(each, WriteMark | WriteErase):
            _write_end(connection, number, each, decided.time_us)


def _write_whole(connection: sqlite3.Connection, rows: Sequence[memory_columns.Row]) -> None:
    many = len(rows) - len(rows) % _ROWS_AT_ONCE
    for begin in range(0, many, _ROWS_AT_ONCE):
        connection.execute(_PUT_MANY, [value for row in rows[begin : begin + _ROWS_AT_ONCE] for value in row])
    connection.executemany(_PUT, rows[many:])


def _write_parts(connection: sqlite3.Connection, number: int, written: WritePut, time_us: int) -> None:
    values = memory_columns.values_of_parts(written.put)
    parts = ", ".join(f"{name} = :{name}" for name in values)
    place = {"space_id": number, "key": written.put.key, "revision": written.revision, "update_time_us": time_us}
    connection.execute(SQL["put_parts"].format(parts=parts), values | place)


def _write_end(connection: sqlite3.Connection, number: int, written: WriteMark | WriteErase, time_us: int) -> None:
    values = {"space_id": number, "key": written.key, "revision": written.revision, "update_time_us": time_us}
    statement = "mark" if isinstance(written, WriteMark) else "erase"
    connection.execute(SQL[statement], values | {"delete_time_us": written.delete_time_us})
    if isinstance(written, WriteErase):
        links.cut(connection, number, written.key)
