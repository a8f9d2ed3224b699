"""How far vector indexes are, in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Sequence

import orjson

from sfm_grpc.model import Distance, Memory, Scope
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.index_contract import DeadLetter, Dropped, Progress
from sfm_grpc.storage.sqlite.runs import Runs
from sfm_grpc.storage.sqlite.spaces import named

SQL = statements.load(__package__, "indexing.sql", space=memory_columns.SPACE)


class SqliteIndexing:
    """`storage.index_contract.IndexTables` on one file. A turn ends by this machine's clock: others have the same."""

    def __init__(self, read: Runs, transact: Runs) -> None:
        self._read = read
        self._transact = transact

    async def keep(self, index: str, *, lost_after_s: float) -> None:
        """See the contract."""
        now_us = _now_us()
        asked = {"index": index, "now_us": now_us, "before_us": now_us - round(lost_after_s * 1e6)}

        def keep(connection: sqlite3.Connection) -> None:
            for statement in ("keep_index", "lose_indexes", "forget_lost", "forget_lost_refused"):
                connection.execute(SQL[statement], asked)

        await self._transact(keep)

    async def behind(self, index: str, limit: int) -> Sequence[Progress]:
        """See the contract."""
        rows = await self._read(lambda c: c.execute(SQL["list_behind"], {"index": index, "limit": limit}).fetchall())
        return [Progress(Scope(tenant, name), memory_columns.space_from(row), indexed) for tenant, name, indexed, *row in rows]

    async def progress(self, scope: Scope, index: str) -> Progress | None:
        """See the contract."""
        asked = named(scope) | {"index": index}
        row = await self._read(lambda c: c.execute(SQL["find_progress"], asked).fetchone())
        return Progress(scope, memory_columns.space_from(row[1:]), row[0]) if row else None

    # ---- turns

    async def take(self, number: int, index: str, owner: str, *, lasts_s: float) -> int | None:
        """See the contract."""
        asked = {"number": number, "index": index, "owner": owner, "now_us": _now_us(), "until_us": _until_us(lasts_s)}

        def take(connection: sqlite3.Connection) -> int | None:
            connection.execute(SQL["begin_index"], asked)
            row = connection.execute(SQL["take_index"], asked).fetchone()
            return int(row[0]) if row else None

        return await self._transact(take)

    async def advance(self, number: int, index: str, owner: str, revision: int, *, lasts_s: float) -> bool:
        """See the contract."""
        values = {"number": number, "index": index, "owner": owner, "revision": revision, "until_us": _until_us(lasts_s)}
        return await self._transact(lambda c: c.execute(SQL["advance_index"], values).rowcount > 0)

    async def release(self, number: int, index: str, owner: str) -> None:
        """See the contract."""
        await self._change("release_index", number, index, owner=owner)

    async def end_turns(self, index: str) -> None:
        """See the contract."""
        await self._change("end_turns", 0, index)

    async def forget(self, number: int, index: str) -> None:
        """See the contract."""
        await self._change("forget_index", number, index)

    # ---- what it should have

    async def changed(self, number: int, *, after: int, limit: int) -> Sequence[Memory]:
        """See the contract."""
        statement = SQL["list_changed"].format(columns=memory_columns.columns(payloads=False, vectors=True))
        return await self._memories(statement, number=number, after=after, limit=limit)

    async def get(self, number: int, keys: Collection[str]) -> Sequence[Memory]:
        """See the contract."""
        statement = SQL["get_all"].format(columns=memory_columns.columns(payloads=False, vectors=True))
        return await self._memories(statement, number=number, keys=orjson.dumps(list(keys)).decode())

    async def _memories(self, statement: str, **asked: object) -> Sequence[Memory]:
        return await self._read(lambda c: [memory_columns.memory_from(row) for row in c.execute(statement, asked)])

    async def pointed(self, number: int, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """See the contract."""
        asked = {"number": number, "after": after, "limit": limit}
        return await self._read(lambda c: c.execute(SQL["list_pointed"], asked).fetchall())

    # ---- what it does not take

    async def refuse(self, number: int, index: str, letters: Sequence[DeadLetter]) -> None:
        """See the contract."""
        rows = [
            {
                "number": number,
                "index": index,
                "key": each.key,
                "revision": each.revision,
                "reason": each.reason,
                "time_us": each.time_us,
            }
            for each in letters
        ]
        await self._transact(lambda c: c.executemany(SQL["put_refused"], rows))

    async def refused(self, number: int, index: str, limit: int) -> Sequence[DeadLetter]:
        """See the contract."""
        asked = {"number": number, "index": index, "limit": limit}
        return await self._read(lambda c: [DeadLetter(*row) for row in c.execute(SQL["list_refused"], asked)])

    # ---- what was dropped

    async def dropped(self, index: str, limit: int) -> Sequence[Dropped]:
        """See the contract."""
        rows = await self._read(lambda c: c.execute(SQL["list_dropped"], {"index": index, "limit": limit}).fetchall())
        return [Dropped(Scope(tenant, name), number, dimension, Distance(how)) for tenant, name, number, dimension, how in rows]

    async def forget_dropped(self, number: int, index: str) -> None:
        """See the contract."""
        await self._change("forget_dropped", number, index)

    async def _change(self, how: str, number: int, index: str, **values: object) -> None:
        await self._transact(lambda c: c.execute(SQL[how], {"number": number, "index": index} | values))


def _now_us() -> int:
    return time.time_ns() // 1000


def _until_us(lasts_s: float) -> int:
    return _now_us() + round(lasts_s * 1e6)
