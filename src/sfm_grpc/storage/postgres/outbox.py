"""How far events were sent, in Postgres."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from psycopg import AsyncConnection

from sfm_grpc.storage import codec, statements
from sfm_grpc.storage.outbox_contract import Backlog, Tail
from sfm_grpc.storage.postgres.runs import Runs

SQL = statements.load(__package__, "outbox.sql")


class PostgresOutbox:
    """`storage.outbox_contract.OutboxTables` on a Postgres database."""

    def __init__(self, run: Runs) -> None:
        self._run = run

    async def tail(self, tenant: str, *, namespace: str, topics: Collection[str], after: int, limit: int) -> Tail:
        """See the contract."""
        asked = {"tenant": tenant, "namespace": namespace, "topics": list(topics), "after": after, "limit": limit}
        rows = await self._rows("tail", **asked)
        events = [codec.event_from_columns(row) for _, *row in rows if row[0] is not None]
        return Tail(events, events[-1].event_id if len(events) == limit else rows[0][0])

    async def keep(self, sink: str) -> None:
        """See the contract."""
        await self._change("keep", sink)

    async def waits(self, sink: str) -> bool:
        """See the contract."""
        return bool((await self._rows("waits", sink=sink))[0][0])

    async def backlog(self, sink: str) -> Backlog:
        """See the contract."""
        rows = await self._rows("backlog", sink=sink)
        return Backlog(*rows[0]) if rows else Backlog(0, 0, 0)

    async def take(self, sink: str, owner: str, *, lasts_s: float) -> int | None:
        """See the contract."""
        rows = await self._rows("take", sink=sink, owner=owner, lasts_us=round(lasts_s * 1e6))
        return int(rows[0][0]) if rows else None

    async def advance(self, sink: str, owner: str, event_id: int, *, lasts_s: float) -> bool:
        """See the contract."""
        return await self._change("advance", sink, owner=owner, event_id=event_id, lasts_us=round(lasts_s * 1e6))

    async def release(self, sink: str, owner: str) -> None:
        """See the contract."""
        await self._change("release", sink, owner=owner)

    async def _rows(self, which: str, **asked: object) -> list[tuple[Any, ...]]:
        async def rows(connection: AsyncConnection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(SQL[which].encode(), asked, binary=True)).fetchall()

        return await self._run(rows)

    async def _change(self, how: str, sink: str, **values: object) -> bool:
        async def change(connection: AsyncConnection) -> bool:
            cursor = await connection.execute(SQL[how].encode(), {"sink": sink} | values)
            return cursor.rowcount > 0

        return await self._run(change)
