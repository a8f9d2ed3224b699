"""Memories in Postgres: the questions, and the part of the one write path that is about them.

A write is two round trips: one that locks the namespace's row and looks, one that writes and commits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import AsyncConnection

from sfm_grpc.model import (
    CommitResult,
    Distance,
    Event,
    Link,
    LinkQuery,
    Memory,
    MemoryFilter,
    MemoryQuery,
    MemoryWrites,
    Part,
    Scope,
    Space,
    Transaction,
    TypeStats,
)
from sfm_grpc.storage import codec, decisions, memory_columns, statements
from sfm_grpc.storage.decisions import Remembered
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
from sfm_grpc.storage.postgres import links, memory_upkeep, spaces
from sfm_grpc.storage.postgres.runs import Runs
from sfm_grpc.storage.postgres.spaces import named

SQL = statements.load(__package__, "memories.sql")
# A statement has its time, whatever the transaction has.
_MARKS_AT_ONCE = 5_000
_FIND_REQUEST = statements.load(__package__, "commit.sql")["find_request"]


class PostgresMemories:
    """`storage.memory_contract.MemoryTables` on a Postgres database."""

    def __init__(self, run: Runs) -> None:
        self._run = run

    async def space(self, scope: Scope) -> Space | None:
        """See the contract."""
        return await self._run(lambda c: spaces.find(c, scope))

    async def spaces(self, tenant: str, *, after: str, limit: int) -> Sequence[tuple[str, Space]]:
        """See the contract."""
        return await self._run(lambda c: spaces.listed(c, tenant, after, limit))

    async def create_space(self, scope: Scope, dimension: int, distance: Distance, time_us: int) -> tuple[Space, bool]:
        """See the contract."""
        return await self._run(lambda c: spaces.created(c, scope, dimension, distance, time_us))

    async def get(self, scope: Scope, keys: Collection[str], *, now_us: int, vectors: bool) -> Sequence[Memory]:
        """See the contract."""
        statement = SQL["get"].format(columns=memory_columns.columns(payloads=True, vectors=vectors))
        asked = named(scope) | {"keys": list(keys), "now_us": now_us}
        return [memory_columns.memory_from(row) for row in await self._run(lambda c: _rows(c, statement, asked))]

    async def page(self, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
        """See the contract."""
        return await self._run(lambda c: _page(c, scope, query))

    async def links(self, scope: Scope, query: LinkQuery) -> Sequence[Link]:
        """See the contract."""
        return await self._run(lambda c: links.listed(c, scope, query))

    async def stats(self, scope: Scope, wanted: MemoryFilter, now_us: int) -> Sequence[TypeStats]:
        """See the contract."""
        return await self._run(lambda c: _stats(c, scope, wanted, now_us))

    # ---- what comes to its end

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.expired(c, now_us, limit))

    async def bury(self, before_us: int, limit: int) -> int:
        """See the contract."""
        return await self._run(lambda c: memory_upkeep.bury(c, before_us, limit))

    async def clear_dropped(self) -> int:
        """See the contract."""
        return await self._run(spaces.clear_dropped)


async def _page(connection: AsyncConnection, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
    space = await spaces.needed(connection, scope)
    parameters = Parameters("%({})s", space_id=space.number, now_us=query.now_us, limit=query.limit)
    statement = memory_columns.page(SQL["page"], query, parameters)
    return [memory_columns.memory_from(row) for row in await _filtered(connection, statement, parameters.values)]


async def _stats(connection: AsyncConnection, scope: Scope, wanted: MemoryFilter, now_us: int) -> Sequence[TypeStats]:
    space = await spaces.needed(connection, scope)
    parameters = Parameters("%({})s", space_id=space.number, now_us=now_us)
    statement = memory_columns.stats(SQL["list_stats"], wanted, parameters)
    return [TypeStats(*row) for row in await _filtered(connection, statement, parameters.values)]


async def _filtered(connection: AsyncConnection, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
    """Planned each time: which index serves depends on the values, and a plan for any takes namespaces to be of one size."""
    return await (await connection.execute(statement.encode(), values, prepare=False, binary=True)).fetchall()


async def _rows(connection: AsyncConnection, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement.encode(), values, binary=True)).fetchall()


async def known(connection: AsyncConnection, scope: Scope, keys: Sequence[str]) -> Mapping[str, Known]:
    """What is known of these keys, living or not."""
    rows = await _rows(connection, SQL["find_known"], named(scope) | {"keys": list(keys)})
    return {key: Known(*facts) for key, *facts in rows}


# ---- the one write path, inside a transaction


@dataclass(frozen=True, slots=True)
class Looked:
    """What Postgres says, the namespace's row being locked."""

    remembered: Remembered | None
    space: Space | None
    """Its row, also of one that was dropped."""
    held: Held


async def lock(connection: AsyncConnection, t: Transaction, asked: MemoryWrites) -> Looked:
    """Locks the namespace's row, where there is one, and looks; one round trip."""
    scope, names, found = named(t.scope), asked.links, None
    async with connection.pipeline():
        locked = await connection.execute(spaces.SQL["lock_space"].encode(), scope, binary=True)
        if t.request is not None:
            request = {"method": t.request.method, "request_id": t.request.request_id}
            found = await connection.execute(_FIND_REQUEST, scope | request, binary=True)
        known = await connection.execute(SQL["find_known"], scope | {"keys": list(asked.keys)}, binary=True)
        linked = (
            await connection.execute(links.SQL["find_links"], links.asked_for(t.scope, names), binary=True) if names else None
        )
    row = await locked.fetchone()
    remembered = await found.fetchone() if found is not None else None
    held = Held(
        {key: Known(*facts) for key, *facts in await known.fetchall()},
        {(source, kind, target): made for source, kind, target, made in await linked.fetchall()} if linked is not None else {},
    )
    return Looked(
        Remembered(*remembered) if remembered else None,
        memory_columns.space_from(row) if row else None,
        # Somebody may have made the namespace between the first and the second of these looks, unlocked: it is not seen then.
        held if row else Held({}),
    )


async def write(connection: AsyncConnection, number: int, decided: Decided) -> None:
    """Sends what was decided. For a pipeline: nothing is waited for."""
    after = replace(decided.space, number=number)
    if any(isinstance(each, WriteDrop) for each in decided.writes):
        await spaces.drop(connection, after)
        return
    await spaces.advance(connection, after)
    whole = [w for w in decided.writes if isinstance(w, WritePut) and w.put.parts == Part.ALL]
    if whole:
        columns = zip(*[memory_columns.whole_of(w) for w in whole], strict=True)
        arrays = [list(column) if any(value is not None for value in column) else None for column in columns]
        await connection.execute(SQL["put"], [number, decided.time_us, *arrays])
    for each in () if len(whole) == len(decided.writes) else decided.writes:
        if isinstance(each, WriteLink | WriteUnlink):
            await links.write(connection, number, each, decided.time_us)
        elif isinstance(each, WritePut):
            if each.put.parts != Part.ALL:
                await _write_parts(connection, number, each, decided.time_us)
        elif isinstance(each, WriteErase):
            await _write_erased(connection, number, each, decided.time_us)
    await _write_marks(connection, number, [w for w in decided.writes if isinstance(w, WriteMark)], decided.time_us)
    begun = [w.put.key for w in decided.writes if isinstance(w, WritePut) and w.anew]
    if cut := begun + [w.key for w in decided.writes if isinstance(w, WriteErase)]:
        await links.cut(connection, number, cut)


async def _write_parts(connection: AsyncConnection, number: int, written: WritePut, time_us: int) -> None:
    values = memory_columns.values_of_parts(written.put)
    parts = ", ".join(f"{name} = %({name})s" for name in values)
    place = {"space_id": number, "key": written.put.key, "revision": written.revision, "update_time_us": time_us}
    await connection.execute(SQL["put_parts"].format(parts=parts).encode(), values | place)


async def _write_marks(connection: AsyncConnection, number: int, marks: Sequence[WriteMark], time_us: int) -> None:
    for start in range(0, len(marks), _MARKS_AT_ONCE):
        some = marks[start : start + _MARKS_AT_ONCE]
        columns = {
            "keys": [m.key for m in some],
            "revisions": [m.revision for m in some],
            "delete_times_us": [m.delete_time_us for m in some],
        }
        # Planned each time: a plan for any number of keys reads the whole namespace.
        await connection.execute(SQL["mark"], {"space_id": number, "update_time_us": time_us, **columns}, prepare=False)


async def _write_erased(connection: AsyncConnection, number: int, written: WriteErase, time_us: int) -> None:
    values = {"space_id": number, "key": written.key, "revision": written.revision, "update_time_us": time_us}
    await connection.execute(SQL["erase"], values | {"delete_time_us": written.delete_time_us})


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
        "memories": decisions.kept_of_memories(done),
    }
    await connection.execute(SQL["remember_request"], named(t.scope) | request)


async def tell(connection: AsyncConnection, scope: Scope, event: Event, about: int, time_us: int, *, place: int) -> None:
    """Sends an event that is not of the version; `place` is its own among the transaction's, where that makes one from 1."""
    told = {
        "place": place,
        "topic": event.topic,
        "payload": codec.to_json(event.payload),
        "about": about,
        "commit_time_us": time_us,
    }
    await connection.execute(SQL["insert_event"], named(scope) | told)
