"""Prunes in Postgres: the questions, and the part of the one write path that is about them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from psycopg import AsyncConnection

from sfm_grpc.model import (
    Event,
    MemoryLimit,
    PlanState,
    Prune,
    PruneAudit,
    PruneItem,
    PrunePlan,
    Scope,
    Space,
    Transaction,
    Undoable,
)
from sfm_grpc.storage import memory_columns, prune_columns, statements
from sfm_grpc.storage.memory_writes import Known
from sfm_grpc.storage.postgres import memories, spaces
from sfm_grpc.storage.postgres.runs import Runs
from sfm_grpc.storage.postgres.spaces import named
from sfm_grpc.storage.prune_columns import Row
from sfm_grpc.storage.prunes import LookedPrune, WritePrune

SQL = statements.load(__package__, "prunes.sql", plan=prune_columns.PLAN, space=memory_columns.SPACE)


class PostgresPrunes:
    """`storage.prune_contract.PruneTables` on a Postgres database."""

    def __init__(self, run: Runs) -> None:
        self._run = run

    async def space(self, scope: Scope, now_us: int) -> Space:
        """See the contract."""
        return await self._run(lambda c: _space(c, scope, now_us))

    async def look(self, scope: Scope, keys: Sequence[str], now_us: int) -> tuple[Space, Mapping[str, Known]]:
        """See the contract."""
        return await self._run(lambda c: _look(c, scope, keys, now_us))

    async def least(self, scope: Scope, keep: int, limit: int, now_us: int) -> tuple[Space, int, Sequence[PruneItem]]:
        """See the contract."""
        return await self._run(lambda c: _least(c, scope, keep, limit, now_us))

    async def keep_plan(self, plan: PrunePlan, event: Event | None) -> PrunePlan:
        """See the contract."""
        return await self._run(lambda c: _keep_plan(c, plan, event))

    async def plan(self, scope: Scope, plan_id: str, *, items: bool) -> PrunePlan | None:
        """See the contract."""
        return await self._run(lambda c: _plan(c, scope, plan_id, items=items))

    async def plans(
        self, tenant: str, namespace: str, state: PlanState | None, *, now_us: int, before: tuple[int, str] | None, limit: int
    ) -> Sequence[PrunePlan]:
        """See the contract."""
        asked = prune_columns.listing(tenant, namespace, state, now_us=now_us, before=before, limit=limit)
        return [prune_columns.plan_from(row) for row in await self._run(lambda c: _rows(c, "list_plans", asked))]

    async def audits(self, scope: Scope, *, after: int, limit: int) -> Sequence[PruneAudit]:
        """See the contract."""
        asked = named(scope) | {"after": after, "limit": limit}
        return [prune_columns.audit_from(row) for row in await self._run(lambda c: _rows(c, "list_audits", asked))]

    async def undoable(self, scope: Scope, number: int) -> Undoable | None:
        """See the contract."""
        asked = named(scope) | {"number": number}
        rows = await self._run(lambda c: _rows(c, "find_undo", asked))
        return prune_columns.undoable_from(rows[0]) if rows else None

    async def forget(self, now_us: int, plans_before_us: int) -> int:
        """See the contract."""
        return await self._run(lambda c: _forget(c, now_us, plans_before_us))

    async def set_limit(self, scope: Scope, limit: MemoryLimit, now_us: int) -> Space:
        """See the contract."""
        return await self._run(lambda c: _set_limit(c, scope, limit, now_us))

    async def over_limit(self, *, after: Scope | None, limit: int) -> Sequence[tuple[Scope, Space]]:
        """See the contract."""
        asked = named(after or Scope("", "")) | {"limit": limit}
        rows = await self._run(lambda c: _rows(c, "list_over_limit", asked))
        return [(Scope(tenant, name), memory_columns.space_from(row)) for tenant, name, *row in rows]


@contextlib.asynccontextmanager
async def _one_look(connection: AsyncConnection) -> AsyncIterator[None]:
    """What is asked inside is true of one moment: a fallback that counts before a sweep and chooses after it takes too many."""
    async with connection.transaction():
        await connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


async def _rows(connection: AsyncConnection, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
    return await (await connection.execute(SQL[statement].encode(), values, binary=True)).fetchall()


async def _space(connection: AsyncConnection, scope: Scope, now_us: int) -> Space:
    async with _one_look(connection):
        return await _counted(connection, scope, now_us)


async def _counted(connection: AsyncConnection, scope: Scope, now_us: int) -> Space:
    """The namespace, without what has expired. Inside one look."""
    space = await spaces.needed(connection, scope)
    return replace(space, memories=space.memories - await spaces.count_expired(connection, scope, now_us))


async def _look(connection: AsyncConnection, scope: Scope, keys: Sequence[str], now_us: int) -> tuple[Space, Mapping[str, Known]]:
    async with _one_look(connection):
        return await _counted(connection, scope, now_us), await memories.known(connection, scope, keys)


async def _least(
    connection: AsyncConnection, scope: Scope, keep: int, limit: int, now_us: int
) -> tuple[Space, int, Sequence[PruneItem]]:
    async with _one_look(connection):
        space = await _counted(connection, scope, now_us)
        asked = {"space_id": space.number, "now_us": now_us, "limit": min(limit, max(0, space.memories - keep))}
        return space, *prune_columns.items_from(await _rows(connection, "list_least", asked))


async def _plan(connection: AsyncConnection, scope: Scope, plan_id: str, *, items: bool) -> PrunePlan | None:
    rows = await _rows(connection, "find_plan", named(scope) | {"plan_id": plan_id, "items": items})
    return prune_columns.plan_from(rows[0]) if rows else None


async def _keep_plan(connection: AsyncConnection, plan: PrunePlan, event: Event | None) -> PrunePlan:
    async with connection.transaction():
        if not await (await connection.execute(SQL["insert_plan"].encode(), prune_columns.row_of(plan))).fetchone():
            found = await _plan(connection, plan.scope, plan.plan_id, items=True)
            assert found is not None, "its id is of its namespace"
            return found
        if event is not None:
            await memories.tell(connection, plan.scope, event, 0, plan.create_time_us, place=0)
    return plan


async def _forget(connection: AsyncConnection, now_us: int, plans_before_us: int) -> int:
    gone = (await connection.execute(SQL["forget_undo"].encode(), {"now_us": now_us})).rowcount
    return gone + (await connection.execute(SQL["forget_plans"].encode(), {"before_us": plans_before_us})).rowcount


async def _set_limit(connection: AsyncConnection, scope: Scope, limit: MemoryLimit, now_us: int) -> Space:
    number = (await spaces.needed(connection, scope)).number
    await connection.execute(SQL["set_limit"].encode(), prune_columns.limit_of(number, limit))
    return await _space(connection, scope, now_us)


# ---- the one write path, inside a transaction


async def look(connection: AsyncConnection, t: Transaction) -> LookedPrune | None:
    """What there is of the transaction's prune; None: it has none. Two round trips."""
    if t.prune is None:
        return None
    place = prune_columns.place(t, t.prune)
    async with connection.pipeline():
        cursors = [await connection.execute(SQL[name].encode(), place, binary=True) for name in prune_columns.LOOKS]
    expired = await spaces.count_expired(connection, t.scope, t.time_us)
    return prune_columns.looked(t.prune, [await cursor.fetchone() for cursor in cursors], expired)


async def write(connection: AsyncConnection, t: Transaction, prune: Prune, made: WritePrune) -> None:
    """Sends what is kept of it. For a pipeline: nothing is waited for."""
    for statement, values in prune_columns.written(t, prune, made):
        await connection.execute(SQL[statement].encode(), values)
