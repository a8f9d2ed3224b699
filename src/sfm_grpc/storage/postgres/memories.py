"""Memories in Postgres: the questions, and the part of the one write path that is about them.

A write is two round trips: one that locks the namespace's row and looks, one that writes and commits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from psycopg import AsyncConnection

from sfm_grpc.errors import AlreadyExists, NotFound
from sfm_grpc.model import (
    CommitResult,
    Distance,
    Event,
    Memory,
    MemoryQuery,
    MemoryWrites,
    Part,
    PutMemory,
    Scope,
    Space,
    Transaction,
)
from sfm_grpc.storage import codec, memories, memory_columns, statements
from sfm_grpc.storage.decisions import Remembered
from sfm_grpc.storage.memories import Decided, Known, WriteErase, WriteMark, WritePut, receipts_to_bytes
from sfm_grpc.storage.memory_contract import Behind
from sfm_grpc.storage.postgres import memory_upkeep

SQL = statements.load(__package__, "memories.sql")
_FIND_REQUEST = statements.load(__package__, "commit.sql")["find_request"]

_T = TypeVar("_T")


class Runs(Protocol):
    """Runs work on a connection that nobody else uses meanwhile."""

    async def __call__(self, work: Callable[[AsyncConnection], Awaitable[_T]], /) -> _T:
        """What `work` returns."""


class PostgresMemories:
    """`storage.memory_contract.MemoryTables` on a Postgres database."""

    def __init__(self, run: Runs) -> None:
        self._run = run

    async def space(self, scope: Scope) -> Space | None:
        """See the contract."""
        found = await self._run(lambda c: _find_space(c, scope))
        return found[1] if found else None

    async def spaces(self, tenant: str, *, after: str, limit: int) -> Sequence[tuple[str, Space]]:
        """See the contract."""
        asked = {"tenant": tenant, "after": after, "limit": limit}
        rows = await self._run(lambda c: _rows(c, SQL["list_spaces"], asked))
        return [(name, memory_columns.space_from(row)) for name, *row in rows]

    async def create_space(self, scope: Scope, dimension: int, distance: Distance, time_us: int) -> tuple[Space, bool]:
        """See the contract."""
        return await self._run(lambda c: _create_space(c, scope, dimension, distance, time_us))

    async def get(self, scope: Scope, keys: Collection[str], *, now_us: int, vectors: bool) -> Sequence[Memory]:
        """See the contract."""
        statement = SQL["get"].format(columns=memory_columns.columns(payloads=True, vectors=vectors))
        asked = _named(scope) | {"keys": list(keys), "now_us": now_us}
        return [memory_columns.memory_from(row) for row in await self._run(lambda c: _rows(c, statement, asked))]

    async def page(self, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
        """See the contract."""
        return await self._run(lambda c: _page(c, scope, query))

    # ---- what comes to its end

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.expired(c, now_us, limit))

    async def bury(self, before_us: int, index: str, limit: int) -> int:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.bury(c, before_us, index, limit))

    # ---- the index behind

    async def behind(self, index: str, limit: int) -> Sequence[Behind]:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.behind(c, index, limit))

    async def indexed(self, scope: Scope, index: str) -> int:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.indexed(c, scope, index))

    async def take_index(self, scope: Scope, index: str, owner: str, *, lasts_s: float) -> Behind | None:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.take(c, scope, index, owner, lasts_s))

    async def changed(self, scope: Scope, *, after: int, limit: int) -> Sequence[Memory]:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.changed(c, scope, after, limit))

    async def advance_index(self, scope: Scope, index: str, owner: str, revision: int, *, lasts_s: float) -> bool:
        """See the contract."""
        values = {"index": index, "owner": owner, "revision": revision, "lasts_us": round(lasts_s * 1e6)}
        return await self._run(lambda c: memory_upkeep.change(c, scope, "advance_index", **values))

    async def release_index(self, scope: Scope, index: str, owner: str) -> None:
        """See the contract."""
        await self._run(lambda c: memory_upkeep.change(c, scope, "release_index", index=index, owner=owner))

    async def forget_index(self, scope: Scope, index: str) -> None:
        """See the contract."""
        await self._run(lambda c: memory_upkeep.change(c, scope, "forget_index", index=index))


async def _create_space(
    connection: AsyncConnection, scope: Scope, dimension: int, distance: Distance, time_us: int
) -> tuple[Space, bool]:
    new = {"dimension": dimension, "distance": distance, "time_us": time_us}
    async with connection.transaction():
        cursor = await connection.execute(SQL["create_space"], _named(scope) | new)
        created = await cursor.fetchone() is not None
        row = await (await connection.execute(SQL["lock_space"], _named(scope), binary=True)).fetchone()
        assert row is not None, "it was there, or was made"
        space = memory_columns.space_from(row[1:])
        if (space.dimension, space.distance) == (dimension, distance):
            return space, not created
        if space.dimension:
            raise AlreadyExists(what="namespace", namespace=scope.namespace)
        await connection.execute(SQL["fix_space"], {"space_id": row[0], "dimension": dimension, "distance": distance})
        return replace(space, dimension=dimension, distance=distance), True


async def _page(connection: AsyncConnection, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
    found = await _find_space(connection, scope)
    if found is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    values: dict[str, object] = {"space_id": found[0], "now_us": query.now_us, "limit": query.limit}

    def bind(value: object) -> str:
        values[f"p{len(values)}"] = value
        return f"%(p{len(values) - 1})s"

    statement = SQL["page"].format(
        columns=memory_columns.columns(payloads=query.payloads, vectors=query.vectors),
        chosen=memory_columns.chosen(query, bind),
        order=memory_columns.order(query),
    )
    return [memory_columns.memory_from(row) for row in await _rows(connection, statement, values)]


async def _find_space(connection: AsyncConnection, scope: Scope) -> tuple[int, Space] | None:
    rows = await _rows(connection, SQL["find_space"], _named(scope))
    return (rows[0][0], memory_columns.space_from(rows[0][1:])) if rows else None


async def _rows(connection: AsyncConnection, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement.encode(), values, binary=True)).fetchall()


# ---- the one write path, inside a transaction


@dataclass(frozen=True, slots=True)
class Looked:
    """What Postgres says, the namespace's row being locked."""

    remembered: Remembered | None
    space_id: int | None
    space: Space | None
    known: Mapping[str, Known]


async def lock(connection: AsyncConnection, t: Transaction, asked: MemoryWrites) -> Looked:
    """Locks the namespace's row, where there is one, and looks; one round trip."""
    named = _named(t.scope)
    async with connection.pipeline():
        locked = await connection.execute(SQL["lock_space"], named, binary=True)
        request = None
        if t.request is not None:
            names = {"method": t.request.method, "request_id": t.request.request_id}
            request = await connection.execute(_FIND_REQUEST, named | names, binary=True)
        keys = {"keys": [c.key for c in asked.changes]}
        held = await connection.execute(SQL["find_known"], named | keys, binary=True)
    row = await locked.fetchone()
    found = await request.fetchone() if request is not None else None
    return Looked(
        Remembered(*found) if found else None,
        row[0] if row else None,
        memory_columns.space_from(row[1:]) if row else None,
        {key: Known(*facts) for key, *facts in await held.fetchall()} if row else {},
    )


async def create(connection: AsyncConnection, t: Transaction) -> int | None:
    """Makes the namespace's row; None: somebody else has, and it must be locked."""
    new = {"dimension": 0, "distance": memories.EMPTY.distance, "time_us": t.time_us}
    row = await (await connection.execute(SQL["create_space"], _named(t.scope) | new)).fetchone()
    return row[0] if row else None


async def write(connection: AsyncConnection, space_id: int, decided: Decided) -> None:
    """Sends what was decided. For a pipeline: nothing is waited for."""
    after = decided.space
    row = {name: getattr(after, name) for name in Space.__slots__ if name not in ("distance", "create_time_us")}
    await connection.execute(SQL["advance_space"], row | {"space_id": space_id})
    whole = [w for w in decided.writes if isinstance(w, WritePut) and w.put.parts == Part.ALL]
    if whole:
        await connection.cursor().executemany(SQL["put"], [_row(space_id, w, decided.time_us) for w in whole])
    for each in decided.writes:
        place = {"space_id": space_id, "revision": each.revision, "update_time_us": decided.time_us}
        if isinstance(each, WritePut):
            if each.put.parts != Part.ALL:
                await _write_parts(connection, each.put, place)
        else:
            statement = {WriteMark: "mark", WriteErase: "erase"}[type(each)]
            await connection.execute(SQL[statement], place | {"key": each.key, "delete_time_us": each.delete_time_us})


async def remember(connection: AsyncConnection, t: Transaction, done: CommitResult) -> None:
    """Sends the request of a transaction that makes no version."""
    if t.request is None:
        return
    request = {
        "method": t.request.method,
        "request_id": t.request.request_id,
        "content_digest": t.request.content_digest,
        "commit_time_us": done.commit_time_us,
        "receipt": t.receipt,
        "time_us": t.time_us,
        "memories": receipts_to_bytes(done.memories),
    }
    await connection.execute(SQL["remember_request"], _named(t.scope) | request)


async def tell(connection: AsyncConnection, t: Transaction, event: Event, about: int, time_us: int) -> None:
    """Sends the event that is about memories."""
    told = {"topic": event.topic, "payload": codec.to_json(event.payload), "about": about, "commit_time_us": time_us}
    await connection.execute(SQL["insert_event"], _named(t.scope) | told)


def _row(space_id: int, written: WritePut, time_us: int) -> tuple[object, ...]:
    put = written.put
    times = (written.create_time_us, time_us, put.expire_time_us)
    facts = (put.memory_type, put.importance, *memory_columns.coordinates_of(put))
    return space_id, put.key, written.revision, *times, *facts, put.digest, put.payload, put.vector


async def _write_parts(connection: AsyncConnection, put: PutMemory, place: dict[str, int]) -> None:
    values = memory_columns.values_of_parts(put)
    parts = ", ".join(f"{name} = %({name})s" for name in values)
    await connection.execute(SQL["put_parts"].format(parts=parts).encode(), values | place | {"key": put.key})


def _named(scope: Scope) -> dict[str, object]:
    return {"tenant": scope.tenant, "namespace": scope.namespace}
