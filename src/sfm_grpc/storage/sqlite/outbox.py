"""How far events were sent, in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from typing import Any

import orjson

from sfm_grpc.storage import codec, statements
from sfm_grpc.storage.outbox_contract import Backlog, Tail
from sfm_grpc.storage.sqlite.runs import Runs

SQL = statements.load(__package__, "outbox.sql")


class SqliteOutbox:
    """`storage.outbox_contract.OutboxTables` on one file. A turn ends by this machine's clock: others have the same."""

    def __init__(self, read: Runs, transact: Runs) -> None:
        self._read = read
        self._transact = transact

    async def tail(self, tenant: str, *, namespace: str, topics: Collection[str], after: int, limit: int) -> Tail:
        """See the contract."""
        asked = {"tenant": tenant, "namespace": namespace, "after": after, "limit": limit}
        asked["topics"] = orjson.dumps(list(topics)).decode()

        def tail(connection: sqlite3.Connection) -> Tail:
            events = [codec.event_from_columns(row) for row in connection.execute(SQL["tail"], asked)]
            if len(events) == limit:
                return Tail(events, events[-1].event_id)
            (newest,) = connection.execute(SQL["newest"]).fetchone()
            return Tail(events, newest)

        return await self._read(tail)

    async def keep(self, sink: str) -> None:
        """See the contract."""
        await self._change("keep", sink)

    async def waits(self, sink: str) -> bool:
        """See the contract."""
        return bool((await self._row("waits", sink))[0])

    async def backlog(self, sink: str) -> Backlog:
        """See the contract."""
        row = await self._row("backlog", sink)
        return Backlog(*row) if row else Backlog(0, 0, 0)

    async def take(self, sink: str, owner: str, *, lasts_s: float) -> int | None:
        """See the contract."""
        asked = {"sink": sink, "owner": owner} | _clock(lasts_s)
        row = await self._transact(lambda c: c.execute(SQL["take"], asked).fetchone())
        return int(row[0]) if row else None

    async def advance(self, sink: str, owner: str, event_id: int, *, lasts_s: float) -> bool:
        """See the contract."""
        return await self._change("advance", sink, lasts_s, owner=owner, event_id=event_id)

    async def release(self, sink: str, owner: str) -> None:
        """See the contract."""
        await self._change("release", sink, owner=owner)

    async def _row(self, which: str, sink: str) -> Any:
        return await self._read(lambda c: c.execute(SQL[which], {"sink": sink}).fetchone())

    async def _change(self, how: str, sink: str, lasts_s: float = 0.0, **values: object) -> bool:
        asked = {"sink": sink} | _clock(lasts_s) | values
        return await self._transact(lambda c: c.execute(SQL[how], asked).rowcount > 0)


def _clock(lasts_s: float) -> dict[str, object]:
    now_us = time.time_ns() // 1000
    return {"now_us": now_us, "until_us": now_us + round(lasts_s * 1e6)}
