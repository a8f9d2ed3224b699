"""How far vector indexes are, in Postgres."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from psycopg import AsyncConnection

from sfm_grpc.model import Distance, Memory, Scope
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.index_contract import DeadLetter, Dropped, Progress
from sfm_grpc.storage.postgres.runs import Runs
from sfm_grpc.storage.postgres.spaces import named

SQL = statements.load(__package__, "indexing.sql", space=memory_columns.SPACE)


class PostgresIndexing:
    """`storage.index_contract.IndexTables` on a Postgres database."""

    def __init__(self, run: Runs) -> None:
        self._run = run

    async def keep(self, index: str, *, lost_after_s: float) -> None:
        """See the contract."""

        async def keep(connection: AsyncConnection) -> None:
            await connection.execute(SQL["keep_index"].encode(), {"index": index})
            await connection.execute(SQL["lose_indexes"].encode(), {"lost_after_us": round(lost_after_s * 1e6)})

        await self._run(keep)

    async def behind(self, index: str, limit: int) -> Sequence[Progress]:
        """See the contract."""
        rows = await self._rows(SQL["list_behind"], index=index, limit=limit)
        return [Progress(Scope(tenant, name), memory_columns.space_from(row), indexed) for tenant, name, indexed, *row in rows]

    async def progress(self, scope: Scope, index: str) -> Progress | None:
        """See the contract."""
        rows = await self._rows(SQL["find_progress"], **named(scope), index=index)
        return Progress(scope, memory_columns.space_from(rows[0][1:]), rows[0][0]) if rows else None

    # ---- turns

    async def take(self, number: int, index: str, owner: str, *, lasts_s: float) -> int | None:
        """See the contract."""
        asked = {"number": number, "index": index, "owner": owner, "lasts_us": round(lasts_s * 1e6)}

        async def take(connection: AsyncConnection) -> int | None:
            async with connection.pipeline():
                await connection.execute(SQL["begin_index"].encode(), asked)
                cursor = await connection.execute(SQL["take_index"].encode(), asked, binary=True)
            row = await cursor.fetchone()
            return int(row[0]) if row else None

        return await self._run(take)

    async def advance(self, number: int, index: str, owner: str, revision: int, *, lasts_s: float) -> bool:
        """See the contract."""
        values = {"owner": owner, "revision": revision, "lasts_us": round(lasts_s * 1e6)}
        return await self._change("advance_index", number, index, **values)

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
        return await self._memories("list_changed", number=number, after=after, limit=limit)

    async def get(self, number: int, keys: Collection[str]) -> Sequence[Memory]:
        """See the contract."""
        return await self._memories("get_all", number=number, keys=list(keys))

    async def _memories(self, which: str, **asked: object) -> Sequence[Memory]:
        statement = SQL[which].format(columns=memory_columns.columns(payloads=False, vectors=True))
        return [memory_columns.memory_from(row) for row in await self._rows(statement, **asked)]

    async def pointed(self, number: int, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """See the contract."""
        return [
            (key, revision) for key, revision in await self._rows(SQL["list_pointed"], number=number, after=after, limit=limit)
        ]

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
        await self._run(lambda c: c.cursor().executemany(SQL["put_refused"].encode(), rows))

    async def refused(self, number: int, index: str, limit: int) -> Sequence[DeadLetter]:
        """See the contract."""
        return [DeadLetter(*row) for row in await self._rows(SQL["list_refused"], number=number, index=index, limit=limit)]

    # ---- what was dropped

    async def dropped(self, index: str, limit: int) -> Sequence[Dropped]:
        """See the contract."""
        rows = await self._rows(SQL["list_dropped"], index=index, limit=limit)
        return [Dropped(Scope(tenant, name), number, dimension, Distance(how)) for tenant, name, number, dimension, how in rows]

    async def forget_dropped(self, number: int, index: str) -> None:
        """See the contract."""
        await self._change("forget_dropped", number, index)

    async def _rows(self, statement: str, **asked: object) -> list[tuple[Any, ...]]:
        async def rows(connection: AsyncConnection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(statement.encode(), asked, binary=True)).fetchall()

        return await self._run(rows)

    async def _change(self, how: str, number: int, index: str, **values: object) -> bool:
        async def change(connection: AsyncConnection) -> bool:
            cursor = await connection.execute(SQL[how].encode(), {"number": number, "index": index} | values)
            return cursor.rowcount > 0

        return await self._run(change)
