"""Memories in SQLite: the questions, and the part of the one write path that is about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import orjson

from sfm_grpc.errors import AlreadyExists, NotFound
from sfm_grpc.model import Distance, Memory, MemoryQuery, MemoryReceipt, MemoryWrites, Part, PutMemory, Scope, Space
from sfm_grpc.storage import memories, memory_columns, statements
from sfm_grpc.storage.memories import Decided, Known, WriteErase, WriteMark, WritePut
from sfm_grpc.storage.memory_contract import Behind
from sfm_grpc.storage.sqlite import memory_upkeep
from sfm_grpc.storage.sqlite.runs import Runs

SQL = statements.load(__package__, "memories.sql")


class SqliteMemories:
    """`storage.memory_contract.MemoryTables` on one file."""

    def __init__(self, read: Runs, transact: Runs) -> None:
        self._read = read
        self._transact = transact

    async def space(self, scope: Scope) -> Space | None:
        """See the contract."""
        found = await self._read(lambda c: memory_upkeep.find_space(c, scope))
        return found[1] if found else None

    async def spaces(self, tenant: str, *, after: str, limit: int) -> Sequence[tuple[str, Space]]:
        """See the contract."""
        asked = {"tenant": tenant, "after": after, "limit": limit}
        rows = await self._read(lambda c: c.execute(SQL["list_spaces"], asked).fetchall())
        return [(name, memory_columns.space_from(row)) for name, *row in rows]

    async def create_space(self, scope: Scope, dimension: int, distance: Distance, time_us: int) -> tuple[Space, bool]:
        """See the contract."""
        return await self._transact(lambda c: _create_space(c, scope, dimension, distance, time_us))

    async def get(self, scope: Scope, keys: Collection[str], *, now_us: int, vectors: bool) -> Sequence[Memory]:
        """See the contract."""
        statement = SQL["get"].format(columns=memory_columns.columns(payloads=True, vectors=vectors))
        asked = _named(scope) | {"keys": orjson.dumps(list(keys)).decode(), "now_us": now_us}
        return await self._read(lambda c: [memory_columns.memory_from(row) for row in c.execute(statement, asked)])

    async def page(self, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
        """See the contract."""
        return await self._read(lambda c: _page(c, scope, query))

    # ---- what comes to its end

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
        """See the contract."""
        return await self._read(lambda c: memory_upkeep.expired(c, now_us, limit))

    async def bury(self, before_us: int, index: str, limit: int) -> int:
        """See the contract."""
        return await self._transact(lambda c: memory_upkeep.bury(c, before_us, index, limit))

    # ---- the index behind

    async def behind(self, index: str, limit: int) -> Sequence[Behind]:
        """See the contract."""
        return await self._read(lambda c: memory_upkeep.behind(c, index, limit))

    async def indexed(self, scope: Scope, index: str) -> int:
        """See the contract."""
        return await self._read(lambda c: memory_upkeep.indexed(c, scope, index))

    async def take_index(self, scope: Scope, index: str, owner: str, *, lasts_s: float) -> Behind | None:
        """See the contract."""
        return await self._transact(lambda c: memory_upkeep.take(c, scope, index, owner, lasts_s))

    async def changed(self, scope: Scope, *, after: int, limit: int) -> Sequence[Memory]:
        """See the contract."""
        return await self._read(lambda c: memory_upkeep.changed(c, scope, after, limit))

    async def advance_index(self, scope: Scope, index: str, owner: str, revision: int, *, lasts_s: float) -> bool:
        """See the contract."""
        values = {"index": index, "owner": owner, "revision": revision, "until_us": memory_upkeep.until_us(lasts_s)}
        return await self._transact(lambda c: memory_upkeep.change(c, scope, "advance_index", **values))

    async def release_index(self, scope: Scope, index: str, owner: str) -> None:
        """See the contract."""
        await self._transact(lambda c: memory_upkeep.change(c, scope, "release_index", index=index, owner=owner))

    async def forget_index(self, scope: Scope, index: str) -> None:
        """See the contract."""
        await self._transact(lambda c: memory_upkeep.change(c, scope, "forget_index", index=index))


def _create_space(
    connection: sqlite3.Connection, scope: Scope, dimension: int, distance: Distance, time_us: int
) -> tuple[Space, bool]:
    found = memory_upkeep.find_space(connection, scope)
    if found is None:
        asked = {"dimension": dimension, "distance": distance, "time_us": time_us}
        connection.execute(SQL["create_space"], _named(scope) | asked)
        return replace(
            memories.EMPTY, dimension=dimension, distance=distance, create_time_us=time_us, update_time_us=time_us
        ), False
    space_id, space = found
    if (space.dimension, space.distance) == (dimension, distance):
        return space, True
    if space.dimension:
        raise AlreadyExists(what="namespace", namespace=scope.namespace)
    connection.execute(SQL["fix_space"], {"space_id": space_id, "dimension": dimension, "distance": distance})
    return replace(space, dimension=dimension, distance=distance), True


def _page(connection: sqlite3.Connection, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
    found = memory_upkeep.find_space(connection, scope)
    if found is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    values: dict[str, object] = {"space_id": found[0], "now_us": query.now_us, "limit": query.limit}

    def bind(value: object) -> str:
        values[f"p{len(values)}"] = value
        return f":p{len(values) - 1}"

    statement = SQL["page"].format(
        columns=memory_columns.columns(payloads=query.payloads, vectors=query.vectors),
        chosen=memory_columns.chosen(query, bind),
        order=memory_columns.order(query),
    )
    return [memory_columns.memory_from(row) for row in connection.execute(statement, values)]


# ---- the one write path


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be written, and where."""

    space_id: int | None
    """None: the namespace is new."""
    decided: Decided

    @property
    def receipts(self) -> tuple[MemoryReceipt, ...]:
        """What is told of it."""
        return self.decided.receipts


def prepare(connection: sqlite3.Connection, scope: Scope, asked: MemoryWrites, time_us: int) -> Prepared:
    """Decides what a transaction's memories become. Raises as `storage.memories.decide`."""
    found = memory_upkeep.find_space(connection, scope)
    space_id, space = found or (None, None)
    known = {}
    if space_id is not None:
        for change in asked.changes:
            row = connection.execute(SQL["find_known"], (space_id, change.key)).fetchone()
            if row is not None:
                revision, digest, payload_bytes, has_vector, *times = row
                known[change.key] = Known(revision, digest, payload_bytes, bool(has_vector), *times)
    return Prepared(space_id, memories.decide(scope, asked.changes, space, known, time_us))


def write(connection: sqlite3.Connection, scope: Scope, prepared: Prepared) -> None:
    """Writes what was decided."""
    decided, space_id = prepared.decided, prepared.space_id
    after = decided.space
    if space_id is None:
        new = {"dimension": after.dimension, "distance": after.distance, "time_us": decided.time_us}
        space_id = connection.execute(SQL["create_space"], _named(scope) | new).lastrowid
    row = {name: getattr(after, name) for name in Space.__slots__ if name not in ("distance", "create_time_us")}
    connection.execute(SQL["advance_space"], row | {"space_id": space_id})
    assert space_id is not None
    whole = [w for w in decided.writes if isinstance(w, WritePut) and w.put.parts == Part.ALL]
    connection.executemany(SQL["put"], [_row(space_id, w, decided.time_us) for w in whole])
    for each in decided.writes:
        place = {"space_id": space_id, "revision": each.revision, "update_time_us": decided.time_us}
        if isinstance(each, WritePut):
            if each.put.parts != Part.ALL:
                _write_parts(connection, each.put, place)
        else:
            statement = {WriteMark: "mark", WriteErase: "erase"}[type(each)]
            connection.execute(SQL[statement], place | {"key": each.key, "delete_time_us": each.delete_time_us})


def _row(space_id: int, written: WritePut, time_us: int) -> tuple[object, ...]:
    put = written.put
    times = (written.create_time_us, time_us, put.expire_time_us)
    facts = (put.memory_type, put.importance, *memory_columns.coordinates_of(put))
    return space_id, put.key, written.revision, *times, *facts, put.digest, put.payload, put.vector


def _write_parts(connection: sqlite3.Connection, put: PutMemory, place: dict[str, int]) -> None:
    values = memory_columns.values_of_parts(put)
    parts = ", ".join(f"{name} = :{name}" for name in values)
    connection.execute(SQL["put_parts"].format(parts=parts), values | place | {"key": put.key})


def _named(scope: Scope) -> dict[str, object]:
    return {"tenant": scope.tenant, "namespace": scope.namespace}
