"""What Postgres no longer needs to keep, taken away in short transactions between commits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from psycopg import AsyncConnection

from sfm_grpc.model import Scope
from sfm_grpc.storage import statements
from sfm_grpc.storage.contract import Retention
from sfm_grpc.storage.outbox_contract import SINK_LOST_AFTER_S

SQL = statements.load(__package__, "housekeeping.sql")

# Commits of the namespace wait meanwhile: a few milliseconds' worth at a time.
_VERSIONS_AT_ONCE = 32
_KEYS_AT_ONCE = 256  # each may be a body that goes; one version is taken whole, however many it holds
_ROWS_AT_ONCE = 1000


async def compact(connection: AsyncConnection, scope: Scope, retention: Retention, now_us: int) -> int:
    """`Store.compact`."""
    async with connection.transaction():
        place = {"tenant": scope.tenant, "namespace": scope.namespace}
        row = await (await connection.execute(SQL["lock_namespace"], place, binary=True)).fetchone()
        if row is None:
            return 0
        namespace_id, newest = row
        bounds = {
            "namespace_id": namespace_id,
            "newest": newest,
            "versions": retention.versions,
            "oldest_time_us": now_us - retention.age_s * 1_000_000 if retention.age_s else 0,
            "limit": _VERSIONS_AT_ONCE,
        }
        found = await (await connection.execute(SQL["list_expired"], bounds, binary=True)).fetchall()
        expired = _some(found)
        if expired:
            async with connection.pipeline():
                for name in ("delete_bodies", "delete_versions", "set_oldest"):
                    await connection.execute(SQL[name], {"namespace_id": namespace_id, "expired": expired})
        return len(expired)


def _some(found: Sequence[tuple[int, int]]) -> list[int]:
    """The first of the expired versions, at least one: as many as hold no more keys than are taken away at once."""
    keys = accumulate(count for _, count in found)
    fitting = sum(count <= _KEYS_AT_ONCE for count in keys)
    return [version for version, _ in found[: max(1, fitting)]]


async def forget(connection: AsyncConnection, retention: Retention, now_us: int) -> int:
    """`Store.forget`."""
    oldest_time_us = now_us - retention.request_age_s * 1_000_000
    requests = await connection.execute(SQL["delete_requests"], {"oldest_time_us": oldest_time_us, "limit": _ROWS_AT_ONCE})
    bounds = {
        "events": retention.events,
        "events_unsent": retention.events_unsent,
        "lost_after_us": round(SINK_LOST_AFTER_S * 1e6),
        "limit": _ROWS_AT_ONCE,
    }
    row = await (await connection.execute(SQL["delete_events"], bounds, binary=True)).fetchone()
    return requests.rowcount + int(row[0] if row else 0)
