"""Prunes in SQLite: the questions, and the part of the one write path that is about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from sfm_grpc.storage import codec, memory_columns, prune_columns, statements
from sfm_grpc.storage.memory_writes import Known
from sfm_grpc.storage.prunes import LookedPrune, WritePrune
from sfm_grpc.storage.sqlite import memories, spaces
from sfm_grpc.storage.sqlite.runs import Runs
from sfm_grpc.storage.sqlite.spaces import named

SQL = statements.load(__package__, "prunes.sql", plan=prune_columns.PLAN, space=memory_columns.SPACE)
_INSERT_EVENT = statements.load(__package__, "commit.sql")["insert_event"]


class SqlitePrunes:
    """`storage.prune_contract.PruneTables` on one file."""

    def __init__(self, read: Runs, transact: Runs) -> None:
        self._read = read
        self._transact = transact

    async def space(self, scope: Scope, now_us: int) -> Space:
        """See the contract."""
        return await self._read(lambda c: _space(c, scope, now_us))

    async def look(self, scope: Scope, keys: Sequence[str], now_us: int) -> tuple[Space, Mapping[str, Known]]:
        """See the contract."""
        return await self._read(lambda c: _look(c, scope, keys, now_us))

    async def least(self, scope: Scope, keep: int, limit: int, now_us: int) -> tuple[Space, int, Sequence[PruneItem]]:
        """See the contract."""
        return await self._read(lambda c: _least(c, scope, keep, limit, now_us))

    async def keep_plan(self, plan: PrunePlan, event: Event | None) -> PrunePlan:
        """See the contract."""
        return await self._transact(lambda c: _keep_plan(c, plan, event))

    async def plan(self, scope: Scope, plan_id: str, *, items: bool) -> PrunePlan | None:
        """See the contract."""
        return await self._read(lambda c: _plan(c, scope, plan_id, items=items))

    async def plans(
        self, tenant: str, namespace: str, state: PlanState | None, *, now_us: int, before: tuple[int, str] | None, limit: int
    ) -> Sequence[PrunePlan]:
        """See the contract."""
        asked = prune_columns.listing(tenant, namespace, state, now_us=now_us, before=before, limit=limit)
        return await self._read(lambda c: [prune_columns.plan_from(row) for row in c.execute(SQL["list_plans"], asked)])

    async def audits(self, scope: Scope, *, after: int, limit: int) -> Sequence[PruneAudit]:
        """See the contract."""
        asked = named(scope) | {"after": after, "limit": limit}
        return await self._read(lambda c: [prune_columns.audit_from(row) for row in c.execute(SQL["list_audits"], asked)])

    async def undoable(self, scope: Scope, number: int) -> Undoable | None:
        """See the contract."""
        asked = named(scope) | {"number": number}
        row = await self._read(lambda c: c.execute(SQL["find_undo"], asked).fetchone())
        return prune_columns.undoable_from(row) if row else None

    async def forget(self, now_us: int, plans_before_us: int) -> int:
        """See the contract."""
        return await self._transact(lambda c: _forget(c, now_us, plans_before_us))

    async def set_limit(self, scope: Scope, limit: MemoryLimit, now_us: int) -> Space:
        """See the contract."""
        return await self._transact(lambda c: _set_limit(c, scope, limit, now_us))

    async def over_limit(self, *, after: Scope | None, limit: int) -> Sequence[tuple[Scope, Space]]:
        """See the contract."""
        asked = named(after or Scope("", "")) | {"limit": limit}
        return await self._read(
            lambda c: [
                (Scope(tenant, name), memory_columns.space_from(row))
                for tenant, name, *row in c.execute(SQL["list_over_limit"], asked)
            ]
        )


def _space(connection: sqlite3.Connection, scope: Scope, now_us: int) -> Space:
    space = spaces.needed(connection, scope)
    return replace(space, memories=space.memories - spaces.count_expired(connection, scope, now_us))


def _look(connection: sqlite3.Connection, scope: Scope, keys: Sequence[str], now_us: int) -> tuple[Space, Mapping[str, Known]]:
    space = _space(connection, scope, now_us)
    return space, memories.known(connection, space.number, keys)


def _least(
    connection: sqlite3.Connection, scope: Scope, keep: int, limit: int, now_us: int
) -> tuple[Space, int, Sequence[PruneItem]]:
    space = _space(connection, scope, now_us)
    asked = {"space_id": space.number, "now_us": now_us, "limit": min(limit, max(0, space.memories - keep))}
    rows = connection.execute(SQL["list_least"], asked).fetchall()
    return space, *prune_columns.items_from(rows)


def _plan(connection: sqlite3.Connection, scope: Scope, plan_id: str, *, items: bool) -> PrunePlan | None:
    row = connection.execute(SQL["find_plan"], named(scope) | {"plan_id": plan_id, "items": items}).fetchone()
    return prune_columns.plan_from(row) if row else None


def _keep_plan(connection: sqlite3.Connection, plan: PrunePlan, event: Event | None) -> PrunePlan:
    made = connection.execute(SQL["insert_plan"], prune_columns.row_of(plan)).rowcount
    if not made:
        found = _plan(connection, plan.scope, plan.plan_id, items=True)
        assert found is not None, "its id is of its namespace"
        return found
    if event is not None:
        told = {"topic": event.topic, "version": 0, "time_us": plan.create_time_us, "payload": codec.to_json(event.payload)}
        connection.execute(_INSERT_EVENT, named(plan.scope) | told)
    return plan


def _forget(connection: sqlite3.Connection, now_us: int, plans_before_us: int) -> int:
    gone = connection.execute(SQL["forget_undo"], {"now_us": now_us}).rowcount
    return gone + connection.execute(SQL["forget_plans"], {"before_us": plans_before_us}).rowcount


def _set_limit(connection: sqlite3.Connection, scope: Scope, limit: MemoryLimit, now_us: int) -> Space:
    number = spaces.needed(connection, scope).number
    connection.execute(SQL["set_limit"], prune_columns.limit_of(number, limit))
    return _space(connection, scope, now_us)


# ---- the one write path, inside a transaction


def look(connection: sqlite3.Connection, t: Transaction, prune: Prune) -> LookedPrune:
    """What there is of a prune."""
    place = prune_columns.place(t, prune)
    found = (connection.execute(SQL[name], place).fetchone() for name in prune_columns.LOOKS)
    return prune_columns.looked(prune, found, spaces.count_expired(connection, t.scope, t.time_us))


def write(connection: sqlite3.Connection, t: Transaction, prune: Prune, made: WritePrune) -> None:
    """Keeps it."""
    for statement, values in prune_columns.written(t, prune, made):
        connection.execute(SQL[statement], values)
